# SPDX-License-Identifier: GPL-2.0
"""At each bound new work is refused in the stated way, and old work goes on."""

import dataclasses

import pytest

from checks import STRANGERS, all_right, gone, no_flows, request, served, some_long
from conftest import Lab
from harness.curl import Response
from harness.flood import flooded, flooded_at
from harness.inside.documents import document
from harness.load import Load
from harness.node import Node
from harness.patience import patient
from harness.running import Cluster, wait_for
from harness.wire import Wire

FLOOD = 1000            # SYNs a second
CLIENTS = 200
CLOSE = '-H "Connection: close"'
# The back end's TCP does not see the SYN that is replayed to it, again and again.
UNANSWERED = '''
table inet silent {
    chain in { type filter hook input priority 0; tcp dport 80 drop; }
}
'''


def ask(cluster: Cluster, language: str = 'fr') -> Response:
    """A request on a connection of its own."""
    return cluster.client.curl.get(
        cluster.url('en', f'/{language}/1k'), options=CLOSE)


def idle_again(node: Node) -> None:
    """Nothing is taken of any bound."""
    names = ('withheld', 'held_bytes', 'handshakes', 'handoffs_asked',
             'handoffs_replayed')
    wait_for(lambda: not any(node.stats()[name] for name in names),
             'all is given back')


def test_withheld(fresh: Cluster) -> None:
    """Beyond it connections are served as if nothing were there."""
    front = fresh['en']
    front.knob('withheld_max', 1)
    first = fresh.client.connect(front.vip)
    wait_for(lambda: front.stats()['withheld'] == 1, 'it is withheld')
    # What is asked at once needs no place.
    second = fresh.client.connect(front.vip)
    wait_for(lambda: front.stats()['withheld_refused_limit'] == 1, 'it is not withheld')
    second.send(request('/fr/1k'))
    served(second.response(), 'en', '1k')
    second.close()
    first.send(request('/fr/1k'))
    served(first.response(), 'fr', '1k')
    first.close()
    served(ask(fresh), 'fr', '1k')
    # A back end that may not withhold refuses.
    fresh['fr'].knob('withheld_max', 0)
    served(ask(fresh), 'en', '1k')
    assert front.stats()['handoffs_rejected'] == 1
    no_flows(fresh)
    idle_again(front)


@pytest.mark.parametrize('otherwise', some_long(('local', 'unavailable'), 'local'))
def test_handoffs(fresh: Cluster, otherwise: str) -> None:
    """As the rule says, beyond the handoffs that this node may ask for; as
    the front end's rule says, beyond those that it may be asked for."""
    front, back = fresh['en'], fresh['fr']
    front.ctl('rule', 'del', front.service, '--path', '/fr/')
    front.ctl('rule', 'add', front.service, '--path', '/fr/', '--node', 'fr',
              '--otherwise', otherwise)
    status, node = (200, 'en') if otherwise == 'local' else (503, '')
    front.knob('handoffs_max', 1)
    for it in (front, back):
        it.knob('handoff_timeout_ms', 60_000)
    back.nft(UNANSWERED)
    first = fresh.client.connect(front.vip)
    first.send(request('/fr/1k'))
    wait_for(lambda: front.stats()['handoffs_asked'] == 1, 'it is asked')
    answer = ask(fresh)
    assert (answer.status, answer.node) == (status, node)
    assert front.stats()['handoffs_refused_limit'] == 1
    back.nft('')
    served(first.response(timeout=30), 'fr', '1k')
    first.close()
    served(ask(fresh), 'fr', '1k')
    back.knob('handoffs_max', 0)
    answer = ask(fresh)
    assert (answer.status, answer.node) == (status, node)
    assert back.stats()['handoffs_refused_limit'] == 1
    no_flows(fresh)
    for it in (front, back):
        idle_again(it)


@pytest.mark.parametrize('knob, counter', (
    ('held_max', 'held_refused_connection'),
    ('held_client_max', 'held_refused_client'),
    pytest.param('held_total_max', 'held_refused_total', marks=pytest.mark.long),
))
def test_held_bytes(fresh: Cluster, knob: str, counter: str) -> None:
    """A request that needs more is answered 503; what is held already stays
    so, and is handed off when it is whole."""
    front = fresh['en']
    front.knob(knob, 2048)
    raw = request('/fr/1k', Cookie='c' * 1500)
    first = fresh.client.connect(front.vip)
    first.send(raw[:1200])
    wait_for(lambda: front.stats()['held_bytes'] == 1200, 'it is held')
    second = fresh.client.connect(front.vip)
    more = request('/fr/1k', Cookie='c' * 3000)
    second.send(more[:1000])
    second.send(more[1000:])
    answer = second.response()
    assert (answer.status, answer.node) == (503, '')
    stats = front.stats()
    # Each segment counts: a busy client sends one again before the answer comes.
    assert stats[counter] >= 1 and stats['requests_unavailable'] == 1, stats
    second.close()
    # What is decided at once, and is this node's own, need not be held.
    served(ask(fresh, 'en'), 'en', '1k')
    first.send(raw[1200:])
    served(first.response(), 'fr', '1k')
    first.close()
    gone(front, 'sport = :80')
    no_flows(fresh)
    idle_again(front)


def test_small_segments(fresh: Cluster) -> None:
    """A byte that waits for its turn takes a packet's memory, and counts with that."""
    front = fresh['en']
    front.knob('held_max', 8192)
    wire = Wire(fresh)
    try:
        peer, raw = wire.peer('en').open(), request('/fr/1k')
        peer.post([frame for at in range(2, 30)
                   for frame in peer.frames('PA', raw[at:at + 1], seq=1 + at)])
        wait_for(lambda: front.stats()['held_refused_connection'] > 0, 'it is too much')
        stats = front.stats()
        assert 4096 < stats['held_bytes'] <= 8192 and stats['segments_early'] < 28, stats
        peer.persist(raw)
        peer.until(lambda: peer.stream.data.endswith(document('fr', '1k')), 'the answer')
        peer.quit()
    finally:
        wire.stop()
    no_flows(fresh)
    idle_again(front)


def test_swapped_segments(fresh: Cluster) -> None:
    """What has waited for its turn and had it counts no more, but as bytes."""
    front = fresh['en']
    front.knob('held_max', 8192)
    wire = Wire(fresh)
    try:
        peer, raw = wire.peer('en').open(), request('/fr/1k', Cookie='c' * 300)
        peer.post([frame for at in range(0, len(raw), 8) for of in (at + 4, at)
                   for frame in peer.frames('PA', raw[of:of + 4], seq=1 + of)])
        peer.next = 1 + len(raw)
        peer.until(lambda: peer.stream.data.endswith(document('fr', '1k')), 'the answer')
        peer.quit()
    finally:
        wire.stop()
    assert front.stats()['segments_early'] >= len(raw) // 8 - 1
    no_flows(fresh)
    idle_again(front)


def test_reset_in_the_handshake(fresh: Cluster) -> None:
    """A client that thinks better of it takes nothing of the bound."""
    front, client = fresh['en'], fresh.client
    client.nft('table inet t { chain c { type filter hook input priority 0; '
               'tcp sport 80 tcp flags & (syn | ack) == syn | ack '
               'reject with tcp reset; }; }')
    client.run(f'curl -s --max-time 2 {fresh.url("en", "/fr/1k")}; true')
    client.nft('')
    idle_again(front)
    assert not front.flows()


def harmed(cluster: Cluster, *where: str) -> int:
    """How often a client had to say something once more, or was not answered by the
    node that has what he asks for (`where`), while a flood came in that leaves no place for
    handshakes."""
    client, front = cluster.client, cluster['en']
    again = 'TcpRetransSegs'
    before = client.counter(again)[again]
    with flooded_at(client, front, FLOOD) as flood:
        told = Load(client, front.service, ['/en/1k', '/fr/1k'], threads=4,
                    count=CLIENTS).end(patient(120))
    answered = sum(all_right(told, f'/{language}/1k', 'en', 'fr')[node]
                   for language, node in zip(('en', 'fr'), where))
    repeated = client.counter(again)[again] - before
    print(f'{flood.sent} SYNs, {flood.rate:.0f}/s: {answered} of {CLIENTS} answered, '
          f'{repeated} segments repeated, {told}')
    return CLIENTS - answered + repeated


@pytest.mark.long
@pytest.mark.parametrize('mode', ('rare', 'frequent'))
def test_syn_flood_costs_no_more(lab: Lab, mode: str) -> None:
    """Clients lose no more to a flood than to the same flood without the modules."""
    cluster = lab.site(dataclasses.replace(lab.spec, mode=mode))
    cluster.end()
    lab.once = True
    front = cluster['en']
    front.run('ip link add strangers up type dummy && '
              f'ip route add {STRANGERS[cluster.spec.family]} dev strangers')
    alone = harmed(cluster, 'en', 'en')
    lab.enable(cluster)
    front.knob('handshakes_max', 1000)
    before = front.stats()
    assert harmed(cluster, 'en', 'fr') <= alone + CLIENTS // 50
    after = front.stats()
    told = 'flows_evicted' if mode == 'rare' else 'cookies_sent'
    assert after[told] - before[told] > 1000
    front.run('ip link del strangers')


@pytest.mark.long
@pytest.mark.parametrize('cookies', ('1', '2'), ids=('when-full', 'always'))
def test_syn_flood(fresh: Cluster, cookies: str) -> None:
    """Clients are answered; what the flood takes is bounded, and given back."""
    front, client = fresh['en'], fresh.client
    front.knob('handshakes_max', 1000)
    front.sysctl('net.ipv4.tcp_syncookies', cookies)
    strangers = STRANGERS[fresh.spec.family]
    front.run(f'ip route add blackhole {strangers}')
    with flooded(client, front) as flood:
        wait_for(lambda: front.stats()['flows_evicted'] > 100,
                 'the bound is reached')
        answers = [ask(fresh, language) for language in ('en', 'fr') * 10]
        stats = front.stats()
    assert flood.sent > 1000
    for answer in answers:
        served(answer, answer.node, '1k')
    assert stats['handshakes'] <= 1000 and stats['flows'] <= 1100, stats
    # The place of the oldest is for the newest: most of these had one for
    # as long as they needed it.
    told = [answer.node for answer in answers[1::2]]
    assert told.count('fr') >= 5, told
    front.run(f'ip route del blackhole {strangers}')
    front.sysctl('net.ipv4.tcp_syncookies', '1')
    served(ask(fresh), 'fr', '1k')
    if cookies == '1':
        # As long as a handshake may take.
        wait_for(lambda: front.stats()['handshakes'] == 0, 'all is given back',
                 100)
