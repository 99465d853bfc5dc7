# SPDX-License-Identifier: GPL-2.0
"""A client that is made of exact segments.

`Wire` is an address on the client's cable that no kernel has: what comes for it
is answered by the test or by nobody. A `Peer` is one TCP connection from there.
Its numbers are relative: the client's first byte is 1, and so is the server's.
Everything that it sends is what the test says; what the test does not say is
what an ordinary client would send.
"""

import base64
import itertools
import json
import random
import struct
import time
from typing import Any, List, Optional, Sequence, Tuple

from scapy.layers.inet import IP, TCP, IPOption, fragment
from scapy.layers.inet6 import HBHOptUnknown, IPv6, IPv6ExtHdrHopByHop
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from .address import family
from .cluster import NodeSpec
from .paths import INSIDE
from .patience import patient
from .pcap import (
    ACK, FIN, FRAGMENT, HOP_BY_HOP, RST, SYN, Checksum, Segment, parse_frame)
from .running import Cluster
from .trace import MODULO, Connection, Stream, distance

FIRST = 200             # of the last numbers of the addresses
MANY = 1 << 20
SKIP = 0x1e             # an option for experiments, passed over (RFC 4727)
MSS = 1460

Brief = Tuple[str, int, int, int]


def header(src: str, dst: str, tos: int = 0, ttl: int = 64, **more: Any) -> Packet:
    """A header of the addresses' version of IP, whose name for a field that both
    have is that of IPv4."""
    if family(src) == 4:
        return IP(src=src, dst=dst, tos=tos, ttl=ttl, **more)
    names = {'proto': 'nh'}
    return IPv6(src=src, dst=dst, tc=tos, hlim=ttl,
                **{names.get(name, name): value for name, value in more.items()})


def cut(packet: Packet, size: int) -> List[Packet]:
    """A packet in fragments of so many bytes, a multiple of 8."""
    if isinstance(packet, IP):
        return fragment(packet, size)
    raw = bytes(packet)
    # What every router looks at stands before.
    at, place = (48 + raw[41] * 8, 40) if raw[6] == HOP_BY_HOP else (40, 6)
    head, rest = bytearray(raw[:at]), raw[at:]
    protocol, head[place] = head[place], FRAGMENT
    identity, parts = random.getrandbits(32), []
    for begin in range(0, len(rest), size):
        piece = rest[begin:begin + size]
        last = begin + size >= len(rest)
        struct.pack_into('!H', head, 4, at - 40 + 8 + len(piece))
        parts.append(IPv6(bytes(head) + struct.pack(
            '!BBHI', protocol, 0, begin | (not last), identity) + piece))
    return parts


class Wire:
    """The program on the client that sends and hears frames."""

    def __init__(self, cluster: Cluster, number: int = 0) -> None:
        self.cluster = cluster
        self.address = cluster.spec.at(FIRST + number)
        self._ports = itertools.count(random.randrange(20_000, 30_000))
        for node in cluster.nodes:
            # A checksum that is left to the device would not be seen.
            node.offload(tx=False)
            node.run(f'ip neigh replace {self.address} '
                     f'lladdr {cluster.client.host.mac} dev eth0 '
                     'nud permanent')
        self._process = cluster.client.popen(
            ['python3', '-S', f'{INSIDE}/frames.py', 'eth0', self.address],
            stdin=True)

    def step(self, frames: Sequence[bytes], port: int, wait: float,
             quiet: float, count: int) -> List[Segment]:
        """Send frames and listen for what comes to a port."""
        order = {'frames': [base64.b64encode(frame).decode()
                            for frame in frames], 'port': port,
                 'wait': wait, 'quiet': quiet, 'count': count}
        self._process.write(json.dumps(order).encode() + b'\n')
        told = json.loads(self._process.readline(wait + 30))
        found = [parse_frame(at, base64.b64decode(frame))
                 for at, frame in told]
        return [segment for segment in found if segment is not None]

    def peer(self, name: str, service: int = 80, **options: Any) -> 'Peer':
        """A connection to a node's virtual address, not begun yet."""
        return Peer(self, self.cluster[name].host, next(self._ports),
                    service, **options)

    def stop(self) -> None:
        """End the program."""
        self._process.kill()
        for node in self.cluster.nodes:
            node.offload(tx=True)
            node.run(f'ip neigh del {self.address} dev eth0')


class Peer:
    """One connection."""

    def __init__(self, wire: Wire, node: NodeSpec, port: int, service: int,
                 ts: bool = True, sack: bool = True, isn: int = 0) -> None:
        self._wire = wire
        self._node = node
        self._service = service
        self._ts = ts
        self._sack = sack
        self._began = time.monotonic()
        self._tsval = random.randrange(1 << 31)
        self.port = port
        self.isn = isn or random.randrange(1, MODULO)
        self.next = 1               # the number of the next byte to be sent
        self.window = 64_000        # not scaled
        self.tos = 0
        self.ttl = 64
        self.flow = 0               # the label, of IPv6
        self.segments: List[Segment] = []       # both ways
        self.stream: Optional[Stream] = None    # of the server
        self.acked = 0              # the highest number that the server named
        self.told = 0               # and the highest that was named to it
        self._echo = 0

    # Sending.

    def clock(self) -> int:
        """The timestamp of now."""
        return (self._tsval + int((time.monotonic() - self._began) * 1000)
                ) % MODULO

    @property
    def seen(self) -> int:
        """The number that acknowledges all that came in order."""
        if self.stream is None:
            return 0
        size = len(self.stream.data)
        return 1 + size + (self.stream.fin == size)

    def frames(self, flags: str, data: bytes = b'', seq: Optional[int] = None,
               ack: Optional[int] = None, window: Optional[int] = None,
               ts: Optional[int] = None, options: Sequence[Any] = (),
               sack: Sequence[Tuple[int, int]] = (), urgent: int = 0,
               good: bool = True, ip_options: bytes = b'', pieces: int = 0,
               extensions: Sequence[Packet] = ()) -> List[bytes]:
        """A segment, with these flags, as frames. With `good` false its
        checksum is wrong; with `pieces` it comes in fragments of so many
        bytes. Options of IP are those of IPv4, or an unknown one with this
        content of IPv6; `extensions` are headers of IPv6."""
        seq = self.next if seq is None else seq
        ack = self.seen if ack is None else ack
        server = self.stream.isn if self.stream else 0
        self.told = max(self.told, ack if 'A' in flags else 0)
        listed = list(options)
        if self._ts:
            listed += [('NOP', None), ('NOP', None), ('Timestamp', (
                self.clock() if ts is None else ts,
                self._echo if 'A' in flags else 0))]
        if sack:
            listed += [('NOP', None), ('NOP', None), ('SAck', tuple(
                (server + edge) % MODULO for block in sack
                for edge in block))]
        packet = self._header(ip_options, extensions) / TCP(
            sport=self.port, dport=self._service,
            seq=(self.isn + seq) % MODULO,
            ack=(server + ack) % MODULO if 'A' in flags else 0,
            flags=flags, urgptr=urgent, options=listed,
            window=self.window if window is None else window) / data
        packet = type(packet)(bytes(packet))
        if not good:
            packet[TCP].chksum ^= 0x0101
        parts = cut(packet, pieces) if pieces else [packet]
        client = self._wire.cluster.client.host
        frames = [bytes(Ether(src=client.mac, dst=self._node.mac) / part)
                  for part in parts]
        self._note(parse_frame(time.time(), bytes(
            Ether(src=client.mac, dst=self._node.mac) / packet)))
        return frames

    def _header(self, options: bytes, extensions: Sequence[Packet]) -> Packet:
        found = header(self._wire.address, self._node.vip, self.tos, self.ttl)
        if isinstance(found, IP):
            found.id = random.randrange(1 << 16)
            found.options = [IPOption(options)] if options else []
            return found
        found.fl = self.flow
        if options:
            found /= IPv6ExtHdrHopByHop(
                options=[HBHOptUnknown(otype=SKIP, optdata=options)])
        for extension in extensions:
            found /= extension.copy()
        return found

    def send(self, flags: str, data: bytes = b'', wait: float = 0,
             quiet: float = 0.25, count: int = MANY, **how: Any
             ) -> List[Segment]:
        """Send a segment; what the server sent until then, and in `wait`
        seconds after it."""
        at = how.get('seq', self.next)
        frames = self.frames(flags, data, **how)
        if how.get('good', True) and 'R' not in flags:
            end = at + len(data) + ('F' in flags) + ('S' in flags)
            self.next = max(self.next, end)
        return self.post(frames, wait, quiet, count)

    def ask(self, flags: str, data: bytes = b'', **how: Any
            ) -> List[Segment]:
        """Send a segment that wants just one in answer, and wait for it,
        passing over data that come again."""
        before = self.seen
        found = self.send(flags, data, wait=5, quiet=5, count=1, **how)
        while found and self.is_old(found[-1], before):
            found = self.hear(5, quiet=5, count=1)
        return found

    def is_old(self, segment: Segment, before: int) -> bool:
        """Whether it brings data from before that number only, again."""
        return (self.stream is not None and segment.length > 0 and
                distance(segment.seq, self.stream.isn) + segment.length
                <= before)

    def post(self, frames: Sequence[bytes], wait: float = 0,
             quiet: float = 0.25, count: int = MANY) -> List[Segment]:
        """Send frames that were made before, and listen."""
        found = self._wire.step(frames, self.port, patient(wait),
                                patient(quiet), count)
        for segment in found:
            self._hear(segment)
        return found

    def hear(self, wait: float, quiet: float = 0.25, count: int = MANY
             ) -> List[Segment]:
        """What the server sends."""
        return self.post((), wait, quiet, count)

    def _note(self, segment: Optional[Segment]) -> None:
        assert segment is not None
        self.segments.append(segment)

    def _hear(self, segment: Segment) -> None:
        self._note(segment)
        if segment.options.ts:
            self._echo = segment.options.ts[0]
        if segment.flags & RST:
            return
        if segment.flags & SYN:
            self.stream = Stream(segment.seq)
        if self.stream is not None:
            self.stream.add(segment)
        if segment.flags & ACK:
            self.acked = max(self.acked,
                             distance(segment.ack, self.isn))

    # Judging.

    def brief(self, segments: Sequence[Segment]) -> List[Brief]:
        """Flags (but PSH), relative numbers and lengths."""
        server = self.stream.isn if self.stream else 0
        names = ((SYN, 'S'), (FIN, 'F'), (RST, 'R'), (ACK, 'A'))
        return [(''.join(name for bit, name in names if s.flags & bit),
                 distance(s.seq, server),
                 distance(s.ack, self.isn) if s.flags & ACK else 0,
                 s.length) for s in segments]

    def heard(self) -> List[Segment]:
        """All that the server sent."""
        return [s for s in self.segments if s.source[0] == self._node.vip]

    def reset(self) -> bool:
        """Whether the server has sent RST."""
        return any(s.flags & RST for s in self.heard())

    def wrong(self) -> List[str]:
        """What is wrong with what the server sent, whatever the client did:
        checksums, timestamps, numbers that it acknowledges."""
        heard = self.heard()
        found = [f'wrong checksum: {s}' for s in heard
                 if s.checksum is not Checksum.VALID
                 or s.ip_checksum is not Checksum.VALID]
        if heard:
            found += Connection(
                (self._wire.address, self.port), (self._node.vip, self._service),
                self.segments).answers_wrong()
        return found

    # What an ordinary client does.

    def greet(self, flags: str = 'S', data: bytes = b'',
              options: Sequence[Any] = (), **how: Any) -> List[Segment]:
        """Send a SYN and wait for what is said to it."""
        listed: List[Any] = [('MSS', MSS), ('NOP', None), ('WScale', 0)]
        if self._sack:
            listed.append(('SAckOK', b''))
        return self.ask(flags, data, seq=0, options=listed + list(options),
                        **how)

    def open(self, **how: Any) -> 'Peer':
        """The whole handshake."""
        answer, = self.greet(**how)
        assert answer.flags & (SYN | ACK) == SYN | ACK, answer
        self.next = 1
        self.send('A')
        return self

    def until(self, wanted: Any, text: str, timeout: float = 20,
              window: Optional[int] = None) -> None:
        """Acknowledge what comes until `wanted` gives something true."""
        deadline = time.monotonic() + patient(timeout)
        while not wanted():
            assert time.monotonic() < deadline, f'still not: {text}\n{self}'
            if any(s.length or s.flags & FIN
                   for s in self.hear(1, quiet=0.02)):
                self.send('A', window=window)
        if self.told < self.seen:
            self.send('A', window=window)

    def persist(self, data: bytes, fin: bool = False, timeout: float = 10
                ) -> None:
        """Send the stream again, from what is acknowledged on, until all
        is."""
        deadline = time.monotonic() + patient(timeout)
        end = 1 + len(data) + fin
        while True:
            self.hear(0.4, quiet=0.4)
            if self.acked >= end:
                return
            assert time.monotonic() < deadline, f'not acknowledged\n{self}'
            at = max(self.acked, 1)
            self.send('FPA' if fin else 'PA', data[at - 1:], seq=at)

    def quit(self) -> None:
        """Leave nothing behind."""
        if self.stream is not None:
            self.send('R', seq=max(self.acked, 1))

    def __str__(self) -> str:
        return '\n'.join(map(str, self.segments[-60:]))
