"""Runs real nodes behind each pair of NATs and moves 1 MiB of video between them.

Run by `scripts/natlab.sh matrix`, which makes the lab: sites a_KIND and b_KIND of each kind. A cell
is A.B: a super-node behind A publishes a video of 1 MiB; then a relay behind B, which knows nothing
but the bootnode, is started and asked for it. What is measured is the time from B's first peer on the
overlay until the video lies on B's disk, byte for byte as it was published, and the two are connected
directly or by a punched hole, if their NATs allow that. One super-node serves its
whole row, and each B is new. Each row has a bootnode of its own, and nobody leaves before it ends, so
no cell waits for the dead of another.
"""

import argparse
import hashlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

from lab import BOOT, BOOT_SECOND, STUN_PORT, TURN_PASSWORD, TURN_USER, Lab, say
from selftest import KINDS, punchable

RPC_PORT = 9944
METRICS_PORT = 9615
VIDEO_BYTES = 1024 * 1024

# Seconds: a cell should take less than its target, and is given up after the limit.
TARGET = 10
LIMIT = 20
# Seconds that a node may take to come up: a debug build compiles the runtime first.
START_LIMIT = 60
# Seconds from its start in which a node must have joined the overlay, and in which the directory
# must have heard of what was published. Neither is what a cell measures.
JOIN_LIMIT = 30
# With --turn: seconds in which two nodes that no hole can be punched between must have come to be
# connected over TURN once the video is there. An allocation over TCP comes after one over UDP has
# failed, 7.5 s, and a meeting after 5 s of a circuit.
TURN_LIMIT = 30
# Seconds in which nodes may leave in peace.
STOP_LIMIT = 5
# Seconds between two looks at a node, and from a fetch that failed to the next try.
POLL = 0.05
RETRY = 0.25


# What is as good as the best way that two NATs allow: a hole that was punched costs no more than a
# connection to an open port. Through a server there is only one way worse than another.
BEST = {way: ("direct", "punched") for way in ("direct", "punched")}
BEST["relayed"] = ("direct", "punched", "turn", "relayed")


class Failed(Exception):
    """A cell cannot be measured, or did not come over; the text is for people."""


def in_principle(a, b):
    """The best way there is between two kinds: direct, punched or relayed."""
    # Whoever lets strangers in is dialled by the other side, by TCP where that one has no UDP.
    if {a, b} & {"open", "full_cone"}:
        return "direct"
    return "punched" if punchable(a, b) else "relayed"


class Node:
    """A running nsn-node on the host of a site."""

    def __init__(self, world, where, *options):
        self.world, self.where = world, where
        self.folder = f"{world.folder}/{where}-{world.next_number()}"
        os.mkdir(self.folder)
        self.key = f"{self.folder}/key"
        world.node("key", "generate-node-key", "--file", self.key)
        self.peer = world.node("key", "inspect-node-key", "--file", self.key).strip()
        self.log = f"{self.folder}/log"
        self.started = time.monotonic()
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", world.lab.namespace(where), world.binary,
                 "--chain", world.chain, "--base-path", f"{self.folder}/data",
                 "--node-key-file", self.key, "--name", where,
                 "--port", "30333", "--rpc-port", str(RPC_PORT),
                 "--prometheus-port", str(METRICS_PORT), "--no-mdns", "--no-telemetry",
                 "--nsn-config", world.config, "-l", os.environ.get("NATLAB_LOG", "nsn=debug"), *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def rpc(self, method, *params, limit=10):
        """A call of JSON-RPC, from the node's own host. None while it does not answer."""
        connection = http.client.HTTPConnection("127.0.0.1", RPC_PORT, timeout=limit)
        with self.world.lab.tcp(self.where) as sock:
            sock.settimeout(limit)
            try:
                sock.connect(("127.0.0.1", RPC_PORT))
                connection.sock = sock
                body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
                connection.request(
                    "POST", "/", json.dumps(body), {"Content-Type": "application/json"}
                )
                answer = json.load(connection.getresponse())
            except (OSError, ValueError, http.client.HTTPException):
                return None
        return answer.get("result")

    def wait(self, what, limit, found):
        """Waits until `found` gives something, and gives that."""
        until = time.monotonic() + limit
        while not (value := found()):
            if self.process.poll() is not None:
                raise Failed(f"{self.where} ended by itself; its log is {self.log}")
            if time.monotonic() > until:
                raise Failed(f"{self.where}: {what} within {limit} s")
            time.sleep(POLL)
        return value

    def join(self):
        """Waits for its first peer on the overlay. Seconds from its start to its first answer over
        RPC, and to that peer."""
        self.wait("did not answer over RPC", START_LIMIT, lambda: self.rpc("p2p_v1_status"))
        answers = time.monotonic() - self.started

        def joined():
            return (self.rpc("p2p_v1_status") or {}).get("connected_peers")

        self.wait("did not join the overlay", JOIN_LIMIT, joined)
        return round(answers, 2), round(time.monotonic() - self.started, 2)

    def client(self, *command):
        """Starts a command of nsn-node on the node's host."""
        return subprocess.Popen(
            ["ip", "netns", "exec", self.world.lab.namespace(self.where),
             self.world.binary, *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace",
        )

    def knows(self, peer):
        """Whether it is connected to `peer` on the overlay."""
        return (self.rpc("p2p_v1_peer", peer) or {}).get("connected", False)

    def last_word(self, *texts):
        """The end of the last line of its log in which one of `texts` is."""
        found = ""
        with open(self.log, errors="replace") as log:
            for line in log:
                for text in texts:
                    if text in line:
                        found = line[line.index(text):].strip()
        return found


def stop(nodes):
    """Ends nodes; they drain for a moment first, all at once."""
    for node in nodes:
        node.process.terminate()
    until = time.monotonic() + STOP_LIMIT
    for node in nodes:
        try:
            node.process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            node.process.kill()
            node.process.wait()


class World:
    """What cells share: the program, a chain whose addresses must be public, and the bootnode."""

    def __init__(self, lab, binary, folder, turn):
        self.lab, self.binary, self.folder, self.turn = lab, binary, folder, turn
        self.numbers = iter(range(1_000_000))
        self.chain = f"{folder}/chain.json"
        self.config = f"{folder}/config.toml"
        self.boot = None
        self.asks_stun = False

    def next_number(self):
        return next(self.numbers)

    def node(self, *command):
        return subprocess.run(
            [self.binary, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, check=True, text=True,
        ).stdout

    def prepare(self):
        """Writes the chain's specification and the settings."""
        spec = json.loads(self.node("export-chain-spec", "--chain", "dev"))
        # On a chain of this type addresses must be globally routable, as in the world outside: one
        # that is behind a NAT must not pass for reachable.
        spec.update(name="NSN natlab", id="nsn_natlab", chainType="Live", bootNodes=[])
        with open(self.chain, "w") as file:
            json.dump(spec, file)
        raw = self.node("export-chain-spec", "--chain", self.chain, "--raw")
        with open(self.chain, "w") as file:
            file.write(raw)
        self.write_config()

    def write_config(self):
        """The lab's STUN servers, if this program has a setting for them; its TURN server, if asked."""
        known = json.loads(self.node("config", "--json", "--chain", "dev"))
        settings = ""
        self.asks_stun = "servers" in known["overlay"].get("nat", {}).get("stun", {})
        if self.asks_stun:
            servers = [f"{address}:{STUN_PORT}" for address in (BOOT, BOOT_SECOND)]
            settings = f"[overlay.nat.stun]\nservers = {json.dumps(servers)}\n"
        if self.turn:
            servers = [f"turn:{BOOT}:{STUN_PORT}?transport={way}" for way in ("udp", "tcp")]
            settings += f"[overlay.nat.turn]\nservers = {json.dumps(servers)}\n"
            # Beside the settings, and named as a person would.
            settings += 'credentials = "turn-secret"\n'
            with open(f"{self.folder}/turn-secret", "w") as file:
                file.write(f"{TURN_USER}\n{TURN_PASSWORD}\n")
        with open(self.config, "w") as file:
            file.write(settings)

    def bootnodes(self):
        """The options that name the bootnode: the one thing that a node behind a NAT knows."""
        options = ["--bootnodes", f"/ip4/{BOOT}/tcp/30333/p2p/{self.boot.peer}"]
        for address in (f"/ip4/{BOOT}/udp/9000/quic-v1", f"/ip4/{BOOT}/tcp/9000"):
            options += ["--overlay-bootnodes", f"{address}/p2p/{self.boot.peer}"]
        return options

    def publish(self, provider):
        """Publishes a new video on `provider`: its id and digest, and how long until the directory
        knew of it."""
        video = f"{provider.folder}/video-{self.next_number()}"
        data = os.urandom(VIDEO_BYTES)
        with open(video, "wb") as file:
            file.write(data)
        client = provider.client(
            "content", "publish", video, "--rpc-url", f"http://127.0.0.1:{RPC_PORT}", "--json"
        )
        output, complaint = client.communicate()
        os.remove(video)
        if client.returncode != 0:
            raise Failed(f"publishing failed: {complaint.strip()}")
        content = json.loads(output)["content_id"]
        start = time.monotonic()

        def told():
            found = self.boot.rpc("content_v1_findProviders", content, 20, limit=JOIN_LIMIT) or []
            return any(each["peer_id"] == provider.peer for each in found)

        provider.wait("the directory did not hear of the video", JOIN_LIMIT, told)
        return content, hashlib.sha256(data).hexdigest(), round(time.monotonic() - start, 2)

    def fetch(self, relay, provider, content, target, detail):
        """Fetches the video through the relay: seconds until it was there. When the two came to be
        connected on the overlay goes into `detail`."""
        start, complaint = time.monotonic(), "the relay was still looking"
        detail["connected_s"] = None
        source = f"/ip4/127.0.0.1/udp/9003/quic-v1/p2p/{relay.peer}"
        while True:
            client = relay.client("content", "get", content, "--from", source, "-o", target)
            while client.poll() is None:
                if time.monotonic() - start > LIMIT:
                    client.kill()
                    client.communicate()
                    reasons = [complaint, relay.last_word("no service record", "dialling failed")]
                    raise Failed("; ".join(filter(None, reasons))[:400])
                if detail["connected_s"] is None and relay.knows(provider.peer):
                    detail["connected_s"] = round(time.monotonic() - start, 2)
                time.sleep(POLL)
            complaint = client.communicate()[1].strip().removeprefix("Error: ")
            if client.returncode == 0:
                return time.monotonic() - start
            time.sleep(RETRY)

    def cell(self, provider, content, digest, relay, best):
        """Fetches through a relay that has just been started: seconds until the bytes are there and
        the two are connected by one of the methods `best`, and the details."""
        detail = {}
        try:
            detail["rpc_s"], detail["joined_s"] = relay.join()
            start = time.monotonic()
            target = f"{relay.folder}/video"
            seconds = self.fetch(relay, provider, content, target, detail)
            with open(target, "rb") as file:
                if hashlib.sha256(file.read()).hexdigest() != digest:
                    raise Failed("the bytes differ from those published")
            detail["arrived_s"] = round(seconds, 2)
            detail["first_method"] = reached = method(relay, provider)
            # What came over a relay may go on over a better way soon.
            while reached not in best and time.monotonic() - start < LIMIT:
                time.sleep(POLL)
                reached = method(relay, provider)
            if reached in best and reached != detail["first_method"]:
                seconds = time.monotonic() - start
            if self.turn and best is BEST["relayed"]:
                detail["turn_s"] = meet_at_turn(relay, provider)
                reached = method(relay, provider)
            outcome = {"arrived": True, "best": reached in best, "method": reached}
        except Failed as failure:
            seconds, outcome = LIMIT, missed(failure)
        return seconds, {**detail, **outcome, "states": [state(provider), state(relay)]}

    def row(self, a, kinds, parallel, told):
        """All cells of one provider; `told` gets each when it is there."""
        nodes = []

        def start(where, *options):
            nodes.append(Node(self, where, *options))
            return nodes[-1]

        def one(b):
            try:
                content, digest, announced = self.publish(provider)
            except Failed as failure:
                told(a, b, LIMIT, missed(failure))
                return
            relay = start(f"b_{b}", "--relay", *self.bootnodes())
            best = BEST[in_principle(a, b)]
            seconds, detail = self.cell(provider, content, digest, relay, best)
            told(a, b, seconds, {**detail, "announced_s": announced})

        try:
            self.boot = start("boot")
            self.boot.wait(
                "did not answer over RPC", START_LIMIT, lambda: self.boot.rpc("p2p_v1_status")
            )
            provider = start(f"a_{a}", "--super-node", *self.bootnodes())
            provider.join()
            with ThreadPoolExecutor(max_workers=parallel) as pool:
                for done in [pool.submit(one, b) for b in kinds]:
                    done.result()
        except Failed as failure:
            for b in kinds:
                told(a, b, LIMIT, missed(failure))
        finally:
            stop(nodes)


def missed(failure):
    """The details of a cell in which nothing came over."""
    return {"arrived": False, "best": False, "method": "none", "reason": str(failure)}


def state(node):
    """How `node` takes itself to be reachable; unknown if it does not say."""
    return (node.rpc("p2p_v1_natStatus") or {}).get("state", "unknown")


def method(node, peer):
    """How `node` reached `peer` in the end, by its own account; unknown if it gives none."""
    status = node.rpc("p2p_v1_natStatus") or {}
    for connection in status.get("connections", []):
        if connection.get("peer_id") == peer.peer:
            return connection.get("method", "unknown")
    return "unknown"


def meet_at_turn(node, peer):
    """Seconds until `node` is connected with `peer` over TURN; none if that takes too long."""
    start = time.monotonic()
    while method(node, peer) != "turn":
        if time.monotonic() - start > TURN_LIMIT:
            return None
        time.sleep(POLL)
    return round(time.monotonic() - start, 2)


def parse(arguments):
    """The arguments, with `cells` as pairs."""
    parser = argparse.ArgumentParser(prog="scripts/natlab.sh matrix", add_help=False)
    parser.add_argument("cells", nargs="*", metavar="CELL")
    parser.add_argument("--no-stun", action="store_true")
    parser.add_argument("--turn", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--must", choices=("arrive", "best"))
    parser.add_argument("--parallel", type=int, default=1)
    options = parser.parse_args(arguments)
    chosen = []
    for name in options.cells or KINDS:
        a, _, b = name.partition(".")
        if a not in KINDS or (b and b not in KINDS):
            parser.error(f"{name} is no cell; a cell is A.B or A, of: {' '.join(KINDS)}")
        chosen += [(a, kind) for kind in ([b] if b else KINDS)]
    options.cells = list(dict.fromkeys(chosen))
    if not 1 <= options.parallel <= len(KINDS):
        parser.error(f"--parallel takes 1 to {len(KINDS)}")
    return options


def show(results, group, stream):
    """The table: rows publish, columns fetch."""
    rows = [["", *KINDS]]
    for a in KINDS:
        row = [a]
        for b in KINDS:
            seconds, detail = results.get((a, b), (None, None))
            if detail is None:
                row.append("-")
            elif detail["best"]:
                row.append(f"{seconds:.1f} s {detail['method']}")
            elif detail["arrived"]:
                row.append(f"{detail['arrived_s']:.1f} s {detail['method']}!")
            else:
                row.append(f"FAILED ({detail['in_principle']})")
        rows.append(row)
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    print(f"{group}: rows publish, columns fetch; FAILED says what the NATs allow,\n"
          "and ! that they allow better", file=stream)
    for row in rows:
        cells = (word.ljust(width) for word, width in zip(row, widths))
        print("  ".join(cells).rstrip(), file=stream)


def idle_faults(lab, cells, stun_dead):
    """What the faults of these cells should have done, and by their own count have not."""
    counted, idle = lab.counters(), []
    if stun_dead and not counted.get(("boot", "stun_dead", "silenced")):
        idle.append("STUN servers that are silent")
    for where in sorted({f"a_{a}" for a, _ in cells} | {f"b_{b}" for _, b in cells}):
        kind = where[2:]
        if kind == "open":
            continue
        for name in ("translated", "blocked_udp") if kind == "udp_blocked" else ("translated",):
            if not counted.get((f"{where}.nat", "lab", name)):
                idle.append(f"{name} of {where}.nat")
    return idle


def main():
    if sys.argv[1:2] == ["--check"]:
        parse(sys.argv[2:])
        return
    lab, options = Lab(sys.argv[1], sys.argv[2]), parse(sys.argv[3:])
    group = "nat.nostun" if options.no_stun else "nat.matrix"
    folder = tempfile.mkdtemp(prefix="nsn-natlab.")
    world = World(lab, os.environ["NSN_NODE"], folder, options.turn)
    target = 20 if options.no_stun else TARGET
    results = {}

    def result(name, value, detail):
        if options.json:
            line = {"bench": name, "value": round(value, 2), "unit": "s", "better": "lower",
                    "target": target, "detail": detail}
            print(json.dumps(line), flush=True)

    def told(a, b, seconds, detail):
        detail["in_principle"] = in_principle(a, b)
        results[a, b] = (seconds, detail)
        outcome = detail["method"] if detail["arrived"] else f"FAILED: {detail['reason']}"
        if detail["arrived"] and not detail["best"]:
            outcome += f", and not {detail['in_principle']}"
        say(f"  {a}.{b}: {seconds:.1f} s, {outcome}")
        result(f"{group}.{a}.{b}", seconds, detail)

    # Asked to end, it removes what it has made; the lab, and with it all nodes, is its caller's.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.no_stun:
        lab.do("kill-stun")
    try:
        world.prepare()
        for a in dict.fromkeys(a for a, _ in options.cells):
            world.row(a, [b for row, b in options.cells if row == a], options.parallel, told)
    finally:
        if options.keep:
            say(f"the nodes' folders and logs are left in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    failed = sum(not detail["arrived"] for _, detail in results.values())
    worse = sum(not detail["best"] for _, detail in results.values())
    worst = max(seconds for seconds, _ in results.values())
    if len(results) == len(KINDS) ** 2:
        result(f"{group}.worst_s", worst, {"cells": len(results), "failed": failed, "not_best": worse})
    show(results, group, sys.stderr if options.json else sys.stdout)
    idle = idle_faults(lab, results, options.no_stun and world.asks_stun)
    waited = [detail for _, detail in results.values() if "turn_s" in detail]
    if waited and not any(detail["method"] == "turn" for detail in waited):
        idle.append("the TURN server")
    for what in idle:
        say(f"no cell met this, so it proves nothing: {what}")
    missed_it = {"arrive": failed, "best": worse or worst > target}.get(options.must)
    sys.exit(1 if idle or missed_it else 0)


if __name__ == "__main__":
    main()
