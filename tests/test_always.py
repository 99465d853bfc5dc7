# SPDX-License-Identifier: GPL-2.0
"""Always mode: every connection is handed off in band, by its client's own
segments, and what ends it comes back by way of the front end."""

import dataclasses
import itertools
import struct
import time
from typing import Dict, Iterator

import pytest
from scapy.layers.inet import TCP
from scapy.packet import Packet

from checks import (
    STRANGERS, gone, hand_off, no_flows, request, served, some_long, unbroken)
from conftest import Lab
from harness.cluster import ClusterSpec
from harness.flood import flooded
from harness.kernel import MODULES
from harness.load import Load
from harness.node import Node
from harness.running import Cluster, wait_for
from harness.sockets import SocketError
from harness.wire import Wire, header
from segments.place import CASES, Place
from test_elsewhere import ask, rule, times_served
from test_frequent import late_copy, unload_under_fire
from test_tunnel import send

pytestmark = pytest.mark.xdist_group('always')

WAYS = {
    # Forwarding, and the modules that are loaded.
    'direct': ('direct', MODULES),
    'tunnel': ('tunnel', MODULES),
    'alone': ('direct', MODULES[:1]),
}
PEER_TIMEOUT = 30_000       # as it is by itself
# What a node is told in band does not get there; and what a client acknowledges.
DEAF = ('table inet lose { chain in { type filter hook prerouting priority -450; '
        'meta l4proto { 4, 41 } drop; }; }')
MUTE = ('table inet t { chain c { type filter hook output priority 0; '
        'tcp dport 80 tcp flags == ack drop; }; }')


@pytest.fixture(scope='module', params=some_long(WAYS, 'alone'))
def way(request: pytest.FixtureRequest) -> str:
    """Tests of one way after the other, as each needs a site of its own."""
    return request.param


def enable(lab: Lab, cluster: Cluster, way: str) -> None:
    """Load one of the modules, or both, and configure all nodes."""
    _, modules = WAYS[way]
    if modules == MODULES:
        lab.enable(cluster)
        return
    cluster.end()
    for kernel in cluster.kernels:
        kernel.load(*modules)
    for node in cluster.nodes:
        node.configure()


def spec(lab: Lab, way: str) -> ClusterSpec:
    """A site whose services are all in always mode."""
    return dataclasses.replace(lab.spec, forward=WAYS[way][0], mode='always')


@pytest.fixture
def always(lab: Lab, way: str) -> Iterator[Cluster]:
    """Such a site, with one of the modules or with both."""
    site = lab.site(spec(lab, way))
    enable(lab, site, way)
    lab.once = not site.ready
    yield site
    for node in site.nodes:
        if node.kernel.loaded():
            node.knob('peer_timeout_ms', PEER_TIMEOUT)


@pytest.fixture
def wire(always: Cluster) -> Iterator[Wire]:
    """A client of exact segments."""
    found = Wire(always)
    yield found
    found.stop()


def begin(lab: Lab, way: str) -> Cluster:
    """A new one, which no other test uses."""
    cluster = lab.bare(spec(lab, way))
    cluster.start_servers()
    enable(lab, cluster, way)
    return cluster


@pytest.fixture
def mortal(lab: Lab, way: str) -> Cluster:
    """Such a site for a node to die in."""
    return begin(lab, way)


def counted(node: Node, before: Dict[str, int]) -> Dict[str, int]:
    """What a node has counted since then."""
    return {name: value - before[name] for name, value in node.stats().items()
            if value != before[name]}


def test_handed_off(always: Cluster) -> None:
    """By one segment: the connection is the back end's TCP's, with the client's
    numbers, and both nodes forget it when it is over."""
    front, back = always['en'], always['fr']
    before = front.stats(), back.stats()
    with always.client.capture() as capture:
        sock = hand_off(always)
        [ahead] = front.flows()
        [behind] = back.flows()
        assert (ahead['state'], ahead['node']) == ('handed-off', 'fr')
        assert (behind['state'], behind['node']) == ('handed-off', 'en')
        assert behind['migration'] == 'adopted'
        sock.send(request('/fr/128k'))
        served(sock.response(), 'fr', '128k')
        sock.close()
        no_flows(always, timeout=30)
    unbroken(capture.connection(sock.port))
    gone(back, f'sport = :80 and dport = :{sock.port}')
    ahead, behind = (counted(node, then) for node, then in zip((front, back), before))
    assert ahead['cookies_answered'] == ahead['handoffs_accepted'] == 1, ahead
    assert behind['handoffs_in'] == behind['handoffs_in_adopted'] == 1, behind
    # The acknowledgement of the request, if there was one, and the server's FIN.
    assert ahead['packets_relayed'] == behind['packets_relayed'] in (1, 2)
    assert not ahead.get('packets_dropped_stale'), ahead


@pytest.mark.parametrize('number', ('higher', 'lower'))
def test_served_here_in_time_wait(always: Cluster, wire: Wire, number: str) -> None:
    """A client uses a port again that the front end's own TCP has in TIME_WAIT: that
    gets the SYN, and serves what comes."""
    place = Place('local', wire)
    assert CASES[f'syn-in-time-wait-{number}'](place) == [[(200, True)], [], [(200, True)]]
    place.end()
    no_flows(always, timeout=30)


def test_a_syn_on_what_is_served_here(always: Cluster, wire: Wire) -> None:
    """The front end's own TCP has the connection, and asks back; no cookie begins another."""
    place = Place('local', wire)
    told, dead = CASES['syn-on-a-connection-answered'](place)
    peer, = place.peers
    assert (told, dead) == ([('A', peer.seen, 1 + len(place.ask()), 0)], True), str(peer)
    place.end()
    no_flows(always, timeout=30)


def test_what_comes_late_is_answered(always: Cluster, wire: Wire) -> None:
    """The back end's reset finds the front end, which was about to forget the connection when it
    forwarded what that answers."""
    always['fr'].link.netem(delay=0.15)
    place = Place('handed-off', wire)
    assert CASES['reset-ended-exact'](place)
    place.end()
    no_flows(always, timeout=30)


def test_a_silent_client(always: Cluster, wire: Wire) -> None:
    """It acknowledges nothing of the answer. The back end says itself that it has the request,
    when that is handed over again, and the client is told of no copy."""
    always['fr'].link.netem(delay=0.15)
    place = Place('handed-off', wire)
    peer = place.peer().open()
    peer.send('PA', place.ask(), wait=5)
    wait_for(lambda: [it['state'] for it in always['en'].flows()] == ['handed-off'],
             'the front end knows')
    assert not peer.reset()
    assert not [it for it in peer.heard() if it.options.sack], 'it was told of no copy'
    assert place.read(peer, '1k') == [(200, True)]
    place.end()
    no_flows(always, timeout=30)


def test_unloading_under_fire(always: Cluster) -> None:
    """SYNs are TCP's while the module waits for answers to cookies."""
    unload_under_fire(always)


@pytest.mark.long
def test_replayed(always: Cluster) -> None:
    """If the back end's service says so it shows TCP the handshake, and translates
    until the end."""
    front, back = always['en'], always['fr']
    before = front.stats(), back.stats()
    back.ctl('service', 'set', front.service, '--migrate', 'replay')
    try:
        with always.client.capture() as capture:
            socks = [hand_off(always) for _ in range(3)]
            assert [flow['migration'] for flow in back.flows()] == ['replay'] * 3
            for sock, size in zip(socks, ('empty', '128k', '2m')):
                sock.send(request(f'/fr/{size}'), chunk=20, delay=0.05)
                served(sock.response(), 'fr', size)
            socks[0].close()
            socks[1].send(request('/fr/1k', Connection='close'))
            served(socks[1].response(), 'fr', '1k')
            assert socks[1].receive().size == 0
            socks[1].close()
            socks[2].reset()
            no_flows(always, timeout=30)
    finally:
        back.ctl('service', 'set', front.service, '--migrate', 'adopt')
    for sock in socks:
        unbroken(capture.connection(sock.port), reset=sock is socks[2])
        gone(back, f'sport = :80 and dport = :{sock.port}')
    ahead, behind = (counted(node, then) for node, then in zip((front, back), before))
    assert ahead['handoffs_accepted'] == behind['handoffs_in'] == 3, (ahead, behind)
    assert 'handoffs_in_adopted' not in behind, behind
    assert behind['packets_translated_in'] > 3 and behind['packets_translated_out'] > 3


def test_bodies(always: Cluster) -> None:
    """Whole answers, on connections that are kept, by every way there is."""
    names = ('empty', '1k', '2m', '128k', '1k')
    for front, back in itertools.product(('en', 'fr'), ('fr', 'de')):
        answers = always.client.curl.fetch(
            [always.url(front, f'/{back}/{name}') for name in names])
        for answer, name in zip(answers, names):
            served(answer, back, name)
        assert len({answer.port for answer in answers}) == 1, 'reconnected'
    no_flows(always, timeout=30)


def test_head_in_pieces(always: Cluster) -> None:
    """What the front end has acknowledged comes to the back end whole."""
    head = request('/fr/1k', x='y' * 4000)
    with always.client.capture() as capture:
        sock = always.client.connect(always['en'].vip)
        for at in range(0, len(head), 1000):
            sock.send(head[at:at + 1000])
            time.sleep(0.1)
        served(sock.response(), 'fr', '1k')
        sock.close()
        no_flows(always, timeout=30)
    unbroken(capture.connection(sock.port))


@pytest.mark.long
def test_under_load(always: Cluster) -> None:
    """Many connections that end in all ways, and nothing is left of any."""
    load = Load(always.client, always['en'].service, ['/fr/1k', '/de/128k'], threads=8,
                count=200)
    told = load.end(120)
    assert sum(told.values()) == 200, told
    assert all(' 200 ' in f' {what} ' for what in told), told
    no_flows(always, timeout=30)


# Losses and ends.


# Every third packet between nodes is lost: what hands a connection over, or says
# that it has come or is over.
EVERY_THIRD = '''
table inet lose {
    chain in {
        type filter hook prerouting priority -450
        meta l4proto { 4, 41 } numgen inc mod 3 == 0 counter drop
    }
}
'''


@pytest.mark.long
def test_losses(always: Cluster) -> None:
    """What is lost between the nodes is sent again, and nothing is served twice."""
    for name in ('en', 'fr'):
        always[name].nft(EVERY_THIRD)
    with always.client.capture() as capture:
        ports = []
        for number in range(6):
            sock = always.client.connect(always['en'].vip)
            sock.send(request(f'/fr/1k?{number}'))
            served(sock.response(), 'fr', '1k')
            ports.append(sock.port)
            sock.close()
        no_flows(always, timeout=60)
    for port in ports:
        unbroken(capture.connection(port))
    for number in range(6):
        assert times_served(always, f'/fr/1k?{number}') == ['fr']


def test_server_hears_late(always: Cluster) -> None:
    """The front end repeats what it has acknowledged until it is told that the back
    end has it, or the client is answered."""
    back = always['fr']
    back.nft('table inet lose { chain in { type filter hook prerouting priority -450; '
             'meta l4proto { 4, 41 } drop; }; }')
    before = always['en'].stats()['packets_forwarded']
    sock = always.client.connect(always['en'].vip)
    sock.send(request('/fr/1k'))
    wait_for(lambda: always['en'].stats()['packets_forwarded'] >= before + 3,
             'it is repeated')
    [flow] = always.live_flows()['en']
    assert (flow['state'], flow['node']) == ('requested', 'fr')
    # What the client sends meanwhile waits, even if it is its end. (A longer answer
    # nginx may leave off in the middle, when it sees that.)
    sock.send(request('/fr/1k'))
    sock.shutdown()
    back.run('nft flush ruleset')
    served(sock.response(), 'fr', '1k')
    served(sock.response(), 'fr', '1k')
    assert sock.receive().size == 0
    sock.close()
    no_flows(always)


def test_the_next_node(always: Cluster) -> None:
    """A node on which nobody listens says so, and the next one gets the request; if
    there is none, the client hears of it."""
    front = always['en']
    before = front.stats()
    always['fr'].nginx.stop()
    try:
        rule(front, '/fr/', 'fr', 'de')
        served(ask(always), 'de', '1k')
        after = counted(front, before)
        assert (after['handoffs_started'], after['handoffs_rejected']) == (2, 1)
        rule(front, '/fr/', 'fr', otherwise='unavailable')
        sock = always.client.connect(front.vip)
        sock.send(request('/fr/1k'))
        if 'carisma_utcp' in always.kernels[0].loaded():
            assert sock.response().status == 503
        else:
            with pytest.raises(SocketError, match='ConnectionResetError'):
                sock.receive()
    finally:
        always['fr'].nginx.start()
        rule(front, '/fr/', 'fr')
    no_flows(always, timeout=30)


@pytest.mark.long
def test_resets(always: Cluster) -> None:
    """A reset of either end ends it at both nodes."""
    back = always['fr']
    sock = hand_off(always)
    sock.reset()
    gone(back, f'sport = :80 and dport = :{sock.port}')
    no_flows(always, timeout=30)
    sock = hand_off(always)
    back.run(f'ss -K "sport = :80 and dport = :{sock.port}"')
    with pytest.raises(SocketError, match='ConnectionResetError'):
        sock.receive()
    no_flows(always, timeout=30)


def test_again_after_a_reset(always: Cluster) -> None:
    """A client resets its connection, and uses the port again at once: without UTCP nobody says to
    the back end that the first one is over."""
    sock = hand_off(always)
    sock.reset()
    gone(always['fr'], f'sport = :80 and dport = :{sock.port}')
    again = always.client.connect(always['en'].vip, source=('', sock.port))
    for size in ('1k', '128k'):
        again.send(request(f'/fr/{size}'))
        served(again.response(), 'fr', size)
    again.close()
    no_flows(always, timeout=30)


def test_a_late_copy(always: Cluster, wire: Wire) -> None:
    """The first segment of a client that was served here, once more when all is over."""
    late_copy(always, wire, 'en')


def test_not_the_clients(always: Cluster, wire: Wire) -> None:
    """What is none of the connection's segments does not say that its client was answered."""
    front, back = always['en'], always['fr']
    before = front.stats()['packets_forwarded']
    back.nft(DEAF)
    peer = wire.peer('en').open()
    peer.send('PA', request('/fr/1k'))
    wait_for(lambda: front.stats()['packets_forwarded'] > before, 'the node was given it')
    told = peer.told
    for strange in ({'good': False}, {'seq': peer.next + (2 << 20)}):
        peer.post(peer.frames('A', ack=1000, **strange))
    peer.told = told
    sent = front.stats()['packets_forwarded']
    wait_for(lambda: front.stats()['packets_forwarded'] > sent, 'it is still repeated')
    assert [flow['state'] for flow in front.flows()] == ['requested']
    back.run('nft flush ruleset')
    peer.until(lambda: len(peer.stream.data) > 1024, 'an answer')
    peer.quit()
    no_flows(always, timeout=30)


@pytest.mark.long
def test_back_end_dies(mortal: Cluster) -> None:
    """Nobody says so: the front end asks, and resets the clients, of which one is
    silent, one asks again and again, and one has more than the front end has seen it
    acknowledge."""
    front, client = mortal['en'], mortal.client
    front.knob('peer_timeout_ms', 6000)
    silent, asking = hand_off(mortal, 'de'), hand_off(mortal, 'de')
    unsure = client.connect(front.vip)
    client.nft(MUTE)
    unsure.send(request('/de/1k'))
    served(unsure.response(), 'de', '1k')
    # What dies takes its time for it here, and the client, which is asked once what it
    # has, must be able to speak again by then.
    mortal['de'].link.cut()
    client.nft('')
    mortal['de'].kill()
    asking.send(request('/de/1k'))
    no_flows(mortal, timeout=30)
    for lost in (silent, asking, unsure):
        with pytest.raises(SocketError, match='ConnectionResetError'):
            lost.receive()
    assert front.stats()['flows_reset'] == 3
    served(client.curl.get(mortal.url('en', '/fr/1k')), 'fr', '1k')


def test_back_end_dies_unheard(mortal: Cluster) -> None:
    """Nothing of what it said about a connection came through: neither does the front
    end know that it had it, nor what the client has of its answer."""
    front, client = mortal['en'], mortal.client
    front.knob('peer_timeout_ms', 6000)
    unsure = client.connect(front.vip)
    client.nft(MUTE)
    front.nft(DEAF)
    unsure.send(request('/de/1k'))
    served(unsure.response(), 'de', '1k')
    mortal['de'].link.cut()
    assert [flow['state'] for flow in front.flows()] == ['requested']
    client.nft('')
    front.nft('')
    mortal['de'].kill()
    no_flows(mortal, timeout=30)
    with pytest.raises(SocketError, match='ConnectionResetError'):
        unsure.receive()


def test_last_words_are_lost(always: Cluster) -> None:
    """A reset of the server's that does not come through to the front end: it asks,
    and passes the answer on."""
    front, back = always['en'], always['fr']
    front.knob('peer_timeout_ms', 5000)
    sock = hand_off(always)
    front.nft(DEAF)
    back.run(f'ss -K "sport = :80 and dport = :{sock.port}"')
    # The back end looks after a second, and forgets it after another.
    wait_for(lambda: 'fr' not in always.live_flows(), 'the back end has forgotten it')
    assert [flow['state'] for flow in front.flows()] == ['handed-off']
    front.nft('')
    with pytest.raises(SocketError, match='ConnectionResetError'):
        sock.receive()
    no_flows(always)


@pytest.mark.long
def test_nobody_there(always: Cluster) -> None:
    """A node that nobody has configured is asked, as it might have no UTCP. What it
    does not answer may have been served: the client is reset, and nobody else is
    asked."""
    front, client = always['en'], always.client
    before = front.stats()
    front.knob('peer_timeout_ms', 2000)
    front.ctl('node', 'add', 'aa', client.address, '--remote', '--forward',
              always.spec.forward)
    rule(front, '/aa/', 'aa', 'fr')
    try:
        sock = client.connect(front.vip)
        sock.send(request('/aa/1k'))
        with pytest.raises(SocketError, match='ConnectionResetError'):
            sock.receive()
    finally:
        front.ctl('rule', 'del', front.service, '--path', '/aa/')
        front.ctl('node', 'del', 'aa')
    after = counted(front, before)
    assert (after['handoffs_started'], after['flows_reset']) == (1, 1), after
    assert 'handoffs_rejected' not in after and not times_served(always, '/aa/1k'), after
    no_flows(always)


@pytest.mark.long
def test_idle(always: Cluster) -> None:
    """A client that says nothing for longer than a node may be out of reach, or
    whose answer takes so long, is asked after and loses nothing."""
    front, back = always['en'], always['fr']
    before = front.stats()
    front.knob('peer_timeout_ms', 1000)
    socks = [hand_off(always), hand_off(always)]
    back.nginx.freeze()
    socks[1].send(request('/fr/128k'))
    wait_for(lambda: counted(front, before).get('presence_asked', 0) >= 6, 'it asks')
    back.nginx.thaw()
    served(socks[1].response(), 'fr', '128k')
    socks[0].send(request('/fr/1k'))
    served(socks[0].response(), 'fr', '1k')
    for sock in socks:
        sock.close()
    no_flows(always, timeout=30)
    assert 'flows_reset' not in counted(front, before)


def test_mode_changes(always: Cluster) -> None:
    """Connections go on as they began."""
    front = always['en']
    sock = hand_off(always)
    try:
        for node in (front, always['fr']):
            node.ctl('service', 'set', front.service, '--mode', 'rare')
        sock.send(request('/fr/128k'))
        served(sock.response(), 'fr', '128k')
        sock.close()
        no_flows(always, timeout=30)
    finally:
        for node in (front, always['fr']):
            node.ctl('service', 'set', front.service, '--mode', 'always')


@pytest.mark.long
def test_drain(always: Cluster) -> None:
    """By force, at the front end or at the back end, both ends hear of it."""
    for name in ('en', 'fr'):
        sock = hand_off(always)
        always[name].ctl('drain', '--force')
        with pytest.raises(SocketError, match='ConnectionResetError'):
            sock.receive()
        gone(always['fr'], f'sport = :80 and dport = :{sock.port}')
        no_flows(always, timeout=30)
        always[name].ctl('resume')


@pytest.mark.long
def test_syn_flood(always: Cluster) -> None:
    """Nothing is kept of connections that only begin, and those that are meant are
    handed off while they do."""
    front, client = always['en'], always.client
    before = front.stats()
    # What answers strangers is lost there.
    strange = STRANGERS[always.spec.family]
    front.run(f'ip route add {strange} via {client.address}')
    with flooded(client, front) as flood:
        wait_for(lambda: counted(front, before).get('cookies_sent', 0) > 1000, 'it is answered')
        for _ in range(20):
            served(ask(always), 'fr', '1k')
        flows = front.flows()
    front.run(f'ip route del {strange} via {client.address}')
    after = counted(front, before)
    assert after['cookies_sent'] > 1000 and flood.sent > 1000
    assert after['handoffs_accepted'] == 20
    strangers = [flow for flow in flows if client.address not in flow['client']]
    assert not strangers and 'handshakes' not in after, strangers
    no_flows(always, timeout=30)


# Who may hand over.


FORGED = '/fr/128k?forged'


def handover(always: Cluster, port: int, seq: int, ack: int, path: str) -> Packet:
    """What a front end sends that hands over a connection with these numbers and
    this request."""
    client, front, back = always.client, always['en'], always['fr']
    return (header(front.address, back.address)
            / header(client.address, front.vip)
            / TCP(sport=port, dport=80, flags='A', seq=seq, ack=ack, window=512)
            / request(path))


def test_forged(always: Cluster) -> None:
    """Nobody who has not the key can hand over a connection, nor can anybody who is
    no node."""
    client, front, back = always.client, always['en'], always['fr']
    before, already = back.stats(), times_served(always, FORGED)
    guesses = [handover(always, 4000 + i, 1000 * i, struct.unpack('<I', bytes(
        (7 * i % 256, 11 * i % 256, 13 * i % 256, 17 * i % 256)))[0], FORGED)
        for i in range(1, 200)]
    send(client, back, *guesses)
    wait_for(lambda: counted(back, before).get('packets_untunnelled') == len(guesses),
             'they have come')
    # The numbers of a real one, from an address that is no node's.
    with client.capture() as capture:
        sock = client.connect(front.vip)
    first = capture.connection(sock.port).of_server()[0]
    packet = handover(always, sock.port, first.ack, first.seq + 1, FORGED)
    packet.src = client.address
    send(client, back, packet)
    after = counted(back, before)
    assert 'handoffs_in' not in after and 'handoffs_in_adopted' not in after, after
    assert times_served(always, FORGED) == already
    assert 'fr' not in always.live_flows()
    # And that is how it is done.
    packet.src = front.address
    send(client, back, packet)
    wait_for(lambda: counted(back, before).get('handoffs_in') == 1, 'one is taken')
    sock.reset()


@pytest.mark.long
def test_copied(always: Cluster) -> None:
    """What has handed a connection over does not do so again, and ends none."""
    client, front, back = always.client, always['en'], always['fr']
    with client.capture() as capture:
        socks = [hand_off(always), hand_off(always)]
    socks[0].close()
    wait_for(lambda: len(always.live_flows()['fr']) == 1, 'one of both is over', 30)
    before, already = back.stats(), times_served(always, '/fr/1k')
    for sock in socks:
        first = capture.connection(sock.port).of_server()[0]
        send(client, back, handover(always, sock.port, first.ack, first.seq + 1, '/fr/1k'))
    wait_for(lambda: counted(back, before).get('packets_untunnelled') == 2, 'they have come')
    after = counted(back, before)
    assert after['handoffs_in_used'] == 1 and 'handoffs_in' not in after, after
    socks[1].send(request('/fr/1k'))
    served(socks[1].response(), 'fr', '1k')
    socks[1].close()
    assert len(times_served(always, '/fr/1k')) == len(already) + 1
    served(ask(always), 'fr', '1k')
    assert front.stats()['handoffs_rejected'] == 0
    no_flows(always, timeout=30)


def test_refused_for_good(always: Cluster) -> None:
    """What a node did not take it does not take later: another has it by then."""
    client, front, back = always.client, always['en'], always['fr']
    with client.capture() as capture:
        sock = client.connect(front.vip)
    first = capture.connection(sock.port).of_server()[0]
    packet = handover(always, sock.port, first.ack, first.seq + 1, '/fr/1k?late')
    before = back.stats()
    back.ctl('drain')
    send(client, back, packet)
    wait_for(lambda: counted(back, before).get('handoffs_in_refused') == 1, 'it is refused')
    back.ctl('resume')
    send(client, back, packet)
    wait_for(lambda: counted(back, before).get('handoffs_in_refused') == 2, 'it is again')
    sock.send(request('/fr/1k'))
    served(sock.response(), 'en', '1k')
    sock.close()
    assert 'handoffs_in' not in counted(back, before)
    assert not times_served(always, '/fr/1k?late')
    no_flows(always, timeout=30)


def test_expired(always: Cluster) -> None:
    """A cookie is good for three minutes and a bit."""
    back, guest = always['fr'], always.kernels[0].guest
    before = back.stats()
    sock = always.client.connect(always['en'].vip)
    guest.run('date -s @$(($(date +%s) + 300))')
    try:
        sock.send(request('/fr/1k?late'))
        served(sock.response(), 'en', '1k')
    finally:
        guest.run('date -s @$(($(date +%s) - 300))')
    sock.close()
    after = counted(back, before)
    assert after['handoffs_in_unknown'] == 1 and 'handoffs_in' not in after, after
    no_flows(always, timeout=30)
    served(ask(always), 'fr', '1k')
