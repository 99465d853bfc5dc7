#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Send SYNs from addresses that nobody has, as fast as this machine can.

    flood.py DEVICE SOURCE-MAC TARGET-MAC TARGET PORT

Begins when it has said so, and ends when standard input does; then it prints
how many were sent, and in how many seconds.
"""

import random
import select
import socket
import struct
import sys
import time
from typing import Tuple

ETH_P_IP, ETH_P_IPV6 = 0x0800, 0x86dd
TCP, SYN = 6, 2


def checksum(data: bytes) -> int:
    """The sum that IP and TCP want (RFC 1071)."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f'!{len(data) // 2}H', data))
    total = (total & 0xffff) + (total >> 16)
    return ~(total + (total >> 16)) & 0xffff


def packed(address: str) -> bytes:
    """An address of either family."""
    return socket.inet_pton(
        socket.AF_INET6 if ':' in address else socket.AF_INET, address)


def ethertype(address: bytes) -> int:
    """That of packets with such an address."""
    return ETH_P_IP if len(address) == 4 else ETH_P_IPV6


def segment(source: bytes, target: bytes, ports: Tuple[int, int], seq: int,
            ack: int = 0, flags: int = SYN, data: bytes = b'') -> bytes:
    """An IP packet with a TCP segment without options."""
    tcp = struct.pack('!HHIIBBHHH', *ports, seq, ack, 5 << 4, flags, 64240, 0, 0)
    size = len(tcp) + len(data)
    # The same numbers stand elsewhere in a pseudo-header of IPv6.
    pseudo = source + target + struct.pack('!HH', TCP, size)
    tcp = tcp[:16] + struct.pack('!H', checksum(pseudo + tcp + data)) + tcp[18:]
    if len(source) == 16:
        return struct.pack('!IHBB', 6 << 28, size, TCP, 64) + source + target + tcp + data
    ip = struct.pack('!BBHHHBBH', 0x45, 0, 20 + size, 0, 0, 64, TCP, 0)
    ip += source + target
    return ip[:10] + struct.pack('!H', checksum(ip)) + ip[12:] + tcp + data


def stranger(family: int) -> bytes:
    """An address that nobody answers from: of 198.18.0.0/15 (RFC 2544) or of
    2001:2::/48 (RFC 5180)."""
    if family == 6:
        return bytes.fromhex('200100020000') + random.randbytes(10)
    return bytes((198, 18 + random.getrandbits(1))) + random.randbytes(2)


def main() -> None:
    """Flood until told to stop."""
    device, ours, theirs, name, port = sys.argv[1:]
    target = packed(name)
    link = b''.join(bytes.fromhex(mac.replace(':', '')) for mac in (theirs, ours)
                    ) + struct.pack('!H', ethertype(target))
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sock.bind((device, 0))
    sent, begin = 0, time.monotonic()
    print('begun', flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        for _ in range(32):
            ports = random.randrange(1024, 65536), int(port)
            sock.send(link + segment(stranger(6 if ':' in name else 4), target,
                                     ports, random.getrandbits(32)))
            sent += 1
    print(sent, time.monotonic() - begin, flush=True)


if __name__ == '__main__':
    main()
