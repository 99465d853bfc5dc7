#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Requests in fixed numbers, and how long each took.

Each line of standard input is a load:

    ADDRESS:PORT PATH SIZE COUNT CONCURRENCY new|keep|hold

`new` has a connection for each request, which the server closes; `keep` has
CONCURRENCY of them, each for its share of the requests; `hold` has one for
each request, and keeps all of them open until the next line.

Every answer must have status 200 and SIZE bytes. The line of JSON for a load
has `seconds`, what it all took, and `latencies`, what each request did, from
connect() (on a kept connection: from the request) to the last byte; or
`problem`.
"""

import json
import resource
import socket
import sys
import threading
import time
from typing import Any, Dict, List, Optional

BUFFER = 1 << 18


class Connection:
    """One connection to the service."""

    def __init__(self, address: str) -> None:
        host, _, port = address.partition(':')
        self._sock = socket.create_connection((host, int(port)), timeout=120)
        self._buffer = memoryview(bytearray(BUFFER))

    def ask(self, path: str, size: int, last: bool) -> None:
        """One request, and the whole of its answer."""
        end = 'Connection: close\r\n' if last else ''
        self._sock.sendall(
            f'GET {path} HTTP/1.1\r\nHost: www.example\r\n{end}\r\n'.encode())
        head = b''
        while b'\r\n\r\n' not in head:
            head += self._more()
        head, _, body = head.partition(b'\r\n\r\n')
        if head.split(b' ', 2)[1] != b'200':
            raise ValueError(f'answered {head!r}')
        left = size - len(body)
        while left > 0:
            left -= len(self._more())
        if left < 0 or last and self._sock.recv(1):
            raise ValueError('more than the answer')

    def _more(self) -> memoryview:
        got = self._sock.recv_into(self._buffer)
        if not got:
            raise EOFError('closed within an answer')
        return self._buffer[:got]

    def close(self) -> None:
        """End it."""
        self._sock.close()


HELD: List[Connection] = []


class Worker(threading.Thread):
    """A share of the requests, one after the other."""

    def __init__(self, address: str, path: str, size: int, count: int,
                 way: str) -> None:
        super().__init__()
        self._what = address, path, size, count, way
        self.latencies: List[float] = []
        self.held: List[Connection] = []
        self.problem: Optional[Exception] = None

    def run(self) -> None:
        address, path, size, count, way = self._what
        connection = None
        try:
            for number in range(count):
                begin = time.monotonic()
                if connection is None:
                    connection = Connection(address)
                connection.ask(path, size, last=(
                    way == 'new' or way == 'keep' and number == count - 1))
                self.latencies.append(time.monotonic() - begin)
                if way == 'hold':
                    self.held.append(connection)
                elif way == 'new':
                    connection.close()
                if way != 'keep':
                    connection = None
        except (OSError, EOFError, ValueError, IndexError) as problem:
            self.problem = problem


def carry_out(line: str) -> Dict[str, Any]:
    """Do one load, and tell of it."""
    address, path, size, count, concurrency, way = line.split()
    shares = [(int(count) + number) // int(concurrency)
              for number in range(int(concurrency))]
    workers = [Worker(address, path, int(size), share, way)
               for share in shares if share]
    begin = time.monotonic()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.monotonic() - begin
    for worker in workers:
        HELD.extend(worker.held)
        if worker.problem:
            return {'problem': repr(worker.problem)}
    return {'seconds': seconds, 'latencies': [
        took for worker in workers for took in worker.latencies]}


def main() -> None:
    """Do what is asked, with as many connections as it takes."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    for line in sys.stdin:
        while HELD:
            HELD.pop().close()
        if line.strip():
            print(json.dumps(carry_out(line)), flush=True)


if __name__ == '__main__':
    main()
