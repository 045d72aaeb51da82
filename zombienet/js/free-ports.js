// Prints as many ports as asked for that are free for TCP and UDP on every address, on one line.
//
// They are below those that the system gives to outgoing connections (32768 and up on Linux), so
// that none is taken between now and the start of the node that is to listen there.

const dgram = require("node:dgram");
const net = require("node:net");

const FIRST = 20_000;
const LAST = 32_000;

function tcpIsFree(port) {
  return new Promise((resolve) => {
    const server = net.createServer();
    server.once("error", () => resolve(false));
    server.listen(port, () => server.close(() => resolve(true)));
  });
}

function udpIsFree(port) {
  return new Promise((resolve) => {
    const socket = dgram.createSocket("udp4");
    socket.once("error", () => socket.close(() => resolve(false)));
    socket.bind(port, () => socket.close(() => resolve(true)));
  });
}

async function main(count) {
  const found = [];
  // From a random place on, so that two networks started together seldom try the same.
  let port = FIRST + Math.floor(Math.random() * (LAST - FIRST));
  for (let tried = 0; found.length < count; tried += 1) {
    if (tried > LAST - FIRST) throw new Error(`no ${count} free ports from ${FIRST} to ${LAST}`);
    port = port >= LAST ? FIRST : port + 1;
    if ((await tcpIsFree(port)) && (await udpIsFree(port))) found.push(port);
  }
  console.log(found.join(" "));
}

main(Number(process.argv[2]));
