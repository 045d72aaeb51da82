// Publishes the sample video on the node it is called for, and leaves word of it for fetch.js.

const { writeFile } = require("node:fs/promises");
const { nsnNode, publishedFile, rpc, rpcUrl, until } = require("./common.js");

async function run(name, networkInfo) {
  const file = process.env.NSN_SAMPLE;
  const published = await until("publishing", 60, () =>
    nsnNode("content", "publish", file, "--rpc-url", rpcUrl(networkInfo, name), "--json"),
  );
  const kept = await rpc(networkInfo, name, "content_v1_list");
  if (!kept.some((content) => content.content_id === published.content_id)) {
    throw new Error(`${name} does not list ${published.content_id} after publishing it`);
  }
  await writeFile(publishedFile(networkInfo), JSON.stringify({ by: name, ...published }));
}

module.exports = { run };
