# SPDX-License-Identifier: GPL-2.0
"""Nodes that get a client's segments unchanged: direct routing, and tunnels.

Every node has the addresses of the others' services on its loopback device.
`--forward direct` and `--forward tunnel` have other suites run in such a
cluster, too. What only tunnels have is in test_tunnel.py.
"""

import contextlib
import dataclasses
import itertools
from typing import Iterator, List

import pytest

from checks import (
    all_right, bypassed, gone, hand_off, no_flows, request, served, some_long, unbroken)
from conftest import Lab
from harness.address import alone
from harness.load import Load
from harness.node import Node
from harness.patience import patient
from harness.pcap import Segment
from harness.process import CommandFailed, Process
from harness.running import Cluster, wait_for
from harness.sockets import SocketError
from test_elsewhere import KINDS, ask, lose, rule

pytestmark = pytest.mark.xdist_group('direct')

WAYS = ('direct', 'tunnel')
NARROW = 1400
HEADERS = {4: 40, 6: 60}        # of IP and TCP
CLOSE = '-H "Connection: close"'
# Hears nobody who asks for its MAC address.
DEAF = {
    4: 'table arp f { chain i { type filter hook input priority 0; drop; }; }',
    6: 'table ip6 f { chain i { type filter hook input priority 0; '
       'icmpv6 type nd-neighbor-solicit drop; }; }',
}


@pytest.fixture(scope='module', params=some_long(WAYS, 'direct'))
def way(request: pytest.FixtureRequest) -> str:
    """Tests of one way after the other, as each needs a site of its own."""
    return request.param


@pytest.fixture
def cluster(lab: Lab, way: str) -> Cluster:
    """The site, whose nodes forward in one of the ways, maybe not for the first
    time."""
    site = lab.site(dataclasses.replace(lab.spec, forward=way))
    lab.enable(site)
    return site


@pytest.fixture
def fresh(lab: Lab, way: str) -> Cluster:
    """The same, with the modules loaded for this test alone."""
    site = lab.site(dataclasses.replace(lab.spec, forward=way))
    site.end()
    lab.once = True
    lab.enable(site)
    return site


# A test for nodes that forward directly alone.
DIRECTLY = pytest.mark.parametrize('way', ('direct',), indirect=True, scope='module')


def alike(segment: Segment) -> Segment:
    """What two captures of one segment have in common."""
    return dataclasses.replace(segment, time=0, mac='')


@pytest.mark.long
def test_bodies(cluster: Cluster) -> None:
    """Whole answers from here and from there, on connections that are kept:
    by every way there is from one node to another."""
    names = ('empty', '1k', '2m', '128k', '1k')
    for front, back in itertools.product(('en', 'fr'), ('en', 'fr', 'de')):
        answers = cluster.client.curl.fetch(
            [cluster.url(front, f'/{back}/{name}') for name in names])
        for answer, name in zip(answers, names):
            served(answer, back, name)
        assert len({answer.port for answer in answers}) == 1, 'reconnected'
    no_flows(cluster)


def test_fifty_at_once(cluster: Cluster) -> None:
    """Local and handed-off connections side by side."""
    wanted = list(itertools.islice(itertools.cycle(
        itertools.product(('en', 'fr', 'de'), ('1k', '128k'))), 50))
    answers = cluster.client.curl.fetch(
        [cluster.url('en', f'/{language}/{size}') for language, size in wanted],
        parallel=50, options=CLOSE)
    for answer, (language, size) in zip(answers, wanted):
        served(answer, language, size)
    no_flows(cluster)


@DIRECTLY
def test_segments_are_unchanged(cluster: Cluster) -> None:
    """What the front end forwards is what came, with the service as destination,
    in a frame to the node; nothing of the response passes it."""
    front, back, client = cluster['en'], cluster['fr'], cluster.client
    before = front.stats()['packets_forwarded']
    with front.capture() as wire, client.capture() as far:
        answer = client.curl.get(cluster.url('en', '/fr/2m'), options=CLOSE)
        no_flows(cluster)
    served(answer, 'fr', '2m')
    bypassed(wire, answer.port)
    unbroken(far.connection(answer.port))
    of_client = [it for it in wire.segments if it.source[1] == answer.port]
    came = {alike(it) for it in of_client if it.mac == front.host.mac}
    sent = [it for it in of_client if it.mac == back.host.mac]
    assert len(sent) > 5
    assert {it.mac for it in of_client} == {front.host.mac, back.host.mac}
    assert {it.destination for it in sent} == {(front.vip, 80)}
    strange = [it for it in sent if alike(it) not in came]
    assert not strange, strange[0]
    assert front.stats()['packets_forwarded'] - before == len(sent)


def test_server_sees_both_addresses(cluster: Cluster) -> None:
    """The client's, and the one that the client connected to, in the server's log
    and in the list of connections."""
    sock = hand_off(cluster)
    front, back = cluster['en'], cluster['fr']
    line = back.nginx.log()[-1]
    assert (line.client, line.port, line.server) == (
        cluster.client.address, sock.port, front.vip)
    for node in (front, back):
        flow, = [it for it in node.flows() if it['client'].endswith(f':{sock.port}')]
        assert (flow['local'], flow['vip']) == (front.service, front.service)
    assert {it['forward'] for it in front.ask('node', 'list')} == {cluster.spec.forward}
    sock.close()
    no_flows(cluster)


@pytest.mark.parametrize(
    'end', some_long(('client', 'server', 'reset', 'crash'), 'server', 'crash'))
def test_ways_to_close(fresh: Cluster, end: str) -> None:
    """Whoever ends a connection, and however, nothing is left of it."""
    front, back = fresh['en'], fresh['fr']
    with fresh.client.capture() as capture:
        sock = fresh.client.connect(front.vip)
        sock.send(request('/fr/1k', **({'Connection': 'close'} if end == 'server' else {})))
        served(sock.response(), 'fr', '1k')
        if end == 'server':
            assert sock.receive().size == 0
        elif end == 'crash':
            back.nginx.freeze()
            sock.send(request('/fr/1k'), delay=0.1)
            back.nginx.crash()
            back.nginx.start()
            with pytest.raises(SocketError, match='ConnectionResetError'):
                sock.receive()
        if end != 'crash':
            (sock.reset if end == 'reset' else sock.close)()
        gone(back, f'dport = :{sock.port}')
        gone(fresh.client, f'sport = :{sock.port}')
    unbroken(capture.connection(sock.port), reset=end in ('reset', 'crash'))
    no_flows(fresh)
    assert front.stats()['closed_heard'] == 1
    for node in (front, back):
        assert node.stats()['packets_dropped_malformed'] == 0


def test_node_lacks_the_address(fresh: Cluster) -> None:
    """It refuses, at once, instead of losing what is forwarded: the next node serves
    the request, or this one."""
    front, back = fresh['en'], fresh['fr']
    back.run(f'ip addr del {alone(front.vip)} dev lo')
    try:
        answer = ask(fresh)
        served(answer, 'en', '1k')
        assert answer.time < patient(1)
        rule(front, '/fr/', 'fr', 'de')
        served(ask(fresh), 'de', '1k')
        assert front.stats()['handoffs_rejected_address'] == 2
        assert front.stats()['handoffs_rejected'] == 2
        assert back.stats()['handoffs_in_refused'] == 2
    finally:
        back.run(f'ip addr add {fresh.virtual(front.vip)} dev lo')
    served(ask(fresh), 'fr', '1k')


@pytest.mark.long
def test_node_lacks_the_service(fresh: Cluster) -> None:
    """A node that was not told of the service refuses as well."""
    front, back = fresh['en'], fresh['fr']
    back.ctl('service', 'del', front.service)
    served(ask(fresh), 'en', '1k')
    assert front.stats()['handoffs_rejected'] == 1
    back.ctl('service', 'add', front.service)
    served(ask(fresh), 'fr', '1k')


@contextlib.contextmanager
def gateway(cluster: Cluster) -> Iterator[None]:
    """The route from en to fr leads over de."""
    front, between = cluster['en'], cluster['de']
    if cluster.spec.family == 6:
        between.sysctl('net.ipv6.conf.all.forwarding', '1')
        front.sysctl('net.ipv6.conf.eth0.accept_redirects', '0')
    else:
        between.sysctl('net.ipv4.ip_forward', '1')
        for device in ('all', 'eth0'):
            between.sysctl(f'net.ipv4.conf.{device}.send_redirects', '0')
    route = f'{alone(cluster["fr"].address)} via {between.address} dev eth0'
    front.run(f'ip route add {route}')
    try:
        yield
    finally:
        front.run(f'ip route del {route}')


@DIRECTLY
def test_gateway_at_the_handoff(fresh: Cluster) -> None:
    """A node that cannot be reached directly is not asked, though the control
    connection to it is up."""
    front = fresh['en']
    with gateway(fresh):
        served(ask(fresh), 'en', '1k')
        rule(front, '/fr/', 'fr', 'de')
        served(ask(fresh), 'de', '1k')
        assert fresh.joined(front)
    assert front.stats()['handoffs_refused_route'] == 2
    assert front.stats()['handoffs_started'] == 1
    served(ask(fresh), 'fr', '1k')


@DIRECTLY
@pytest.mark.long
def test_gateway_for_a_moment(fresh: Cluster) -> None:
    """A live connection waits for its way to come back."""
    sock = hand_off(fresh)
    with gateway(fresh):
        sock.send(request('/fr/1k'))
        wait_for(lambda: fresh['en'].stats()['packets_dropped_unroutable'], 'one is dropped')
    served(sock.response(), 'fr', '1k')
    sock.close()
    no_flows(fresh)


@DIRECTLY
@pytest.mark.long
def test_gateway_for_good(fresh: Cluster) -> None:
    """If it does not come back, the client is not left to wait, nor the server."""
    front, back = fresh['en'], fresh['fr']
    front.knob('peer_timeout_ms', 1000)
    sock = hand_off(fresh)
    with gateway(fresh):
        sock.send(request('/fr/1k'))
        with pytest.raises(SocketError, match='ConnectionResetError'):
            sock.receive()
        no_flows(fresh)
        gone(back, f'dport = :{sock.port}')
        assert fresh.joined(front)
    assert front.stats()['flows_reset'] == 1


@pytest.mark.long
def test_neighbour(lab: Lab) -> None:
    """The node does not tell its MAC address for a while, and then has another MAC address,
    while a connection lives."""
    cluster = lab.bare(dataclasses.replace(lab.spec, forward='direct'))
    cluster.start_servers()
    lab.enable(cluster)
    front, back, new = cluster['en'], cluster['fr'], '02:00:00:00:00:f2'
    front.run(f'ip neigh del {back.address} dev eth0')
    sock = hand_off(cluster)
    back.nft(DEAF[cluster.spec.family])
    front.run(f'ip neigh del {back.address} dev eth0')
    sock.send(request('/fr/1k'), delay=1.5)
    back.nft('')
    served(sock.response(), 'fr', '1k')
    back.run('sysctl -qw net.ipv4.conf.eth0.arp_notify=1 '
             'net.ipv6.conf.eth0.ndisc_notify=1')
    with front.capture() as wire:
        back.run(f'ip link set eth0 address {new}')
        wait_for(lambda: new in front.run(f'ip neigh show {back.address}').out,
                 'the neighbour is known')
        sock.send(request('/fr/2m'))
        served(sock.response(), 'fr', '2m')
    sent = [it for it in wire.segments
            if it.source[1] == sock.port and it.mac != front.host.mac]
    assert {it.mac for it in sent if it.length} == {new}
    sock.close()
    no_flows(cluster)


def uploaded(cluster: Cluster, seen_by: str = 'en') -> List[Segment]:
    """Uploads a body to fr; what that node saw of what is for fr."""
    client, back = cluster.client, cluster['fr']
    client.run('head -c 300000 /dev/urandom >/tmp/carisma/body')
    with cluster[seen_by].capture() as wire:
        answer = client.curl.get(cluster.url('en', '/fr/upload/'),
                                 options='--data-binary @/tmp/carisma/body')
    assert (answer.status, answer.node) == (200, 'fr'), answer
    sums = [host.run(['sha256sum', path]).out.split()[0] for host, path in (
        (client, '/tmp/carisma/body'), (back, answer.headers['x-body']))]
    assert sums[0] == sums[1], 'another body arrived'
    return [it for it in wire.segments
            if it.source[1] == answer.port and it.mac == back.host.mac]


@DIRECTLY
def test_large_segments(cluster: Cluster) -> None:
    """Segments that the device is to cut are forwarded as they are."""
    assert max(it.length for it in uploaded(cluster)) > 1500


@DIRECTLY
def test_smaller_mtu(cluster: Cluster) -> None:
    """The client learns that its segments are too long for the way to the node, as
    from any router: the report is about the segment that it sent."""
    front, back, client = cluster['en'], cluster['fr'], cluster.client
    front.run(f'ip route add {alone(back.address)} dev eth0 mtu {NARROW}')
    # Segments that are not merged, so that what is forwarded shows their size.
    for host in (client, front):
        host.offload(gro=False, tso=False, gso=False)
    try:
        room = NARROW - HEADERS[cluster.spec.family]
        assert max(it.length for it in uploaded(cluster)) == room - 12
    finally:
        for host in (client, front):
            host.offload(gro=True, tso=True, gso=True)
        front.run(f'ip route del {alone(back.address)} dev eth0')
        client.forget_paths()


def asks_again(client: Node, port: int, url: str) -> Process:
    """A client that uses the port of the connection before."""
    return client.popen(
        ['curl', '-s', '--max-time', str(patient(30)), '--local-port', str(port),
         '-o', '/dev/null', '-w', '%{http_code} %header{x-node}\\n', url])


@pytest.mark.long
def test_syn_before_the_end_is_known(fresh: Cluster) -> None:
    """A client uses its port again before the front end has heard that the connection
    is closed. The SYN is not the back end's to take, though it has the service."""
    front, back, client = fresh['en'], fresh['fr'], fresh.client
    lose(back, KINDS['closed'][0])
    sock = client.connect(front.vip, source=(client.address, 40001))
    sock.send(request('/fr/1k', Connection='close'))
    served(sock.response(), 'fr', '1k')
    assert sock.receive().size == 0
    sock.close()
    client.run('ss -K state time-wait sport = :40001 >/dev/null')
    wait_for(lambda: back.flows()[0]['state'] == 'lingering', 'the server has closed')
    assert front.flows()[0]['state'] == 'handed-off'
    before = front.stats()['packets_forwarded']
    process = asks_again(client, 40001, fresh.url('en', '/de/1k'))
    wait_for(lambda: front.stats()['packets_forwarded'] > before, 'the SYN has come')
    back.nft('')
    assert process.readline(patient(40)) == b'200 de\n'
    assert back.stats()['flows_created'] == 0
    no_flows(fresh)


def test_syn_on_a_live_connection(fresh: Cluster) -> None:
    """A client that has forgotten its connection finds out, and gets a new one."""
    front, client = fresh['en'], fresh.client
    sock = client.connect(front.vip, source=(client.address, 40002))
    sock.send(request('/fr/1k'))
    served(sock.response(), 'fr', '1k')
    # It goes without a word.
    client.nft('table inet f { chain o { type filter hook output priority 0; '
               'tcp flags rst tcp sport 40002 drop; }; }')
    sock.reset()
    client.nft('')
    assert front.flows()[0]['state'] == 'handed-off'
    process = asks_again(client, 40002, fresh.url('en', '/de/1k'))
    assert process.readline(patient(40)) == b'200 de\n'
    assert fresh['fr'].stats()['flows_created'] == 0
    no_flows(fresh)


def test_unload(fresh: Cluster) -> None:
    """The modules are in use while a connection is handed off, and go when it is
    not, with nothing lost of what is local."""
    kernel = fresh.kernels[0]
    sock = hand_off(fresh)
    with pytest.raises(CommandFailed, match='in use'):
        kernel.unload('carisma_utcp')
    served_here = fresh.client.connect(fresh['en'].vip)
    fresh.drain()
    with pytest.raises(SocketError, match='ConnectionResetError'):
        sock.receive()
    fresh.unload()
    served_here.send(request('/fr/1k'))
    served(served_here.response(), 'en', '1k')
    served_here.close()


@pytest.mark.long
def test_load(fresh: Cluster) -> None:
    """Connections that end in every way, some at the same time."""
    answers = Load(fresh.client, fresh['en'].service, ['/fr/1k', '/de/1k', '/en/1k'],
                   threads=6, count=90).end()
    for node in ('fr', 'de', 'en'):
        assert all_right(answers, f'/{node}/1k', node) == {node: 30}, answers
    no_flows(fresh)


@DIRECTLY
def test_refused_by_name(cluster: Cluster) -> None:
    """Only the ways that there are can be chosen."""
    node = cluster['en']
    answer = node.ctl('node', 'add', 'it', cluster.spec.at(9), '--forward', 'gre', check=False)
    assert answer.rc == 2
    assert 'possible values: nat, direct, tunnel, auto' in answer.err
    node.ctl('node', 'add', 'it', cluster.spec.at(9))
    ways = {it['name']: it['forward'] for it in node.ask('node', 'list')}
    assert ways == {'en': 'direct', 'fr': 'direct', 'de': 'direct', 'it': 'auto'}
    node.ctl('node', 'del', 'it')


@pytest.mark.ipv6
def test_node_goes(lab: Lab, way: str) -> None:
    """What is remembered of the way to a node keeps no device of this one's from going."""
    cluster = lab.bare(dataclasses.replace(lab.spec, forward=way))
    cluster.start_servers()
    lab.enable(cluster)
    for language in ('fr', 'de'):
        served(cluster.client.curl.get(cluster.url('en', f'/{language}/1k'), options=CLOSE),
               language, '1k')
    cluster['en'].kill()
    # Waits for a namespace that is about to go.
    cluster.end()
