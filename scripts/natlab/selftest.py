"""Proves that the lab is what it says: how each NAT maps and filters, which pairs can punch, that
the servers work from behind them, and that each fault fires.

Run by `scripts/natlab.sh selftest`, which makes the lab: sites KIND_1 and KIND_2 of each kind. Prints
one JSON object for each check, and ends with status 1 if one failed.
"""

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import stun
from lab import BOOT, BOOT_SECOND, STUN_PORT, TURN_PASSWORD, TURN_USER, Lab, receive, say

# What each kind must be measured as: mapping, filtering (RFC 4787), and whether the inside port is
# kept.
EXPECTED = {
    "open": ("endpoint_independent", "endpoint_independent", True),
    "full_cone": ("endpoint_independent", "endpoint_independent", True),
    "port_restricted": ("endpoint_independent", "address_and_port_dependent", False),
    "symmetric": ("address_and_port_dependent", "address_and_port_dependent", False),
    "double": ("endpoint_independent", "address_and_port_dependent", False),
    "udp_blocked": ("blocked", "blocked", False),
    "upnp": ("endpoint_independent", "address_and_port_dependent", False),
}

# The kinds of the matrix.
KINDS = [kind for kind in EXPECTED if kind != "upnp"]

# How long something that must not arrive is waited for, in seconds. There is no delay in the lab.
ABSENT = 0.4

# How long two sides try to punch, and how often they send, in seconds.
PUNCHING = 1.5
PUNCH_EVERY = 0.1


def punchable(a, b):
    """Whether two kinds can reach each other by UDP, when each knows the address that a third saw.

    A NAT that maps anew for each socket shows its friend another port than the one that was told.
    The friend hears of it only if its own filter lets that unknown port in.
    """
    if "udp_blocked" in (a, b):
        return False
    careful = [EXPECTED[kind][1] == "address_and_port_dependent" for kind in (a, b)]
    return not ("symmetric" in (a, b) and all(careful))


class Checks:
    """What was found so far."""

    def __init__(self):
        self.failed = 0
        self.done = 0
        self.lock = threading.Lock()

    def expect(self, name, measured, expected, **detail):
        self.hold(name, measured == expected, measured=measured, expected=expected, **detail)

    def hold(self, name, good, **detail):
        with self.lock:
            self.done += 1
            self.failed += not good
            print(json.dumps({"check": name, "ok": good, "detail": detail}), flush=True)
            if not good:
                say(f"FAILED: {name}: {json.dumps(detail)}")


# ---- NATs ---------------------------------------------------------------------------------------


def by_sockets(lab, where):
    """How the NAT of `where` maps and filters, as four sockets on the internet see it."""
    boot = [lab.udp("boot", address) for address in (BOOT, BOOT_SECOND) for _ in range(2)]
    first, same_address, other_address, other_both = boot
    try:
        with lab.udp(where) as sock:
            local = sock.getsockname()[1]
            seen = [seen_by(sock, server) for server in (first, other_address, other_both)]
        if None in seen:
            return {"mapping": "blocked", "filtering": "blocked", "kept": False}
        with lab.udp(where) as sock:
            mapped = seen_by(sock, first)
            for server in (same_address, other_address):
                server.sendto(b"unasked", mapped)
            arrived = set()
            while got := receive(sock, ABSENT):
                arrived.add(got[1])
        if other_address.getsockname() in arrived:
            filtering = "endpoint_independent"
        elif same_address.getsockname() in arrived:
            filtering = "address_dependent"
        else:
            filtering = "address_and_port_dependent"
        return {
            "mapping": stun.mapping_of(*seen),
            "filtering": filtering,
            "kept": seen[0][1] == local,
            "seen": seen,
        }
    finally:
        for sock in boot:
            sock.close()


def seen_by(sock, server):
    """As whom `server`, a socket of this process too, sees `sock`; None if it hears nothing."""
    token = os.urandom(8)
    sock.sendto(token, server.getsockname())
    while got := receive(server, ABSENT):
        if got[0] == token:
            return got[1]
    return None


def check_nat(lab, checks, site):
    mapping, filtering, kept = EXPECTED[site.kind]
    seen = by_sockets(lab, site.name)
    checks.expect(f"nat.{site.kind}.mapping", seen["mapping"], mapping, seen=seen.get("seen"))
    checks.expect(f"nat.{site.kind}.filtering", seen["filtering"], filtering)
    checks.expect(f"nat.{site.kind}.port_kept", seen["kept"], kept)
    if mapping != "blocked":
        addresses = {address for address, _ in seen.get("seen", [])}
        checks.expect(f"nat.{site.kind}.address", sorted(addresses), [site.address])
    if mapping != "blocked" and site.kind != "open":
        with lab.udp(site.name) as one, lab.udp(site.name) as two, lab.udp("boot", BOOT) as server:
            mapped = seen_by(one, server)
            checks.expect(f"nat.{site.kind}.hairpin", reached(two, one, mapped), False)
    told = stun.behaviour(lab, site.name, (BOOT, STUN_PORT))
    by_coturn = {key: told[key] for key in ("mapping", "filtering")}
    checks.expect(
        f"nat.{site.kind}.by_stun", by_coturn, {"mapping": mapping, "filtering": filtering}
    )


def check_tcp(lab, checks, site):
    """From inside TCP passes; from outside what nobody asked for is dropped, and not refused."""
    with lab.tcp("boot") as server:
        server.bind((BOOT, 0))
        server.listen(1)
        server.settimeout(3)
        with lab.tcp(site.name) as client:
            client.settimeout(3)
            try:
                client.connect(server.getsockname())
                accepted, seen = server.accept()
                accepted.close()
                outcome = seen[0]
            except OSError as error:
                outcome = repr(error)
    checks.expect(f"nat.{site.kind}.tcp_out", outcome, site.address)
    if site.kind == "open":
        return
    with lab.tcp("boot") as stranger:
        stranger.settimeout(ABSENT)
        try:
            stranger.connect((site.address, 9000))
            outcome = "connected"
        except TimeoutError:
            outcome = "dropped"
        except OSError as error:
            outcome = repr(error)
    checks.expect(f"nat.{site.kind}.tcp_in", outcome, "dropped")


def check_punch(lab, checks, a, b):
    """Tries to punch through both NATs with bare datagrams, and compares with what theory says."""
    with lab.udp("boot", BOOT) as server, lab.udp(a.name) as one, lab.udp(b.name) as two:
        told = {one: seen_by(two, server), two: seen_by(one, server)}
        heard = set()
        until = time.monotonic() + PUNCHING
        while time.monotonic() < until and len(heard) < 2:
            for sock, other in told.items():
                if other:
                    sock.sendto(b"punch", other)
            pause = time.monotonic() + PUNCH_EVERY
            for sock in (one, two):
                while got := receive(sock, max(0.001, (pause - time.monotonic()) / 2)):
                    # What comes from another port than was told is answered there.
                    heard.add(sock)
                    told[sock] = got[1]
                    if len(heard) == 2:
                        break
    expected = punchable(a.kind, b.kind)
    checks.expect(f"punch.{a.kind}.{b.kind}", len(heard) == 2, expected)


# ---- servers ------------------------------------------------------------------------------------


def check_stun_dead(lab, checks):
    """The servers fall silent for STUN, go on with TURN, and come back."""
    lab.do("kill-stun")
    with lab.udp("open_1") as sock:
        checks.expect("stun.killed", stun.bind(sock, (BOOT, STUN_PORT)), None)
    check_turn(lab, checks, "turn.while_stun_is_dead", "open_1")
    silenced = lab.counters().get(("boot", "stun_dead", "silenced"), 0)
    checks.hold("stun.killed.fired", silenced > 0, packets=silenced)
    lab.do("revive-stun")
    with lab.udp("open_1") as sock:
        checks.hold("stun.revived", stun.bind(sock, (BOOT, STUN_PORT)) is not None)


def check_turn(lab, checks, name, where, *options):
    """Two allocations on coturn's relay, and datagrams from the one to the other and back."""
    status, output = lab.run(
        where, "turnutils_uclient", "-u", TURN_USER, "-w", TURN_PASSWORD,
        "-y", "-c", "-m", "1", "-n", "5", "-l", "160", *options, BOOT,
    )
    good = status == 0 and "Total lost packets 0" in output and "tot_recv_msgs=10" in output
    checks.hold(name, good, status=status, output=output.splitlines()[-6:])


def check_upnp(lab, checks, site):
    """A mapping by UPnP, as miniupnpc asks for it, works from the internet until it is removed."""
    port = 7001
    status, output = lab.run(
        site.name, "upnpc", "-e", "natlab", "-a", site.inside, str(port), str(port), "udp", "120"
    )
    good = status == 0 and site.address in output
    checks.hold("upnp.mapped", good, output=output.splitlines()[-4:])
    with lab.udp(site.name, port=port) as inside, lab.udp("boot", BOOT) as stranger:
        checks.expect("upnp.reached", reached(stranger, inside, (site.address, port)), True)
        lab.run(site.name, "upnpc", "-d", str(port), "udp")
        # From another socket: what the NAT let in goes on.
        with lab.udp("boot", BOOT_SECOND) as later:
            checks.expect("upnp.removed", reached(later, inside, (site.address, port)), False)


def check_pmp(lab, checks, site):
    """A mapping by NAT-PMP (RFC 6886, 3.3)."""
    port = 7002
    with lab.udp(site.name, port=port) as inside, lab.udp("boot", BOOT) as stranger:
        with lab.udp(site.name) as asking:
            asking.sendto(struct.pack("!BBxxHHI", 0, 1, port, port, 120), (site.router, 5351))
            got = receive(asking, 2)
        answer = struct.unpack("!BBHIHHI", got[0]) if got and len(got[0]) == 16 else None
        mapped = answer is not None and answer[:3] == (0, 129, 0) and answer[5]
        checks.hold("pmp.mapped", bool(mapped), answer=answer)
        target = (site.address, mapped or port)
        checks.expect("pmp.reached", reached(stranger, inside, target), True)


def check_pcp(lab, checks, site):
    """A mapping by PCP (RFC 6887, 11.1)."""
    port, nonce = 7003, os.urandom(12)

    def mapped_v6(address):
        return b"\0" * 10 + b"\xff\xff" + socket.inet_aton(address)

    head = struct.pack("!BBxxI", 2, 1, 120) + mapped_v6(site.inside)
    body = nonce + struct.pack("!BxxxHH", socket.IPPROTO_UDP, port, port) + mapped_v6("0.0.0.0")
    with lab.udp(site.name, port=port) as inside, lab.udp("boot", BOOT) as stranger:
        with lab.udp(site.name) as asking:
            asking.sendto(head + body, (site.router, 5351))
            got = receive(asking, 2)
        answer = got[0] if got and len(got[0]) >= 60 else b"\0" * 60
        result, external = answer[3], struct.unpack_from("!H", answer, 42)[0]
        good = answer[:2] == b"\x02\x81" and result == 0 and answer[24:36] == nonce
        checks.hold("pcp.mapped", good and answer[44:60] == mapped_v6(site.address), result=result)
        target = (site.address, external)
        checks.expect("pcp.reached", reached(stranger, inside, target), True)


def reached(stranger, inside, target):
    """Whether a datagram of a stranger to `target` comes in at the socket `inside`."""
    token = os.urandom(8)
    stranger.sendto(token, target)
    while got := receive(inside, ABSENT):
        if got[0] == token:
            return True
    return False


# ---- faults -------------------------------------------------------------------------------------


def check_rebind(lab, checks, where):
    """Mappings are forgotten, the address changes, and what goes to the old one is swallowed."""
    kind = lab.sites()[where].kind
    with lab.udp(where) as sock, lab.udp("boot", BOOT) as server:
        before = seen_by(sock, server)
        if kind != "open":
            lab.do("rebind", where, "mapping")
            after = seen_by(sock, server)
            checks.hold(
                f"rebind.{kind}.mapping", after[0] == before[0] and after[1] != before[1],
                before=before, after=after,
            )
            before = after
        swallowed = lab.counters().get(("wan", "lab", "black_hole"), 0)
        new = lab.do("rebind", where).strip()
        after = seen_by(sock, server)
        checks.hold(
            f"rebind.{kind}.address", after is not None and after[0] == new != before[0],
            before=before, after=after, new=new,
        )
        checks.expect(f"rebind.{kind}.stale", reached(server, sock, before), False)
        swallowed = lab.counters().get(("wan", "lab", "black_hole"), 0) - swallowed
        checks.hold(f"rebind.{kind}.fired", swallowed > 0, packets=swallowed)


def check_black_hole(lab, checks, where):
    """Who dials into the black hole waits: nothing comes back, not even that nobody is there."""
    before = lab.counters().get(("wan", "lab", "black_hole"), 0)
    with lab.tcp(where) as sock:
        sock.settimeout(ABSENT)
        try:
            sock.connect(("11.250.3.4", 9000))
            outcome = "connected"
        except TimeoutError:
            outcome = "silence"
        except OSError as error:
            outcome = repr(error)
    checks.expect("black_hole.tcp", outcome, "silence")
    swallowed = lab.counters().get(("wan", "lab", "black_hole"), 0) - before
    checks.hold("black_hole.fired", swallowed > 0, packets=swallowed)


def check_loss(lab, checks, where):
    """Half of 400 datagrams is lost, by more than five standard deviations of chance."""
    sent = 400
    lab.do("loss", where, "50")
    with lab.udp(where) as sock, lab.udp("boot", BOOT) as server:
        for _ in range(sent):
            sock.sendto(b"x", server.getsockname())
        arrived = 0
        while receive(server, ABSENT):
            arrived += 1
    lost = lab.counters().get(("wan", f"loss_{where}", "lost"), 0)
    lab.do("loss", where, "0")
    checks.hold("loss.half", 148 < arrived < 252, sent=sent, arrived=arrived)
    checks.expect("loss.fired", lost, sent - arrived)


def check_rate(lab, checks, where):
    """What passes in a second is what was said, each way."""
    kbit, amount = 4000, 500_000
    lab.do("rate", where, str(kbit))
    with lab.tcp("boot") as server:
        server.bind((BOOT, 0))
        server.listen(1)
        server.settimeout(5)
        with lab.tcp(where) as client:
            client.settimeout(10)
            client.connect(server.getsockname())
            accepted, _ = server.accept()
            for name, source, sink in (("up", client, accepted), ("down", accepted, client)):
                source.settimeout(10)
                sink.settimeout(10)
                start = time.monotonic()
                sender = threading.Thread(target=source.sendall, args=(b"x" * amount,))
                sender.start()
                left = amount
                while left > 0:
                    left -= len(sink.recv(65536))
                measured = amount * 8 / 1000 / (time.monotonic() - start)
                sender.join()
                checks.hold(f"rate.{name}", 0.5 * kbit < measured < 1.2 * kbit,
                            kbit=round(measured), set=kbit)
            accepted.close()


def check_delay(lab, checks, where):
    """A round trip takes twice the delay, for bare datagrams; and TCP passes unharmed."""
    delay, amount = 40, 300_000
    with lab.udp(where) as sock, lab.udp("boot", BOOT) as server:
        def round_trip():
            start = time.monotonic()
            seen = seen_by(sock, server)
            if not seen:
                return None
            server.sendto(b"back", seen)
            return receive(sock, 2) and (time.monotonic() - start) * 1000

        lab.do("delay", where, str(delay))
        # The program that passes frames has to start.
        until = time.monotonic() + 5
        while (took := round_trip()) is None and time.monotonic() < until:
            pass
        took = round_trip()
    checks.hold("delay.round_trip", took is not None and 2 * delay <= took < 2 * delay + 60,
                milliseconds=took, set=2 * delay)
    with lab.tcp("boot") as server:
        server.bind((BOOT, 0))
        server.listen(1)
        server.settimeout(5)
        with lab.tcp(where) as client:
            client.settimeout(5)
            client.connect(server.getsockname())
            accepted, _ = server.accept()
            accepted.settimeout(5)
            data = os.urandom(amount)
            sender = threading.Thread(target=client.sendall, args=(data,))
            sender.start()
            got = b""
            while len(got) < amount and (more := accepted.recv(65536)):
                got += more
            sender.join()
            accepted.close()
    checks.hold("delay.whole", got == data, sent=amount, arrived=len(got))


# ---- the lab itself -----------------------------------------------------------------------------


def check_isolation(lab, checks, machine_before):
    """Nothing gets out, and the machine's own network is as it was."""
    own = subprocess.run(
        ["ip", "-o", "-4", "address", "show", "scope", "global"],
        stdout=subprocess.PIPE, check=True, text=True,
    ).stdout.split()
    # The machine listens, for this check, on all of its addresses.
    with socket.socket() as server:
        server.bind(("0.0.0.0", 0))
        server.listen(8)
        server.setblocking(False)
        port = server.getsockname()[1]
        addresses = [word.split("/")[0] for word in own if "/" in word] + ["127.0.0.1"]
        for where in ("open_1", "port_restricted_1", "boot"):
            for address in addresses:
                with lab.tcp(where) as sock:
                    sock.settimeout(ABSENT)
                    reached_it = sock.connect_ex((address, port)) == 0
                checks.expect("isolation.machine", reached_it, False, where=where, address=address)
    with open(machine_before) as file:
        before = file.read()
    after = lab.do("machine")
    checks.hold("isolation.untouched", before == after, before=before[-300:], after=after[-300:])


def check_leftovers(lab, checks):
    """Several labs run at once, and one whose process died is removed by the next."""
    first = subprocess.run(
        [lab.script, "up", "x=symmetric"], stdout=subprocess.PIPE, check=True, text=True
    ).stdout.strip()
    # The id of a process that is over, and a start that nothing has had.
    with open(f"{os.path.dirname(lab.folder)}/{first}/owner", "w") as file:
        file.write(f"{first} 1\n")
    second = subprocess.run(
        [lab.script, "up", "y=open"], stdout=subprocess.PIPE, check=True, text=True
    ).stdout.strip()
    left = [name for name in os.listdir("/run/netns") if name.startswith(f"nsnlab-{first}-")]
    checks.expect("lab.leftovers", left, [])
    subprocess.run([lab.script, "--lab", second, "down"], check=True)
    left = [name for name in os.listdir("/run/netns") if name.startswith(f"nsnlab-{second}-")]
    checks.expect("lab.down", left, [])
    checks.hold("lab.several", lab.namespace("boot") in os.listdir("/run/netns"))


def check_fired(lab, checks):
    """Each NAT has done what it is there for, by its own count."""
    counted = lab.counters()
    for kind in EXPECTED:
        if kind == "open":
            continue
        where = f"{kind}_1.nat"
        names = ["translated", "unsolicited_tcp"]
        names += ["blocked_udp"] if kind == "udp_blocked" else ["unsolicited_udp"]
        names += ["asked_nobody"] if kind == "full_cone" else []
        for name in names:
            packets = counted.get((where, "lab", name), 0)
            checks.hold(f"nat.{kind}.{name}.fired", packets > 0, packets=packets)


def main():
    lab = Lab(sys.argv[1], sys.argv[2])
    checks = Checks()
    sites = lab.sites()
    firsts = [sites[f"{kind}_1"] for kind in EXPECTED]
    # They wait for what must not come most of the time, so all at once.
    with ThreadPoolExecutor(max_workers=16) as pool:
        work = [pool.submit(check_nat, lab, checks, site) for site in firsts]
        work += [pool.submit(check_tcp, lab, checks, site) for site in firsts]
        for each in work:
            each.result()
        # A datagram that nobody asked for, to a port that no NAT has given away.
        with lab.udp("boot", BOOT) as stranger:
            for site in firsts:
                stranger.sendto(b"unasked", (site.address, 9))
        work = [
            pool.submit(check_punch, lab, checks, sites[f"{a}_1"], sites[f"{b}_2"])
            for at, a in enumerate(KINDS) for b in KINDS[at:]
        ]
        # turnutils_uclient takes six seconds, however little it sends.
        work.append(pool.submit(check_turn, lab, checks, "turn.udp.symmetric", "symmetric_1"))
        work.append(
            pool.submit(check_turn, lab, checks, "turn.tcp.udp_blocked", "udp_blocked_1", "-t")
        )
        for each in work:
            each.result()
    check_stun_dead(lab, checks)
    for check in (check_upnp, check_pmp, check_pcp):
        check(lab, checks, sites["upnp_1"])
    check_fired(lab, checks)
    check_rebind(lab, checks, "port_restricted_2")
    check_rebind(lab, checks, "open_2")
    check_black_hole(lab, checks, "symmetric_2")
    check_loss(lab, checks, "open_1")
    check_rate(lab, checks, "full_cone_2")
    check_delay(lab, checks, "full_cone_1")
    check_leftovers(lab, checks)
    check_isolation(lab, checks, sys.argv[3])
    say(f"{checks.done - checks.failed} of {checks.done} checks passed")
    sys.exit(1 if checks.failed else 0)


if __name__ == "__main__":
    main()
