// Fails if anything but audits moved a score, in any finalised block of the node it is called for:
// no call by sudo, no `reputation.record`, and no score that changed while a transaction ran. Audits
// move scores between transactions, and must have done so.

async function run(name, networkInfo) {
  const api = await zombie.connect(networkInfo.nodesByName[name].wsUri);
  try {
    const head = await api.rpc.chain.getHeader(await api.rpc.chain.getFinalizedHead());
    let decided = 0;
    for (let number = 1; number <= head.number.toNumber(); number += 1) {
      decided += await block(api, number);
    }
    if (decided === 0) throw new Error("no audit came to an outcome, so there was nothing to see");
  } finally {
    await api.disconnect();
  }
}

// Checks one block; on how many peers audits came to an outcome in it.
async function block(api, number) {
  const hash = await api.rpc.chain.getBlockHash(number);
  const { block } = await api.rpc.chain.getBlock(hash);
  for (const { method } of block.extrinsics) {
    if (method.section === "sudo" || `${method.section}.${method.method}` === "reputation.record") {
      throw new Error(`block ${number} has a call of ${method.section}.${method.method}`);
    }
  }
  let decided = 0;
  for (const { event, phase } of await (await api.at(hash)).query.system.events()) {
    if (event.section === "sudo") throw new Error(`block ${number} has an event of sudo`);
    const isScore = event.section === "reputation" && event.method === "ScoresRecorded";
    if (isScore && phase.isApplyExtrinsic) {
      throw new Error(`a transaction of block ${number} changed a score: ${event.data}`);
    }
    if (event.section === "audits" && event.method === "Tallied") {
      decided += event.data.decided.toNumber();
    }
  }
  return decided;
}

module.exports = { run };
