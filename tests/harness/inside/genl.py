#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Do to a generic netlink family what no ordinary client does.

    genl.py fuzz FAMILY SEED COUNT

sends nonsense: a command of the family, or one that it lacks, with attributes
of any number, size and content, or with bytes that are no attributes. Prints
how many messages were taken and how many refused.

    genl.py interrupt FAMILY COMMAND PROGRAM [ARGUMENT...]

reads a list, of which COMMAND is the number, and runs a program when a part of
it is there. Prints how many parts there were, and how many entries were marked
as being of a list that changed.
"""

import errno
import random
import socket
import struct
import subprocess
import sys

NETLINK_GENERIC = 16
GENL_ID_CTRL = 16
CTRL_CMD_GETFAMILY = 3
CTRL_ATTR_FAMILY_ID = 1
CTRL_ATTR_FAMILY_NAME = 2
REQUEST, ACK, INTERRUPTED, DUMP = 1, 4, 16, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
BUFFER = 1 << 13        # the kernel makes the parts of a list no larger

WORDS = [b'', b'\0', b'fr\0', b'en\0', b'/', b'/fr/\0', b'www.example\0',
         b'x' * 15 + b'\0', b'y' * 16 + b'\0', b'z' * 300 + b'\0', b'/' * 400 + b'\0',
         bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), bytes([224, 0, 0, 1]), bytes(4),
         bytes(10) + b'\xff\xff\x0a\0\0\3', bytes(16),
         struct.pack('=H', 80), struct.pack('=H', 0), struct.pack('=I', 1),
         struct.pack('=I', 0)]


def attribute(number: int, value: bytes) -> bytes:
    """An attribute with its padding."""
    return (struct.pack('=HH', 4 + len(value), number) + value
            + bytes(-len(value) % 4))


def message(kind: int, flags: int, seq: int, command: int, body: bytes) -> bytes:
    """A message of a family."""
    return struct.pack('=IHHIIBBH', 20 + len(body), kind, flags, seq, 0,
                       command, 1, 0) + body


def replies(sock: socket.socket, seq: int):
    """The messages that answer a request, up to the one that ends it."""
    while True:
        data = sock.recv(BUFFER)
        while data:
            length, kind, flags, number, _ = struct.unpack_from('=IHHII', data)
            if number == seq:
                yield kind, data[16:length]
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    return
            data = data[(length + 3) & ~3:]


def nonsense(rng: random.Random) -> bytes:
    """What follows the header."""
    if rng.random() < 0.1:
        return rng.randbytes(rng.randrange(40))
    body = b''
    for _ in range(rng.randrange(7)):
        value = rng.choice(WORDS) if rng.random() < 0.8 else rng.randbytes(rng.randrange(30))
        number = rng.randrange(9) if rng.random() < 0.9 else rng.randrange(1 << 16)
        body += attribute(number, value)
    return body


def find(sock: socket.socket, family: str) -> int:
    """The number of a family."""
    sock.send(message(GENL_ID_CTRL, REQUEST | ACK, 1, CTRL_CMD_GETFAMILY,
                      attribute(CTRL_ATTR_FAMILY_NAME, family.encode() + b'\0')))
    found = 0
    for kind, data in replies(sock, 1):
        at = 4
        while kind == GENL_ID_CTRL and at < len(data):
            length, number = struct.unpack_from('=HH', data, at)
            if number == CTRL_ATTR_FAMILY_ID:
                found, = struct.unpack_from('=H', data, at + 4)
            at += (length + 3) & ~3
    if not found:
        sys.exit(f'there is no family {family}')
    return found


def fuzz(sock: socket.socket, family: int, seed: int, count: int) -> None:
    """Send nonsense."""
    rng = random.Random(seed)
    taken = refused = 0
    for seq in range(2, 2 + count):
        flags = REQUEST | ACK | (DUMP if rng.random() < 0.2 else 0)
        sock.send(message(family, flags, seq, rng.randrange(18), nonsense(rng)))
        for kind, data in replies(sock, seq):
            error = -struct.unpack_from('=i', data)[0] if len(data) >= 4 else 0
            if kind == NLMSG_ERROR and error:
                refused += 1
                assert error != errno.ENOMEM
            elif kind in (NLMSG_ERROR, NLMSG_DONE):
                taken += 1
    print(taken, refused)


def interrupt(sock: socket.socket, family: int, command: int, program) -> None:
    """Read a list that changes meanwhile."""
    sock.send(message(family, REQUEST | DUMP, 2, command, b''))
    parts = marked = 0
    ended = False
    while not ended:
        data = sock.recv(BUFFER)
        if parts == 0:
            subprocess.run(program, check=True)
        parts += 1
        while data:
            length, kind, flags = struct.unpack_from('=IHH', data)
            marked += bool(flags & INTERRUPTED)
            ended = ended or kind in (NLMSG_ERROR, NLMSG_DONE)
            data = data[(length + 3) & ~3:]
    print(parts, marked)


def main() -> None:
    """Find the family and bother it."""
    what, family, *more = sys.argv[1:]
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
    sock.bind((0, 0))
    sock.settimeout(20)
    number = find(sock, family)
    if what == 'fuzz':
        fuzz(sock, number, *map(int, more))
    else:
        interrupt(sock, number, int(more[0]), more[1:])


if __name__ == '__main__':
    main()
