// Publishes one file, made of the sample video and the name it is called with, on each of the nodes
// named after that ("one,alice,withholder"), and leaves word of it for fetch-through.js.
//
// The same bytes are the same content, so each of the nodes then claims to hold it.

const { appendFile, copyFile, writeFile } = require("node:fs/promises");
const { nsnNode, publishedFile, rpcUrl, until } = require("./common.js");

async function run(_, networkInfo, [label, ...nodes]) {
  const file = `${networkInfo.tmpDir}/film-${label}.mp4`;
  await copyFile(process.env.NSN_SAMPLE, file);
  await appendFile(file, label);
  const ids = new Set();
  for (const node of nodes) {
    const published = await until(`publishing on ${node}`, 60, () =>
      nsnNode("content", "publish", file, "--rpc-url", rpcUrl(networkInfo, node), "--json"),
    );
    ids.add(published.content_id);
  }
  if (ids.size !== 1) throw new Error(`one file became ${ids.size} contents: ${[...ids]}`);
  const [content_id] = ids;
  await writeFile(publishedFile(networkInfo, label), JSON.stringify({ content_id, file, nodes }));
}

module.exports = { run };
