"""What the tests of the lab share: its sites, its counters, and sockets inside its namespaces.

A socket belongs to the namespace in which it was made and stays there, so one process holds sockets
in all of them, and needs no program on the other side.
"""

import ctypes
import json
import os
import select
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass

BOOT = "11.200.0.1"
BOOT_SECOND = "11.201.0.1"
STUN_PORT = 3478
TURN_USER = "lab"
TURN_PASSWORD = "natlab"

# From <sched.h>.
CLONE_NEWNET = 0x40000000

libc = ctypes.CDLL(None, use_errno=True)


def say(text):
    """Progress and failures: standard output is for results alone."""
    print(text, file=sys.stderr, flush=True)


@dataclass
class Site:
    """A host of the lab, and what stands between it and the internet."""

    name: str
    kind: str
    number: int
    generation: int

    @property
    def address(self):
        """Its address on the internet."""
        return f"11.{self.number}.0.{self.generation}"

    @property
    def inside(self):
        """Its address as it sees itself."""
        return self.address if self.kind == "open" else f"192.168.{self.number}.2"

    @property
    def router(self):
        """The inside address of its NAT."""
        return f"192.168.{self.number}.1"


class Lab:
    """A running lab."""

    def __init__(self, folder, script):
        self.folder = folder
        self.name = os.path.basename(folder)
        self.script = script
        with open("/proc/thread-self/ns/net") as own:
            self.home = os.dup(own.fileno())

    def sites(self):
        """All sites by name, as they are now."""
        with open(f"{self.folder}/sites") as file:
            rows = [line.split() for line in file]
        return {row[0]: Site(row[0], row[1], int(row[2]), int(row[3])) for row in rows}

    def namespace(self, where):
        return f"nsnlab-{self.name}-{where}"

    @contextmanager
    def inside(self, where):
        """Whatever this thread opens inside of the block is opened in the namespace of `where`."""
        with open(f"/run/netns/{self.namespace(where)}") as target:
            self._enter(target.fileno())
        try:
            yield
        finally:
            self._enter(self.home)

    @staticmethod
    def _enter(descriptor):
        if libc.setns(descriptor, CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def udp(self, where, address="0.0.0.0", port=0):
        """A UDP socket in the namespace of `where`."""
        with self.inside(where):
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((address, port))
        made.setblocking(False)
        return made

    def tcp(self, where):
        """A TCP socket in the namespace of `where`."""
        with self.inside(where):
            return socket.socket(socket.AF_INET, socket.SOCK_STREAM)

    def run(self, where, *command, limit=20):
        """Runs a command in the namespace of `where`: exit status and all that it printed."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.namespace(where), *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=limit, check=False, text=True, errors="replace",
        )
        return done.returncode, done.stdout

    def do(self, *command):
        """A command of scripts/natlab.sh on this lab; what it printed."""
        return subprocess.run(
            [self.script, "--lab", self.name, *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True, text=True,
        ).stdout

    def counters(self):
        """Packets counted: by namespace, table and name."""
        lines = map(json.loads, self.do("counters").splitlines())
        return {(line["where"], line["table"], line["counter"]): line["packets"] for line in lines}


def receive(sock, limit):
    """The next datagram and its sender, or None after `limit` seconds."""
    until = time.monotonic() + limit
    while True:
        left = until - time.monotonic()
        if left <= 0 or not select.select([sock], [], [], left)[0]:
            return None
        try:
            return sock.recvfrom(2048)
        except ConnectionError:
            # An earlier datagram of ours was refused, which is no answer.
            continue
