// Fails if the configuration of the node it is called for tells it where a super-node is.
//
// Called with the names of the bootnode and of the super-nodes ("bob,alice"). The configuration is
// what zombienet started (its record of the node), what really runs (the process's command line,
// where the system shows it) and the chain specification with its bootnodes.

const { readFile, readdir } = require("node:fs/promises");
const { rpc, until } = require("./common.js");

async function run(name, networkInfo, [bootnode, ...superNodes]) {
  const { tmpDir } = networkInfo;
  const spec = JSON.parse(await readFile(`${tmpDir}/${name}/cfg/local.json`, "utf8"));
  const configuration = {
    "zombienet's record": await readFile(`${tmpDir}/${name}.yaml`, "utf8"),
    "the chain specification": JSON.stringify(spec.bootNodes),
    ...(await commandLines(`${tmpDir}/${name}/data`)),
  };
  const record = configuration["zombienet's record"];

  // Were these not so, the rest would prove nothing.
  const bootnodeId = await rpc(networkInfo, bootnode, "system_localPeerId");
  if (!record.includes(`/p2p/${bootnodeId}`)) throw new Error(`${name} is not told of ${bootnode}`);
  if (!record.includes("--no-mdns")) throw new Error(`${name} may find peers by multicast`);
  if (record.includes("--nsn-config")) throw new Error(`${name} reads a file not looked at here`);

  for (const superNode of superNodes) {
    for (const trace of await traces(networkInfo, superNode)) {
      for (const [where, text] of Object.entries(configuration)) {
        if (trace.test(text)) {
          throw new Error(`${where} tells ${name} of ${superNode}: it matches ${trace}`);
        }
      }
    }
  }
}

// What would give a node away: its PeerIds, and every port it listens on.
async function traces(networkInfo, name) {
  const overlay = await until(`${name} listens`, 30, async () => {
    const status = await rpc(networkInfo, name, "p2p_v1_status");
    return status.listen_addrs.length > 0 ? status : undefined;
  });
  const shards = await until(`${name} serves shards`, 30, async () => {
    const status = await rpc(networkInfo, name, "relay_v1_status");
    return status.listen_addrs.length > 0 ? status : undefined;
  });
  const chain = await rpc(networkInfo, name, "system_localListenAddresses");
  const ports = new Set(
    [...overlay.listen_addrs, ...shards.listen_addrs, ...chain].map(
      (address) => address.match(/\/(?:tcp|udp)\/(\d+)/)[1],
    ),
  );
  const ids = new Set([overlay.peer_id, await rpc(networkInfo, name, "system_localPeerId")]);
  return [
    ...[...ids].map((id) => new RegExp(id)),
    ...[...ports].map((port) => new RegExp(`(?:[:/]|--\\S*port[ =])${port}(?!\\d)`)),
  ];
}

// Command lines of the processes that run on the folder `data`; none where there is no /proc.
async function commandLines(data) {
  const found = {};
  const processes = await readdir("/proc").catch(() => []);
  for (const id of processes.filter((entry) => /^\d+$/.test(entry))) {
    const line = await readFile(`/proc/${id}/cmdline`, "utf8").catch(() => "");
    if (line.split("\0").includes(data)) {
      found[`the command line of process ${id}`] = line.replaceAll("\0", " ");
    }
  }
  return found;
}

module.exports = { run };
