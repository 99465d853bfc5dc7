# SPDX-License-Identifier: GPL-2.0
"""What becomes of a request that its node does not take, wherever the
handoff stops: another node serves it, or this one, or it is answered 503.
It is never served twice, and the client never hangs."""

from typing import List

import pytest

from checks import gone, no_flows, request, served, some_long
from harness.curl import Response
from harness.node import Node
from harness.patience import patient
from harness.running import Cluster, wait_for
from harness.sockets import SocketError

# What is lost with a node that was given it at once is test_trusted's.
pytestmark = [pytest.mark.wary, pytest.mark.control]
# Kinds of records, and who sends them (docs/handoff-protocol.md).
KINDS = {'req': (2, 'en'), 'accept': (3, 'fr'), 'data': (5, 'en'),
         'taken': (8, 'fr'), 'closed': (7, 'fr')}
# A control connection's segments that begin with a record of that kind, which
# is its second byte.
LOSE = '''
table inet lose {{
    chain out {{
        type filter hook output priority 0
        tcp sport 7480 @ih,8,8 {kind} counter drop
        tcp dport 7480 @ih,8,8 {kind} counter drop
    }}
}}
'''
BREAK = ('ss -K "sport = :7480" >/dev/null; ss -K "dport = :7480" >/dev/null')


def rule(front: Node, path: str, *nodes: str, otherwise: str = 'local'
         ) -> None:
    """Another rule for a path."""
    front.ctl('rule', 'del', front.service, '--path', path, check=False)
    words = [word for node in nodes for word in ('--node', node)]
    front.ctl('rule', 'add', front.service, '--path', path, *words,
              '--otherwise', otherwise)


def ask(cluster: Cluster) -> Response:
    """One request for /fr/, on a connection of its own."""
    return cluster.client.curl.get(
        cluster.url('en', '/fr/1k'), options='-H "Connection: close"')


def lose(node: Node, kind: int) -> None:
    """Let the node's records of a kind get lost from now on."""
    node.nft(LOSE.format(kind=kind))


def lost(node: Node) -> bool:
    """Whether one was."""
    told = node.run(['nft', 'list', 'ruleset']).out
    return 'counter packets' in told and any(
        'counter packets 0 ' not in line for line in told.splitlines()
        if 'counter' in line)


def times_served(cluster: Cluster, path: str) -> List[str]:
    """The nodes whose server has seen requests for a path."""
    return [node.name for node in cluster.nodes
            for line in node.nginx.log() if f' {path} ' in line.request]


def test_the_next_node_is_asked(fresh: Cluster) -> None:
    """One that refuses, one that is down, one that is silent."""
    front = fresh['en']
    front.knob('handoff_timeout_ms', int(patient(1000)))
    rule(front, '/fr/', 'fr', 'de')
    served(ask(fresh), 'fr', '1k')
    fresh['fr'].nginx.stop()
    served(ask(fresh), 'de', '1k')
    assert front.stats()['handoffs_rejected'] == 1
    fresh['fr'].nginx.start()
    served(ask(fresh), 'fr', '1k')
    # Silent, and then known to be down.
    fresh['fr'].link.cut()
    answer = ask(fresh)
    served(answer, 'de', '1k')
    assert answer.time < patient(5)
    wait_for(lambda: not fresh.joined(front), 'the peer is known down', 30)
    answer = ask(fresh)
    served(answer, 'de', '1k')
    assert answer.time < patient(1)
    fresh['fr'].link.heal()
    wait_for(lambda: fresh.joined(front), 'the peer is back', 30)
    served(ask(fresh), 'fr', '1k')


@pytest.mark.long
def test_this_node_may_be_among_them(fresh: Cluster) -> None:
    """Its turn comes as that of any other."""
    front = fresh['en']
    rule(front, '/fr/', 'fr', 'en', 'de', otherwise='unavailable')
    fresh['fr'].nginx.stop()
    served(ask(fresh), 'en', '1k')
    fresh['fr'].nginx.start()
    rule(front, '/fr/', 'en', 'fr')
    served(ask(fresh), 'en', '1k')
    assert front.stats()['requests_local'] == 1


@pytest.mark.long
def test_unavailable(fresh: Cluster) -> None:
    """If the node that accepted the request is not to serve it, and nobody
    else can, it is answered 503, refused or down."""
    front, back = fresh['en'], fresh['fr']
    rule(front, '/fr/', 'fr', otherwise='unavailable')
    back.nginx.stop()
    answer = ask(fresh)
    assert (answer.status, answer.node) == (503, '')
    back.nginx.start()
    served(ask(fresh), 'fr', '1k')
    back.link.cut()
    wait_for(lambda: not fresh.joined(front), 'the peer is known down', 30)
    assert ask(fresh).status == 503
    front.ctl('drain', '--force')
    assert ask(fresh).status == 503
    assert front.stats()['requests_unavailable'] == 3
    gone(front, 'sport = :80')
    assert front.stats()['withheld'] == 0


@pytest.mark.parametrize('kind', some_long(KINDS, 'data'))
@pytest.mark.parametrize('cut', some_long((False, True), True), ids=('delayed', 'cut'))
def test_lost_at_any_point(fresh: Cluster, kind: str, cut: bool) -> None:
    """A record of each kind is late, or is lost with its connection. A POST
    is served once, whatever happens, by whoever can be certain of that."""
    number, sender = KINDS[kind]
    front, back = fresh['en'], fresh['fr']
    rule(front, '/fr/', 'fr', 'de')
    sock = fresh.client.connect(front.vip)
    lose(fresh[sender], number)
    path = f'/fr/upload/{kind}-{cut}'
    sock.send(request(path, 'POST', b'once'))
    if kind == 'closed':
        served_by = sock.response(timeout=30)
        sock.close()
    wait_for(lambda: lost(fresh[sender]), f'{kind} is lost', 20)
    if cut:
        for node in (front, back):
            node.run(BREAK)
    fresh[sender].nft('')
    if kind != 'closed':
        served_by = sock.response(timeout=30)
        sock.close()
    assert served_by.status == 200
    seen = times_served(fresh, path)
    assert seen == [served_by.node], seen
    # Nothing is left of it, and nothing is in the way of the next.
    no_flows(fresh, 45)
    for node in (front, back):
        wait_for(lambda: fresh.joined(node), 'joined again', 30)
        gone(node, 'sport = :80')
        stats = node.stats()
        assert stats['withheld'] == stats['held_bytes'] == 0, stats
        assert stats['handoffs_asked'] == stats['handoffs_replayed'] == 0
    served(ask(fresh), 'fr', '1k')


def test_listener_closes_while_a_node_is_asked(fresh: Cluster) -> None:
    """What stock TCP resets then is not the client's end: the other node
    has the connection."""
    front = fresh['en']
    front.knob('handoff_timeout_ms', 20000)
    fresh['fr'].knob('handoff_timeout_ms', 20000)
    lose(fresh['fr'], KINDS['accept'][0])
    sock = fresh.client.connect(front.vip)
    sock.send(request('/fr/1k'))
    wait_for(lambda: lost(fresh['fr']), 'the answer is on its way', 20)
    # The control connection is given up after three seconds without an answer.
    front.nginx.crash()
    fresh['fr'].nft('')
    served(sock.response(timeout=30), 'fr', '1k')
    sock.close()
    front.nginx.start()
    no_flows(fresh)


@pytest.mark.long
def test_back_end_dies_after_it_was_given_the_request(fresh: Cluster) -> None:
    """The server there may have seen the request: the client is told that
    the connection is lost, within a bounded time."""
    front, back = fresh['en'], fresh['fr']
    front.knob('peer_timeout_ms', 2000)
    lose(front, KINDS['data'][0])
    sock = fresh.client.connect(front.vip)
    sock.send(request('/fr/1k'))
    wait_for(lambda: lost(front), 'the request is on its way', 20)
    back.link.cut()
    with pytest.raises(SocketError, match='ConnectionResetError'):
        sock.receive(timeout=30)
    back.link.heal()
    front.nft('')
    no_flows(fresh, 30)
    gone(front, 'sport = :80')
    assert front.stats()['withheld'] == 0
