# SPDX-License-Identifier: GPL-2.0
"""What UTCP does to listeners, and to the connections that it withholds."""

import json
from typing import Callable, Iterator, List

import pytest

from checks import gone, request, served
from harness.node import Node
from harness.paths import INSIDE
from harness.running import Cluster, wait_for
from harness.sockets import Socket, SocketError
from harness.wire import Wire

PORT = 8080
FAMILIES = {4: 'AF_INET', 6: 'AF_INET6'}
ANSWER = b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi'

# Listens, says so, and does what it is told to line by line.
SERVER = '''
import socket, sys
family, protocol, address, backlog = sys.argv[1:]
s = socket.socket(getattr(socket, family), socket.SOCK_STREAM, int(protocol))
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if family == 'AF_INET6':
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
s.bind((address, 8080))
s.listen(int(backlog))
s.settimeout(0.2)
print('listening', flush=True)
taken = []
for line in sys.stdin:
    if line == 'accept\\n':
        try:
            while True:
                taken.append(s.accept()[0])
        except OSError:
            print(len(taken), flush=True)
    elif line == 'accept one\\n':
        taken.append(s.accept()[0])
        print(len(taken), flush=True)
    elif line == 'answer\\n':
        for c in taken:
            c.recv(1000)
            c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nhi')
        print('answered', flush=True)
    elif line == 'close\\n':
        s.close()
        print('closed', flush=True)
'''


# Listens at ports, says so, and closes them when it is told to.
LISTENERS = '''
import socket, sys
family, *ports = sys.argv[1:]
listeners = []
for port in ports:
    listeners.append(socket.socket(getattr(socket, family)))
    listeners[-1].bind(('', int(port)))
    listeners[-1].listen()
print('listening', flush=True)
sys.stdin.readline()
for s in listeners:
    s.close()
print('closed', flush=True)
'''


# Listens, says so, and when it is told to has so many threads wait in accept(), each for one
# connection.
SLEEPERS = '''
import os, socket, sys, threading
family, count = sys.argv[1:]
s = socket.socket(getattr(socket, family))
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('', 8080))
s.listen(2)
print('listening', flush=True)
sys.stdin.readline()
taken = []
together = threading.Barrier(int(count))
def sleeper():
    together.wait()
    taken.append(s.accept()[0])
    os.write(1, b'accepted\\n')
threads = [threading.Thread(target=sleeper) for _ in range(int(count))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
sys.stdin.readline()
'''


class Server:
    """A server on a node that accepts when it is told to."""

    def __init__(self, node: Node, family: str = '',
                 protocol: int = 6, address: str = '', backlog: int = 64
                 ) -> None:
        family = family or FAMILIES[node.cluster.family]
        self._process = node.popen(
            ['python3', '-uSc', SERVER, family, str(protocol), address,
             str(backlog)], stdin=True)
        assert self._process.readline(30) == b'listening\n'

    def end(self) -> None:
        """End the process."""
        self._process.kill()

    def tell(self, word: str) -> str:
        """Have it do something; what it says to that."""
        self._process.write(word.encode() + b'\n')
        return self._process.readline(30).decode().strip()

    def accepted(self) -> int:
        """How many connections it has accepted, now that it has tried."""
        return int(self.tell('accept'))


def listeners(node: Node, port: int) -> str:
    """The listeners of a port, as ss shows them."""
    return node.run(f'ss -tlnieH sport = :{port}').out


@pytest.fixture
def node(fresh: Cluster) -> Node:
    """A node with a second service, to which nobody listens yet."""
    found = fresh['en']
    service = found.at(PORT)
    found.ctl('service', 'add', service)
    found.ctl('rule', 'add', service, '--path', '/fr/', '--node', 'fr')
    return found


@pytest.fixture
def serve(node: Node) -> Iterator[Callable[..., Server]]:
    """Makes servers on that node, which end with the test."""
    servers = []

    def make(**options) -> Server:
        servers.append(Server(node, **options))
        return servers[-1]
    yield make
    for server in servers:
        server.end()


def connect(cluster: Cluster, count: int) -> List[Socket]:
    """Connections of the client's to the second service."""
    return [cluster.client.connect(cluster['en'].vip, port=PORT)
            for _ in range(count)]


def withheld(node: Node, count: int) -> None:
    """So many are withheld."""
    wait_for(lambda: node.stats()['withheld'] == count, f'{count} withheld')


def overfill(cluster: Cluster, node: Node, count: int) -> List[Socket]:
    """So many connections that are released at a backlog of 2: all but three have to wait."""
    socks = connect(cluster, count)
    withheld(node, count)
    for sock in socks:
        sock.send(request('/en/'))
    wait_for(lambda: node.stats()['connections_released_late'] == count - 3, 'some wait')
    return socks


def test_label(fresh: Cluster) -> None:
    """An attached listener says so, until the module goes."""
    assert 'tcp-ulp-carisma' in listeners(fresh['en'], 80)
    fresh.unload()
    assert 'tcp-ulp-carisma' not in listeners(fresh['en'], 80)


@pytest.mark.ipv6(long=True)
def test_listener_that_comes_later(
        fresh: Cluster, node: Node, serve: Callable[..., Server]) -> None:
    """A listener is attached as it begins to listen; a connection is accepted
    when its first request is to be served here, and not before."""
    server = serve()
    assert 'tcp-ulp-carisma' in listeners(node, PORT)
    sock, = connect(fresh, 1)
    withheld(node, 1)
    assert server.accepted() == 0
    sock.send(request('/en/'))
    withheld(node, 0)
    assert server.accepted() == 1
    assert server.tell('answer') == 'answered'
    assert sock.some(len(ANSWER)).data == ANSWER


def test_dual_stack(
        fresh: Cluster, node: Node, serve: Callable[..., Server]) -> None:
    """A listener of IPv6 that takes IPv4 as well is no exception."""
    server = serve(family='AF_INET6', address='::')
    sock, = connect(fresh, 1)
    withheld(node, 1)
    assert server.accepted() == 0
    sock.send(request('/en/'))
    withheld(node, 0)
    assert server.accepted() == 1


@pytest.mark.long
def test_mptcp(
        fresh: Cluster, node: Node, serve: Callable[..., Server]) -> None:
    """A listener of MPTCP is left alone, and serves."""
    server = serve(protocol=262)
    assert 'tcp-ulp-carisma' not in listeners(node, PORT)
    assert node.stats()['listeners_skipped_mptcp'] == 1
    sock, = connect(fresh, 1)
    sock.send(request('/en/'))
    wait_for(lambda: server.accepted() == 1, 'accepted')


@pytest.mark.long
def test_client_gives_up(
        fresh: Cluster, node: Node, serve: Callable[..., Server]) -> None:
    """A client that resets a withheld connection leaves nothing."""
    server = serve()
    for sock in connect(fresh, 5):
        sock.reset()
    wait_for(lambda: node.stats()['connections_died'] == 5, 'all are dead')
    withheld(node, 0)
    assert server.accepted() == 0
    gone(node, f'sport = :{PORT}')


def test_client_closes(
        fresh: Cluster, node: Node, serve: Callable[..., Server]) -> None:
    """A client that closes a withheld connection without a request."""
    serve()
    for sock in connect(fresh, 5):
        sock.close()
    wait_for(lambda: not fresh.live_flows(), 'flows are gone', 30)
    withheld(node, 0)


def test_backlog(
        fresh: Cluster, node: Node, serve: Callable[..., Server]) -> None:
    """More are released than the backlog allows: the rest waits, in order."""
    server = serve(backlog=2)
    socks = connect(fresh, 12)
    withheld(node, 12)
    for sock in socks:
        sock.send(request('/en/'))
    wait_for(lambda: node.stats()['connections_released'] == 12, 'released')
    queued = int(listeners(node, PORT).split()[1])
    assert queued == 3, 'TCP takes one more than the backlog says'
    assert node.stats()['connections_released_late'] == 9
    wait_for(lambda: server.accepted() == 12, 'accepted')
    assert server.tell('answer') == 'answered'
    for sock in socks:
        assert sock.some(len(ANSWER)).data == ANSWER


def test_backlog_while_some_wait(
        fresh: Cluster, node: Node, serve: Callable[..., Server]) -> None:
    """TCP does not know of those that wait: it takes no more while they do, even if its queue has
    room for a moment."""
    overflows = 'TcpExtListenOverflows'
    server = serve(backlog=2)
    wire = Wire(fresh)
    peers = [wire.peer('en', PORT) for _ in range(3)]
    for peer in peers:
        peer.greet()
        peer.next = 1
    socks = overfill(fresh, node, 12)
    before = node.counter(overflows)[overflows]
    with fresh.kernels[0].delayed(carisma_utcp__carisma_helper_acceptq_append=400):
        assert server.tell('accept one') == '1'
        for peer in peers:
            peer.send('A')
        wait_for(lambda: node.counter(overflows)[overflows] >= before + 3, 'none was taken')
        assert node.stats()['withheld'] == 0
    wait_for(lambda: server.accepted() == 12, 'accepted')
    for peer in peers:
        peer.send('PA', request('/en/'))
    wait_for(lambda: server.accepted() == 15, 'they are, too')
    assert server.tell('answer') == 'answered'
    for sock in socks:
        assert sock.some(len(ANSWER)).data == ANSWER
    for peer in peers:
        peer.until(lambda: peer.stream.data == ANSWER, 'an answer')
        assert not peer.reset(), str(peer)
        peer.quit()
    wire.stop()


def test_sleepers(fresh: Cluster, node: Node) -> None:
    """Each connection wakes one of those that sleep in accept(), also one that waited for room."""
    server = node.popen(['python3', '-uSc', SLEEPERS, FAMILIES[node.cluster.family], '9'],
                        stdin=True)
    assert server.readline(30) == b'listening\n'
    try:
        socks = overfill(fresh, node, 9)
        # Meanwhile all of them have emptied the queue, and sleep.
        with fresh.kernels[0].delayed(carisma_utcp__carisma_helper_acceptq_append=100):
            server.write(b'accept\n')
            for _ in socks:
                assert server.readline(30) == b'accepted\n'
    finally:
        server.kill()


@pytest.mark.family(4)
@pytest.mark.parametrize('mode', ('rare', 'frequent'))
def test_backlog_of_requests_at_once(
        fresh: Cluster, node: Node, serve: Callable[..., Server], mode: str) -> None:
    """TCP makes no socket of a request that ends its handshake while its queue is full: the
    client's next try finds it emptier."""
    node.ctl('service', 'set', node.at(PORT), '--mode', mode)
    server = serve(backlog=2)
    wire = Wire(fresh)
    peers = [wire.peer('en', PORT) for _ in range(6)]
    for peer in peers:
        peer.greet()
        peer.next = 1
    for peer in peers:
        peer.send('PA', request('/en/'))
    wait_for(lambda: int(listeners(node, PORT).split()[1]) == 3, 'it is full')
    assert server.accepted() == 3
    for peer in peers:
        peer.send('PA', request('/en/'), seq=1)
    wait_for(lambda: server.accepted() == 6, 'accepted')
    assert server.tell('answer') == 'answered'
    for peer in peers:
        peer.until(lambda: peer.stream.data == ANSWER, 'an answer')
        assert not peer.reset() and not peer.wrong(), str(peer)
        peer.quit()
    wire.stop()


@pytest.mark.long
def test_backlog_as_others_close(
        fresh: Cluster, node: Node, serve: Callable[..., Server]) -> None:
    """Listeners before one that has some waiting close while all are looked at: they wait no longer
    for that."""
    ports = [str(PORT + n) for n in range(1, 11)]
    for port in ports:
        node.ctl('service', 'add', node.at(int(port)))
    others = node.popen(['python3', '-uSc', LISTENERS, FAMILIES[node.cluster.family], *ports],
                        stdin=True)
    assert others.readline(30) == b'listening\n'
    server = serve(backlog=2)
    overfill(fresh, node, 6)
    with fresh.kernels[0].delayed(carisma_helper_acceptq_is_full=50):
        others.write(b'close\n')
        assert others.readline(30) == b'closed\n'
        wait_for(lambda: server.accepted() == 6, 'accepted')
    assert others.wait(30) == 0


def test_listener_closes(
        fresh: Cluster, node: Node, serve: Callable[..., Server]) -> None:
    """Withheld connections end as TCP ends those that wait for accept()."""
    server = serve()
    socks = connect(fresh, 5)
    withheld(node, 5)
    assert server.tell('close') == 'closed'
    withheld(node, 0)
    for sock in socks:
        with pytest.raises(SocketError) as problem:
            sock.some(1, timeout=10)
        assert problem.value.kind == 'ConnectionResetError'
    assert node.stats()['connections_given_back'] == 5


@pytest.mark.long
def test_unload(
        fresh: Cluster, node: Node, serve: Callable[..., Server]) -> None:
    """Withheld connections are accepted when the module goes, whatever the
    backlog."""
    server = serve(backlog=2)
    socks = connect(fresh, 12)
    withheld(node, 12)
    fresh.unload()
    assert server.accepted() == 12
    for sock in socks:
        sock.send(request('/en/'))
    assert server.tell('answer') == 'answered'
    for sock in socks:
        assert sock.some(len(ANSWER)).data == ANSWER


@pytest.mark.ipv6(long=True)
def test_syn_cookies(fresh: Cluster) -> None:
    """Connections that come by SYN cookies of TCP's are withheld like others."""
    fresh['en'].ctl('service', 'set', fresh['en'].service, '--mode', 'rare')
    for node in fresh.nodes:
        node.sysctl('net.ipv4.tcp_syncookies', '2')
        node.run('nstat -n')
    before = fresh['en'].stats()
    for language in ('en', 'fr') * 5:
        sock = fresh.client.connect(fresh['en'].vip)
        wait_for(lambda: fresh['en'].stats()['withheld'] == 1, 'it is withheld')
        sock.send(request(f'/{language}/1k'))
        served(sock.response(), language, '1k')
        sock.close()
    after = fresh['en'].stats()
    for name, count in (('connections_withheld', 10), ('requests_local', 5),
                        ('handoffs_accepted', 5)):
        assert after[name] - before[name] == count, name
    assert 'SyncookiesRecv' in fresh['en'].run('nstat -s').out
    sock = fresh.client.connect(fresh['en'].vip)
    wait_for(lambda: fresh['en'].stats()['withheld'] == 1, 'it is withheld')
    fresh['en'].nginx.stop()
    with pytest.raises(SocketError):
        sock.send(request('/en/1k'))
        sock.response()
    fresh['en'].nginx.start()


@pytest.mark.parametrize('language', ('en', 'fr'))
@pytest.mark.long
@pytest.mark.ipv6
def test_twins(fresh: Cluster, language: str) -> None:
    """Two processors have the segment that ends a handshake at the same time,
    and TCP makes two sockets, of which it drops one: nothing comes of that."""
    node, client = fresh['en'], fresh.client
    source, count = fresh.spec.at(77), 300
    for one in fresh.nodes:
        one.run(f'ip neigh replace {source} lladdr {client.host.mac} dev eth0 '
                'nud permanent')
    told = json.loads(client.run(
        ['python3', '-S', f'{INSIDE}/twins.py', 'eth0', client.host.mac,
         node.host.mac, source, node.vip, '80', str(count),
         f'/{language}/1k'], timeout=300).out)
    for one in fresh.nodes:
        one.run(f'ip neigh del {source} dev eth0')
    assert told['answered'] == count
    stats = node.stats()
    assert stats['connections_twin'] > 0
    wait_for(lambda: not fresh.live_flows(), 'all flows have gone')
    gone(node, 'sport = :80')
