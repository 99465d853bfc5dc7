# SPDX-License-Identifier: GPL-2.0
"""What only IPv6 has, whatever the family of the other suites' run."""

import dataclasses
from typing import Any, Dict

import pytest
from scapy.layers.inet6 import (
    HBHOptUnknown, ICMPv6NDOptDstLLAddr, ICMPv6ND_NA, IPv6, IPv6ExtHdrDestOpt,
    IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, PadN)

from checks import bypassed, hand_off, no_flows, request, served, some_long, unbroken
from conftest import Lab
from harness.address import endpoint
from harness.inside.documents import document
from harness.node import Node
from harness.pcap import SYN, Checksum, parse_frame
from harness.running import Cluster, wait_for
from harness.wire import SKIP, Wire
from segments.place import answered, responses

CLOSE = '-H "Connection: close"'
BOTH = pytest.mark.parametrize('language', ('en', 'fr'))
WAYS = ('nat', 'direct', 'tunnel')
TUNNELLED = 41


@pytest.fixture(scope='module')
def family() -> int:
    """That of hosts and services."""
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


@pytest.mark.parametrize('language', some_long(('en', 'fr'), 'fr'))
@pytest.mark.parametrize(
    'kind', some_long(HEADERS, 'hop-by-hop', 'fragments', 'fragments-behind-options', 'all'))
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
@pytest.mark.parametrize('when', some_long(('before', 'after'), 'after'))
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
@pytest.mark.parametrize('kind', some_long(('hop-by-hop', 'all', 'fragments'), 'all'))
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


@pytest.mark.long
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
def test_link_local_clients_relayed(lab: Lab) -> None:
    """What the front end passes on to such a client goes by the client's link, where another
    link comes first."""
    site = lab.site(dataclasses.replace(lab.spec, forward='direct', mode='always'))
    lab.enable(site)
    client, front = site.client, site['en']
    front.run('ip link add aside up type dummy && '
              'ip -6 route del fe80::/64 dev eth0 && '
              'ip -6 route add fe80::/64 dev eth0 metric 512')
    sock = client.connect(front.vip, source=(f'{link_local(client)}%eth0', 0))
    sock.send(request('/fr/1k', Connection='close'))
    # The server's FIN comes by way of the front end.
    assert sock.receive(timeout=5).data.endswith(document('fr', '1k'))
    sock.close()
    no_flows(site)
    front.run('ip link del aside')


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


# Configuration.


@pytest.mark.long
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


@pytest.mark.long
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
