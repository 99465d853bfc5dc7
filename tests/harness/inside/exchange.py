#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Exchanges of requests and answers, many at once, and what came of each.

Each line of standard input is a JSON list of exchanges; they are carried out
at the same time. The line of output has, for each, all that a client can tell
of the answers: `tests/test_matrix.py` compares.
"""

import hashlib
import json
import os
import random
import socket
import sys
import threading
import time
from typing import Any, Callable, Dict, List, Tuple

SIZES = {'empty': 0, '1k': 1 << 10, '128k': 128 << 10, '2m': 2 << 20}
UPLOAD = random.Random(7).randbytes(SIZES['2m'])
# Three lines, because a server may limit each of them to 8 KiB.
COOKIES = ''.join(f'Cookie: {letter * 5400}\r\n' for letter in 'abc')


class Client:
    """One connection."""

    def __init__(self, case: Dict[str, Any], patience: float) -> None:
        self.case = case
        self.records: List[Dict[str, Any]] = []
        self._buffer = bytearray()
        self._deadline = time.monotonic() + 40 * patience
        self._quiet = 0.15 * patience
        self._sock = socket.socket(socket.AF_INET6 if ':' in case['address']
                                   else socket.AF_INET)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if case['buffer'] != 'auto':
            self._sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVBUF, int(case['buffer']))
        if case['mss'] != 'link':
            self._sock.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_MAXSEG, int(case['mss']))

    # What is sent.

    def head(self, name: str, last: bool = True, method: str = 'GET',
             more: str = '') -> bytes:
        """The head of a request, the last on its connection or not."""
        close = last and self.case['reaction'] == 'close'
        return (f'{method} /{self.case["language"]}/{name} HTTP/1.1\r\n'
                f'Host: www.example\r\n{more}'
                f'{"Connection: close" if close else "X-Last: no"}\r\n\r\n'
                ).encode()

    def upload(self, more: str) -> Tuple[bytes, bytes]:
        """Head and body of an upload."""
        size = SIZES[self.case['size']]
        return (self.head('upload/', method='POST', more=more),
                UPLOAD[:size])

    def whole(self) -> None:
        """The request in one piece."""
        self.send(self.head(self.case['size']))
        self.response()

    def bytewise(self) -> None:
        """A byte a segment."""
        for byte in self.head(self.case['size']):
            self.send(bytes((byte,)))
            time.sleep(0.001)
        self.response()

    def halves(self) -> None:
        """The head in two segments."""
        head = self.head(self.case['size'])
        self.send(head[:20])
        time.sleep(0.05)
        self.send(head[20:])
        self.response()

    def post(self) -> None:
        """A body right behind the head."""
        head, body = self.upload(
            f'Content-Length: {SIZES[self.case["size"]]}\r\n')
        self.send(head + body)
        self.response()

    def expect(self) -> None:
        """A body that is sent when the server asks for it."""
        head, body = self.upload(
            f'Content-Length: {SIZES[self.case["size"]]}\r\n'
            'Expect: 100-continue\r\n')
        self.send(head)
        if ' 100 ' in self.response():
            self.send(body)
            self.response()

    def chunked(self) -> None:
        """A body whose length nobody tells beforehand."""
        head, body = self.upload('Transfer-Encoding: chunked\r\n')
        self.send(head)
        for at in range(0, len(body), 10_000):
            piece = body[at:at + 10_000]
            self.send(b'%x\r\n%s\r\n' % (len(piece), piece))
        self.send(b'0\r\n\r\n')
        self.response()

    def pipelined(self) -> None:
        """Two requests in one segment."""
        self.send(self.head(self.case['size'], last=False) + self.head('1k'))
        self.response()
        self.response()

    def persistent(self) -> None:
        """Three requests, each after the answer to the one before."""
        for number, name in enumerate((self.case['size'], '1k', 'empty')):
            self.send(self.head(name, last=number == 2))
            self.response()

    def cookies(self) -> None:
        """A head of nearly 16 KiB."""
        self.send(self.head(self.case['size'], more=COOKIES))
        self.response()

    def fin(self) -> None:
        """A FIN right behind the request. It is an upload, because nginx
        stops in the middle of a long answer to a client that sends a FIN."""
        head, body = self.upload(
            f'Content-Length: {SIZES[self.case["size"]]}\r\n')
        self.send(head + body)
        self._sock.shutdown(socket.SHUT_WR)
        self.response()

    # What comes.

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self._sock.sendall(data)

    def _more(self) -> None:
        self._sock.settimeout(max(self._deadline - time.monotonic(), 0.01))
        data = self._sock.recv(1 << 18)
        if not data:
            raise EOFError(f'{len(self._buffer)} bytes of an answer')
        self._buffer += data

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def response(self) -> str:
        """Wait for a response, note it, and return its status line."""
        while b'\r\n\r\n' not in self._buffer:
            self._more()
        status, *lines = self._take(self._buffer.index(b'\r\n\r\n') + 4
                                    ).decode('latin1').split('\r\n')[:-2]
        headers = [line.split(': ', 1) for line in lines]
        fields = {name.lower(): value for name, value in headers}
        body = self._take(int(fields.get('content-length', 0)))
        kept = fields.get('x-body')
        self.records.append({
            'status': status,
            'headers': [[name, value] for name, value in headers
                        if name.lower() not in ('date', 'x-body')],
            'size': len(body), 'sha256': hashlib.sha256(body).hexdigest(),
            'kept': digest(kept) if kept else ''})
        return status

    def end(self) -> str:
        """What the server does after its last answer."""
        closes = (self.case['reaction'] == 'close'
                  or self.case['shape'] == 'fin')
        self._sock.settimeout(
            max(self._deadline - time.monotonic(), 0.01) if closes
            else self._quiet)
        try:
            more = self._buffer or self._sock.recv(1 << 16)
        except TimeoutError:
            return 'open'
        return f'{len(more)} bytes more' if more else 'closed'

    def run(self) -> Dict[str, Any]:
        """Do it all."""
        ended = ''
        try:
            with self._sock:
                self._sock.settimeout(
                    max(self._deadline - time.monotonic(), 0.01))
                if 'port' in self.case:
                    self._sock.bind(('', self.case['port']))
                self._sock.connect((self.case['address'], 80))
                shape: Callable[[], None] = getattr(self, self.case['shape'])
                shape()
                ended = self.end()
        except (OSError, EOFError) as problem:
            ended = f'{type(problem).__name__}: {problem}'
        return {'answers': self.records, 'ended': ended}


def digest(path: str) -> str:
    """The hash of what a server kept, which is then removed."""
    with open(path, 'rb') as kept:
        told = hashlib.sha256(kept.read()).hexdigest()
    os.unlink(path)
    return told


def exchange(cases: List[Dict[str, Any]], patience: float
             ) -> List[Dict[str, Any]]:
    """All of these at the same time."""
    found: List[Dict[str, Any]] = [{}] * len(cases)

    def one(number: int) -> None:
        found[number] = Client(cases[number], patience).run()
    threads = [threading.Thread(target=one, args=(number,))
               for number in range(len(cases))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def main() -> None:
    """Carry out what is asked until there is no more."""
    patience = float(sys.argv[1])
    for line in sys.stdin:
        print(json.dumps(exchange(json.loads(line), patience)), flush=True)


if __name__ == '__main__':
    main()
