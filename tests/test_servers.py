# SPDX-License-Identifier: GPL-2.0
"""Unmodified servers of many makes, in front and behind.

Each runs on two nodes: what is for the other is handed off and accepted there
by the same make. The one that is left alone says so by serving everything
where it arrives.
"""

from typing import Callable, Dict, Iterator, List

import pytest

from checks import all_right, gone, no_flows, request, sha256, some_long
from harness.cluster import Rule
from harness.inside.documents import document
from harness.load import Load
from harness.paths import INSIDE
from harness.running import Cluster, wait_for
from harness.servers import MAKES, Server, compile_uring
from harness.sockets import SocketError

PORT = 8080
PATHS = ('/en/1k', '/fr/1k', '/fr/128k')
COUNT = 60

# Whether listeners are attached whose connections stay where they arrive:
# those of Multipath TCP are not.
LEFT_ALONE = {'go-multipath': False}
SHORT = ('apache-event', 'go', 'epoll', 'io_uring')
OTHERS = ('ktls', 'signed', 'signed-ao')     # with tests of their own

Start = Callable[..., List[Server]]


@pytest.fixture
def front(cluster: Cluster) -> Iterator[str]:
    """The service at the second port, of `en` and `fr`; the former's
    address."""
    with cluster.offering(PORT, [Rule(f'/{name}/', name) for name in ('en', 'fr')]):
        yield cluster['en'].at(PORT)


@pytest.fixture
def start(cluster: Cluster, front: str) -> Iterator[Start]:
    """Starts a server of that make on both nodes, or of another make on
    `fr`."""
    running: List[Server] = []

    def both(make: str, behind: str = '') -> List[Server]:
        new = [Server(cluster['en'], make, PORT),
               Server(cluster['fr'], behind or make, PORT)]
        running.extend(new)
        for server in new:
            server.wait()
        return new
    yield both
    for server in running:
        server.stop()
    no_flows(cluster)


def counted(cluster: Cluster, before: Dict[str, int], name: str) -> int:
    """By how much a counter of the front end's has grown."""
    return cluster['en'].stats()[name] - before[name]


@pytest.mark.parametrize(
    'make', some_long([make for make in MAKES if make not in (*LEFT_ALONE, *OTHERS)], *SHORT))
def test_make(cluster: Cluster, front: str, start: Start, make: str) -> None:
    """Connections that end in each way, here and there, several at once."""
    if make == 'io_uring':
        compile_uring()
    if make == 'fastopen':
        for name in ('en', 'fr'):
            cluster[name].sysctl('net.ipv4.tcp_fastopen', '3')
    for server in start(make):
        assert 'tcp-ulp-carisma' in server.listeners()
    before = cluster['en'].stats()
    answers = Load(cluster.client, front, PATHS, threads=6, count=COUNT
                   ).end()
    assert sum(answers.values()) == COUNT
    all_right(answers, '/en/1k', 'en')
    all_right(answers, '/fr/1k', 'fr')
    all_right(answers, '/fr/128k', 'fr')
    assert counted(cluster, before, 'handoffs_accepted') == 2 * COUNT // 3


@pytest.mark.parametrize('make', LEFT_ALONE)
def test_left_alone(cluster: Cluster, front: str, start: Start, make: str
                    ) -> None:
    """These serve all that they get."""
    for server in start(make):
        assert LEFT_ALONE[make] == ('tcp-ulp-carisma' in server.listeners())
    before = cluster['en'].stats()
    answers = Load(cluster.client, front, PATHS, threads=6, count=COUNT
                   ).end()
    assert sum(answers.values()) == COUNT
    for path in PATHS:
        all_right(answers, path, 'en')
    assert counted(cluster, before, 'handoffs_started') == 0


@pytest.mark.long
def test_deferred_by_one(
        cluster: Cluster, front: str, start: Start) -> None:
    """TCP_DEFER_ACCEPT at one end only; the handoff has its socket without
    data, and loses no time."""
    for makes in (('blocking', 'defer'), ('defer', 'blocking')):
        servers = start(*makes)
        before = cluster['en'].stats()
        answers = Load(cluster.client, front, PATHS, threads=6, count=6).end()
        all_right(answers, '/en/1k', 'en')
        all_right(answers, '/fr/1k', 'fr')
        assert counted(cluster, before, 'handoffs_accepted') == 4
        for server in servers:
            server.stop()


@pytest.mark.long
def test_deferred_until_there_is_data(
        cluster: Cluster, front: str, start: Start) -> None:
    """A client that says nothing is not shown to a server that wants to see
    none such."""
    start('defer')
    node = cluster['en']
    sock = cluster.client.connect(node.vip, port=PORT)
    cluster.client.run('sleep 0.5')
    assert [line.split()[0] for line in node.sockets(
        f'sport = :{PORT} and dport = :{sock.port}')] == ['SYN-RECV']
    assert node.stats()['withheld'] == 0
    sock.send(request('/fr/1k'))
    assert sock.response().sha256 == sha256('fr', '1k')
    sock.close()


@pytest.mark.parametrize('kind', some_long(('signed', 'signed-ao'), 'signed-ao'))
def test_signed(cluster: Cluster, front: str, start: Start, kind: str) -> None:
    """Connections that are signed (RFC 2385, RFC 5925) are left to the node
    where they arrive: nobody but TCP can make or change a segment of theirs."""
    start(kind)
    before = cluster['en'].stats()
    for piece in (65_536, 9):
        told = cluster.client.run(
            ['python3', '-S', f'{INSIDE}/server.py', 'ask-signed', kind,
             front, '/fr/1k', str(piece)]).out
        assert told == f'/fr/1k 200 {sha256("en", "1k")}\n'
    assert counted(cluster, before, 'flows_refused_options') == 2
    assert counted(cluster, before, 'handoffs_started') == 0


@pytest.mark.ipv6(long=True)
def test_keep_alive(cluster: Cluster, front: str, start: Start) -> None:
    """A server that serves several requests on a connection that it did not
    see begin; the client closes."""
    start('apache-event')
    for language in ('en', 'fr'):
        sock = cluster.client.connect(cluster['en'].vip, port=PORT)
        for name in ('1k', '128k', '1k'):
            sock.send(request(f'/{language}/{name}'))
            assert sock.response().sha256 == sha256(language, name)
        sock.close()


def test_kernel_tls(cluster: Cluster, front: str, start: Start) -> None:
    """A server may put kTLS on what it has accepted."""
    start('ktls')
    before = cluster['en'].stats()
    for path, node in (('/en/1k', 'en'), ('/fr/1k', 'fr'),
                       ('/fr/128k', 'fr')):
        told = cluster.client.run(
            ['python3', '-S', f'{INSIDE}/server.py', 'ask-ktls', front,
             path]).out
        assert told == f'{path} 200 {sha256(node, path[4:])}\n'
    assert counted(cluster, before, 'handoffs_accepted') == 2


@pytest.mark.long
def test_bound_server_hears_later(cluster: Cluster, front: str, start: Start
                                  ) -> None:
    """A socket whose listener is bound to a device is given what was held
    until it has it, like any other."""
    start('bound')
    node = cluster['en']
    before, raw = node.stats(), request('/en/1k')
    sock = cluster.client.connect(node.vip, port=PORT)
    sock.send(raw[:10], delay=0.3)
    node.nft('table inet t { chain c { type filter hook input priority 0; '
             f'tcp dport {PORT} meta length > 80 drop; }}; }}')
    sock.send(raw[10:], delay=0.5)
    node.nft('')
    assert sock.response().sha256 == sha256('en', '1k')
    sock.close()
    assert counted(cluster, before, 'held_repeated') > 0


@pytest.mark.long
def test_bound_and_not_withheld(cluster: Cluster, front: str, start: Start
                                ) -> None:
    """A socket that the first data make, instead of the handshake's ACK, and
    that is beyond the bound, serves at once."""
    start('bound')
    node, client = cluster['en'], cluster.client
    node.knob('withheld_max', 0)
    client.nft('table inet t { chain c { type filter hook output priority 0; '
               f'tcp dport {PORT} tcp flags == ack meta length < 80 drop; }}; }}')
    sock = client.connect(node.vip, port=PORT)
    sock.send(request('/fr/1k'))
    client.nft('')
    try:
        assert sock.response().sha256 == sha256('en', '1k')
    finally:
        node.knob('withheld_max', 65_536)
    sock.close()


def test_bound_and_drained(cluster: Cluster, front: str, start: Start) -> None:
    """`drain --force` ends sockets that are bound to a device, too."""
    start('bound')
    sock = cluster.client.connect(cluster['en'].vip, port=PORT)
    sock.send(request('/fr/1k'))
    assert sock.response().sha256 == sha256('fr', '1k')
    back = cluster['fr']
    back.ctl('drain', '--force')
    with pytest.raises(SocketError, match='ConnectionResetError'):
        sock.receive()
    gone(back, f'sport = :{PORT}')
    back.ctl('resume')


KILL_ONE = ('parent=$(pgrep -of "server.py group"); '
            'kill -9 $(pgrep -P $parent | head -n 1)')


@pytest.mark.long
def test_listeners_of_a_group_close(
        cluster: Cluster, front: str, start: Start) -> None:
    """With `tcp_migrate_req`, another listener of the group serves what one
    that closes had not accepted: also what was withheld."""
    cluster['en'].sysctl('net.ipv4.tcp_migrate_req', '1')
    start('group')
    socks = [cluster.client.connect(cluster['en'].vip, port=PORT)
             for _ in range(12)]
    wait_for(lambda: cluster['en'].stats()['withheld'] == 12, '12 withheld')
    before = cluster['en'].stats()
    cluster['en'].run(KILL_ONE)
    wait_for(lambda: counted(cluster, before, 'connections_given_back') > 0,
             'some are given back')
    for sock in socks:
        sock.send(request('/en/1k'))
        answer = sock.response()
        assert answer.status == 200
        assert answer.data == document('en', '1k')
        sock.close()


@pytest.mark.long
def test_handshakes_of_a_group_close(
        cluster: Cluster, front: str, start: Start) -> None:
    """With `tcp_migrate_req`, a handshake that a listener began which closes is
    ended by another of the group: what comes of it is withheld and handed
    off."""
    node, client = cluster['en'], cluster.client
    node.sysctl('net.ipv4.tcp_migrate_req', '1')
    raw = request('/fr/1k')
    for _ in range(5):
        servers = start('group')
        before = node.stats()
        client.nft('table inet t { chain c { type filter hook output priority 0; '
                   f'tcp dport {PORT} tcp flags & (syn | ack) == ack drop; }}; '
                   '}')
        socks = [client.connect(node.vip, port=PORT) for _ in range(8)]
        node.run(f'nstat -n; {KILL_ONE}')
        client.nft('')
        for sock in socks:
            sock.send(raw)
        for sock in socks:
            assert sock.response().sha256 == sha256('fr', '1k')
            sock.close()
        assert counted(cluster, before, 'handoffs_accepted') == len(socks)
        # The timer of a SYN-ACK gives a handshake to the other as well.
        if 'Migrate' not in node.run('nstat -s').out:
            break
        for server in servers:
            server.stop()
    else:
        pytest.fail('the timer was always first')
