// Waits until seeder scores are as said, in the finalised state of every node of the network.
//
// Called with conditions ("withholder<=400,alice>=510"), of nodes whose overlay keys are bound, and
// with nodes that need not know ("not-on:charlie"), since they are paused.

const { rpc, until } = require("./common.js");

async function run(_, networkInfo, conditions) {
  const wanted = [];
  const names = new Set(Object.keys(networkInfo.nodesByName));
  for (const condition of conditions) {
    if (condition.startsWith("not-on:")) {
      names.delete(condition.slice("not-on:".length));
      continue;
    }
    const [, node, relation, score] = condition.match(/^([a-z0-9-]+)(<=|>=)(\d+)$/);
    const { key } = await rpc(networkInfo, node, "p2p_v1_status");
    wanted.push({ condition, key, relation, score: Number(score) });
  }
  for (const name of names) {
    for (const { condition, key, relation, score } of wanted) {
      await until(`${condition} on ${name}`, 280, async () => {
        const seeder = await seederScore(networkInfo, name, key);
        const holds = relation === "<=" ? seeder <= score : seeder >= score;
        if (!holds) throw new Error(`on ${name} the score is ${seeder}, not ${condition}`);
        return true;
      });
    }
  }
}

// The seeder component of the account that answers for `key`, in the state of the block that the node
// has finalised last.
async function seederScore(networkInfo, name, key) {
  const block = await rpc(networkInfo, name, "chain_getFinalizedHead");
  const answer = await rpc(networkInfo, name, "state_call", [
    "ReputationApi_peer_score",
    `0x${key}`,
    block,
  ]);
  // SCALE of Option<PeerScore>: a byte, the key, and three scores of two bytes.
  const bytes = Buffer.from(answer.slice(2), "hex");
  if (bytes.length !== 1 + 32 + 3 * 2 || bytes[0] !== 1) throw new Error(`${key} is not bound`);
  return bytes.readUInt16LE(1 + 32 + 2 * 2);
}

module.exports = { run };
