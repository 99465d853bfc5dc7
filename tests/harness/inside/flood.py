#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Send SYNs from addresses that nobody has, as fast as this machine can.

    flood.py DEVICE SOURCE-MAC TARGET-MAC TARGET PORT

Begins when it has said so, and ends when standard input does; then it prints
how many were sent.
"""

import random
import select
import socket
import struct
import sys


def checksum(data: bytes) -> int:
    """The sum that IP and TCP want (RFC 1071)."""
    total = sum(struct.unpack(f'!{len(data) // 2}H', data))
    total = (total & 0xffff) + (total >> 16)
    return ~(total + (total >> 16)) & 0xffff


def syn(source: bytes, target: bytes, port: int) -> bytes:
    """An IPv4 packet with a SYN and nothing else."""
    ports = random.randrange(1024, 65536), port
    tcp = struct.pack('!HHIIBBHHH', *ports, random.getrandbits(32), 0, 5 << 4,
                      2, 64240, 0, 0)
    pseudo = source + target + struct.pack('!HH', 6, len(tcp))
    tcp = tcp[:16] + struct.pack('!H', checksum(pseudo + tcp)) + tcp[18:]
    ip = struct.pack('!BBHHHBBH', 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0)
    ip += source + target
    return ip[:10] + struct.pack('!H', checksum(ip)) + ip[12:] + tcp


def main() -> None:
    """Flood until told to stop."""
    device, ours, theirs, target, port = sys.argv[1:]
    link = b''.join(bytes.fromhex(mac.replace(':', ''))
                    for mac in (theirs, ours)) + b'\x08\x00'
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sock.bind((device, 0))
    sent = 0
    print('begun', flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        for _ in range(32):
            # Nobody answers from 198.18.0.0/15 (RFC 2544).
            source = bytes((198, 18 + random.getrandbits(1),
                            random.getrandbits(8), random.getrandbits(8)))
            sock.send(link + syn(source, socket.inet_aton(target), int(port)))
            sent += 1
    print(sent, flush=True)


if __name__ == '__main__':
    main()
