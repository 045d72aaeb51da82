// What the assertion scripts share: JSON-RPC, metrics, the nsn-node program, waiting.

const { execFile } = require("node:child_process");
const { setTimeout: sleep } = require("node:timers/promises");

// A JSON-RPC call to the node `name` of zombienet's `networkInfo`.
async function rpc(networkInfo, name, method, params = []) {
  const url = rpcUrl(networkInfo, name);
  const response = await fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ jsonrpc: "2.0", id: 1, method, params }),
    signal: AbortSignal.timeout(30_000),
  });
  const answer = await response.json();
  if (answer.error) throw new Error(`${method} on ${name}: ${answer.error.message}`);
  return answer.result;
}

// JSON-RPC over HTTP; zombienet knows the same port as a WebSocket.
function rpcUrl(networkInfo, name) {
  return networkInfo.nodesByName[name].wsUri.replace(/^ws/, "http");
}

// A metric's value on the node `name`, summed over its labels, or over those that contain the text
// `label`; 0 when it is not there.
async function metric(networkInfo, name, metricName, label = "") {
  const response = await fetch(networkInfo.nodesByName[name].prometheusUri, {
    signal: AbortSignal.timeout(10_000),
  });
  const text = await response.text();
  return text
    .split("\n")
    .filter((line) => line.startsWith(`${metricName}{`) || line.startsWith(`${metricName} `))
    .filter((line) => line.includes(label))
    .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" ") + 1)), 0);
}

// Runs `nsn-node` to its end; its standard output as JSON.
function nsnNode(...args) {
  const node = process.env.NSN_NODE;
  return new Promise((resolve, reject) => {
    execFile(node, args, (error, stdout, stderr) => {
      if (error) reject(new Error(`nsn-node ${args.join(" ")}: ${stderr.trim() || error.message}`));
      else resolve(JSON.parse(stdout));
    });
  });
}

// Calls `attempt` until it returns something (not undefined); after `seconds`, fails with what the
// last attempt threw, or with `what`.
async function until(what, seconds, attempt) {
  const end = Date.now() + seconds * 1000;
  for (;;) {
    let reason = new Error(`${what}: not within ${seconds} s`);
    try {
      const result = await attempt();
      if (result !== undefined) return result;
    } catch (error) {
      reason = error;
    }
    if (Date.now() > end) throw reason;
    await sleep(500);
  }
}

// The file in which a script that publishes leaves word for one that fetches.
function publishedFile(networkInfo, label = "sample") {
  return `${networkInfo.tmpDir}/published-${label}.json`;
}

module.exports = { rpc, rpcUrl, metric, nsnNode, until, publishedFile };
