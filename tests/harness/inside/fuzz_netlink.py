#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Send a generic netlink family what nobody would, and judge the answers.

    fuzz_netlink.py DESCRIPTION SEED SECONDS

makes requests of the operations in the YAML description, most of them spoilt
in some way. Whatever comes is answered, once, and with an error that fits; what
is refused changes no list, what is taken changes what it says. Prints as JSON
how many requests had which outcome; ends with 1 and the request that did wrong.
"""

import collections
import errno
import json
import random
import socket
import struct
import sys
import time
from typing import Any, Dict, List, Tuple

import yaml

from genl import (ACK, DUMP, NETLINK_GENERIC, NLMSG_DONE, NLMSG_ERROR, REQUEST, attribute, find,
                  message, replies)

SOL_NETLINK, CAP_ACK, EXT_ACK = 270, 10, 11
TLVS = 0x200            # in the flags of an answer
TEXT = 1                # the attribute of an answer that has it

# Of each attribute, values that can be taken, and others.
VALUES = {
    'addr': ([bytes([10, 0, 9, 1]), bytes([10, 0, 9, 2]), bytes(10) + b'\xff\xff\x0a\0\x09\1'],
             [bytes(4), b'\xff' * 4, bytes([224, 0, 0, 1]), bytes(16), b'\x0a\0\x09',
              bytes.fromhex('20010db8000000000000000000000001')]),
    'port': ([struct.pack('=H', n) for n in (80, 8080)],
             [struct.pack('=H', n) for n in (0, 65535)]),
    'mode': ([struct.pack('=I', n) for n in (0, 1, 2, 3)],
             [struct.pack('=I', n) for n in (4, 255, 256, 1 << 31)]),
    'migrate': ([struct.pack('=I', n) for n in (0, 1)],
                [struct.pack('=I', n) for n in (2, 255, 256, 1 << 31)]),
    'name': ([b'fr\0', b'de\0', b'it\0'],
             [b'', b'-x\0', b'a/b\0', b'0123456789abcde\0', b'0123456789abcdef\0']),
    'host': ([b'a\0', b'www.example\0', b'WWW.Example.\0', b'[2001:db8::1]\0'],
             [b'a:80\0', b'.\0', b'x' * 253 + b'\0', b'x' * 254 + b'\0', b'\xff\0']),
    'path': ([b'/\0', b'/a\0', b'/b/\0'],
             [b'/a//b\0', b'/../\0', b'/%61\0', b'a\0', b'/' + b'p' * 254 + b'\0',
              b'/' + b'p' * 255 + b'\0']),
}
VALUES['node'] = VALUES['name']
VALUES['other-addr'] = VALUES['addr'][::-1]
VALUES['forward'] = VALUES['other-forward'] = VALUES['mode']
LONGEST = 65000         # that an attribute and a message can take
COMMON = [b'', b'\0', bytes(300), b'\xff' * 8, bytes(LONGEST)]

# What a refusal by the family itself can be; its text begins with an attribute.
OWN = {errno.EEXIST, errno.ENOENT, errno.EBUSY, errno.ENOSPC}
ERRORS = OWN | {errno.EINVAL, errno.ERANGE, errno.EOPNOTSUPP, errno.E2BIG}


class Operation:
    """An operation of the description."""

    def __init__(self, number: int, told: Dict[str, Any], sets: Dict[str, List[str]]) -> None:
        self.number, self.name = number, told['name']
        self.numbers = {name: at for at, name in enumerate(sets[told['attribute-set']], 1)}
        self.lists = 'dump' in told
        request = (told.get('do') or {}).get('request') or {}
        self.wanted = request.get('attributes', [])


class Fuzzer:
    """A socket, and what is known of the family behind it."""

    def __init__(self, description: str, seed: int) -> None:
        with open(description, encoding='utf-8') as file:
            told = yaml.safe_load(file)
        sets = {it['name']: [attr['name'] for attr in it['attributes']]
                for it in told['attribute-sets']}
        self.operations = [Operation(number, it, sets)
                           for number, it in enumerate(told['operations']['list'], 1)]
        self.by_number = {operation.number: operation for operation in self.operations}
        self.names = {name for operation in self.operations for name in operation.numbers}
        self.rng = random.Random(seed)
        self.sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
        self.sock.bind((0, 0))
        self.sock.settimeout(60)
        for option in (CAP_ACK, EXT_ACK):
            self.sock.setsockopt(SOL_NETLINK, option, 1)
        self.family = find(self.sock, told['name'])
        self.seq = 1
        self.refused = 0        # requests in a row
        self.counts: Dict[str, int] = collections.Counter()

    # Requests.

    def attributes(self, operation: Operation) -> List[Tuple[int, bytes]]:
        """What a request of the operation may have."""
        rng = self.rng
        names = [name for name in operation.wanted if rng.random() < 0.9]
        return [(operation.numbers[name], rng.choice(
            VALUES.get(name, ([b''], [b'\0']))[rng.random() < 0.1])) for name in names]

    def spoil(self, listed: List[Tuple[int, bytes]]) -> bytes:
        """The bytes of attributes with which something is wrong."""
        rng = self.rng
        way = rng.randrange(11)
        at = rng.randrange(len(listed)) if listed else 0
        number, value = listed[at] if listed else (1, b'')
        if way == 0:
            listed = listed[:at] + listed[at + 1:]
        elif way == 1:
            listed = listed + [(number, rng.choice(VALUES['path'][0] + COMMON))] * rng.choice(
                (1, 2, 3000))
        elif way == 2:
            listed = listed[:at] + [(number, rng.choice(COMMON))] + listed[at + 1:]
        elif way == 3:
            cut = value[:rng.randrange(len(value) + 1)]
            listed = listed[:at] + [(number, cut)] + listed[at + 1:]
        elif way == 4:
            listed = listed[:at] + [(number, value + rng.randbytes(rng.randrange(1, 9)))]
        elif way == 5:
            other = rng.choice((0, number | 0x8000, number | 0x4000, rng.randrange(1 << 16),
                                rng.randrange(16)))
            listed = listed + [(other, value)]
        elif way == 6:
            for _ in range(rng.choice((1, 2, 50))):
                value = attribute(number | 0x8000, value[:LONGEST])
            listed = listed[:at] + [(number, value)]
        elif way == 7:
            rng.shuffle(listed)
        body = bytearray(b''.join(attribute(*it) for it in listed))
        if way == 8:
            body += rng.randbytes(rng.randrange(1, 24))
        elif way == 9 and body:
            # The length of the first, or a bit of any.
            struct.pack_into('=H', body, 0, rng.choice((0, 1, 3, 4, 5, 0xffff, len(body) + 1)))
        elif way == 10 and body:
            body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
        return bytes(body[:LONGEST])

    def request(self) -> Tuple[int, int, bytes]:
        """Flags, command and body of the next request."""
        rng = self.rng
        operation = rng.choice(self.operations)
        listed = self.attributes(operation)
        if rng.random() < 0.1:
            listed = self.attributes(rng.choice(self.operations))
        if rng.random() < 0.5:
            body = self.spoil(listed)
        else:
            body = b''.join(attribute(*it) for it in listed)
        flags = REQUEST | ACK | (DUMP if operation.lists else 0)
        if rng.random() < 0.05:
            flags ^= rng.choice((DUMP, 0x100, 0x200, 0x400, 0x800, 8))
        command = operation.number
        if rng.random() < 0.02:
            command = rng.choice((0, len(self.operations) + 1, 255))
        return flags, command, body

    # Answers.

    def ask(self, flags: int, command: int, body: bytes) -> Tuple[int, str, List[bytes]]:
        """Make a request; the error, its text, and the messages before it."""
        self.seq += 1
        self.sock.send(message(self.family, flags, self.seq, command, body))
        parts = []
        for kind, data in replies(self.sock, self.seq):
            if kind not in (NLMSG_ERROR, NLMSG_DONE):
                parts.append(data[4:])
                continue
            error = -struct.unpack_from('=i', data)[0] if len(data) >= 4 else 0
            text = parsed(data[20:]).get(TEXT, b'') if kind == NLMSG_ERROR and error else b''
            return error, text.rstrip(b'\0').decode(), parts
        raise AssertionError('no end')

    def lists(self) -> Dict[str, List[Any]]:
        """All that is configured, without what changes by itself."""
        found = {}
        for operation in self.operations:
            kind, _, verb = operation.name.partition('-')
            if verb == 'get' and kind in ('service', 'node', 'rule'):
                error, _, parts = self.ask(REQUEST | DUMP, operation.number, b'')
                assert error == 0, f'{operation.name}: {error}'
                passing = {operation.numbers.get(name) for name in ('state', 'epoch')}
                found[kind] = [
                    {number: value for number, value in parsed(part).items()
                     if number not in passing} for part in parts]
        return found

    def deaf(self) -> None:
        """A message that says a wrong length of itself; it is skipped, and
        those that come later are not."""
        length = self.rng.choice((0, 3, 15, 16, 19, 1000, 0xffffffff))
        raw = bytearray(message(self.family, REQUEST, 0, 1, self.rng.randbytes(8)))
        struct.pack_into('=I', raw, 0, length)
        self.sock.send(raw)
        self.counts['deaf'] += 1

    def step(self, before: Dict[str, List[Any]]) -> Dict[str, List[Any]]:
        """One request; what is configured after it."""
        flags, command, body = request = self.request()
        try:
            error, text, _ = self.ask(*request)
            self.refused = self.refused + 1 if error else 0
            # Lists take long: what was refused is looked after a few times later.
            after = before if self.refused % 8 else self.lists()
            self.judge(flags, command, error, text, before, after)
        except (AssertionError, OSError) as wrong:
            sys.exit(f'{type(wrong).__name__}: {wrong}, {self.refused} refusals in a row\n'
                     f'flags {flags:#x}, command {command}, {len(body)} bytes: '
                     f'{body[:400].hex()}')
        self.counts[errno.errorcode.get(error, 'taken')] += 1
        return after

    def judge(self, flags: int, command: int, error: int, text: str,
              before: Dict[str, List[Any]], after: Dict[str, List[Any]]) -> None:
        """Whether the answer is one, and what it says is so."""
        operation = self.by_number.get(command)
        if error:
            assert error in ERRORS, f'error {error}: {text}'
            assert after == before, f'refused with {error}, but {before} became {after}'
            if error in OWN:
                assert text.split(':')[0].split(',')[0] in self.names, text
            return
        assert operation, 'a command that there is not was taken'
        kind, _, verb = operation.name.partition('-')
        more = {'add': 1, 'del': -1}.get(verb, 0) if flags & DUMP != DUMP else 0
        for other, entries in after.items():
            grown = len(entries) - len(before[other])
            if other == kind:
                assert grown == more, f'{operation.name}: {other} grew by {grown}'
            elif more and {kind, other} == {'service', 'rule'}:
                # A service takes its rules along, a rule is counted with it.
                assert grown <= 0, f'{operation.name}: {other} grew by {grown}'
            else:
                assert entries == before[other], f'{operation.name} changed each {other}'

    def run(self, seconds: float) -> None:
        """Until the time is over."""
        end = time.monotonic() + seconds
        configured = self.lists()
        while time.monotonic() < end:
            if self.rng.random() < 0.02:
                self.deaf()
            configured = self.step(configured)
        print(json.dumps(self.counts))


def parsed(data: bytes) -> Dict[int, bytes]:
    """Attributes by number."""
    found, at = {}, 0
    while at + 4 <= len(data):
        length, number = struct.unpack_from('=HH', data, at)
        assert length >= 4, data.hex()
        found[number] = data[at + 4:at + length]
        at += (length + 3) & ~3
    return found


def main() -> None:
    """Find the family and bother it."""
    description, seed, seconds = sys.argv[1:]
    Fuzzer(description, int(seed)).run(float(seconds))


if __name__ == '__main__':
    main()
