#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Do to a generic netlink family what no ordinary client does.

    genl.py interrupt FAMILY COMMAND PROGRAM [ARGUMENT...]

reads a list, of which COMMAND is the number, and runs a program when a part of
it is there. Prints how many parts there were, and how many entries were marked
as being of a list that changed.
"""

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
    _, family, command, *program = sys.argv[1:]
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
    sock.bind((0, 0))
    sock.settimeout(20)
    number = find(sock, family)
    interrupt(sock, number, int(command), program)


if __name__ == '__main__':
    main()
