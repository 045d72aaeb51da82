"""Passes frames between two interfaces, each after a delay: many kernels lack netem.

    delay.py INTERFACE INTERFACE MILLISECONDS

Run in the namespace of both. Frames are passed as the kernel holds them, with what is still to be
done to them (checksums, segments), so nothing is changed on the way.
"""

import select
import socket
import sys
import time
from collections import deque

# From <linux/if_packet.h>.
SOL_PACKET = 263
PACKET_VNET_HDR = 15
PACKET_IGNORE_OUTGOING = 23
ETH_P_ALL = 3

# The largest frame that the kernel glues together, and the header that says how.
LARGEST = 65536 + 64
# Frames waiting in one direction; further ones are lost, as in a full router. 4,096 of 64 KiB are
# 256 MiB at worst.
MOST = 4096


def attach(interface):
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    made.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    made.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 1024 * 1024)
    made.bind((interface, ETH_P_ALL))
    made.setblocking(False)
    return made


def main():
    one, other = attach(sys.argv[1]), attach(sys.argv[2])
    delay = float(sys.argv[3]) / 1000
    # By where they come from: when each is due, and where it goes.
    waiting = {one: (deque(), other), other: (deque(), one)}
    while True:
        due = min((queue[0][0] for queue, _ in waiting.values() if queue), default=None)
        left = None if due is None else max(0, due - time.monotonic())
        for sock in select.select([one, other], [], [], left)[0]:
            queue, _ = waiting[sock]
            try:
                while True:
                    frame = sock.recv(LARGEST)
                    if len(queue) < MOST:
                        queue.append((time.monotonic() + delay, frame))
            except BlockingIOError:
                pass
        now = time.monotonic()
        for queue, target in waiting.values():
            while queue and queue[0][0] <= now:
                try:
                    target.send(queue.popleft()[1])
                except OSError:
                    # The interface is full or down: the frame is lost, as anywhere.
                    pass


if __name__ == "__main__":
    main()
