#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A shop that has its customers' baskets in its memory, and nowhere else.

    shop.py NODE PORT

`GET /` begins a session, `POST /basket` puts the body into its basket, and
`GET /basket` lists what is in it, a line for each thing. Every answer sets the
cookies `session` and `node`, the latter to the name of this node, and says in
X-Total-Count how much is in the basket.
"""

import os
import sys
from collections import defaultdict
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import DefaultDict, List

BASKETS: DefaultDict[str, List[str]] = defaultdict(list)


class Server(ThreadingTCPServer):
    """That of http.server asks for its host's name first, which nobody needs."""

    allow_reuse_address = True
    daemon_threads = True


class Shop(BaseHTTPRequestHandler):
    """One connection of a customer."""

    protocol_version = 'HTTP/1.1'
    node = sys.argv[1]

    def _session(self) -> str:
        """The customer's session; a new one, if there is none."""
        cookie = SimpleCookie(self.headers.get('Cookie', '')).get('session')
        return cookie.value if cookie else os.urandom(8).hex()

    def _answer(self, session: str, body: str) -> None:
        data = body.encode()
        self.send_response(200)
        self.send_header('Content-Type', 'text/plain; charset=utf-8')
        self.send_header('Content-Length', str(len(data)))
        self.send_header('Set-Cookie', f'session={session}; Path=/; HttpOnly')
        self.send_header('Set-Cookie', f'node={self.node}; Path=/')
        self.send_header('X-Node', self.node)
        self.send_header('X-Total-Count', str(len(BASKETS[session])))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:           # pylint: disable=invalid-name
        """Show the basket, or the door."""
        session = self._session()
        if self.path == '/basket':
            self._answer(session, ''.join(
                f'{thing}\n' for thing in BASKETS[session]))
        else:
            self._answer(session, 'Welcome to our shop.\n')

    def do_POST(self) -> None:          # pylint: disable=invalid-name
        """Put something into the basket."""
        session = self._session()
        length = int(self.headers['Content-Length'])
        BASKETS[session].append(self.rfile.read(length).decode())
        self._answer(session, 'It is in your basket.\n')

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


if __name__ == '__main__':
    Server(('', int(sys.argv[2])), Shop).serve_forever()
