#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Speak TCP badly.

    fuzz_packets.py ADDRESS PORTS SEED SECONDS TARGET/MAC...

opens connections from ADDRESS and PORTS (first-last) to port 80 of the targets,
by frames of its own making. Most send a request; at any place a segment may be
spoilt, doubled, put off, cut into fragments, or contradict an earlier one, and
the connection may end in any way or not at all. Other segments belong to none.
Routers tell of segments that the targets sent, or did not.
Prints as JSON how many there were of what. ADDRESS and targets are of IPv4 or of IPv6.
"""

import collections
import json
import random
import select
import socket
import struct
import sys
import time
from typing import Dict, List, Tuple

FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
ETH_P_ALL, IP, IPV6 = 3, 0x0800, 0x86dd
HOST = 80
AT_ONCE = 24            # connections
LATE = 40               # segments that are put off

OPTIONS = [
    b'', b'\2\4\5\xb4\4\2\x08\x0a\0\0\0\x09\0\0\0\0\1\3\3\7', b'\2\4\5\xb4\1\3\3\x0e\1\1\4\2',
    b'\2\4\0\0', b'\2\4\0\x40', b'\3\3\xff\1', b'\x22\2\2\4\5\xb4\1\1', b'\x22\x0a' + bytes(8),
    b'\xfe\4\xf9\x89', b'\x1e\x0c\0\x81' + bytes(8), b'\x13\x12' + bytes(16) + b'\1\1',
    b'\x1d\4\0\0', b'\xac\x0b' + bytes(9) + b'\1', b'\5\x0a\0\0\0\1\0\0\0\2\1\1',
    b'\2\3\5\1', b'\3\x28\1\1', b'\1\1\1\3', b'\0\xff\xff\xff', b'\x08\1\0\0', b'\1' * 40]

HEAD = ' HTTP/1.1\r\nHost: www.example\r\n'
STREAMS = [
    *(f'GET /{name}{HEAD}Connection: close\r\n\r\n'.encode()
      for name in ('en/1k', 'fr/1k', 'de/1k', 'fr/128k', 'fr/empty', '%66r/1k', 'fr//1k')),
    f'GET /fr/1k{HEAD}Cookie: {"c" * 3000}\r\n\r\n'.encode(),
    f'GET /fr/1k{HEAD}\r\nGET /de/1k{HEAD}\r\n'.encode(),
    f'POST /de/upload/{HEAD}Content-Length: 100\r\nConnection: close\r\n\r\n'.encode() + bytes(100),
    f'GET /fr/1k{HEAD}'.encode(), b'GET / HTTP/1.1\n\n', b'\x16\x03\x01\2\0\1\0', b'\0' * 2000,
    b'\r\n\r\n', f'GET /fr/1k{HEAD}Cookie: {"c" * 40000}\r\n\r\n'.encode()]


def total(data: bytes) -> int:
    """The Internet checksum."""
    data += bytes(len(data) % 2)
    value = sum(struct.unpack(f'!{len(data) // 2}H', data))
    while value >> 16:
        value = (value & 0xffff) + (value >> 16)
    return ~value & 0xffff


class Connection:
    """What the client knows of a connection, and means to do."""

    def __init__(self, rng: random.Random, port: int, target: Tuple[bytes, bytes]) -> None:
        self.port, self.target = port, target
        self.isn = rng.choice((rng.getrandbits(32), 0xffffff00 + rng.randrange(256)))
        self.server = 0                 # that it has acknowledged
        self.acked = self.isn           # by the server
        self.opened = False
        self.answered = False
        self.patience = 30
        self.options = rng.choice(OPTIONS[:3] if rng.random() < 0.8 else OPTIONS)
        stream = rng.choice(STREAMS)
        self.pieces: List[Tuple[int, bytes]] = []
        at = 0
        while at < len(stream):
            size = rng.choice((1, rng.randrange(1, 40), 1400, 1400))
            self.pieces.append((at, stream[at:at + size]))
            at += size
            if len(self.pieces) > 40:
                break
        if rng.random() < 0.2:
            rng.shuffle(self.pieces)
        if rng.random() < 0.2:
            # The same places again, with something else in them.
            begin, data = rng.choice(self.pieces)
            self.pieces.insert(rng.randrange(len(self.pieces) + 1), (
                max(0, begin - rng.randrange(20)), rng.randbytes(rng.randrange(1, 60) + len(data))))
        self.ways = [rng.choice((FIN | ACK, RST, RST | ACK, 0)) for _ in range(2)]


class Fuzzer:
    """A wire, and the connections on it."""

    ETHERTYPE, FAMILY = IP, socket.AF_INET
    ERRORS = ((3, 4), (3, 4), (3, 1), (3, 3), (11, 0), (12, 0))

    def __init__(self, address: str, ports: str, seed: int, targets: List[str]) -> None:
        self.rng = random.Random(seed)
        self.address = socket.inet_pton(self.FAMILY, address)
        self.first, self.last = map(int, ports.split('-'))
        self.port = self.rng.randrange(self.first, self.last)
        self.targets = []
        for target in targets:
            name, mac = target.split('/')
            self.targets.append((socket.inet_pton(self.FAMILY, name),
                                 bytes.fromhex(mac.replace(':', ''))))
        self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.sock.bind(('eth0', 0))
        self.mac = self.sock.getsockname()[4]
        self.open: Dict[int, Connection] = {}
        self.all: List[Connection] = []
        self.late: List[bytes] = []
        self.counts: Dict[str, int] = collections.Counter()

    # Out.

    def frame(self, conn: Connection, flags: int, seq: int, options: bytes = b'',
              data: bytes = b'', odd: str = '') -> List[bytes]:
        """The frames of one segment, in which `odd` is wrong."""
        rng = self.rng
        ack, window, urgent, more = conn.server, 64000, 0, b''
        if odd == 'flags':
            flags = rng.getrandbits(8)
        elif odd == 'seq':
            seq = rng.choice((rng.getrandbits(32), seq + rng.randrange(-70000, 70000)))
        elif odd == 'ack':
            ack = rng.choice((rng.getrandbits(32), ack + rng.randrange(-70000, 70000)))
        elif odd == 'window':
            window = rng.choice((0, 1, rng.getrandbits(16)))
        elif odd == 'options':
            options = rng.choice((rng.randbytes(rng.randrange(1, 41)), rng.choice(OPTIONS)))
        elif odd == 'urgent':
            flags, urgent = flags | URG, rng.getrandbits(16)
        elif odd == 'data':
            data = rng.randbytes(len(data) + rng.randrange(3))
        elif odd == 'trailer':
            more = rng.randbytes(rng.randrange(1, 60))
        options += bytes(-len(options) % 4)
        offset = 5 + len(options) // 4
        if odd == 'offset':
            offset = rng.randrange(16)
        tcp = bytearray(struct.pack(
            '!HHIIBBHHH', conn.port, HOST, seq & 0xffffffff, ack & 0xffffffff if flags & ACK else 0,
            offset << 4 | (rng.getrandbits(4) if odd == 'reserved' else 0), flags, window, 0,
            urgent) + options + data)
        where, mac = conn.target
        pseudo = self.address + where + struct.pack('!HH', 6, len(tcp))
        check = total(pseudo + tcp) if odd != 'check' else rng.getrandbits(16)
        struct.pack_into('!H', tcp, 16, check)
        if odd == 'cut':
            del tcp[rng.randrange(len(tcp)):]
        ethernet = mac + self.mac + struct.pack('!H', self.ETHERTYPE)
        return [ethernet + packet + more for packet in self.packets(bytes(tcp), where, odd)]

    def packets(self, tcp: bytes, where: bytes, odd: str) -> List[bytes]:
        """The IP packets of one segment."""
        rng = self.rng
        pieces = [(0, tcp, 0x4000)]
        if odd == 'fragments' and len(tcp) > 8:
            pieces = [(at, data, 0x2000 * more) for at, data, more in self.pieces(tcp)]
        made = []
        ident = rng.getrandbits(16)
        for at, data, flag in pieces:
            more = rng.choice((b'\1' * 4, b'\x94\4\0\0', rng.randbytes(8))) if odd == 'ip' else b''
            length = 20 + len(more) + len(data)
            if odd == 'length':
                length = rng.choice((0, 19, 20, 39, length - 1, length + 1, 65535))
            header = bytearray(struct.pack(
                '!BBHHHBBH', 0x45 + len(more) // 4, rng.choice((0, 0, 1, 2, 3, 255)), length, ident,
                flag | at // 8, rng.choice((0, 1)) if odd == 'ttl' else 64, 6, 0)
                + self.address + where + more)
            check = total(bytes(header)) if odd != 'ip check' else rng.getrandbits(16)
            struct.pack_into('!H', header, 10, check)
            made.append(bytes(header) + data)
        return made

    def pieces(self, tcp: bytes) -> List[Tuple[int, bytes, bool]]:
        """Fragments, of which some may be missing or overlap, in any order: where each begins, and
        whether more follow."""
        rng = self.rng
        size = 8 * rng.randrange(1, 1 + len(tcp) // 8)
        found = [(at, tcp[at:at + size], at + size < len(tcp))
                 for at in range(0, len(tcp), size)][:30]
        if rng.random() < 0.3:
            at, data, more = rng.choice(found)
            found.append((max(0, at - 8), data, more))
        if rng.random() < 0.3:
            found.pop(rng.randrange(len(found)))
        if rng.random() < 0.5:
            rng.shuffle(found)
        return found

    WAYS = ('flags', 'seq', 'ack', 'window', 'options', 'urgent', 'data', 'trailer', 'offset',
            'reserved', 'check', 'cut', 'fragments', 'ip', 'length', 'ttl', 'ip check')

    def send(self, conn: Connection, flags: int, seq: int, options: bytes = b'',
             data: bytes = b'') -> None:
        """A segment that may be spoilt, doubled, or put off. One that is spoilt is most often
        followed by the right one."""
        rng = self.rng
        right = self.frame(conn, flags, seq, options, data)
        frames = right
        if rng.random() < 0.25:
            odd = rng.choice(self.WAYS)
            frames = self.frame(conn, flags, seq, options, data, odd)
            if rng.random() < 0.8:
                frames = frames + right
            self.counts['spoilt'] += 1
        if rng.random() < 0.05:
            frames = frames * 2
        if rng.random() < 0.05 and len(self.late) < LATE:
            self.late += frames
            return
        self.out(frames)

    def out(self, frames: List[bytes]) -> None:
        """These frames, now."""
        for frame in frames:
            self.counts['frames'] += 1
            try:
                self.sock.send(frame[:1514])
            except OSError:     # the device's queue is full
                self.counts['unsent'] += 1

    # In.

    def listen(self, wait: float) -> None:
        """Take what has come; what answers tell of their connections."""
        while select.select([self.sock], [], [], wait)[0]:
            wait = 0
            packet = self.sock.recv(2048)
            if packet[12:14] != struct.pack('!H', self.ETHERTYPE) or packet[:6] != self.mac:
                continue
            sender, size, tcp = self.segment(packet[14:])
            if len(tcp) < 20:
                continue
            source, port, seq, ack, offset, flags = struct.unpack_from('!HHIIBB', tcp)
            conn = self.open.get(port)
            if source != HOST or conn is None or sender != conn.target[0]:
                continue
            if flags & SYN:
                conn.opened = True
                conn.server = seq + 1
            elif flags & ACK:
                length = size - (offset >> 4) * 4
                if length > 0:
                    conn.answered = True
                if seq == conn.server & 0xffffffff:
                    conn.server = seq + length + bool(flags & FIN)
            if flags & ACK:
                conn.acked = ack

    def segment(self, packet: bytes) -> Tuple[bytes, int, bytes]:
        """Who sent it; the length of what it has of TCP, and that."""
        header = (packet[0] & 15) * 4
        size = struct.unpack_from('!H', packet, 2)[0] - header
        return packet[12:16], size, packet[header:] if packet[9] == 6 else b''

    # What happens.

    def begin(self) -> None:
        """A new connection."""
        self.port = self.port + 1 if self.port < self.last else self.first
        conn = Connection(self.rng, self.port, self.rng.choice(self.targets))
        self.open[self.port] = conn
        self.send(conn, SYN | self.rng.choice((0, 0, 0xc0)), conn.isn, conn.options)
        self.counts['connections'] += 1

    def step(self, conn: Connection) -> None:
        """A connection goes on."""
        rng = self.rng
        if not conn.opened:
            conn.patience -= 1
            if conn.patience == 15:
                self.send(conn, SYN, conn.isn + rng.choice((0, 0, 1, 1 << 20)), conn.options)
            if conn.patience == 0:
                self.end(conn)
        elif conn.patience > 0:
            # The ACK of the handshake, or none.
            conn.patience = 0
            if rng.random() < 0.8:
                self.send(conn, ACK, conn.isn + 1)
        elif conn.pieces:
            at, data = conn.pieces.pop(0)
            flags = ACK | rng.choice((0, PSH))
            self.send(conn, flags, conn.isn + 1 + at, b'', data)
        elif conn.patience > -20:
            # What has been answered is acknowledged, or not.
            conn.patience -= 1
            if rng.random() < 0.3:
                self.send(conn, ACK, conn.acked)
        elif conn.ways:
            flags = conn.ways.pop()
            if flags:
                self.send(conn, flags, conn.acked)
        else:
            self.end(conn)

    def end(self, conn: Connection) -> None:
        """No more of it is sent."""
        self.counts['opened'] += conn.opened
        self.counts['answered'] += conn.answered
        del self.open[conn.port]
        self.all.append(conn)

    def stray(self) -> None:
        """A segment of no connection, or of one long gone."""
        rng = self.rng
        conn = Connection(rng, rng.randrange(self.first, self.last), rng.choice(self.targets))
        if self.all and rng.random() < 0.5:
            conn = rng.choice(self.all)
        conn.server = conn.server or rng.getrandbits(32)
        self.out(self.frame(conn, rng.getrandbits(6), rng.choice((conn.acked, rng.getrandbits(32))),
                            rng.choice(OPTIONS), rng.randbytes(rng.choice((0, 1, 100, 1300))),
                            rng.choice(self.WAYS + ('', '', ''))))
        self.counts['stray'] += 1

    def error(self) -> None:
        """An ICMP error about a connection, in which something may be wrong."""
        rng = self.rng
        pool = list(self.open.values()) or self.all
        if not pool:
            return
        conn = rng.choice(pool)
        where, mac = rng.choice(self.targets + [conn.target] * 9)
        odd = rng.choice(('', '', '', 'told', 'cut', 'bytes', 'length', 'check', 'kind', 'seq'))
        seq = conn.server - rng.choice((0, 1, 100, 1448))
        if odd == 'seq':
            seq = rng.getrandbits(32)
        segment = struct.pack('!HHIIBBHHH', HOST, conn.port, seq & 0xffffffff, conn.isn, 0x50, ACK,
                              100, rng.getrandbits(16), 0) + rng.randbytes(20)
        quote = self.quoted(conn.target[0], len(segment)) + segment[:rng.choice((8, 16, 20, 40))]
        if odd == 'cut':
            quote = quote[:rng.randrange(len(quote))]
        elif odd == 'bytes' and quote:
            spoilt = bytearray(quote)
            spoilt[rng.randrange(len(spoilt))] = rng.getrandbits(8)
            quote = bytes(spoilt)
        kind, code = rng.choice(self.ERRORS)
        if odd == 'kind':
            kind, code = rng.getrandbits(8), rng.getrandbits(8)
        told = rng.choice(self.targets)[0] if odd == 'told' else conn.target[0]
        # To whoever it is for, or to another.
        if where != conn.target[0] and rng.random() < 0.5:
            mac = conn.target[1]
        self.out([mac + self.mac + struct.pack('!H', self.ETHERTYPE)
                  + self.message(told, kind, code, quote, odd)])
        self.counts['errors'] += 1

    def quoted(self, source: bytes, size: int) -> bytes:
        """The header of a segment of so many bytes, as an error quotes it."""
        rng = self.rng
        options = rng.choice((b'', b'', b'\x94\4\0\0', rng.randbytes(8)))
        return struct.pack(
            '!BBHHHBBH', 0x45 + len(options) // 4, 0, 20 + len(options) + size, 1,
            0x4000, 60, 6, rng.getrandbits(16)) + source + self.address + options

    def message(self, told: bytes, kind: int, code: int, quote: bytes, odd: str) -> bytes:
        """The packet of an error, for `told`."""
        rng = self.rng
        words = rng.getrandbits(8) if odd == 'length' else 0
        icmp = bytearray(struct.pack('!BBHBBH', kind, code, 0, 0, words,
                                     rng.choice((0, 68, 600, 1300, 65535))) + quote)
        check = total(bytes(icmp)) if odd != 'check' else rng.getrandbits(16)
        struct.pack_into('!H', icmp, 2, check)
        header = bytearray(struct.pack('!BBHHHBBH', 0x45, 0, 20 + len(icmp), 1, 0, 64, 1, 0)
                           + bytes((192, 0, 2, rng.getrandbits(8))) + told)
        struct.pack_into('!H', header, 10, total(bytes(header)))
        return bytes(header) + bytes(icmp)

    def run(self, seconds: float) -> None:
        """Until the time is over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if len(self.open) < AT_ONCE and self.rng.random() < 0.3:
                self.begin()
            elif self.open:
                self.step(self.rng.choice(list(self.open.values())))
            if self.rng.random() < 0.1:
                self.stray()
            if self.rng.random() < 0.1:
                self.error()
            if self.late and self.rng.random() < 0.1:
                self.out([self.late.pop(self.rng.randrange(len(self.late)))])
            self.listen(0.001)
        for conn in list(self.open.values()):
            self.end(conn)
        # Most of what is left open is ended, so that little is to be waited for.
        for conn in self.all[-2000:]:
            self.out(self.frame(conn, RST, conn.acked))
        print(json.dumps(self.counts))


class Fuzzer6(Fuzzer):
    """The same with IPv6."""

    ETHERTYPE, FAMILY = IPV6, socket.AF_INET6
    ERRORS = ((2, 0), (2, 0), (1, 0), (1, 4), (3, 0), (4, 0))

    def extensions(self, last: int) -> Tuple[int, bytes]:
        """Some headers before one of that number, and which comes first."""
        rng, made = self.rng, b''
        for _ in range(rng.choice((0, 1, 1, 2, 5))):
            kind = rng.choice((0, 43, 44, 60, 60, rng.getrandbits(8)))
            size = rng.choice((0, 0, 1, 5, 30))
            body = rng.choice((
                bytes((1, 4)) + bytes(4 + 8 * size), rng.randbytes(6 + 8 * size),
                bytes((rng.choice((0, 2, 4, 253)), rng.choice((0, 0, 1)))) + bytes(4 + 8 * size)))
            if kind == 44:
                size, body = 0, struct.pack('!HI', rng.choice((0, 0, 1, 8)), rng.getrandbits(32))
            made = bytes((last, rng.choice((size, size, rng.getrandbits(8))))) + body + made
            last = kind
        return last, made

    def header(self, size: int, last: int, source: bytes, to: bytes, odd: str = '') -> bytes:
        """A header, of a packet with so many bytes behind it."""
        rng = self.rng
        if odd == 'length':
            size = rng.choice((0, 1, 19, size - 1, size + 1, 65535))
        first = 6 << 28 | rng.choice((0, 3)) << 20 | rng.getrandbits(20)
        if odd == 'ip check':
            first = rng.getrandbits(32)
        return struct.pack('!IHBB', first, size & 0xffff, last, rng.choice((0, 1))
                           if odd == 'ttl' else 64) + source + to

    def packets(self, tcp: bytes, where: bytes, odd: str) -> List[bytes]:
        rng = self.rng
        last, more = self.extensions(6) if odd == 'ip' else (6, b'')
        made = []
        pieces = self.pieces(tcp) if odd == 'fragments' and len(tcp) > 8 else []
        ident = rng.getrandbits(32)
        for at, data, is_more in pieces:
            part = struct.pack('!BBHI', 6, 0, at | is_more, ident) + data
            made.append(self.header(len(part), 44, self.address, where) + part)
        return made or [self.header(len(more) + len(tcp), last, self.address, where, odd)
                        + more + tcp]

    def segment(self, packet: bytes) -> Tuple[bytes, int, bytes]:
        size, = struct.unpack_from('!H', packet, 4)
        return packet[8:24], size, packet[40:] if packet[6] == 6 else b''

    def quoted(self, source: bytes, size: int) -> bytes:
        last, more = self.extensions(6) if self.rng.random() < 0.5 else (6, b'')
        return self.header(len(more) + size, last, source, self.address) + more

    def message(self, told: bytes, kind: int, code: int, quote: bytes, odd: str) -> bytes:
        rng = self.rng
        value = rng.choice((0, 68, 1280, 1300, 65536, rng.getrandbits(8) << 24))
        icmp = bytearray(struct.pack('!BBHI', kind, code, 0, value) + quote)
        source = bytes.fromhex('20010db8') + rng.randbytes(12)
        pseudo = source + told + struct.pack('!II', len(icmp), 58)
        check = total(pseudo + bytes(icmp)) if odd != 'check' else rng.getrandbits(16)
        struct.pack_into('!H', icmp, 2, check)
        last, more = self.extensions(58) if odd == 'length' else (58, b'')
        return self.header(len(more) + len(icmp), last, source, told) + more + bytes(icmp)


def main() -> None:
    """Run for the given time."""
    address, ports, seed, seconds, *targets = sys.argv[1:]
    kind = Fuzzer6 if ':' in address else Fuzzer
    kind(address, ports, int(seed), targets).run(float(seconds))


if __name__ == '__main__':
    main()
