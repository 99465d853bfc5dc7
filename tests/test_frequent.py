# SPDX-License-Identifier: GPL-2.0
"""Frequent mode: a client's handshake is with BTCP, which keeps nothing of it,
and TCP gets what is served where it arrived."""

import time
from typing import Dict, Iterator, List

import pytest

from checks import (STRANGERS, all_right, gone, no_flows, request, served, sha256,
                    some_long, unbroken)
from conftest import Lab
from harness.flood import flooded
from harness.load import Load
from harness.node import Node
from harness.running import Cluster, wait_for
from harness.wire import Wire

CONNTRACK = '''
table inet stateful {
    chain in {
        type filter hook input priority 0;
        ct state invalid drop
    }
}
'''


@pytest.fixture
def often(site: Cluster, lab: Lab) -> Cluster:
    """The site, with its services in frequent mode."""
    lab.enable(site)
    for node in site.nodes:
        node.ctl('service', 'set', node.service, '--mode', 'frequent')
    return site


@pytest.fixture
def wire(often: Cluster) -> Iterator[Wire]:
    """A client whose segments the test makes."""
    found = Wire(often)
    yield found
    found.stop()


def counted(node: Node, before: Dict[str, int]) -> Dict[str, int]:
    """What its cookies' counters came to since."""
    after = node.stats()
    return {name[len('cookies_'):]: after[name] - before[name]
            for name in after
            if name.startswith('cookies_') and after[name] != before[name]}


def states(node: Node, port: int) -> List[str]:
    """What a node's flows of a client's port are at."""
    return [flow['state'] for flow in node.flows()
            if flow['client'].endswith(f':{port}')]


def test_local(often: Cluster) -> None:
    """TCP hears of a connection when its request is known, and from then on
    nobody else has to do with it."""
    front = often['en']
    before = front.stats()
    with often.client.capture() as capture:
        sock = often.client.connect(front.vip)
        wait_for(lambda: states(front, sock.port) == ['head'], 'it is open')
        assert not front.sockets(f'dport = :{sock.port}')
        for size in ('1k', '128k'):
            sock.send(request(f'/en/{size}'))
            served(sock.response(), 'en', size)
        assert front.sockets(f'dport = :{sock.port}')
        assert not states(front, sock.port)
        port = sock.port
        sock.close()
        gone(front, f'dport = :{port}')
    unbroken(capture.connection(port))
    assert counted(front, before) == {'sent': 1, 'answered': 1, 'adopted': 1}


def test_answered_at_once(often: Cluster, wire: Wire) -> None:
    """The server may answer on one processor before the other has seen that TCP has the
    connection: nothing of that is lost."""
    front = often['en']
    before = front.stats()['packets_dropped_stale']
    pin = (f'for it in $(pgrep -P $(cat {front.nginx.folder}/pid)); do taskset -p %d $it; done; '
           'echo %d >/sys/class/net/eth0/queues/rx-0/rps_cpus')
    front.run(pin % (1, 2))
    try:
        with front.kernel.delayed(carisma_btcp__carisma_helper_connection_is_live=50):
            peer = wire.peer('en')
            peer.greet()
            peer.next = 1
            peer.send('PA', request('/en/1k'))
            peer.until(lambda: len(peer.stream.data) > 1024, 'an answer')
    finally:
        front.run(pin % (3, 0))
    assert not peer.reset() and not peer.wrong(), str(peer)
    peer.quit()
    no_flows(often)
    assert front.stats()['packets_dropped_stale'] == before


def test_handed_off(often: Cluster) -> None:
    """The front end's TCP never hears of it."""
    front, back = often['en'], often['fr']
    before = front.stats()
    with often.client.capture() as capture:
        sock = often.client.connect(front.vip)
        for size in ('1k', '128k'):
            sock.send(request(f'/fr/{size}'))
            served(sock.response(), 'fr', size)
        assert not front.sockets(f'dport = :{sock.port}')
        [migration] = [flow['migration'] for flow in back.flows()
                       if flow['client'].endswith(f':{sock.port}')]
        assert migration == 'adopted'
        port = sock.port
        sock.close()
        no_flows(often)
    unbroken(capture.connection(port))
    assert counted(front, before) == {'sent': 1, 'answered': 1}


def late_copy(often: Cluster, wire: Wire, language: str) -> None:
    """The client's first segment, once more when all is over, is served no more."""
    front, path = often['en'], f'/{language}/1k?once'
    head = request(path)
    peer = wire.peer('en').open()
    peer.send('PA', head)
    peer.until(lambda: len(peer.stream.data) > 1024, 'an answer')
    # Nobody has it in TIME_WAIT then.
    peer.quit()
    no_flows(often, timeout=30)
    gone(often[language], f'dport = :{peer.port}')
    # The front end knows what is over for a while, and forwards it still.
    wait_for(lambda: not front.flows(), 'it is forgotten')
    before = front.stats()
    peer.post(peer.frames('PA', head, seq=1, ack=1), wait=5, count=1)
    assert peer.reset()
    assert counted(front, before) == {'used': 1}
    assert sum(path in line.request for line in often[language].nginx.log()) == 1


@pytest.mark.parametrize('language', some_long(('en', 'fr'), 'fr'))
def test_a_late_copy(often: Cluster, wire: Wire, language: str) -> None:
    """Wherever it was served."""
    late_copy(often, wire, language)


def test_replayed_at_the_back_end(often: Cluster) -> None:
    """It is given a handshake that never was, and does not mind."""
    often['fr'].sysctl('net.ipv4.tcp_syncookies', '0')
    with often.client.capture() as capture:
        sock = often.client.connect(often['en'].vip)
        sock.send(request('/fr/128k', Connection='close'))
        served(sock.response(), 'fr', '128k')
        port = sock.port
        sock.close()
        no_flows(often)
    unbroken(capture.connection(port))


@pytest.mark.long
def test_idle(often: Cluster) -> None:
    """A connection that was opened ahead costs nothing, and is as good as
    new."""
    front = often['en']
    front.knob('head_timeout_ms', 1000)
    with often.client.capture() as capture:
        socks = [often.client.connect(front.vip) for _ in range(4)]
        wait_for(lambda: not front.flows(), 'they are forgotten')
        for sock, language in zip(socks, ('en', 'fr', 'de', 'en')):
            sock.send(request(f'/{language}/1k'))
            served(sock.response(), language, '1k')
            sock.close()
        no_flows(often)
    for connection in capture.connections():
        unbroken(connection)


@pytest.mark.parametrize(
    'why', some_long(('conntrack', 'syncookies', 'window'), 'conntrack'))
def test_rare_where_it_must_be(often: Cluster, why: str) -> None:
    """What TCP could not adopt it is shown from the SYN on."""
    front = often['en']
    if why == 'conntrack':
        front.nft(CONNTRACK)
    elif why == 'syncookies':
        front.sysctl('net.ipv4.tcp_syncookies', '0')
    else:
        front.nginx.stop()
        front.sysctl('net.ipv4.tcp_rmem', '4096 16384 65535')
        front.nginx.start()
    before = front.stats()
    for language in ('en', 'fr'):
        sock = often.client.connect(front.vip)
        sock.send(request(f'/{language}/128k', Connection='close'))
        served(sock.response(), language, '128k')
        sock.close()
    assert counted(front, before) == {'unfit': 2}
    if why == 'window':
        front.nginx.stop()
        front.tidy()
        front.nginx.start()


def overtake(wire: Wire, language: str, ahead: float = 0) -> None:
    """A request whose first segment comes second, so many seconds later."""
    head = request(f'/{language}/1k')
    peer = wire.peer('en')
    peer.greet()
    assert not peer.send('PA', head[20:], seq=21)
    time.sleep(ahead)
    peer.send('A', head[:20], seq=1)
    peer.persist(head)
    peer.until(lambda: len(peer.stream.data) > 1024, 'an answer')
    assert not peer.reset() and not peer.wrong(), str(peer)
    assert f'X-Node: {language}'.encode() in peer.stream.data
    peer.quit()


def test_overtaken(often: Cluster, wire: Wire) -> None:
    """A segment that comes before the client's first is no stranger's."""
    for language in ('en', 'fr'):
        overtake(wire, language)
    assert often['en'].stats()['cookies_early'] == 2


def test_overtaken_as_it_is_given_up(often: Cluster, wire: Wire) -> None:
    """The client's first segment comes as the other nodes have said that they have no such
    connection, and the flow is being taken out of the table."""
    with often['en'].kernel.delayed(carisma_btcp__carisma_helper_table_remove=1000):
        overtake(wire, 'en', ahead=0.2)


def test_strangers(often: Cluster, wire: Wire) -> None:
    """What answers no cookie is TCP's business, which resets it."""
    for ack in (1, 1 << 16, 1 << 31):
        peer = wire.peer('en')
        peer.greet()
        answer, = peer.ask('PA', request('/en/1k'), seq=1, ack=1 + ack)
        assert peer.reset(), answer
    peer = wire.peer('en')
    answer, = peer.greet()
    again = wire.peer('en')
    again.stream = peer.stream
    again.ask('PA', request('/en/1k'), seq=1)
    assert again.reset(), "another's cookie was taken"
    assert 'answered' not in counted(often['en'], dict.fromkeys(
        often['en'].stats(), 0))


def test_switched(often: Cluster) -> None:
    """A service's mode changes for connections that begin afterwards; others
    go on as they began."""
    front = often['en']
    front.knob('head_timeout_ms', 60_000)
    before = front.stats()
    socks = []
    for mode in ('frequent', 'rare', 'frequent'):
        front.ctl('service', 'set', front.service, '--mode', mode)
        for language in ('en', 'fr', ''):
            sock = often.client.connect(front.vip)
            socks.append((sock, language or 'en'))
            if language:
                sock.send(request(f'/{language}/1k'))
                served(sock.response(), language, '1k')
    assert counted(front, before)['sent'] == 6
    for sock, language in socks:
        sock.send(request(f'/{language}/128k'))
        served(sock.response(), language, '128k')
        sock.close()
    assert counted(front, before) == {'sent': 6, 'answered': 6, 'adopted': 4}


def test_auto(often: Cluster) -> None:
    """A service is rare or frequent by what was asked of it last."""
    front, client = often['en'], often.client

    def ask_for(language: str, current: str) -> None:
        """As many requests as it takes, and no more than some hundred."""
        for _ in range(6):
            answers = client.curl.fetch([often.url('en', f'/{language}/1k')] * 50,
                                        parallel=10, options='-H "Connection: close"')
            for answer in answers:
                served(answer, language, '1k')
            service, = [it for it in front.ask('service', 'list') if it['address'] == front.vip]
            if service['current'] == current:
                return
        raise AssertionError(f'it is not {current}: {service}')

    front.ctl('service', 'set', front.service, '--mode', 'auto')
    ask_for('en', 'rare')
    before = front.stats()
    sock = client.connect(front.vip)
    sock.send(request('/en/1k'))
    served(sock.response(), 'en', '1k')
    assert counted(front, before) == {}
    ask_for('fr', 'frequent')
    before = front.stats()
    served(client.curl.get(often.url('en', '/fr/1k')), 'fr', '1k')
    assert counted(front, before) == {'sent': 1, 'answered': 1}
    # What began before goes on.
    sock.send(request('/en/1k'))
    served(sock.response(), 'en', '1k')
    sock.close()
    ask_for('en', 'rare')
    assert '  auto (rare)  ' in front.ctl('service', 'list').out
    no_flows(often)


def test_syn_flood(often: Cluster) -> None:
    """Nothing is kept of it, and clients do not notice."""
    front, client = often['en'], often.client
    strangers = STRANGERS[often.spec.family]
    front.run(f'ip route add {strangers} via '
              f'{client.host.address} dev eth0')
    with flooded(client, front) as flood:
        wait_for(lambda: front.stats()['cookies_sent'] > 1000, 'it floods')
        answers = []
        for language in ('en', 'fr') * 10:
            sock = client.connect(front.vip)
            sock.send(request(f'/{language}/1k', Connection='close'))
            answers.append((language, sock.response()))
            sock.close()
        stats = front.stats()
    assert flood.sent > 1000
    for language, answer in answers:
        served(answer, language, '1k')
    assert stats['handshakes'] == 0 and stats['flows'] <= 40, stats
    assert not front.run(['ss', '-tanH', 'state', 'syn-recv']).out
    front.run(f'ip route del {strangers}')


@pytest.mark.long
def test_unloading_over_half_a_head(often: Cluster) -> None:
    """What was acknowledged is the server's, though UTCP is gone."""
    front = often['en']
    with often.client.capture() as capture:
        sock = often.client.connect(front.vip)
        head = request('/en/1k', Connection='close')
        sock.send(head[:20])
        wait_for(lambda: front.stats()['held_bytes'] == 20, 'it is held')
        front.kernel.unload('carisma_utcp')
        sock.send(head[20:])
        served(sock.response(), 'en', '1k')
        port = sock.port
        sock.close()
    unbroken(capture.connection(port))


def unload_under_fire(cluster: Cluster) -> None:
    """No local request is lost as the modules go."""
    load = Load(cluster.client, cluster['en'].service, ['/en/1k'], threads=4)
    wait_for(lambda: cluster['en'].stats()['cookies_adopted'] > 20, 'it runs')
    cluster.unload()
    answers = load.end()
    assert all_right(answers, '/en/1k', 'en')['en'] > 20
    assert set(answers) == {f'/en/1k 200 {sha256("en", "1k")}'}, answers


def test_unloading_under_fire(often: Cluster) -> None:
    """Whoever took its handshake."""
    unload_under_fire(often)
