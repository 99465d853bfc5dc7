# SPDX-License-Identifier: GPL-2.0
"""IPv4 and IPv6 at once: listeners of both, nodes of one and services of the other."""

import dataclasses
from typing import Tuple

import pytest

from checks import hand_off, kept, no_flows, request, served, some_long, unbroken
from conftest import Lab
from harness.address import endpoint
from harness.cluster import PREFIXES, Host, NodeSpec, address
from harness.running import Cluster
from harness.sockets import SocketError
from test_ipv6 import CLOSE, WAYS

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


def test_may_be_taken_apart(lab: Lab) -> None:
    """A segment of IPv4 that is too long for a tunnel of IPv6, and may be taken apart, is so by the
    tunnel."""
    cluster = mixed(lab, 4, 'tunnel', named=False)
    front, client = cluster['en'], cluster.client
    client.sysctl('net.ipv4.ip_no_pmtu_disc', '1')
    sock = hand_off(cluster)
    front.run(f'ip -6 route add {cluster["fr"].address}/128 dev eth0 mtu 1300')
    body = bytes(range(256)) * 400
    with front.capture('ip6[6] == 44') as fragments:
        sock.send(request('/fr/upload/', 'POST', body))
        kept(sock.response(), cluster['fr'], body)
    assert fragments.packets(), 'it was not too long'
    sock.close()
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
