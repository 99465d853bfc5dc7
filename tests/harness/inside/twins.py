#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""End each handshake twice at the same time, from two processors.

    twins.py DEVICE SOURCE-MAC TARGET-MAC SOURCE TARGET PORT COUNT PATH

Nobody has the source address. For each of the connections, one after the other,
the handshake's ACK is sent by two processes at once; then the path is asked
for. A line of JSON tells how many were answered.
"""

import json
import mmap
import os
import socket
import struct
import sys
import time
from typing import Optional, Tuple

from flood import ethertype, packed, segment

SYN, RST, ACK, PSH = 0x02, 0x04, 0x10, 0x08
ROOM = 160


class Sender:
    """Makes frames of one source, and hears what comes for it."""

    def __init__(self, device: str, macs: Tuple[str, str],
                 addresses: Tuple[str, str], port: int) -> None:
        self._ours, self._theirs = map(packed, addresses)
        kind = ethertype(self._ours)
        self._link = b''.join(bytes.fromhex(mac.replace(':', ''))
                              for mac in reversed(macs)) + struct.pack('!H', kind)
        self._port = port
        self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW,
                                  socket.htons(kind))
        self.sock.bind((device, kind))

    def frame(self, port: int, seq: int, ack: int, flags: int,
              data: bytes = b'') -> bytes:
        """A segment."""
        return self._link + segment(
            self._ours, self._theirs, (port, self._port), seq, ack, flags, data)

    def hear(self, port: int, flags: int, size: int, timeout: float
             ) -> Optional[int]:
        """The sequence number of a segment for a port with these flags and so
        much payload, or more."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            self.sock.settimeout(max(end - time.monotonic(), 0.001))
            try:
                frame, (_, _, kind, _, _) = self.sock.recvfrom(1 << 16)
            except TimeoutError:
                break
            width = len(self._ours)
            tcp = 14 + (20 if width == 4 else 40)
            if kind == socket.PACKET_OUTGOING or frame[tcp - width:tcp] != self._ours:
                continue
            at, before = (16, 20) if width == 4 else (18, 0)
            length, = struct.unpack('!H', frame[at:at + 2])
            to, seq, offset, found = struct.unpack('!2xHI4xBB', frame[tcp:tcp + 14])
            payload = length - before - (offset >> 4) * 4
            if to == port and found & flags == flags and payload >= size:
                return seq
        return None


def twin(sock: socket.socket, shared: mmap.mmap, cpu: int) -> None:
    """Send each frame that is put into the memory, as soon as its number is
    there; without a number above 0, end."""
    os.sched_setaffinity(0, {cpu})
    last = 0
    while True:
        while (number := shared[0]) == last:
            pass
        if not number:
            os._exit(0)
        sock.send(shared[2:2 + shared[1]])
        last = number


def main() -> None:
    """One connection after the other."""
    device, *macs, ours, theirs, port, count, path = sys.argv[1:]
    sender = Sender(device, (macs[0], macs[1]), (ours, theirs), int(port))
    shared = mmap.mmap(-1, ROOM)
    cpus = sorted(os.sched_getaffinity(0))
    if not os.fork():
        twin(sender.sock, shared, cpus[-1])
    os.sched_setaffinity(0, {cpus[0]})
    answered = 0
    for number in range(int(count)):
        source, isn = 20_000 + number, number * 99_991 % (1 << 31)
        sender.sock.send(sender.frame(source, isn, 0, SYN))
        seq = sender.hear(source, SYN | ACK, 0, 3)
        if seq is None:
            continue
        known = (isn + 1, (seq + 1) % (1 << 32))
        ack = sender.frame(source, *known, ACK)
        shared[1], shared[2:2 + len(ack)] = len(ack), ack
        shared[0] = 1 + (shared[0] + 1) % 200
        sender.sock.send(ack)
        request = f'GET {path} HTTP/1.0\r\n\r\n'.encode()
        sender.sock.send(sender.frame(source, *known, ACK | PSH, request))
        answered += sender.hear(source, ACK, 1, 3) is not None
        sender.sock.send(sender.frame(source, isn + 1 + len(request), 0, RST))
    shared[0] = 0
    os.wait()
    print(json.dumps({'answered': answered}))


if __name__ == '__main__':
    main()
