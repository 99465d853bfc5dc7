# SPDX-License-Identifier: GPL-2.0
"""ICMPv6 errors of every shape, whatever the family of the other suites' run."""

import struct
from typing import Iterator, List

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop
from scapy.packet import Packet, Raw

from checks import no_flows
from conftest import Lab
from harness.pcap import ones_sum
from harness.wire import Wire
from test_icmp import Counts, Shape, Told, mtu
from test_ipv6 import unknown

TOO_BIG = (2, 0)
OPTIONS = b'??'
EXTENSION = bytes.fromhex('2000 dfff 0008 0101 1234 5678')
GOOD = {
    'eight bytes': Shape(TOO_BIG, quoted=8),
    'ports, numbers, no checksum': Shape(TOO_BIG, quoted=16),
    'a header': Shape(TOO_BIG, quoted=32),
    'all': Shape(TOO_BIG),
    'options in the quote': Shape(TOO_BIG, inner=OPTIONS),
    'options before it': Shape(TOO_BIG, outer=OPTIONS, quoted=8),
    'fragments': Shape(TOO_BIG, pieces=200),
    'no route': Shape((1, 0)),
    'prohibited': Shape((1, 1)),
    'address unreachable': Shape((1, 3), quoted=8),
    'port unreachable': Shape((1, 4)),
    'an extension': Shape((1, 3), quoted=200, extended=True),
    'no more hops': Shape((3, 0), quoted=8),
    'no more time': Shape((3, 1)),
    'a bad header': Shape((4, 0)),
}
DOUBTFUL = {
    'not sent yet': (Shape(TOO_BIG, at=1 << 20), 'TcpExtOutOfWindowIcmps'),
    'long acknowledged': (Shape(TOO_BIG, at=-5, quoted=8), 'TcpExtOutOfWindowIcmps'),
    'a wrong checksum': (Shape(TOO_BIG, good=False), 'Icmp6InCsumErrors'),
}
MALFORMED = {
    'seven bytes': Shape(TOO_BIG, quoted=7),
    'ports alone': Shape(TOO_BIG, quoted=4),
    'an extension that begins too soon': Shape((1, 3), words=5),
    'told another': Shape(TOO_BIG, told='fd00::1'),
}
OTHER = {
    'no ports': Shape(TOO_BIG, quoted=3),
    'an unknown error': Shape((99, 0)),
    'an echo': Shape((128, 0)),
    'a redirect': Shape((137, 0)),
    'about UDP': Shape(TOO_BIG, protocol=UDP),
}


class Told6(Told):
    """A connection, handed off to fr, and what routers of IPv6 say of it."""

    ROUTER = 'fd00::90'

    def packet(self, shape: Shape, source: str, delta: int = 0, mtu: int = 0,
               ttl: int = 60) -> Packet:
        inner = IPv6(src=source, dst=self.address, hlim=9, fl=7)
        if shape.inner:
            inner /= IPv6ExtHdrDestOpt(options=[unknown(shape.inner)])
        segment = self.segment(shape, delta)
        quote = bytes(inner / segment)
        quote = quote[:len(quote) - len(segment) + shape.quoted]
        units = len(quote) // 8 if shape.extended else 0
        if shape.extended:
            quote += EXTENSION
        units = units if shape.words is None else shape.words
        message = struct.pack('!BBHI', *shape.kind, 0, mtu or units << 24) + quote
        outer = IPv6(src=self.ROUTER, dst=shape.told or source, hlim=ttl,
                     fl=self.identity, nh=58)
        ends = bytes(outer)[8:40]
        check = ones_sum(ends + struct.pack('!II', len(message), 58) + message) ^ 0xffff
        if not shape.good:
            check ^= 0x0100
        message = message[:2] + struct.pack('!H', check) + message[4:]
        if shape.outer:
            outer.nh = 0
            outer /= IPv6ExtHdrHopByHop(nh=58, options=[unknown(shape.outer)])
        return IPv6(bytes(outer / Raw(message)))


@pytest.fixture
def told(lab: Lab) -> Iterator[Told6]:
    """A connection, and who speaks of it."""
    cluster = lab.site(lab.of_family(6))
    lab.enable(cluster)
    wire = Wire(cluster)
    yield Told6(cluster, wire)
    wire.stop()
    for node in cluster.nodes:
        node.forget_paths()
    no_flows(cluster)


@pytest.mark.long
def test_errors_are_relayed(told: Told6) -> None:
    """Each comes to the back end as though that had sent the segment, in the
    client's numbers, and is heeded by its TCP."""
    cluster, size = told.cluster, 1400
    counts, back = Counts(cluster), cluster['fr']
    wanted: List[Packet] = []
    with back.capture("'icmp6 or ip6 proto 41'") as capture:
        for name, shape in GOOD.items():
            is_size = shape.kind == TOO_BIG
            size -= 10 * is_size
            told.tell(shape, mtu=size * is_size)
            wanted.append(told.packet(shape, told.known, mtu=size * is_size, ttl=59))
            assert mtu(back, told.address) == size, name
    came = [IPv6(packet) for packet in told.came(capture)]
    assert len(came) == len(wanted)
    for name, found, right in zip(GOOD, came, wanted):
        # What was put together again may be cut again.
        assert GOOD[name].pieces or bytes(found) == bytes(right), name
    assert counts('en', 'icmp_relayed', 'icmp_dropped_malformed') == [len(GOOD), 0]
    assert counts('fr', 'icmp_translated', 'TcpExtOutOfWindowIcmps',
                  'Icmp6InErrors') == [len(GOOD), 0, 0]
    told.finish()


@pytest.mark.long
def test_errors_that_are_not_believed(told: Told6) -> None:
    """What the back end's TCP, or IP, would not believe of anybody it does not
    believe of these."""
    told.peer.send('A', wait=0.3)
    for name, (shape, counter) in DOUBTFUL.items():
        counts = Counts(told.cluster)
        told.tell(shape, mtu=1300)
        assert counts('en', 'icmp_relayed') == [1], name
        assert counts('fr', 'icmp_translated', counter) == [1, 1], name
        assert mtu(told.cluster['fr'], told.address) == 0, name
    told.finish()


@pytest.mark.long
def test_malformed_errors_are_dropped(told: Told6) -> None:
    """What cannot be meant is counted, wherever it comes."""
    for name, shape in MALFORMED.items():
        for node in ('en', 'fr'):
            counts = Counts(told.cluster)
            told.tell(shape, node, mtu=1300 * (shape.kind == TOO_BIG))
            assert counts(node, 'icmp_dropped_malformed', 'icmp_relayed',
                          'icmp_translated') == [1, 0, 0], (name, node)
    told.finish()


@pytest.mark.long
def test_others_are_left_alone(told: Told6) -> None:
    """What is no error about a segment of a flow's is for IP here."""
    counts = Counts(told.cluster)
    for shape in OTHER.values():
        told.tell(shape, mtu=1300)
    told.peer.port += 1
    told.tell(Shape(TOO_BIG), mtu=1300)
    told.peer.port -= 1
    for node in ('en', 'fr'):
        assert counts(node, 'icmp_relayed', 'icmp_translated',
                      'icmp_dropped_malformed') == [0, 0, 0]
    told.finish()


def test_errors_that_come_to_the_back_end(told: Told6) -> None:
    """A back end to which an error comes that was for the front end knows what
    it is about."""
    counts, back = Counts(told.cluster), told.cluster['fr']
    for size, shape in ((1350, Shape(TOO_BIG, quoted=8)), (1300, Shape(TOO_BIG, inner=OPTIONS))):
        told.tell(shape, 'fr', mtu=size)
        assert mtu(back, told.address) == size
    assert counts('fr', 'icmp_translated', 'TcpExtOutOfWindowIcmps') == [2, 0]
    assert counts('en', 'icmp_relayed') == [0]
    told.finish()
