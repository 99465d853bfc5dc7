#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Many short connections from a few threads, and what came of them.

    load.py ADDRESS:PORT THREADS COUNT WAYS PATH...

COUNT connections, or with 0 as many as fit until standard input ends. Each has
one request, for the next of the paths, and ends in one of the ways: `server`,
`client` or `reset`. The ways are a list with commas between; they follow each
other, with an equal share of the connections (without COUNT they take turns).

The line of JSON at the end counts the different answers: by path, status and
hash, or by what went wrong.
"""

import collections
import hashlib
import itertools
import json
import socket
import struct
import sys
import threading
from typing import Counter, List

LINGER = struct.pack('ii', 1, 0)


def ask(address: str, path: str, way: str) -> str:
    """One connection; its answer in words."""
    host, _, port = address.rpartition(':')
    with socket.create_connection((host.strip('[]'), int(port)), 30) as sock:
        last = 'Connection: close\r\n' if way == 'server' else ''
        sock.sendall(f'GET {path} HTTP/1.1\r\nHost: www.example\r\n{last}\r\n'
                     .encode())
        data = b''
        while b'\r\n\r\n' not in data:
            data += more(sock, data)
        head, _, body = data.partition(b'\r\n\r\n')
        fields = dict(line.lower().split(': ', 1) for line in
                      head.decode('latin1').split('\r\n')[1:])
        while len(body) < int(fields['content-length']):
            body += more(sock, body)
        if way == 'server' and sock.recv(1):
            raise ValueError('more than the answer')
        if way == 'reset':
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
        return ' '.join((path, head.split()[1].decode(),
                         hashlib.sha256(body).hexdigest()))


def more(sock: socket.socket, sofar: bytes) -> bytes:
    """What comes next, and something must."""
    data = sock.recv(1 << 16)
    if not data:
        raise EOFError(f'after {len(sofar)} bytes')
    return data


def main() -> None:
    """Run until all is done or standard input ends."""
    address, threads, count, ways, *paths = sys.argv[1:]
    limit, choice = int(count), ways.split(',')
    numbers = itertools.count()
    ended = threading.Event()
    found: Counter[str] = collections.Counter()

    def work(mine: Counter[str]) -> None:
        while not ended.is_set():
            number = next(numbers)
            if limit and number >= limit:
                return
            way = choice[number * len(choice) // limit if limit
                         else number % len(choice)]
            path = paths[number % len(paths)]
            try:
                mine[ask(address, path, way)] += 1
            except (OSError, EOFError, ValueError, KeyError) as problem:
                mine[f'{path} {way} {type(problem).__name__}: {problem}'] += 1
            if number == 0:
                print('begun', flush=True)

    counters: List[Counter[str]] = [
        collections.Counter() for _ in range(int(threads))]
    workers = [threading.Thread(target=work, args=(mine,))
               for mine in counters]
    for worker in workers:
        worker.start()
    if not limit:
        sys.stdin.read()
        ended.set()
    for worker, mine in zip(workers, counters):
        worker.join()
        found += mine
    print(json.dumps(found), flush=True)


if __name__ == '__main__':
    main()
