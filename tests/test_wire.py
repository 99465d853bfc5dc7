# SPDX-License-Identifier: GPL-2.0
"""What passes on the wires, and which sockets there are."""

from typing import Tuple

import pytest

from checks import bypassed, gone, no_flows, request, served, some_long, unbroken
from conftest import Lab
from harness.pcap import Checksum
from harness.running import Cluster, wait_for
from harness.sockets import SocketError

BOTH = pytest.mark.parametrize('language', ('en', 'fr'))


def test_responses_go_straight_to_the_client(cluster: Cluster) -> None:
    """No payload of a handed-off response crosses the front end's wire."""
    with cluster['en'].capture() as front, \
            cluster['fr'].capture() as back, \
            cluster.client.capture() as client:
        answers = cluster.client.curl.fetch(
            [cluster.url('en', '/fr/128k'), cluster.url('fr', '/fr/1k')],
            options='-H "Connection: close"')
    port = answers[0].port
    for answer, name in zip(answers, ('128k', '1k')):
        served(answer, 'fr', name)
        unbroken(client.connection(answer.port))
    bypassed(front, port)
    # They leave the back end with the address that the client knows.
    assert {s.source for s in back.segments
            if s.destination[1] == port and s.length} == {
                (cluster['en'].vip, 80)}
    assert client.connection(port).response_bytes() >= 128 << 10
    # Nobody told the client to go elsewhere.
    assert not any(cluster.client.counter(
        'IcmpInMsgs', 'Icmp6InDestUnreachs', 'Icmp6InPktTooBigs',
        'Icmp6InRedirects').values())


@BOTH
def test_one_unbroken_connection(cluster: Cluster, language: str) -> None:
    """The client cannot tell a handoff from an ordinary answer."""
    with cluster.client.capture() as capture:
        answers = cluster.client.curl.fetch(
            [cluster.url('en', f'/{language}/{name}')
             for name in ('1k', '20m', 'empty')])
    for answer, name in zip(answers, ('1k', '20m', 'empty')):
        served(answer, language, name)
    connection, = capture.connections()
    unbroken(connection)


@pytest.mark.parametrize('features', some_long((
    {'tx': False},
    {'tso': False, 'gso': False, 'gro': False},
    {'tso': True, 'gso': True, 'gro': True},
), {'tx': False}), ids=('software-checksums', 'no-offload', 'offload'))
def test_offloads(bare: Cluster, lab: Lab, features) -> None:
    """Segments of any size, with checksums finished or left to do."""
    for host in bare.hosts.values():
        host.offload(**features)
    bare.start_servers()
    lab.enable(bare)
    bare.client.run('head -c 300000 /dev/urandom >/tmp/carisma/body')
    with bare.client.capture() as capture, bare['fr'].capture() as back:
        answers = bare.client.curl.fetch(
            [bare.url('en', f'/{language}/{name}') for language in
             ('en', 'fr') for name in ('1k', '128k')],
            options='-H "Connection: close"')
        posted = bare.client.curl.get(
            bare.url('en', '/fr/upload/'),
            options='--data-binary @/tmp/carisma/body')
    for answer, language in zip(answers, ('en', 'en', 'fr', 'fr')):
        assert (answer.status, answer.node) == (200, language)
    assert (posted.status, posted.node) == (200, 'fr')
    for connection in capture.connections():
        unbroken(connection)
    if features.get('tx') is False:
        for segment in capture.segments + back.segments:
            assert segment.checksum is Checksum.VALID, segment
    for host in bare.hosts.values():
        assert not any(host.counter(
            'TcpInCsumErrors', 'IpInHdrErrors', 'Ip6InHdrErrors').values()), host.name


@pytest.mark.parametrize('without', some_long((
    ('timestamps',), ('sack',), ('window_scaling',),
    ('timestamps', 'sack', 'window_scaling')),
    ('timestamps', 'sack', 'window_scaling')), ids='-'.join)
def test_options_of_the_client(cluster: Cluster, without: Tuple[str, ...]
                               ) -> None:
    """Clients differ in the options that they know."""
    for option in without:
        cluster.client.sysctl(f'net.ipv4.tcp_{option}', '0')
    with cluster.client.capture() as capture:
        answers = cluster.client.curl.fetch(
            [cluster.url('en', f'/{language}/128k')
             for language in ('en', 'fr')],
            options='-H "Connection: close"')
    for answer, language in zip(answers, ('en', 'fr')):
        served(answer, language, '128k')
        unbroken(capture.connection(answer.port))


def test_congestion_notification(cluster: Cluster) -> None:
    """A client that offers ECN is served where it should be."""
    cluster.client.sysctl('net.ipv4.tcp_ecn', '1')
    with cluster.client.capture() as capture:
        answer = cluster.client.curl.get(cluster.url('en', '/fr/128k'))
    served(answer, 'fr', '128k')
    unbroken(capture.connection(answer.port))


@pytest.mark.long
def test_other_windows_at_the_back_end(bare: Cluster, lab: Lab) -> None:
    """Two nodes that would choose different window scales."""
    bare['fr'].run('sysctl -qw net.ipv4.tcp_rmem="4096 131072 67108864"')
    bare['de'].run('sysctl -qw net.ipv4.tcp_rmem="4096 16384 65535"')
    bare.start_servers()
    lab.enable(bare)
    bare.client.run('head -c 2000000 /dev/urandom >/tmp/carisma/body')
    for language in ('fr', 'de'):
        with bare.client.capture() as capture:
            answer = bare.client.curl.get(
                bare.url('en', f'/{language}/upload/'),
                options='--data-binary @/tmp/carisma/body')
        assert (answer.status, answer.node) == (200, language)
        connection = capture.connection(answer.port)
        unbroken(connection)
        assert sum(s.length for s in connection.of_client()) < 2_200_000


def test_no_socket_at_the_front_end(cluster: Cluster) -> None:
    """After the handoff only the back end has a socket; in frequent mode the
    front end has none before it either."""
    sock = cluster.client.connect(cluster['en'].vip)
    mine = f'dport = :{sock.port}'
    rare = cluster.spec.mode == 'rare'
    assert len(cluster['en'].sockets(mine)) == rare
    sock.send(request('/fr/1k'))
    served(sock.response(), 'fr', '1k')
    assert not cluster['en'].sockets(mine)
    assert len(cluster['fr'].sockets(mine)) == 1
    for node, role in (('en', 'front-end'), ('fr', 'back-end')):
        flow, = cluster.live_flows()[node]
        assert (flow['role'], flow['state'], flow['client']) == (
            role, 'handed-off', sock.endpoint)
    sock.close()
    gone(cluster['fr'], mine)
    gone(cluster.client, f'sport = :{sock.port}')
    no_flows(cluster)


@BOTH
@pytest.mark.parametrize('way', ('client', 'server', 'reset'))
def test_ways_to_close(cluster: Cluster, language: str, way: str) -> None:
    """Whoever ends a connection, nothing is left of it."""
    with cluster.client.capture() as capture:
        sock = cluster.client.connect(cluster['en'].vip)
        more = {'Connection': 'close'} if way == 'server' else {}
        sock.send(request(f'/{language}/1k', **more))
        served(sock.response(), language, '1k')
        if way == 'server':
            assert sock.receive().size == 0
        (sock.reset if way == 'reset' else sock.close)()
        for node in cluster.nodes:
            gone(node, f'dport = :{sock.port}')
        gone(cluster.client, f'sport = :{sock.port}')
    unbroken(capture.connection(sock.port), reset=way == 'reset')
    no_flows(cluster)


@BOTH
def test_reset_by_the_server(cluster: Cluster, language: str) -> None:
    """A server that crashes with unread bytes resets the connection, in the
    name of the address that the client knows."""
    node = cluster[language]
    with cluster.client.capture() as capture:
        sock = cluster.client.connect(cluster['en'].vip)
        sock.send(request(f'/{language}/1k'))
        served(sock.response(), language, '1k')
        node.nginx.freeze()
        sock.send(request(f'/{language}/1k'), delay=0.1)
        node.nginx.crash()
        node.nginx.start()
        with pytest.raises(SocketError, match='ConnectionResetError'):
            sock.receive()
        gone(node, f'dport = :{sock.port}')
    assert {s.source for s in capture.segments
            if s.destination[1] == sock.port} == {(cluster['en'].vip, 80)}
    unbroken(capture.connection(sock.port), reset=True)
    no_flows(cluster)


@pytest.mark.long
def test_close_before_the_head(cluster: Cluster) -> None:
    """A client that goes away before it asked leaves nothing behind."""
    client, front = cluster.client, cluster['en']
    for part in (b'', b'GET /fr/1k HT'):
        for way in ('close', 'reset'):
            sock = client.connect(front.vip)
            if part:
                sock.send(part, delay=0.2)
            getattr(sock, way)()
            gone(front, f'dport = :{sock.port}')
            gone(client, f'sport = :{sock.port}')
    no_flows(cluster)
    wait_for(lambda: front.stats()['withheld'] == 0, 'none is withheld')


def test_port_is_used_again(cluster: Cluster) -> None:
    """A new connection from the same port is a new connection."""
    client = cluster.client
    for language in ('fr', 'de', 'en', 'fr'):
        for way in ('reset', 'close'):
            sock = client.connect(
                cluster['en'].vip, source=(client.address, 40000))
            sock.send(request(f'/{language}/1k'))
            served(sock.response(), language, '1k')
            getattr(sock, way)()
            client.run('ss -K state time-wait sport = :40000 >/dev/null')
    no_flows(cluster)
