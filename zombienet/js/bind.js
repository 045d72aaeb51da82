// Binds overlay keys to accounts, as their operators would: with a proof that
// `nsn-node peer bind-proof` signs with the node's key, in an ordinary signed transaction.
//
// Called with pairs of node and well-known account ("alice:Alice,withholder:Ferdie").

const { createHash } = require("node:crypto");
const { writeFile } = require("node:fs/promises");
const { nsnNode, rpc } = require("./common.js");

async function run(name, networkInfo, pairs) {
  const api = await zombie.connect(networkInfo.nodesByName[name].wsUri);
  try {
    const keyring = new zombie.Keyring({ type: "sr25519" });
    for (const [node, account] of pairs.map((pair) => pair.split(":"))) {
      await bind(api, networkInfo, node, keyring.addFromUri(`//${account}`));
    }
  } finally {
    await api.disconnect();
  }
}

async function bind(api, networkInfo, node, account) {
  // Zombienet gives each node the key that is the SHA-256 of its name.
  const file = `${networkInfo.tmpDir}/${node}.node-key`;
  await writeFile(file, createHash("sha256").update(node).digest("hex"));
  const proof = await nsnNode(
    ...["peer", "bind-proof", "--account", account.address, "--node-key-file", file],
    ...["--genesis", api.genesisHash.toHex(), "--json"],
  );
  const status = await rpc(networkInfo, node, "p2p_v1_status");
  if (status.key !== proof.key) throw new Error(`${node} does not use the key ${proof.key}`);
  await included(api.tx.reputation.bindPeer(`0x${proof.key}`, `0x${proof.proof}`), account);
}

// Sends a transaction and waits until it is in a block; fails if the call did.
function included(transaction, account) {
  return new Promise((resolve, reject) => {
    const onStatus = ({ status, dispatchError }) => {
      if (dispatchError) {
        const error = dispatchError.isModule
          ? transaction.registry.findMetaError(dispatchError.asModule).name
          : dispatchError.toString();
        reject(new Error(`${transaction.method.section}.${transaction.method.method}: ${error}`));
      } else if (status.isInBlock || status.isFinalized) {
        resolve();
      } else if (status.isInvalid || status.isDropped || status.isUsurped) {
        reject(new Error(`the transaction pool says ${status.type}`));
      }
    };
    transaction.signAndSend(account, onStatus).catch(reject);
  });
}

module.exports = { run };
