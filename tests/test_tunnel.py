# SPDX-License-Identifier: GPL-2.0
"""Nodes that are forwarded to by tunnels of IP in IP, or as is best.

What direct routing and tunnels have in common is in test_direct.py.
"""

import base64
import contextlib
import dataclasses
import json
from typing import Dict, Iterator, List

import pytest
from scapy.layers.inet import ICMP, TCP
from scapy.layers.inet6 import ICMPv6EchoRequest
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from checks import hand_off, no_flows, request, served, unbroken
from conftest import Lab
from harness.address import alone, bracketed, endpoint
from harness.capture import Capture
from harness.node import Node
from harness.paths import INSIDE
from harness.pcap import SYN, Segment
from harness.running import Cluster, wait_for
from harness.wire import header
from test_direct import CLOSE, HEADERS, NARROW, gateway, uploaded
from test_distance import offer
from test_elsewhere import ask, rule
from test_icmp import mtu

OUTER = {4: 20, 6: 40}
# What says so in a header.
TUNNELS = {4: 4, 6: 41}
ECHO = {4: ICMP(), 6: ICMPv6EchoRequest()}
IPIP = {4: 'ipip', 6: 'ip6tnl mode ip6ip6'}


def loaded(lab: Lab, **changes: str) -> Cluster:
    """A site like that, with the modules loaded for this test alone."""
    site = lab.site(dataclasses.replace(lab.spec, **changes))
    site.end()
    lab.once = True
    lab.enable(site)
    return site


@pytest.fixture
def tunnel(lab: Lab) -> Cluster:
    """Nodes that are forwarded to by tunnels."""
    return loaded(lab, forward='tunnel')


@pytest.fixture
def auto(lab: Lab) -> Cluster:
    """Nodes that are forwarded to as is best."""
    return loaded(lab, forward='auto')


def outer(node: Node, *words: str) -> Dict[str, int]:
    """Packets of IP in IP that a node has seen, by what counts them."""
    names = ('packets_untunnelled', 'packets_dropped_tunnel', *words)
    stats = node.stats()
    return {name: stats[name] for name in names}


# The number by which routes for tunnels are asked for.
TUNNELS = {4: 4, 6: 41}
COUNT = '''
table inet seen {
    chain in {
        type filter hook prerouting priority -450
        meta l4proto { 4, 41 } counter
    }
    chain out {
        type filter hook input priority 0
        meta l4proto { 4, 41 } counter
    }
}
'''


def counted(node: Node) -> List[int]:
    """Packets that each rule of COUNT has seen."""
    told = json.loads(node.run(['nft', '-j', 'list', 'ruleset']).out)
    return [part['counter']['packets'] for it in told['nftables'] if 'rule' in it
            for part in it['rule']['expr'] if 'counter' in part]


def test_segments_are_within(tunnel: Cluster) -> None:
    """Every segment of the client's that goes on is in a packet from node to node,
    of which the back end's server sees nothing."""
    front, back = tunnel['en'], tunnel['fr']
    back.nft(COUNT)
    before = front.stats()['packets_forwarded']
    with tunnel.client.capture() as far:
        answer = tunnel.client.curl.get(tunnel.url('en', '/fr/2m'), options=CLOSE)
        no_flows(tunnel)
    served(answer, 'fr', '2m')
    unbroken(far.connection(answer.port))
    forwarded = front.stats()['packets_forwarded'] - before
    assert forwarded > 5
    # What GRO merges on the way is one there.
    came, left = counted(back)
    assert 0 < came <= forwarded
    assert left == 0, 'some were not taken out'
    assert outer(back) == {'packets_untunnelled': came, 'packets_dropped_tunnel': 0}
    line = back.nginx.log()[-1]
    assert (line.client, line.port, line.server) == (
        tunnel.client.address, answer.port, front.vip)


def opened(capture: Capture, port: int) -> Segment:
    """The SYN-ACK of a connection."""
    return next(it for it in capture.connection(port).of_server() if it.flags & SYN)


@pytest.mark.parametrize('mode', ('rare', 'frequent'))
@pytest.mark.long
def test_segments_fit(lab: Lab, mode: str) -> None:
    """A client is asked for segments that fit into the tunnels, so that none is
    too long, on any connection of the service."""
    cluster = loaded(lab, forward='tunnel', mode=mode)
    front, client = cluster['en'], cluster.client
    outer, headers = OUTER[cluster.spec.family], HEADERS[cluster.spec.family]
    room = 1500 - outer
    with client.capture() as capture:
        uploads = [client.curl.get(cluster.url('en', path)) for path in ('/fr/1k', '/en/1k')]
    for answer in uploads:
        assert opened(capture, answer.port).options.mss == room - headers
    for host in (client, front):
        host.offload(gro=False, tso=False, gso=False)
    try:
        assert max(it.length for it in uploaded(cluster, 'fr')) == room - headers - 12
    finally:
        for host in (client, front):
            host.offload(gro=True, tso=True, gso=True)
    assert front.stats()['packets_dropped_too_big'] == 0
    # The smallest of all tunnels counts.
    front.run(f'ip route add {alone(cluster["de"].address)} dev eth0 mtu {NARROW}')
    with client.capture() as capture:
        answer = client.curl.get(cluster.url('en', '/fr/1k'))
    front.run(f'ip route del {alone(cluster["de"].address)} dev eth0')
    assert opened(capture, answer.port).options.mss == NARROW - outer - headers


@pytest.mark.long
def test_large_segments(tunnel: Cluster) -> None:
    """Segments that the device is to cut are forwarded as they are, and arrive."""
    assert max(it.length for it in uploaded(tunnel, 'fr')) > 1500


def test_narrow_between_the_nodes(tunnel: Cluster) -> None:
    """A router between the nodes passes less than the tunnel's ends know of. It
    tells the front end, and that the client, whose body arrives."""
    front, back, client = tunnel['en'], tunnel['fr'], tunnel.client
    between = tunnel['de']
    between.run(f'ip route add {alone(back.address)} dev eth0 mtu {NARROW}')
    for host in (client, front, between):
        host.offload(gro=False, tso=False, gso=False)
    try:
        with gateway(tunnel):
            uploaded(tunnel)
            assert mtu(front, back.address) == NARROW
            assert front.stats()['packets_dropped_too_big'] > 0
            # Later connections know it from the beginning.
            with client.capture() as capture:
                answer = client.curl.get(tunnel.url('en', '/fr/1k'))
            assert opened(capture, answer.port).options.mss == (
                NARROW - OUTER[tunnel.spec.family] - HEADERS[tunnel.spec.family])
    finally:
        for host in (client, front, between):
            host.offload(gro=True, tso=True, gso=True)
        between.run(f'ip route del {alone(back.address)} dev eth0 mtu {NARROW}')
        client.forget_paths()


@pytest.mark.long
def test_over_a_gateway(tunnel: Cluster) -> None:
    """A node need not be a neighbour, and the way to it may change while a
    connection lives."""
    sock = hand_off(tunnel)
    with gateway(tunnel):
        sock.send(request('/fr/1k'))
        served(sock.response(), 'fr', '1k')
        served(ask(tunnel), 'fr', '1k')
    sock.send(request('/fr/2m'))
    served(sock.response(), 'fr', '2m')
    sock.close()
    no_flows(tunnel)


def test_no_way(tunnel: Cluster) -> None:
    """A node to which no route leads is not asked, though the control connection is
    up."""
    front, back = tunnel['en'], tunnel['fr']
    front.run(f'ip route add blackhole {alone(back.address)}')
    try:
        served(ask(tunnel), 'en', '1k')
        rule(front, '/fr/', 'fr', 'de')
        served(ask(tunnel), 'de', '1k')
    finally:
        front.run(f'ip route del blackhole {alone(back.address)}')
    assert front.stats()['handoffs_refused_route'] == 2
    served(ask(tunnel), 'fr', '1k')


# What comes from elsewhere.


def send(node: Node, to: Node, *packets: Packet) -> None:
    """Has a node send these, whoever they say that they are from."""
    order = {'frames': [base64.b64encode(bytes(
        Ether(src=node.host.mac, dst=to.host.mac) / packet)).decode() for packet in packets],
        'port': 1, 'wait': 0, 'quiet': 0, 'count': 0}
    process = node.popen(['python3', '-S', f'{INSIDE}/frames.py', 'eth0', '203.0.113.1'],
                         stdin=True)
    try:
        process.write(json.dumps(order).encode() + b'\n')
        process.readline(30)
    finally:
        process.kill()


@contextlib.contextmanager
def plain_tunnel(cluster: Cluster) -> Iterator[None]:
    """An administrator's own tunnel between en and fr."""
    nodes = (cluster['en'], cluster['fr'])
    for number, (node, other) in enumerate((nodes, nodes[::-1]), 1):
        node.run(f'ip link add mine type {IPIP[cluster.spec.family]} '
                 f'local {node.address} remote {other.address}; ip link set mine up; '
                 f'ip addr add {cluster.spec.at(number, 6)}/{cluster.spec.prefix} dev mine nodad')
    try:
        yield
    finally:
        for node in nodes:
            node.run('ip link del mine')


@pytest.mark.long
def test_other_tunnels(tunnel: Cluster) -> None:
    """A tunnel for other purposes between the same nodes goes on."""
    with plain_tunnel(tunnel):
        there = tunnel.spec.at(2, 6)
        tunnel['en'].run(f'ping -c 3 -i 0.2 -W 5 {there}')
        before = outer(tunnel['fr'])
        answer = tunnel['en'].curl.get(f'http://{bracketed(there)}/fr/1k')
        served(answer, 'fr', '1k')
        assert outer(tunnel['fr']) == before
        served(ask(tunnel), 'fr', '1k')


def test_strangers(tunnel: Cluster) -> None:
    """What is not of this cluster, or not for a service, is left to the node's IP."""
    front, back, client = tunnel['en'], tunnel['fr'], tunnel.client
    back.nft(COUNT)
    spec = tunnel.spec
    stranger = spec.at(1, 7)
    syn = header(stranger, front.vip) / TCP(sport=4711, dport=80, flags='S')
    elsewhere = header(stranger, spec.at(9, 8)) / TCP(sport=4711, dport=80, flags='S')
    other_port = header(stranger, front.vip) / TCP(sport=4711, dport=81, flags='S')
    ours = header(front.address, back.address, proto=TUNNELS[spec.family])
    strange = [
        header(client.address, back.address) / syn,
        header(front.address, back.vip) / syn,
        ours / elsewhere,
        ours / other_port,
        ours / Raw(bytes(syn)[:1]),
        ours / Raw(b'\x41' + bytes(39)),
        ours / ours / syn,
        ours / header(stranger, front.vip) / ECHO[spec.family] / Raw(bytes(40)),
    ]
    send(client, back, *strange)
    wait_for(lambda: counted(back)[0] >= len(strange), 'they have come')
    assert counted(back) == [len(strange), len(strange)]
    assert outer(back) == {'packets_untunnelled': 0, 'packets_dropped_tunnel': 0}
    # And this is how one looks that would be taken.
    send(client, back, ours / syn)
    wait_for(lambda: outer(back)['packets_untunnelled'] == 1, 'one is taken out')


@pytest.mark.stock
@pytest.mark.ipv6
def test_blocked_by_a_policy(tunnel: Cluster) -> None:
    """What IPsec's policy says of packets to a node holds for tunnels, too."""
    front, back = tunnel['en'], tunnel['fr']
    front.run(f'ip xfrm policy add src {alone(front.address)} dst {alone(back.address)} '
              f'proto {TUNNELS[tunnel.spec.family]} dir out action block')
    before = front.stats()['handoffs_refused_route']
    try:
        served(ask(tunnel), 'en', '1k')
    finally:
        front.run('ip xfrm policy flush')
    assert front.stats()['handoffs_refused_route'] == before + 1
    served(ask(tunnel), 'fr', '1k')


@pytest.mark.long
def test_not_asked_for(lab: Lab) -> None:
    """A node to which no tunnel leads takes nothing out of one."""
    cluster = loaded(lab, forward='nat')
    front, back = cluster['en'], cluster['fr']
    back.nft(COUNT)
    syn = header(cluster.spec.at(1, 7), back.vip) / TCP(sport=4711, dport=80, flags='S')
    send(cluster.client, back, header(front.address, back.address) / syn)
    wait_for(lambda: counted(back)[0] == 1, 'it has come')
    assert counted(back) == [1, 1]
    assert outer(back)['packets_untunnelled'] == 0


@pytest.mark.long
def test_congestion(tunnel: Cluster) -> None:
    """A router's mark on the outer header is one of the segment within (RFC 6040)."""
    front, back = tunnel['en'], tunnel['fr']
    back.nft('table inet f { chain i { type filter hook input priority 0; '
             f'{tunnel.spec.ip} daddr {front.vip} {tunnel.spec.ip} ecn ce counter; }}; }}')
    syn = TCP(sport=4711, dport=80, flags='S')
    for inner, mark in ((2, 3), (1, 3), (0, 3)):
        send(tunnel.client, back, header(front.address, back.address, mark) / header(
            tunnel.spec.at(1, 7), front.vip, inner) / syn)
    wait_for(lambda: sum(outer(back).values()) == 3, 'they have come')
    assert outer(back) == {'packets_untunnelled': 2, 'packets_dropped_tunnel': 1}
    assert counted(back) == [2]


# As is best.


def way(cluster: Cluster) -> str:
    """How a connection to fr is forwarded."""
    back = cluster['fr']
    before = outer(back)['packets_untunnelled']
    sock = hand_off(cluster)
    flow, = [it for it in back.flows() if it['client'].endswith(f':{sock.port}')]
    sock.send(request('/fr/1k'))
    served(sock.response(), 'fr', '1k')
    tunnelled = outer(back)['packets_untunnelled'] > before
    sock.close()
    if flow['local'] != flow['vip']:
        assert not tunnelled
        return 'nat'
    return 'tunnel' if tunnelled else 'direct'


def test_chosen(auto: Cluster) -> None:
    """Directly to a neighbour, by a tunnel where a gateway is between; and with its
    own address as destination to a node that lacks the service's."""
    front, back = auto['en'], auto['fr']
    assert {it['forward'] for it in front.ask('node', 'list')} == {'auto'}
    assert way(auto) == 'direct'
    with gateway(auto):
        assert way(auto) == 'tunnel'
    assert way(auto) == 'direct'
    back.run(f'ip addr del {alone(front.vip)} dev lo')
    try:
        before = front.stats()
        assert [way(auto), way(auto)] == ['nat', 'nat']
        after = front.stats()
    finally:
        back.run(f'ip addr add {auto.virtual(front.vip)} dev lo')
    # It was asked twice once, and is remembered; nothing is wrong.
    changes = {name: after[name] - before[name] for name in (
        'handoffs_started', 'handoffs_rejected', 'handoffs_rejected_address')}
    assert changes == {'handoffs_started': 3, 'handoffs_rejected': 1,
                       'handoffs_rejected_address': 0}
    no_flows(auto)


def test_lacks_another_address(auto: Cluster) -> None:
    """A node that lacks the address of one service gets what is of another, in always mode, too."""
    front, other = auto['en'], endpoint(auto.spec.at(21), 80)
    front.run(f'ip addr add {auto.virtual(auto.spec.at(21))} dev eth0')
    for node in auto.nodes:
        node.ctl('service', 'add', other)
    front.ctl('rule', 'add', other, '--path', '/fr/', '--node', 'fr')
    offer(auto, 'always', 'adopt')
    before = front.stats()
    served(auto.client.curl.get(f'http://{other}/fr/1k', options=CLOSE), 'fr', '1k')
    served(ask(auto), 'fr', '1k')
    after = front.stats()
    assert after['handoffs_rejected'] - before['handoffs_rejected'] == 1
    assert after['handoffs_refused_route'] == before['handoffs_refused_route']
    offer(auto, 'rare', 'adopt')
    for node in auto.nodes:
        node.ctl('service', 'del', other)
    front.run(f'ip addr del {alone(auto.spec.at(21))} dev eth0')
    no_flows(auto, timeout=30)
