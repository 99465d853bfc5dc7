# SPDX-License-Identifier: GPL-2.0
"""Read the TCP segments of a capture file.

Only what the tests look at is decoded. A capture is read whole; a frame that
is not TCP over IP over Ethernet is passed over.
"""

import array
import enum
import socket
import struct
from dataclasses import dataclass, field
from typing import BinaryIO, Dict, Iterator, List, Optional, Tuple

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))

# Of a capture file (tcpdump.org's list of link-layer types): LINUX_SLL2 is what tcpdump writes of
# all devices together.
ETHERNET, LINUX_SLL2 = 1, 276
SLL2_SIZE = 20
ETHERTYPE_IPV4, ETHERTYPE_IPV6 = 0x0800, 0x86dd
PROTOCOL_TCP = 6
# Headers of IPv6 that TCP may stand behind (RFC 8200, section 4).
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION = 0, 43, 44, 60

Endpoint = Tuple[str, int]


class Checksum(enum.Enum):
    """What the checksum field of a captured segment holds."""

    VALID = 'valid'
    PARTIAL = 'partial'   # the pseudo-header's sum, for the device to finish
    BAD = 'bad'
    CUT = 'cut'           # the capture does not hold the whole segment


@dataclass(frozen=True)
class Options:
    """The TCP options of a segment."""

    mss: Optional[int] = None
    wscale: Optional[int] = None
    sack_ok: bool = False
    sack: Tuple[Tuple[int, int], ...] = ()
    ts: Optional[Tuple[int, int]] = None
    kinds: Tuple[int, ...] = ()


@dataclass(frozen=True)
class Segment:
    """One TCP segment as it was on the wire."""

    time: float
    source: Endpoint
    destination: Endpoint
    seq: int
    ack: int
    flags: int
    window: int
    options: Options
    length: int                              # of the payload, on the wire
    payload: bytes = field(repr=False)       # as much as was captured
    checksum: Checksum = Checksum.VALID
    ip_checksum: Checksum = Checksum.VALID
    mac: str = ''                            # whom the frame was sent to
    device: int = 0                          # its index, in a capture of all

    @property
    def span(self) -> int:
        """The sequence numbers that the segment takes."""
        return self.length + bool(self.flags & SYN) + bool(self.flags & FIN)

    def __str__(self) -> str:
        names = ''.join(
            name for bit, name in enumerate('FSRPAUEC')
            if self.flags & 1 << bit)
        ts = ' ts %d/%d' % self.options.ts if self.options.ts else ''
        sack = ''.join(' sack %d-%d' % block for block in self.options.sack)
        return (f'{self.time:.6f} {self.source[0]}:{self.source[1]} > '
                f'{self.destination[0]}:{self.destination[1]} [{names}] '
                f'seq {self.seq} ack {self.ack} win {self.window} '
                f'len {self.length}{ts}{sack}')


def ones_sum(data: bytes, start: int = 0) -> int:
    """The folded one's complement sum of data, in network order."""
    if len(data) % 2:
        data += b'\0'
    total = sum(array.array('H', data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    total = socket.ntohs(total) + start
    return (total & 0xffff) + (total >> 16)


def _checksum(addresses: bytes, tcp: bytes, length: int) -> Checksum:
    if len(tcp) < length:
        return Checksum.CUT
    # The same numbers stand elsewhere in a pseudo-header of IPv6.
    pseudo = ones_sum(
        addresses + struct.pack('!BBH', 0, PROTOCOL_TCP, length))
    if ones_sum(tcp[:length], pseudo) == 0xffff:
        return Checksum.VALID
    if struct.unpack_from('!H', tcp, 16)[0] == pseudo:
        return Checksum.PARTIAL
    return Checksum.BAD


def _options(raw: bytes) -> Options:
    found: Dict[str, object] = {}
    kinds: List[int] = []
    at = 0
    while at < len(raw):
        kind = raw[at]
        if kind == 0:
            break
        if kind == 1:
            at += 1
            continue
        size = raw[at + 1] if at + 1 < len(raw) else 0
        if size < 2 or at + size > len(raw):
            break
        body = raw[at + 2:at + size]
        kinds.append(kind)
        if kind == 2 and size == 4:
            found['mss'] = struct.unpack('!H', body)[0]
        elif kind == 3 and size == 3:
            found['wscale'] = body[0]
        elif kind == 4:
            found['sack_ok'] = True
        elif kind == 5:
            found['sack'] = tuple(
                struct.unpack_from('!II', body, block)
                for block in range(0, len(body) - 7, 8))
        elif kind == 8 and size == 10:
            found['ts'] = struct.unpack('!II', body)
        at += size
    return Options(kinds=tuple(kinds), **found)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Packet:
    """An IP packet that is no later fragment, as much as was captured."""

    family: int                 # of sockets
    addresses: bytes            # source and destination
    protocol: int
    payload: bytes
    length: int                 # of the payload, on the wire
    checksum: Checksum = Checksum.VALID     # IPv6 has none

    def address(self, last: bool) -> str:
        """The source, or the destination."""
        half = len(self.addresses) // 2
        return socket.inet_ntop(
            self.family, self.addresses[half * last:half * (last + 1)])


def _ipv4(packet: bytes) -> Optional[Packet]:
    size = (packet[0] & 15) * 4
    header = packet[:size]
    total, = struct.unpack_from('!H', header, 2)
    fragment, = struct.unpack_from('!H', header, 6)
    if fragment & 0x1fff:
        return None
    return Packet(socket.AF_INET, header[12:20], header[9], packet[size:total],
                  total - size, Checksum.VALID if ones_sum(header) == 0xffff
                  else Checksum.BAD)


def _ipv6(packet: bytes) -> Optional[Packet]:
    end = 40 + struct.unpack_from('!H', packet, 4)[0]
    protocol, at = packet[6], 40
    while protocol in (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION):
        if at + 8 > len(packet):
            return None
        size = 8
        if protocol != FRAGMENT:
            size += packet[at + 1] * 8
        elif struct.unpack_from('!H', packet, at + 2)[0] & 0xfff8:
            return None
        protocol, at = packet[at], at + size
    return Packet(socket.AF_INET6, packet[8:40], protocol, packet[at:end],
                  end - at)


def parse_packet(frame: bytes) -> Optional[Packet]:
    """The IP packet in an Ethernet frame, if there is one."""
    kind, = struct.unpack_from('!H', frame, 12)
    if kind == ETHERTYPE_IPV4 and len(frame) >= 34:
        return _ipv4(frame[14:])
    if kind == ETHERTYPE_IPV6 and len(frame) >= 54:
        return _ipv6(frame[14:])
    return None


def parse_frame(time: float, frame: bytes, device: int = 0
                ) -> Optional[Segment]:
    """The segment in an Ethernet frame, if there is one."""
    packet = parse_packet(frame)
    if not packet or packet.protocol != PROTOCOL_TCP or len(packet.payload) < 20:
        return None
    tcp = packet.payload
    (sport, dport, seq, ack, offset, flags, window) = struct.unpack_from(
        '!HHIIBBH', tcp)
    tcp_header = (offset >> 4) * 4
    return Segment(
        time=time,
        source=(packet.address(False), sport),
        destination=(packet.address(True), dport),
        seq=seq,
        ack=ack,
        flags=flags,
        window=window,
        options=_options(tcp[20:tcp_header]),
        length=packet.length - tcp_header,
        payload=tcp[tcp_header:],
        checksum=_checksum(packet.addresses, tcp, packet.length),
        ip_checksum=packet.checksum,
        mac=frame[:6].hex(':'),
        device=device,
    )


def ethernet(header: bytes) -> Tuple[int, bytes]:
    """Of a header of LINUX_SLL2 the device's index, and one of Ethernet that
    says as much as it does: not whom the frame was sent to."""
    kind, _, device, _, _, _, source = struct.unpack('!HHIHBB6s2x', header)
    return device, bytes(6) + source + struct.pack('!H', kind)


def frames(stream: BinaryIO) -> Iterator[Tuple[float, bytes, int]]:
    """The Ethernet frames of a capture file, with their times, and the index
    of the device, or 0 if it was the only one."""
    head = stream.read(24)
    magic = head[:4]
    order = '<' if magic in (b'\xd4\xc3\xb2\xa1', b'\x4d\x3c\xb2\xa1') else '>'
    fraction = 1e-9 if magic in (
        b'\x4d\x3c\xb2\xa1', b'\xa1\xb2\x3c\x4d') else 1e-6
    link = struct.unpack(order + 'I', head[20:24])[0] if len(head) == 24 else 0
    if link not in (ETHERNET, LINUX_SLL2):
        raise ValueError('not a capture of Ethernet frames')
    while True:
        head = stream.read(16)
        if len(head) < 16:
            return
        seconds, part, kept, _ = struct.unpack(order + 'IIII', head)
        frame, device = stream.read(kept), 0
        if link == LINUX_SLL2:
            device, begin = ethernet(frame[:SLL2_SIZE])
            frame = begin + frame[SLL2_SIZE:]
        yield seconds + part * fraction, frame, device


def read(stream: BinaryIO) -> List[Segment]:
    """All the TCP segments of a capture file."""
    found = (parse_frame(*frame) for frame in frames(stream))
    return [segment for segment in found if segment is not None]
