#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Send Ethernet frames as they are, and tell which came for an address.

    frames.py DEVICE ADDRESS

Nobody has that address, of IPv4 or IPv6, so nobody else answers what comes for
it. Orders come as JSON, a line each:

    {"frames": [...], "port": P, "wait": S, "quiet": S, "count": N}

sends and then listens for what comes to that TCP port for `wait` seconds, but
ends when there are N frames, or when nothing has come for `quiet` seconds. The
answer is a list of [seconds, frame]. `harness/wire.py` is the other end.
"""

import base64
import json
import select
import socket
import sys
import time
from typing import Any, Dict, List, Tuple

ETH_P_IP, ETH_P_IPV6 = 0x0800, 0x86dd
SO_RCVBUFFORCE = 33


def target(frame: bytes, size: int) -> Tuple[bytes, int]:
    """The address, of so many bytes, and the TCP port that a frame is for."""
    if size == 4:
        at, begin = 14 + (frame[14] & 15) * 4, 30
    else:
        at, begin = 14 + 40, 38
    return (frame[begin:begin + size],
            int.from_bytes(frame[at + 2:at + 4], 'big'))


def listen(sock: socket.socket, address: bytes, order: Dict[str, Any]
           ) -> List[Any]:
    """What comes for the address."""
    found: List[Any] = []
    now = time.monotonic()
    end = now + order['wait']
    last = now
    while len(found) < order['count']:
        left = min(end, last + order['quiet']) - time.monotonic()
        if not select.select([sock], [], [], max(left, 0))[0]:
            break
        frame, (_, _, kind, _, _) = sock.recvfrom(1 << 17)
        if (kind != socket.PACKET_OUTGOING and
                target(frame, len(address)) == (address, order['port'])):
            last = time.monotonic()
            found.append([time.time(), base64.b64encode(frame).decode()])
    return found


def main() -> None:
    """Do what standard input says."""
    device, name = sys.argv[1:]
    address = socket.inet_pton(
        socket.AF_INET6 if ':' in name else socket.AF_INET, name)
    kind = ETH_P_IPV6 if ':' in name else ETH_P_IP
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(kind))
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
    sock.bind((device, kind))
    for line in sys.stdin:
        order = json.loads(line)
        for frame in order['frames']:
            sock.send(base64.b64decode(frame))
        print(json.dumps(listen(sock, address, order)), flush=True)


if __name__ == '__main__':
    main()
