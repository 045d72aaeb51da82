// Fetches what publish-on.js published, through the relay it is called for, and compares the bytes.
//
// With "asks" ("one,asks,withholder") the relay must ask the node named and be refused by it; with
// "avoids" it must not ask it at all, though the directory names it. The relay counts how often it was
// told "not found"; nobody else but that node says so of what it claims to hold.

const { readFile, rm } = require("node:fs/promises");
const { metric, nsnNode, publishedFile, rpc, until } = require("./common.js");

async function run(name, networkInfo, [label, what, node]) {
  const { content_id, file, nodes } = JSON.parse(
    await readFile(publishedFile(networkInfo, label), "utf8"),
  );
  const peers = await Promise.all(
    nodes.map(async (node) => (await rpc(networkInfo, node, "p2p_v1_status")).peer_id),
  );
  const peer = peers[nodes.indexOf(node)];
  const known = await until(`${name} finds ${nodes} in the directory`, 60, async () => {
    const found = await rpc(networkInfo, name, "content_v1_findProviders", [content_id]);
    const usable = found.filter((provider) => provider.shard_addrs.length > 0);
    const all = peers.every((peer) => usable.some((provider) => provider.peer_id === peer));
    return all ? usable : undefined;
  });
  const from = await until(`${name} serves shards`, 30, async () => {
    const status = await rpc(networkInfo, name, "relay_v1_status");
    return status.listen_addrs[0];
  });

  const refusals = () =>
    metric(networkInfo, name, "nsn_relay_upstream_failures_total", 'reason="not_found"');
  const fetches = () => metric(networkInfo, name, "nsn_relay_upstream_fetches_total");
  const before = { refusals: await refusals(), fetches: await fetches() };
  const output = `${networkInfo.tmpDir}/fetched-${label}.mp4`;
  await rm(output, { force: true });
  await nsnNode("content", "get", content_id, "--from", from, "-o", output, "--json");
  const [original, fetched] = await Promise.all([readFile(file), readFile(output)]);
  if (!original.equals(fetched)) throw new Error(`${output} is not what was published`);

  if ((await fetches()) === before.fetches) throw new Error(`${name} asked nobody`);
  const refused = (await refusals()) - before.refusals;
  const score = known.find((provider) => provider.peer_id === peer).seeder_score;
  if (what === "asks" && refused === 0) {
    throw new Error(`${name} did not ask ${node} (seeder score ${score}): the rest proves nothing`);
  }
  if (what === "avoids" && refused !== 0) {
    throw new Error(`${name} asked ${node} ${refused} times, with a seeder score of ${score}`);
  }
}

module.exports = { run };
