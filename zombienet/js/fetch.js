// Fetches what publish.js published from the relay it is called for, as a viewer would, and compares
// the bytes with the original.
//
// With "from-upstream" the relay must find the super-node in the overlay and ask it; with
// "from-cache" it must have everything by itself and ask nobody.

const { readFile, rm } = require("node:fs/promises");
const { metric, nsnNode, publishedFile, rpc, until } = require("./common.js");

async function run(name, networkInfo, [where]) {
  const published = JSON.parse(await readFile(publishedFile(networkInfo), "utf8"));
  const id = published.content_id;
  const publisher = (await rpc(networkInfo, published.by, "p2p_v1_status")).peer_id;

  // The relay's own way to the super-node: the directory.
  await until(`${name} finds ${published.by} in the directory`, 60, async () => {
    const providers = await rpc(networkInfo, name, "content_v1_findProviders", [id]);
    return providers.some((provider) => provider.peer_id === publisher) || undefined;
  });

  const from = await until(`${name} serves shards`, 30, async () => {
    const status = await rpc(networkInfo, name, "relay_v1_status");
    return status.listen_addrs[0];
  });
  const fetches = () => metric(networkInfo, name, "nsn_relay_upstream_fetches_total");
  const before = await fetches();
  const output = `${networkInfo.tmpDir}/fetched-${where}.mp4`;
  await rm(output, { force: true });
  await nsnNode("content", "get", id, "--from", from, "-o", output, "--json");
  const asked = (await fetches()) - before;

  const [original, fetched] = await Promise.all([readFile(process.env.NSN_SAMPLE), readFile(output)]);
  if (!original.equals(fetched)) throw new Error(`${output} is not what was published`);
  if (where === "from-upstream" && asked < 1) {
    throw new Error(`${name} asked nobody: it had the video before the first fetch`);
  }
  if (where === "from-cache" && asked !== 0) {
    throw new Error(`${name} asked others ${asked} times for what it had fetched before`);
  }
}

module.exports = { run };
