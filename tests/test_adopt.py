# SPDX-License-Identifier: GPL-2.0
"""How connections enter a back end's TCP: adopted where that can be, replayed
where not, and the same to the client either way."""

import re
import time
from typing import Any, Iterator

import pytest

from checks import gone, no_flows, request, served, some_long, unbroken
from harness.node import Node
from harness.patience import Patience
from harness.running import Cluster, wait_for
from harness.sockets import Socket

CONNTRACK = '''
table inet stateful {
    chain in {
        type filter hook input priority 0;
        ct state invalid drop
    }
}
'''

# Answers the first request of each connection, and leaves it open.
SERVER = '''
import socket, sys
kind = sys.argv[1]
dual = kind == 'dual-stack'
six = dual or sys.argv[2] == '6'
listeners = []
for _ in range(2 if kind == 'reuseport' else 1):
    s = socket.socket(socket.AF_INET6 if six else socket.AF_INET)
    if six:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if kind == 'reuseport':
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if kind == 'deferred':
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
    if kind == 'saves-syns':
        s.setsockopt(socket.IPPROTO_TCP, 27, 1)
    if kind == 'transparent':
        s.setsockopt(*((socket.IPPROTO_IPV6, 75) if six else (socket.IPPROTO_IP, 19)), 1)
    if kind == 'small-buffer':
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    s.bind(('', 80))
    s.listen(64)
    listeners.append(s)
print('listening', flush=True)
import select
taken = []
while True:
    for s in select.select(listeners, [], [])[0]:
        c = s.accept()[0]
        taken.append(c)
        c.recv(1 << 16)
        c.sendall(b'HTTP/1.1 200 OK\\r\\nX-Node: fr\\r\\nContent-Length: 2\\r\\n\\r\\nhi')
'''


def ask(cluster: Cluster, **options: Any) -> Socket:
    """A connection to en whose request fr has answered."""
    sock = cluster.client.connect(cluster['en'].vip, **options)
    sock.send(request('/fr/1k'))
    answer = sock.response()
    assert (answer.status, answer.node) == (200, 'fr')
    return sock


def migration(back: Node, sock: Socket) -> str:
    """What a back end says of a connection that it serves."""
    [found] = [flow['migration'] for flow in back.flows()
               if flow['client'].endswith(f':{sock.port}')]
    return found


def test_adopted(cluster: Cluster) -> None:
    """By default, and shown where and how."""
    before = cluster['fr'].stats()
    with cluster.client.capture() as capture:
        sock = ask(cluster)
        assert migration(cluster['fr'], sock) == 'adopted'
        [front] = [flow for flow in cluster['en'].flows()
                   if flow['client'].endswith(f':{sock.port}')]
        assert front['migration'] is None
        table = cluster['fr'].ctl('flows').out
        assert re.search(rf':{sock.port} .* adopted ', table)
        port = sock.port
        sock.close()
        no_flows(cluster)
    unbroken(capture.connection(port))
    after = cluster['fr'].stats()
    for name in ('handoffs_in', 'handoffs_in_adopted'):
        assert after[name] == before[name] + 1


@pytest.mark.long
def test_replayed_if_the_service_says_so(fresh: Cluster) -> None:
    """It is the front end's to say."""
    front = fresh['en']
    front.ctl('service', 'del', front.service)
    for words in front.offer(migrate='replay'):
        front.ctl(*words)
    before = fresh['fr'].stats()
    sock = ask(fresh)
    assert migration(fresh['fr'], sock) == 'replay'
    sock.close()
    after = fresh['fr'].stats()
    assert after['handoffs_in'] == before['handoffs_in'] + 1
    assert after['handoffs_in_adopted'] == before['handoffs_in_adopted']


def test_replayed_without_syncookies(cluster: Cluster) -> None:
    """TCP would answer the ACK with a reset."""
    cluster['fr'].sysctl('net.ipv4.tcp_syncookies', '0')
    sock = ask(cluster)
    assert migration(cluster['fr'], sock) == 'replay-syncookies'
    sock.close()


def test_replayed_under_conntrack(cluster: Cluster) -> None:
    """It sees one whole connection."""
    cluster['fr'].nft(CONNTRACK)
    sock = ask(cluster)
    assert migration(cluster['fr'], sock) == 'replay-conntrack'
    sock.send(request('/fr/128k'))
    served(sock.response(), 'fr', '128k')
    sock.close()


@pytest.mark.parametrize('chain', ('prerouting', 'input'))
def test_filtered(cluster: Cluster, chain: str) -> None:
    """What a back end's rules keep out does not come in by adoption: the
    client is served where it arrived."""
    before = cluster['fr'].stats()
    cluster['fr'].nft(f'table inet t {{ chain c {{ type filter hook {chain} '
                      'priority 0; tcp dport 80 drop; }; }')
    sock = cluster.client.connect(cluster['en'].vip)
    sock.send(request('/fr/1k'))
    answer = sock.response()
    assert (answer.status, answer.node) == (200, 'en')
    sock.close()
    cluster['fr'].nft('')
    wait_for(lambda: not cluster['fr'].flows(), 'it is given up')
    assert cluster['fr'].stats()['handoffs_in'] == before['handoffs_in']
    sock = ask(cluster)
    assert migration(cluster['fr'], sock) == 'adopted'
    sock.close()


def test_options_that_are_off(cluster: Cluster) -> None:
    """What was agreed is not allowed at the back end: it does not take the
    connection at all."""
    cluster['fr'].sysctl('net.ipv4.tcp_sack', '0')
    before = cluster['en'].stats()
    sock = cluster.client.connect(cluster['en'].vip)
    sock.send(request('/fr/1k'))
    assert sock.response().node == 'en'
    sock.close()
    after = cluster['en'].stats()
    name = 'handoffs_rejected_options'
    assert after[name] == before[name] + 1


def test_replayed_over_a_time_wait(cluster: Cluster) -> None:
    """TCP knows whether a new connection may take the tuple of an old one."""
    sock = cluster.client.connect(cluster['en'].vip)
    port = sock.port
    sock.send(request('/fr/1k', Connection='close'))
    served(sock.response(), 'fr', '1k')
    sock.close()
    wait_for(lambda: cluster['fr'].sockets(
        f'state time-wait dport = :{port}'), 'fr has it in TIME_WAIT')
    sock = ask(cluster, source=['', port])
    assert migration(cluster['fr'], sock) == 'replay-tuple'
    sock.close()


@pytest.fixture
def server(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A server of one kind in the place of fr's."""
    back = cluster['fr']
    back.nginx.stop()
    process = back.popen(['python3', '-uSc', SERVER, request.param,
                          str(cluster.spec.family)])
    assert process.readline(30) == b'listening\n'
    yield request.param
    process.kill()
    gone(back, 'sport = :80')
    back.nginx.start()


@pytest.mark.parametrize('server, wanted', (
    ('plain', 'adopted'),
    ('dual-stack', 'adopted'),
    ('reuseport', 'adopted'),
    ('deferred', 'adopted'),
    ('saves-syns', 'replay-listener'),
    ('small-buffer', 'replay-window'),
), indirect=['server'])
def test_listeners(cluster: Cluster, server: str, wanted: str) -> None:
    """Each kind of listener gets its connections, by either way."""
    with cluster.client.capture() as capture:
        socks = [ask(cluster) for _ in range(4)]
        found = {migration(cluster['fr'], sock) for sock in socks}
        for sock in socks:
            sock.close()
    assert found == {wanted}, server
    for connection in capture.connections():
        unbroken(connection)


TPROXY = '''
table {ip} t {{
    chain c {{
        type filter hook prerouting priority mangle;
        tcp dport 80 tproxy to :80 accept
    }}
}}
'''


@pytest.mark.parametrize('server', ('transparent',), indirect=True)
def test_chosen_by_a_rule(cluster: Cluster, server: str) -> None:
    """The listener that a rule chooses for a segment is not kept for ever."""
    back = cluster['fr']

    def references() -> str:
        [line] = [line.split() for line in back.run(
            'cat /proc/net/tcp /proc/net/tcp6').out.splitlines()
            if line.split()[1].endswith(':0050') and line.split()[3] == '0A']
        return line[10]

    back.nft(TPROXY.format(ip={4: 'ip', 6: 'ip6'}[cluster.spec.family]))
    before = references()
    socks = [ask(cluster) for _ in range(4)]
    assert {migration(back, sock) for sock in socks} == {'adopted'}, server
    for sock in socks:
        sock.close()
    wait_for(lambda: references() == before, 'nobody refers to the listener')


@pytest.mark.parametrize('way', some_long(('adopted', 'replayed', 'here')))
def test_far_client(fresh: Cluster, way: str) -> None:
    """TCP knows how far the client of a connection is that it gets, though the
    client had been idle, and was near the last time: it sends nothing twice,
    and its time-out is of the order of the round trip."""
    name = 'en' if way == 'here' else 'fr'
    front = fresh['en']
    front.ctl('service', 'set', front.service,
              '--mode', 'frequent' if way == 'here' else 'rare',
              '--migrate', 'replay' if way == 'replayed' else 'adopt')
    served(fresh.client.curl.get(fresh.url('en', f'/{name}/1k')), name, '1k')
    no_flows(fresh)
    fresh.client.link.netem(delay=0.2)
    with fresh.client.capture() as capture:
        sock = fresh.client.connect(fresh['en'].vip)
        time.sleep(3)
        sock.send(request(f'/{name}/128k'))
        served(sock.response(), name, '128k')
        if way == 'adopted':
            assert migration(fresh['fr'], sock) == 'adopted'
        [state] = [line for line in fresh[name].run(
            f'ss -Htinm dport = :{sock.port} | tr "\\n" " "').out.splitlines()]
        port = sock.port
        sock.close()
        no_flows(fresh)
    stream = capture.connection(port)
    unbroken(stream)
    answer = stream.stream(stream.of_server())
    # Where all takes its time, as on the debug kernel, a tail loss probe may be early.
    size = {4: 1448, 6: 1428}[fresh.spec.family]
    spare = 0 if Patience.factor == 1 else size
    assert answer.sent - len(answer.data) <= spare, 'something was sent twice'
    found = {name: float(value) for name, value in re.findall(
        r'\b(rto|rtt|cwnd|mss|retrans):(?:\d+/)?([\d.]+)', state)}
    assert 400 <= found['rtt'] < 1000, state
    assert found['rtt'] < found['rto'] < 2000, state
    assert found['cwnd'] >= 10, state
    assert found['mss'] == size, state
    assert spare or 'retrans' not in found, state
