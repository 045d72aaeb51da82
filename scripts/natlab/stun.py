"""Binding requests of STUN (RFC 8489), and with them what RFC 5780 tells of a NAT."""

import os
import socket
import struct
import time

from lab import receive

COOKIE = 0x2112A442
BINDING_REQUEST = 0x0001
BINDING_RESPONSE = 0x0101
MAPPED_ADDRESS = 0x0001
CHANGE_REQUEST = 0x0003
XOR_MAPPED_ADDRESS = 0x0020
OTHER_ADDRESS = 0x802C

CHANGE_IP = 4
CHANGE_PORT = 2

# Until when an answer is waited for before a request is sent again, and at last given up: seconds
# from the first. There is no delay in the lab, so an answer comes at once or not at all.
WAITS = (0.2, 0.4, 0.8)


def request(transaction, change=0):
    """A Binding request; `change` asks for the answer from another address or port."""
    body = struct.pack("!HHI", CHANGE_REQUEST, 4, change) if change else b""
    return struct.pack("!HHI", BINDING_REQUEST, len(body), COOKIE) + transaction + body


def response(data, transaction):
    """The addresses in a Binding response, by type of attribute; None if it is not one to this."""
    if len(data) < 20:
        return None
    kind, length, cookie = struct.unpack_from("!HHI", data)
    if kind != BINDING_RESPONSE or cookie != COOKIE or data[8:20] != transaction:
        return None
    found, at, end = {}, 20, min(len(data), 20 + length)
    while at + 4 <= end:
        attribute, size = struct.unpack_from("!HH", data, at)
        value = data[at + 4:at + 4 + size]
        if attribute in (MAPPED_ADDRESS, XOR_MAPPED_ADDRESS, OTHER_ADDRESS) and len(value) == 8:
            family, port, ip = struct.unpack("!xBHI", value)
            if attribute == XOR_MAPPED_ADDRESS:
                port, ip = port ^ (COOKIE >> 16), ip ^ COOKIE
            if family == 1:
                found[attribute] = (socket.inet_ntoa(struct.pack("!I", ip)), port)
        at += 4 + (size + 3) // 4 * 4
    return found


def bind(sock, server, change=0):
    """Asks `server` through `sock`: what its response says, or None if none came."""
    transaction = os.urandom(12)
    start = time.monotonic()
    for until in WAITS:
        sock.sendto(request(transaction, change), server)
        while (left := start + until - time.monotonic()) > 0:
            got = receive(sock, left)
            if got and (found := response(got[0], transaction)) is not None:
                return found
    return None


def behaviour(lab, where, server):
    """How the NAT in front of `where` maps and filters, by the tests of RFC 5780, 4.3 and 4.4."""
    with lab.udp(where) as sock:
        first = bind(sock, server)
        if not first:
            return {"mapping": "blocked", "filtering": "blocked"}
        mapped, other = first[XOR_MAPPED_ADDRESS], first.get(OTHER_ADDRESS)
        if not other:
            return {"mapping": "unknown", "filtering": "unknown", "mapped": mapped}
        # The other address with the port that was asked already, then both others.
        second = (bind(sock, (other[0], server[1])) or {}).get(XOR_MAPPED_ADDRESS)
        third = (bind(sock, other) or {}).get(XOR_MAPPED_ADDRESS)
    with lab.udp(where) as sock:
        bind(sock, server)
        if bind(sock, server, CHANGE_IP | CHANGE_PORT):
            filtering = "endpoint_independent"
        elif bind(sock, server, CHANGE_PORT):
            filtering = "address_dependent"
        else:
            filtering = "address_and_port_dependent"
    return {"mapping": mapping_of(mapped, second, third), "filtering": filtering, "mapped": mapped}


def mapping_of(first, other_address, other_both):
    """The mapping behaviour, from what three sockets saw: the last two share an address."""
    if None in (first, other_address, other_both):
        return "unknown"
    if first == other_address == other_both:
        return "endpoint_independent"
    if other_address == other_both:
        return "address_dependent"
    return "address_and_port_dependent"
