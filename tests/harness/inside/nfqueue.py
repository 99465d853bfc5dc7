#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Let all packets of a queue of netfilter's go on, each after a look at it.

    nfqueue.py NUMBER

Says "ready" when the queue is its own (linux/netfilter/nfnetlink_queue.h).
"""

import socket
import struct
import sys

NETLINK_NETFILTER, SUBSYSTEM = 12, 3
REQUEST, ACKNOWLEDGE, ERROR = 1, 4, 2
PACKET, VERDICT, CONFIG = (SUBSYSTEM << 8 | it for it in range(3))
BIND, COPY_META, ACCEPT = 1, 1, 1
# Attributes: of a packet its header, of a configuration a command and what is copied, a verdict.
PACKET_HEADER, COMMAND, PARAMETERS, DECISION = 1, 1, 2, 2


def message(kind: int, queue: int, attribute: int, value: bytes, flags: int = 0) -> bytes:
    """A request about a queue, with one attribute."""
    body = struct.pack('>BBH', socket.AF_UNSPEC, 0, queue)
    body += struct.pack('=HH', 4 + len(value), attribute) + value
    body += bytes(-len(body) % 4)
    return struct.pack('=IHHII', 16 + len(body), kind, REQUEST | flags, 0, 0) + body


def configure(sock: socket.socket, queue: int, attribute: int, value: bytes) -> None:
    """Change the queue."""
    sock.send(message(CONFIG, queue, attribute, value, ACKNOWLEDGE))
    kind, error = struct.unpack_from('=4xH10xi', sock.recv(1 << 16))
    if kind != ERROR or error:
        sys.exit(f'queue {queue}: error {error}')


def main() -> None:
    """Own the queue until killed."""
    queue = int(sys.argv[1])
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as sock:
        sock.bind((0, 0))
        configure(sock, queue, COMMAND, struct.pack('>BBH', BIND, 0, 0))
        configure(sock, queue, PARAMETERS, struct.pack('>IB', 0, COPY_META))
        print('ready', flush=True)
        while True:
            # Each comes by itself: behind the two headers, first of all, its number.
            data = sock.recv(1 << 16)
            kind, attribute, number = struct.unpack_from('=4xH14x2xH4s', data)
            if kind == PACKET and attribute == PACKET_HEADER:
                verdict = struct.pack('>I', ACCEPT) + number
                sock.send(message(VERDICT, queue, DECISION, verdict))


if __name__ == '__main__':
    main()
