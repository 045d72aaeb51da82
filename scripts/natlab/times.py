"""Measures how soon a node behind a NAT has its place on the overlay, and has it again after its
address changed.

Run by `scripts/natlab.sh times`, which makes the lab: sites a_KIND and b_KIND of each kind.

`cold_start`: a node that knows one bootnode starts behind each kind of NAT. What counts is the time
from the start of its process to its first connection on the overlay.

`rebind`: a super-node behind each kind has published two videos, and a relay behind another NAT has
fetched the first. Then the super-node's site gets another address on the internet, and its NAT forgets
all mappings; what is sent to the old address is swallowed. What counts is the time from then until the
relay has the second video, byte for byte. Meanwhile the bootnode and the relay are asked again and again
where the video is, and what they answer is searched for the old address.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time

from lab import Lab, say
from matrix import BEST, START_LIMIT, Failed, Node, World, method, missed, state, stop
from selftest import KINDS

# Seconds: what is promised, and when a case is given up.
COLD_START = 5
CONNECTED_AGAIN = 15
FORGOTTEN = 60
LIMIT = 90
# Seconds between two questions for providers: as often as anybody might ask.
ASK = 1
MEASURES = {"cold_start": KINDS, "rebind": KINDS}
# How the two are connected before does not matter.
ANY = BEST["relayed"]
# The relay's side: the commonest NAT at home.
RELAY = "port_restricted"


def cold_start(world, kind):
    """Seconds from the start of a process until it is connected, and details."""
    node = Node(world, f"b_{kind}", *world.bootnodes())
    try:
        answers, joined = node.join()
        return joined, {"arrived": True, "rpc_s": answers, "state": state(node)}
    except Failed as failure:
        return LIMIT, missed(failure)
    finally:
        stop([node])


def digest_of(path):
    """The SHA-256 of a file; None if there is none."""
    if not os.path.exists(path):
        return None
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def addresses(node, content):
    """Every address that `node` gives for the providers of a content, as one text."""
    return json.dumps(node.rpc("content_v1_findProviders", content, 20, limit=LIMIT) or [])


def watch(world, lab, provider, relay, second):
    """From a change of the provider's address on: seconds until the relay has the second video, and
    until nobody who asks is told of the old address; None for what did not come about."""
    content, digest, _ = second
    stale = lab.sites()[provider.where].address
    lab.do("rebind", provider.where)
    start = time.monotonic()
    source = f"/ip4/127.0.0.1/udp/9003/quic-v1/p2p/{relay.peer}"
    target = f"{relay.folder}/second"
    client, again, told, asked, complaint = None, None, {}, 0, ""
    while (now := time.monotonic() - start) < LIMIT:
        if again is None and client is None:
            client = relay.client("content", "get", content, "--from", source, "-o", target)
        if client is not None and client.poll() is not None:
            complaint = client.communicate()[1].strip()
            if client.returncode == 0 and digest_of(target) == digest:
                again = time.monotonic() - start
            client = None
        if now >= asked:
            asked = now + ASK
            for node in (world.boot, relay):
                if f"/{stale}/" in addresses(node, content):
                    told[node.where] = round(time.monotonic() - start, 1)
        if again is not None and now > FORGOTTEN + 2 * ASK:
            break
        time.sleep(0.05)
    if client is not None:
        client.kill()
        client.communicate()
    return again, told, complaint


def rebind(world, lab, kind):
    """Seconds until two nodes are connected again after one's address changed, and details."""
    nodes = []
    try:
        provider = Node(world, f"a_{kind}", "--super-node", *world.bootnodes())
        nodes.append(provider)
        provider.join()
        first, second = world.publish(provider), world.publish(provider)
        relay = Node(world, f"b_{RELAY}", "--relay", *world.bootnodes())
        nodes.append(relay)
        seconds, before = world.cell(provider, *first[:2], relay, ANY)
        if not before["arrived"]:
            raise Failed(f"nothing came over before the change: {before['reason']}")
        again, told, complaint = watch(world, lab, provider, relay, second)
        detail = {
            "before": {"fetch_s": round(seconds, 2), "method": before["method"]},
            "stale_until_s": max(told.values(), default=0), "stale_told_by": told,
            "states": [state(provider), state(relay)],
        }
        if again is None:
            return LIMIT, {**detail, **missed(complaint or "the relay was still looking")}
        return again, {**detail, "arrived": True, "method": method(relay, provider)}
    except Failed as failure:
        return LIMIT, {**missed(failure), "stale_until_s": None}
    finally:
        stop(nodes)


def parse(arguments):
    parser = argparse.ArgumentParser(prog="scripts/natlab.sh times", add_help=False)
    parser.add_argument("measures", nargs="*", metavar="MEASURE", help="cold_start, rebind")
    parser.add_argument("--kinds", default="")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--strict", action="store_true")
    options = parser.parse_args(arguments)
    options.measures = options.measures or list(MEASURES)
    options.kinds = [kind for kind in options.kinds.split(",") if kind]
    for name, known in [(name, MEASURES) for name in options.measures] + [
        (kind, KINDS) for kind in options.kinds
    ]:
        if name not in known:
            parser.error(f"{name} is none of: {' '.join(known)}")
    return options


def main():
    if sys.argv[1:2] == ["--check"]:
        parse(sys.argv[2:])
        return
    lab, options = Lab(sys.argv[1], sys.argv[2]), parse(sys.argv[3:])
    folder = tempfile.mkdtemp(prefix="nsn-natlab.")
    world = World(lab, os.environ["NSN_NODE"], folder, turn=False)
    # Asked to end, it removes what it has made; the lab, and with it all nodes, is its caller's.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    late = False
    try:
        world.prepare()
        world.boot = Node(world, "boot")
        world.boot.wait(
            "did not answer over RPC", START_LIMIT, lambda: world.boot.rpc("p2p_v1_status")
        )
        for name in options.measures:
            target = COLD_START if name == "cold_start" else CONNECTED_AGAIN
            cases = {}
            for kind in options.kinds or MEASURES[name]:
                seconds, detail = (
                    cold_start(world, kind) if name == "cold_start" else rebind(world, lab, kind)
                )
                cases[kind] = {"seconds": round(seconds, 2), **detail}
                outcome = detail.get("reason") if not detail["arrived"] else f"{seconds:.1f} s"
                stale = detail.get("stale_until_s")
                after = f", the old address last told after {stale} s" if stale else ""
                say(f"  {name}.{kind}: {outcome}{after}")
                late |= not detail["arrived"] or seconds > target or (stale or 0) > FORGOTTEN
            worst = max(case["seconds"] for case in cases.values())
            if options.json:
                print(json.dumps({
                    "bench": f"nat.{name}_s", "value": worst, "unit": "s", "better": "lower",
                    "target": target, "detail": cases,
                }), flush=True)
            else:
                print(f"nat.{name}_s: {worst} s at the most (target: {target} s)", flush=True)
        stop([world.boot])
    finally:
        if options.keep:
            say(f"the nodes' folders and logs are left in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if options.strict and late else 0)


if __name__ == "__main__":
    main()
