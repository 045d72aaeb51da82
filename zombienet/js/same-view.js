// Fails if two nodes hold different views of the chain's reputation at the same finalised block.
//
// A view (`p2p_v1_reputation`) names its block, the revision, and a digest of all scores. Each node
// tells only of the block that it stands at, so they are asked until there is a block that all of
// them have told of; two blocks are compared, of which the second comes after the first.

const { rpc, until } = require("./common.js");

async function run(_, networkInfo) {
  const names = Object.keys(networkInfo.nodesByName);
  const first = await compare(networkInfo, names, 0);
  await compare(networkInfo, names, first + 1);
}

async function compare(networkInfo, names, from) {
  const told = Object.fromEntries(names.map((name) => [name, new Map()]));
  const common = await until(`a block from ${from} on that all nodes tell of`, 120, async () => {
    await Promise.all(
      names.map(async (name) => {
        const { finalized } = await rpc(networkInfo, name, "p2p_v1_reputation");
        told[name].set(finalized.number, finalized);
      }),
    );
    const numbers = [...told[names[0]].keys()].filter((number) => number >= from);
    return numbers.find((number) => names.every((name) => told[name].has(number)));
  });
  const views = new Set(names.map((name) => JSON.stringify(told[name].get(common))));
  if (views.size !== 1) {
    throw new Error(`at block ${common} the nodes differ: ${[...views].join(" and ")}`);
  }
  return common;
}

module.exports = { run };
