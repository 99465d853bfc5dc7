# SPDX-License-Identifier: GPL-2.0
"""Always mode: a front end that knows nothing of connections which other nodes
serve asks for them in band."""

from typing import Iterator

import pytest

from checks import gone, hand_off, kept, no_flows, request, served, some_long, unbroken
from conftest import Lab
from harness.running import Cluster, wait_for
from harness.sockets import SocketError
from moves import (
    FOUND, MOVED, crash, expect_both_ways, expect_many, expect_the_body, expect_the_end,
    expect_the_rest, move,
    seeks)
from test_always import DEAF, EVERY_THIRD, PEER_TIMEOUT, WAYS, begin, enable, spec
from test_elsewhere import times_served

pytestmark = pytest.mark.xdist_group('always-seek')


@pytest.fixture(scope='module', params=some_long(WAYS, 'alone'))
def way(request: pytest.FixtureRequest) -> str:
    """Tests of one way after the other, as each needs a site of its own."""
    return request.param


@pytest.fixture
def pair(lab: Lab, way: str) -> Iterator[Cluster]:
    """A site in which de is to become the front end of en's service."""
    site = lab.site(spec(lab, way))
    site.end()
    lab.once = True
    enable(lab, site, way)
    yield site
    for node in site.nodes:
        node.knob('peer_timeout_ms', PEER_TIMEOUT)
    move(site, site['de'], site['en'])


def test_moved(pair: Cluster) -> None:
    """A connection goes on over another front end, and over the first one again;
    nobody is reset."""
    expect_both_ways(pair)
    for node in pair.nodes:
        assert not node.stats()['flows_reset']


@pytest.mark.long
def test_server_closes(pair: Cluster) -> None:
    """The server's end goes by way of the new front end, and a reset does."""
    new, back = pair['de'], pair['fr']
    with pair.client.capture() as capture:
        sock, lost = hand_off(pair), hand_off(pair)
        move(pair, pair['en'], new)
        sock.send(request('/fr/1k', Connection='close'))
        served(sock.response(), 'fr', '1k')
        assert sock.receive().size == 0
        sock.close()
        lost.send(request('/fr/1k'))
        served(lost.response(), 'fr', '1k')
        back.run(f'ss -K "sport = :80 and dport = :{lost.port}"')
        with pytest.raises(SocketError, match='ConnectionResetError'):
            lost.receive()
        no_flows(pair)
    unbroken(capture.connection(sock.port))
    assert seeks(new) == {'seeks_started': 2, 'seeks_found': 2}
    assert new.stats()['packets_relayed'] >= 2


@pytest.mark.long
def test_translated(pair: Cluster) -> None:
    """A connection whose handshake was replayed goes on in the same way."""
    back = pair['fr']
    back.ctl('service', 'set', pair['en'].service, '--migrate', 'replay')
    with pair.client.capture() as capture:
        sock = hand_off(pair)
        assert [flow['migration'] for flow in back.flows()] == ['replay']
        move(pair, pair['en'], pair['de'])
        for name in ('128k', '1k'):
            sock.send(request(f'/fr/{name}'))
            served(sock.response(), 'fr', name)
        sock.close()
        no_flows(pair)
    unbroken(capture.connection(sock.port))
    assert (seeks(pair['de']), seeks(back)) == (FOUND, MOVED)


@pytest.mark.long
def test_while_the_answer_comes(pair: Cluster) -> None:
    """Only acknowledgements of the client's come to the new front end."""
    expect_the_rest(pair)


def test_while_a_body_comes(pair: Cluster) -> None:
    """All that the client sends is kept until the node is found."""
    expect_the_body(pair)


@pytest.mark.long
def test_begins_out_of_order(pair: Cluster) -> None:
    """What overtakes a client's first segment is sought in vain, and no harm: the
    connection begins when that comes."""
    front = pair['en']
    # Neither the handshake's last segment comes through, nor the request's first one.
    front.nft('table inet lose { chain in { type filter hook prerouting priority -450; '
              'tcp dport 80 tcp flags & (syn | ack) == ack limit rate over 1/day burst 2 '
              'packets accept; tcp dport 80 tcp flags & (syn | ack) == ack drop; }; }')
    sock = pair.client.connect(front.vip)
    sock.send(request('/fr/1k', x='y' * 4000), chunk=1500)
    served(sock.response(), 'fr', '1k')
    sock.close()
    no_flows(pair)
    assert seeks(front)['seeks_started'] >= 1 and 'seeks_found' not in seeks(front)
    assert not front.stats()['flows_reset']


@pytest.mark.long
def test_first_segment_again(pair: Cluster) -> None:
    """A client that has not heard that its request came sends it to the new front
    end, which hands it over once more: it is served once."""
    front, new, back, client = pair['en'], pair['de'], pair['fr'], pair.client
    back.nginx.freeze()
    try:
        sock = client.connect(front.vip)
        client.nft('table inet f { chain i { type filter hook input priority 0; '
                   'tcp sport 80 tcp flags == ack drop; }; }')
        sock.send(request('/fr/1k?again'))
        wait_for(lambda: [flow['state'] for flow in front.flows()] == ['handed-off'],
                 'it is handed over')
        move(pair, front, new)
        wait_for(lambda: seeks(back) == MOVED, 'the back end has heard of the new one')
        wait_for(lambda: not front.flows(), 'the first one has forgotten it')
        client.nft('')
    finally:
        back.nginx.thaw()
    served(sock.response(), 'fr', '1k')
    sock.send(request('/fr/1k'))
    served(sock.response(), 'fr', '1k')
    sock.close()
    no_flows(pair)
    assert times_served(pair, '/fr/1k?again') == ['fr']
    assert seeks(new) == {}
    assert not front.stats()['flows_reset'] and not new.stats()['flows_reset']


@pytest.mark.long
def test_former_one_asks(pair: Cluster) -> None:
    """A front end that could not be told that it is none any more asks, and does the
    connection no harm; nor is any done if it becomes it again before."""
    front, new, back = pair['en'], pair['de'], pair['fr']
    front.knob('peer_timeout_ms', 6000)
    socks = [hand_off(pair), hand_off(pair)]
    front.nft(DEAF)
    move(pair, front, new)
    for sock in socks:
        sock.send(request('/fr/1k'))
        served(sock.response(), 'fr', '1k')
    assert seeks(back) == {'handoffs_moved': 2}
    assert len(front.flows()) == 2
    front.nft('')
    move(pair, new, front)
    socks[0].send(request('/fr/1k'))
    served(socks[0].response(), 'fr', '1k')
    assert seeks(front) == {}, 'it still has them'
    wait_for(lambda: not front.flows(), 'it has asked', 30)
    move(pair, front, new)
    for sock in socks:
        sock.send(request('/fr/128k'))
        served(sock.response(), 'fr', '128k')
        sock.close()
    no_flows(pair)
    assert not front.stats()['flows_reset'] and not new.stats()['flows_reset']
    assert seeks(new) == {'seeks_started': 2, 'seeks_found': 2}


@pytest.mark.long
def test_losses(pair: Cluster) -> None:
    """Questions and answers that are lost are repeated."""
    new = pair['de']
    with pair.client.capture() as capture:
        socks = [hand_off(pair) for _ in range(8)]
        for name in ('de', 'fr'):
            pair[name].nft(EVERY_THIRD)
        move(pair, pair['en'], new)
        for sock in socks:
            sock.send(request('/fr/1k'))
            served(sock.response(), 'fr', '1k')
            sock.close()
        no_flows(pair, timeout=60)
    for sock in socks:
        unbroken(capture.connection(sock.port))
    assert seeks(new)['seeks_found'] >= 8


def test_nobody_has_it(pair: Cluster) -> None:
    """What the first front end served itself is over; a new connection is welcome."""
    expect_the_end(pair)
    served(pair.client.curl.get(pair.url('en', '/fr/1k')), 'fr', '1k')


@pytest.mark.long
def test_nobody_answers(pair: Cluster) -> None:
    """Nodes that are silent are not waited for any longer than for a handoff."""
    expect_the_end(pair, silent=True)


@pytest.mark.long
def test_one_is_dead(pair: Cluster) -> None:
    """A node that cannot answer keeps nobody from being found."""
    sock = hand_off(pair)
    move(pair, pair['en'], pair['de'])
    pair['en'].link.cut()
    sock.send(request('/fr/128k'))
    served(sock.response(), 'fr', '128k')
    assert seeks(pair['de']) == FOUND
    pair['en'].link.heal()
    sock.close()
    no_flows(pair, timeout=60)


@pytest.mark.long
def test_not_asked(pair: Cluster) -> None:
    """A node that drains asks nobody."""
    node = pair['de']
    sock = hand_off(pair)
    node.ctl('drain', '--timeout', '1', check=False)
    move(pair, pair['en'], node)
    sock.send(request('/fr/1k'))
    with pytest.raises(SocketError, match='ConnectionResetError'):
        sock.receive()
    assert seeks(node) == {}
    node.ctl('resume')


@pytest.mark.long
def test_drain(pair: Cluster) -> None:
    """By force, at the new front end, both ends hear of it."""
    sock = hand_off(pair)
    move(pair, pair['en'], pair['de'])
    sock.send(request('/fr/1k'))
    served(sock.response(), 'fr', '1k')
    pair['de'].ctl('drain', '--force')
    with pytest.raises(SocketError, match='ConnectionResetError'):
        sock.receive()
    gone(pair['fr'], f'sport = :80 and dport = :{sock.port}')
    no_flows(pair)
    pair['de'].ctl('resume')


@pytest.mark.long
def test_under_load(pair: Cluster) -> None:
    """Forty connections move at once."""
    expect_many(pair)


@pytest.fixture
def mortal(lab: Lab, way: str) -> Cluster:
    """A site whose front end can crash."""
    return begin(lab, way)


def test_front_end_crashes(mortal: Cluster) -> None:
    """Connections survive their front end, and end as any; one that it had never
    spoken of again before its server closes it, too."""
    front, back = mortal['en'], mortal['fr']
    with mortal.client.capture() as capture:
        sock, other = hand_off(mortal), hand_off(mortal)
        crash(mortal)
        sock.send(request('/fr/128k'))
        served(sock.response(), 'fr', '128k')
        sock.send(request('/fr/2m'))
        served(sock.response(), 'fr', '2m')
        assert seeks(front) == FOUND
        assert seeks(back) == {}
        sock.close()
        other.send(request('/fr/1k', Connection='close'))
        served(other.response(), 'fr', '1k')
        assert other.receive().size == 0
        other.close()
        no_flows(mortal)
    for it in (sock, other):
        unbroken(capture.connection(it.port))
    assert front.stats()['closed_heard'] == 2
    assert not front.stats()['flows_reset']


@pytest.mark.parametrize('end', some_long(('server', 'client', 'upload'), 'server', 'upload'))
def test_back_end_takes_over(mortal: Cluster, end: str) -> None:
    """The address of a front end that is dead moves to the very node that serves: what that had the
    front end pass on it says to the client itself when it has to say it again."""
    front, back = mortal['en'], mortal['fr']
    body = bytes(range(256)) * 1024
    raw = request('/fr/1k') if end != 'upload' else request('/fr/upload/', 'POST', body)
    with mortal.client.capture() as capture:
        sock = mortal.client.connect(front.vip)
        sock.send(raw[:1000])
        if end != 'upload':
            served(sock.response(), 'fr', '1k')
        wait_for(lambda: [it['state'] for it in back.flows()] == ['handed-off'], 'it is handed off')
        front.kill()
        move(mortal, front, back)
        if end == 'upload':
            sock.send(raw[1000:])
            kept(sock.response(), back, body)
        sock.send(request('/fr/128k', **({'Connection': 'close'} if end == 'server' else {})))
        served(sock.response(), 'fr', '128k')
        if end == 'server':
            assert sock.receive().size == 0
        sock.close()
        gone(back, f'sport = :80 and dport = :{sock.port}')
        gone(mortal.client, f'sport = :{sock.port}')
    unbroken(capture.connection(sock.port))
