# SPDX-License-Identifier: GPL-2.0
"""The other end of a node's control connection, spoken by a test.

It is written from docs/handoff-protocol.md alone, so that the document, too,
is tested.
"""

import hashlib
import hmac
import ipaddress
import os
import struct
from typing import Optional

from .node import Node
from .sockets import Socket, SocketError

VERSION = 5
HELLO, REQ, ACCEPT, DATA, ABORT, CLOSED, TAKEN, CHECK, KEY = 1, 2, 3, 5, 6, 7, 8, 9, 10
HELLO_LEN, KEY_LEN, TAG_LEN = 68, 12, 16
LABEL = b'CARISMA control\0'


def digest(key: bytes, *parts: bytes) -> bytes:
    """HMAC-SHA256."""
    return hmac.new(key, b''.join(parts), hashlib.sha256).digest()


def record(kind: int, body: bytes, version: int = VERSION) -> bytes:
    """A record: its header, and what it says."""
    return struct.pack('>BBHI', version, kind, 8 + len(body), 0) + body


def wide(address: str) -> bytes:
    """An address as records have it: one of IPv4 is mapped (RFC 4291)."""
    found = ipaddress.ip_address(address)
    return (b'' if found.version == 6 else bytes(10) + b'\xff\xff') + found.packed


def abort(number: int) -> bytes:
    """A record about a handoff that nobody knows."""
    return record(ABORT, struct.pack('>Q', number) + b''.join(
        map(wide, ('192.0.2.1', '10.0.0.1'))) + struct.pack('>HH', 4711, 80))


def reply(kind: int, said: bytes, vip: str, body: bytes = b'') -> bytes:
    """A back end's record about the handoff that a front end's is about, whose
    client talks to that address."""
    number, client, _, client_port, port = struct.unpack('>Q16s16s2s2s', said[8:52])
    return record(kind, struct.pack('>Q16s16s2s2s', number, client, wide(vip), client_port, port)
                  + body)


class Speaker:
    """A node that connects to another one, as `name` from `host`'s address."""

    def __init__(self, host: Node, to: Node, name: str, key: str = '',
                 number: int = 1) -> None:
        self._sock: Socket = host.connect(
            to.address, to.cluster.control_port)
        self._key = bytes.fromhex(key)
        self._number = number
        self._sent = self._received = 0
        self._nonce = os.urandom(32)
        self.hello = self.make_hello(name)
        self._theirs = b''

    def make_hello(self, name: str, version: int = VERSION,
                   signs: Optional[bool] = None) -> bytes:
        """What the node says first."""
        signs = bool(self._key) if signs is None else signs
        return record(HELLO, struct.pack(
            '>Q16s32sHH', 4711, name.encode(), self._nonce, signs, 0), version)

    def send(self, *data: bytes) -> None:
        """Send bytes as they are."""
        self._sock.send(b''.join(data))

    def read(self, size: int) -> bytes:
        """Wait for so many bytes."""
        data = self._sock.some(size).data or b''
        assert len(data) == size, f'closed after {len(data)} bytes'
        return data

    def closed(self) -> bytes:
        """Wait until the other end closes; what it said before."""
        try:
            return self._sock.receive().data or b''
        except SocketError as problem:
            assert problem.kind == 'ConnectionResetError', problem
            return b''

    def shutdown(self) -> None:
        """Send no more."""
        self._sock.shutdown()

    def _derived(self, key: bytes, side: int) -> bytes:
        return digest(key, LABEL, bytes([side]), self.hello, self._theirs)

    def tagged(self, said: bytes) -> bytes:
        """A record with the tag that it has if it is sent next."""
        tag = digest(self._derived(self._key, 0),
                     struct.pack('>Q', self._sent), said)
        self._sent += 1
        return said + tag[:TAG_LEN]

    def proof(self) -> bytes:
        """Says which key is signed with."""
        return self.tagged(record(KEY, bytes([self._number, 0, 0, 0])))

    def greet(self) -> None:
        """Say HELLO, and read the other's."""
        self.send(self.hello)
        self._theirs = self.read(HELLO_LEN)
        assert self._theirs[:4] == struct.pack('>BBH', VERSION, HELLO, HELLO_LEN)

    def hear_proof(self, key: str) -> int:
        """The number of the key that the other one proves to have; it must
        be this one."""
        said = self.read(KEY_LEN + TAG_LEN)
        derived = self._derived(bytes.fromhex(key), 1)
        right = digest(derived, struct.pack('>Q', self._received),
                       said[:KEY_LEN])[:TAG_LEN]
        self._received += 1
        assert said[:8] == struct.pack('>BBHI', VERSION, KEY, KEY_LEN, 0)
        assert said[KEY_LEN:] == right
        return said[8]

    def change(self, number: int, key: str) -> None:
        """Sign with another key from now on."""
        self._number, self._key = number, bytes.fromhex(key)
        self.send(self.proof())

    def join(self) -> 'Speaker':
        """All that comes before the records of handoffs."""
        self.greet()
        self.send(self.proof())
        assert self.hear_proof(self._key.hex()) == self._number
        return self

    def hear(self) -> bytes:
        """The next record of a handoff."""
        said = self.read(8)
        said += self.read(struct.unpack('>H', said[2:4])[0] - len(said))
        right = digest(self._derived(self._key, 1),
                       struct.pack('>Q', self._received), said)[:TAG_LEN]
        self._received += 1
        assert self.read(TAG_LEN) == right
        return said

    def close(self) -> None:
        """End the connection."""
        self._sock.close()
