# SPDX-License-Identifier: GPL-2.0
"""What only IPv6 has, whatever the family of the other suites' run."""

import dataclasses
import struct
from typing import Any, Dict, Iterator, List, Tuple

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import (
    HBHOptUnknown, ICMPv6NDOptDstLLAddr, ICMPv6ND_NA, IPv6, IPv6ExtHdrDestOpt,
    IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, PadN)
from scapy.packet import Packet, Raw

from checks import bypassed, hand_off, no_flows, request, served, some_long, unbroken
from conftest import Lab
from harness.address import endpoint
from harness.cluster import PREFIXES, Host, NodeSpec, address
from harness.inside.documents import document
from harness.node import Node
from harness.pcap import SYN, Checksum, ones_sum, parse_frame
from harness.running import Cluster, wait_for
from harness.sockets import SocketError
from harness.wire import SKIP, Peer, Wire
from test_icmp import Counts, Shape, Told, mtu
from test_segments import responses

CLOSE = '-H "Connection: close"'
BOTH = pytest.mark.parametrize('language', ('en', 'fr'))
WAYS = ('nat', 'direct', 'tunnel')
TUNNELLED = 41


@pytest.fixture(scope='module')
def family() -> int:
    """That of hosts and services, unless a test builds its own cluster."""
    return 6


@pytest.fixture(params=some_long(WAYS, 'direct'))
def way(lab: Lab, request: pytest.FixtureRequest) -> Cluster:
    """The site, whose nodes forward in one way after the other."""
    site = lab.site(dataclasses.replace(lab.spec, forward=request.param))
    lab.enable(site)
    return site


# Headers before TCP.


def unknown(data: bytes) -> HBHOptUnknown:
    """An option that nobody knows, to be passed over."""
    return HBHOptUnknown(otype=SKIP, optdata=data)


HOP_BY_HOP = IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(4))])
DESTINATION = IPv6ExtHdrDestOpt(options=[unknown(bytes(8))])
# Nothing is left to be done with it. The type is for experiments (RFC 4727).
ROUTING = IPv6ExtHdrRouting(type=253, segleft=0, addresses=['fd00::77'])
HEADERS: Dict[str, Dict[str, Any]] = {
    'hop-by-hop': {'extensions': [HOP_BY_HOP]},
    'destination': {'extensions': [DESTINATION]},
    'routing': {'extensions': [ROUTING]},
    'all': {'extensions': [HOP_BY_HOP, DESTINATION, ROUTING, DESTINATION]},
    'long': {'extensions': [IPv6ExtHdrDestOpt(options=[unknown(bytes(200))])]},
    'atomic-fragment': {'pieces': 1 << 14},
    'fragments': {'pieces': 48},
    'fragments-behind-options': {'pieces': 80, 'extensions': [HOP_BY_HOP, DESTINATION]},
}


def answered(peer: Peer, *wanted: Tuple[str, str]) -> None:
    """The answers are these nodes' documents, and nothing is odd."""
    peer.until(lambda: len(responses(peer)) >= len(wanted), f'{len(wanted)} answers')
    assert responses(peer) == [(200, node, document(node, name)) for node, name in wanted]
    assert not peer.wrong() and not peer.reset()


@pytest.mark.parametrize('language', some_long(('en', 'fr'), 'fr'))
@pytest.mark.parametrize('kind', HEADERS)
def test_headers_before_tcp(cluster: Cluster, wire: Wire, kind: str, language: str) -> None:
    """Every segment of the client's has them, whole connections long."""
    peer, how = wire.peer('en'), HEADERS[kind]
    peer.greet(**how)
    peer.next = 1
    peer.send('A', **how)
    raw = request(f'/{language}/1k')
    peer.send('PA', raw[:20], wait=0.2, **how)
    peer.send('PA', raw[20:], **how)
    answered(peer, (language, '1k'))
    peer.send('PA', request(f'/{language}/128k', Connection='close'), **how)
    answered(peer, (language, '1k'), (language, '128k'))
    peer.until(lambda: peer.stream.fin is not None, 'FIN')
    peer.send('FA', wait=0.3, **how)
    no_flows(cluster)


def test_too_many_headers(cluster: Cluster, wire: Wire) -> None:
    """A connection whose segments have more of them than anyone looks at is served
    where it arrives."""
    peer = wire.peer('en')
    how = {'extensions': [IPv6ExtHdrDestOpt(options=[unknown(bytes(200))] * 2)]}
    peer.greet(**how)
    peer.next = 1
    peer.send('A', **how)
    peer.send('PA', request('/fr/1k'), **how)
    peer.until(lambda: responses(peer), 'an answer')
    assert responses(peer) == [(200, 'en', document('en', '1k'))]
    peer.quit()


@BOTH
def test_headers_change(cluster: Cluster, wire: Wire, language: str) -> None:
    """Segments of one connection need not have the same."""
    peer = wire.peer('en').open()
    raw = request(f'/{language}/1k')
    for number, how in enumerate(HEADERS.values()):
        peer.send('PA', raw[4 * number:4 * number + 4], **how)
    peer.send('PA', raw[4 * len(HEADERS):])
    answered(peer, (language, '1k'))
    peer.quit()


@BOTH
@pytest.mark.parametrize('when', ('before', 'after'))
def test_not_for_here(cluster: Cluster, wire: Wire, language: str, when: str) -> None:
    """What is to go on from here, by a routing header that nobody knows, is not
    the connection's, before its handoff and after it."""
    peer, names = wire.peer('en').open(), ['1k']
    raw = request(f'/{language}/1k')
    if when == 'after':
        peer.send('PA', raw)
        answered(peer, (language, '1k'))
        names.append('1k')
    at, acked = peer.next, peer.acked
    peer.send('PA', raw, wait=0.5, extensions=[
        IPv6ExtHdrRouting(type=253, segleft=1, addresses=['fd00::77'])])
    assert peer.acked == acked
    peer.send('PA', raw, seq=at)
    answered(peer, *((language, name) for name in names))
    peer.quit()


@BOTH
@pytest.mark.parametrize('kind', ('hop-by-hop', 'all', 'fragments'))
def test_wrong_checksums(cluster: Cluster, wire: Wire, kind: str, language: str) -> None:
    """They are noticed behind other headers, too."""
    peer, how = wire.peer('en').open(), HEADERS[kind]
    raw = request(f'/{language}/1k')
    peer.send('PA', b'?' * len(raw), good=False, wait=0.3, **how)
    assert peer.acked == 1
    peer.send('PA', raw, **how)
    answered(peer, (language, '1k'))
    peer.quit()


@pytest.mark.long
def test_flow_labels_and_traffic_classes(way: Cluster) -> None:
    """They change within a connection (RFC 6438), and arrive at the back end as
    they were sent."""
    wire, marks = Wire(way), ((0x12345, 0xb8), (0, 0), (0xfffff, 0x20))
    try:
        with way['fr'].capture('ip6') as capture:
            peer = wire.peer('en').open()
            for number, (peer.flow, peer.tos) in enumerate(marks, 1):
                peer.send('PA', request('/fr/1k'))
                answered(peer, *[('fr', '1k')] * number)
        peer.quit()
    finally:
        wire.stop()
    found = set()
    for raw in capture.packets():
        packet = IPv6(raw)
        inner = packet.payload if packet.nh == TUNNELLED else packet
        if inner.src == wire.address:
            found.add((inner.fl, inner.tc))
    assert set(marks[1:]) <= found <= set(marks)


# Ways to forward.


def test_on_the_wire(way: Cluster) -> None:
    """With the node's address as destination and a right checksum, as it came, or
    in a packet from node to node; and segments that fit."""
    front, back, client, kind = way['en'], way['fr'], way.client, way.spec.forward
    client.run('head -c 100000 /dev/urandom >/tmp/carisma/body')
    for host in (client, front, back):
        host.offload(tx=False, tso=False, gso=False, gro=False)
    try:
        with back.capture('ip6') as wire, front.capture() as ahead, client.capture() as far:
            posted = client.curl.get(
                way.url('en', '/fr/upload/'),
                options=f'{CLOSE} --data-binary @/tmp/carisma/body')
            answer = client.curl.get(way.url('en', '/fr/128k'), options=CLOSE)
    finally:
        for host in (client, front, back):
            host.offload(tx=True, tso=True, gso=True, gro=True)
    assert (posted.status, posted.node) == (200, 'fr')
    served(answer, 'fr', '128k')
    bypassed(ahead, answer.port)
    for found in (posted, answer):
        unbroken(far.connection(found.port))
    outer, within, segments = set(), [], []
    for raw in wire.packets():
        packet = IPv6(raw)
        is_within = packet.nh == TUNNELLED
        segment = parse_frame(0, bytes(12) + b'\x86\xdd' + (raw[40:] if is_within else raw))
        if segment and segment.source == (client.address, posted.port):
            if is_within:
                outer.add((packet.src, packet.dst))
                within.append(raw[40:])
            else:
                segments.append(segment)
    assert outer == ({(front.address, back.address)} if kind == 'tunnel' else set())
    # What is taken out of a tunnel comes in once more.
    assert len(within) == (len(segments) if kind == 'tunnel' else 0)
    to = back.address if kind == 'nat' else front.vip
    assert {it.destination for it in segments} == {(to, 80)}
    assert {it.checksum for it in segments} == {Checksum.VALID}
    mss, = {it.options.mss for it in far.connection(posted.port).of_server()
            if it.flags & SYN}
    assert mss == 1500 - 60 - 40 * (kind == 'tunnel')
    assert max(it.length for it in segments) == mss - 12
    assert front.stats()['packets_dropped_too_big'] == 0


def test_each_virtual_address_has_one_host(lab: Lab) -> None:
    """Nodes do not answer for what lo has, and call each other from addresses that
    are no services'."""
    site = lab.site(dataclasses.replace(lab.spec, forward='direct'))
    lab.enable(site)
    client, front = site.client, site['en']
    client.run(f'ip neigh del {front.vip} dev eth0')
    try:
        with client.capture('icmp6') as capture:
            served(client.curl.get(site.url('en', '/en/1k')), 'en', '1k')
        told = [IPv6(raw) for raw in capture.packets()]
        told = [it[ICMPv6NDOptDstLLAddr].lladdr for it in told
                if ICMPv6ND_NA in it and it[ICMPv6ND_NA].tgt == front.vip]
        assert set(told) == {front.host.mac}
    finally:
        client.run(f'ip neigh replace {front.vip} lladdr {front.host.mac} '
                   'dev eth0 nud permanent')
    for node in site.nodes:
        for other in site.nodes:
            if node is not other:
                words = node.run(['ip', 'route', 'get', other.address]).out.split()
                assert words[words.index('src') + 1] == node.address


# Clients and services of one link.


def link_local(host: Node) -> str:
    """The address that a host has for its own link."""
    words = host.run('ip -6 -o addr show dev eth0 scope link').out.split()
    return words[words.index('inet6') + 1].partition('/')[0]


@BOTH
def test_link_local_clients(way: Cluster, language: str) -> None:
    """A client that speaks from such an address is served by the node that should, as
    all are on its link."""
    client, front = way.client, way['en']
    with client.capture() as capture:
        sock = client.connect(front.vip, source=(f'{link_local(client)}%eth0', 0))
        for name in ('1k', '128k', '1k'):
            sock.send(request(f'/{language}/{name}'))
            answer = sock.response()
            served(answer, language, name)
        sock.close()
        no_flows(way)
    connection, = capture.connections()
    assert connection.client[0] == link_local(client)
    unbroken(connection)


@pytest.mark.long
def test_link_local_services(cluster: Cluster) -> None:
    """A service of such an address would be one of every link's: it is refused, and
    says why; who connects to the address is served there."""
    node, client = cluster['en'], cluster.client
    at = link_local(node)
    answer = node.ctl('service', 'add', endpoint(at, 80), check=False)
    assert answer.rc != 0 and 'link-local' in answer.err, answer
    sock = client.connect(f'{at}%eth0')
    sock.send(request('/fr/1k'))
    served(sock.response(), 'en', '1k')
    sock.close()


# Listeners of both families.


@pytest.fixture(params=(4, 6), ids=('IPv4', 'IPv6'))
def dual(lab: Lab, request: pytest.FixtureRequest) -> Cluster:
    """A cluster of one family whose servers listen for both with one socket."""
    cluster = lab.bare(lab.of_family(request.param))
    for node in cluster.nodes:
        node.nginx.listen_for_both()
    cluster.start_servers()
    lab.enable(cluster)
    return cluster


def as_seen(client: str) -> str:
    """A client's address as such a server sees it."""
    return client if ':' in client else f'::ffff:{client}'


def both(cluster: Cluster) -> str:
    """Let en and the client have addresses of the other family, too; en's that is
    for clients."""
    other = 10 - cluster.spec.family
    front, client, vip = cluster['en'], cluster.client, address(other, 11)
    for host, number in ((front, 1), (client, 100)):
        host.run(f'ip addr add {address(other, number)}/{PREFIXES[other]} dev eth0')
    front.run(f'ip addr add {cluster.virtual(vip)} dev eth0')
    return vip


def test_dual_stack(dual: Cluster, lab: Lab) -> None:
    """Handed off or not, a server of both families serves clients of each."""
    client = dual.client
    with client.capture() as capture:
        answers = client.curl.fetch(
            [dual.url('en', f'/{language}/{name}') for language in ('en', 'fr')
             for name in ('1k', '128k')], options=CLOSE)
    for answer, (language, name) in zip(answers, (
            ('en', '1k'), ('en', '128k'), ('fr', '1k'), ('fr', '128k'))):
        served(answer, language, name)
        unbroken(capture.connection(answer.port))
        lines = [line for line in dual[language].nginx.log() if line.port == answer.port]
        assert [line.client for line in lines] == [as_seen(client.address)]
    for node in dual.nodes if not lab.plain else ():
        assert 'tcp-ulp-carisma' in node.run('ss -tlnieH sport = :80').out
    no_flows(dual)


@pytest.mark.long
def test_services_of_both_families(dual: Cluster) -> None:
    """One listener is that of services of both; what is to be served here, is."""
    front, client, vip = dual['en'], dual.client, both(dual)
    at = endpoint(vip, 80)
    front.ctl('service', 'add', at)
    front.ctl('rule', 'add', at, '--path', '/en/', '--node', 'en')
    before = front.stats()
    for path, node in (('/en/1k', 'en'), ('/fr/1k', 'en'), ('/en/128k', 'en')):
        served(client.curl.get(f'http://{at}{path}', options=CLOSE), node, path[4:])
    after = front.stats()
    assert after['flows_created'] - before['flows_created'] == 3
    served(client.curl.get(dual.url('en', '/fr/1k')), 'fr', '1k')
    assert {it['address'] for it in front.ask('service', 'list')} >= {vip, front.vip}
    no_flows(dual)


@pytest.mark.long
def test_listener_of_one_family(lab: Lab) -> None:
    """One that wants IPv6 alone is not where clients of IPv4 are handed to, nor is
    it in the way of those of IPv6."""
    cluster = lab.bare(lab.of_family(4))
    for node in cluster.nodes:
        node.nginx.listen_for_both()
    cluster['fr'].nginx.listen = '[::]:80 ipv6only=on'
    cluster.start_servers()
    lab.enable(cluster)
    front, client = cluster['en'], cluster.client
    served(client.curl.get(cluster.url('en', '/fr/1k')), 'en', '1k')
    assert front.stats()['handoffs_rejected'] == 1
    with pytest.raises(SocketError, match='ConnectionRefusedError'):
        client.connect(cluster['fr'].vip)
    served(client.curl.get(cluster.url('en', '/de/1k')), 'de', '1k')
    no_flows(cluster)


# Nodes of one family, and services of the other.


@pytest.fixture(params=(4, 6), ids=('IPv4-in-IPv6', 'IPv6-in-IPv4'))
def inner(request: pytest.FixtureRequest) -> int:
    """The family of the services."""
    return request.param


def mixed(lab: Lab, inner: int, forward: str, named: bool) -> Cluster:
    """Control connections of the other family than services; each node may have an
    address of that family, too."""
    outer = 10 - inner
    nodes = tuple(NodeSpec(name, address(outer, number), address(inner, 10 + number),
                           other=address(inner, number) if named else '')
                  for number, name in enumerate(('en', 'fr', 'de'), 1))
    cluster = lab.bare(dataclasses.replace(
        lab.spec, nodes=nodes, clients=(Host('client', address(inner, 100)),),
        forward=forward))
    net = f'{address(inner, 0)}/{PREFIXES[inner]}'
    for node in cluster.nodes:
        if not named:
            node.run(f'ip route add {net} dev eth0')
        node.nginx.listen_for_both()
    cluster.start_servers()
    lab.enable(cluster)
    return cluster


@pytest.mark.parametrize('named', some_long((False, True), True), ids=('one-address', 'both'))
@pytest.mark.parametrize('forward', some_long(WAYS, 'tunnel'))
def test_mixed(lab: Lab, forward: str, inner: int, named: bool) -> None:
    """What is forwarded as it came is, whatever its family; a destination of the other
    family cannot be put in, so that nodes without an address of the services' are not
    asked, and requests are served where they arrive."""
    cluster = mixed(lab, inner, forward, named)
    front = cluster['en']
    with cluster.client.capture() as capture:
        answers = cluster.client.curl.fetch(
            [cluster.url('en', f'/{language}/{name}') for language in ('en', 'fr')
             for name in ('1k', '128k')], options=CLOSE)
    local = forward == 'nat' and not named
    for answer, (language, name) in zip(answers, (
            ('en', '1k'), ('en', '128k'), ('fr', '1k'), ('fr', '128k'))):
        served(answer, 'en' if local else language, name)
        unbroken(capture.connection(answer.port))
    stats = front.stats()
    taken = stats['handoffs_accepted'], stats['handoffs_refused_route']
    assert taken == ((0, 2) if local else (2, 0)), stats
    no_flows(cluster)


@pytest.mark.parametrize('ways', some_long(
    (('direct', 'nat'), ('nat', 'tunnel'), ('tunnel', 'direct')), ('direct', 'nat')), ids='-'.join)
@pytest.mark.long
def test_each_family_has_its_way(lab: Lab, ways: Tuple[str, str]) -> None:
    """Services of IPv4 are forwarded in one way, and those of IPv6 in another."""
    spec = lab.of_family(4, forward=ways[0], other_forward=ways[1])
    cluster = lab.bare(dataclasses.replace(spec, nodes=tuple(
        dataclasses.replace(node, other=address(6, number))
        for number, node in enumerate(spec.nodes, 1))))
    front, back, client, vip = cluster['en'], cluster['fr'], cluster.client, address(6, 11)
    for node in cluster.nodes:
        node.nginx.listen_for_both()
    client.run(f'ip addr add {address(6, 100)}/64 dev eth0')
    for node in cluster.nodes:
        device = 'eth0' if node is front else 'lo'
        node.run(f'ip addr add {cluster.virtual(vip)} dev {device}')
    cluster.start_servers()
    lab.enable(cluster)
    at = endpoint(vip, 80)
    for node in cluster.nodes:
        for words in node.offer(at):
            node.ctl(*words)
    for way, url in zip(ways, (cluster.url('en', '/fr/128k'), f'http://{at}/fr/128k')):
        before = front.stats(), back.stats()
        served(client.curl.get(url, options=CLOSE), 'fr', '128k')
        sent, got = ({name: after[name] - then[name] for name in after}
                     for then, after in zip(before, (front.stats(), back.stats())))
        assert sent['handoffs_accepted'] == 1
        assert (got['packets_translated_out'] > 0) == (way == 'nat')
        assert (got['packets_untunnelled'] > 0) == (way == 'tunnel')
    no_flows(cluster)


# What routers say.

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
    cluster = lab.site(dataclasses.replace(lab.spec, forward='nat'))
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
    with back.capture(f'src {told.ROUTER}') as capture:
        for name, shape in GOOD.items():
            is_size = shape.kind == TOO_BIG
            size -= 10 * is_size
            told.tell(shape, mtu=size * is_size)
            wanted.append(told.packet(shape, back.address, mtu=size * is_size, ttl=59))
            assert mtu(back, told.address) == size, name
    came = [IPv6(packet) for packet in capture.packets()]
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


# Configuration.


def test_addresses_are_read_and_written(cluster: Cluster) -> None:
    """In every form that there is, and written in one (RFC 5952)."""
    node = cluster['en']
    at = '[2001:DB8:0:0::0009]:8080'
    node.ctl('service', 'add', at)
    node.ctl('node', 'add', 'it', '2001:db8::0:7', '--remote')
    try:
        node.ctl('rule', 'add', at, '--host', '[2001:DB8::9]', '--node', 'it')
        assert '[2001:db8::9]:8080' in node.ctl('service', 'list').out
        assert '[2001:db8::7]:7480' in node.ctl('node', 'list').out
        assert '2001:db8::9' in {it['address'] for it in node.ask('service', 'list')}
        answer = node.ctl('service', 'add', '2001:db8::9:8080', check=False)
        assert answer.rc == 2 and '[2001:db8::1]:80' in answer.err
    finally:
        node.ctl('service', 'del', '[2001:db8::9]:8080')
        node.ctl('node', 'del', 'it')


def test_flows_are_listed(cluster: Cluster) -> None:
    """With their addresses; filters know these."""
    sock = hand_off(cluster)
    front = cluster['en']
    flow, = front.ask('flows', '--client', sock.endpoint)
    assert (flow['client'], flow['vip']) == (sock.endpoint, front.service)
    found = [it['client'] for it in front.ask('flows', '--client', sock.address)]
    assert sock.endpoint in found
    assert all(client.startswith(f'[{sock.address}]:') for client in found)
    assert not front.ask('flows', '--client', 'fd00::1:1')
    assert sock.endpoint in front.ctl('flows').out
    sock.close()
    wait_for(lambda: not cluster.live_flows(), 'it is over')
