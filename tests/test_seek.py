# SPDX-License-Identifier: GPL-2.0
"""A front end that knows nothing of connections which other nodes serve: it has
got another one's address, or has forgotten all."""

import dataclasses
from typing import Iterator

import pytest

from checks import hand_off, no_flows, request, served, some_long, unbroken
from conftest import Lab
from harness.running import Cluster, wait_for
from harness.sockets import SocketError
from moves import (
    FOUND, crash, expect_both_ways, expect_many, expect_the_body, expect_the_end,
    expect_the_rest, move, seeks)
from test_direct import asks_again

pytestmark = pytest.mark.xdist_group('seek')


@pytest.fixture(scope='module', params=some_long(('nat', 'direct', 'tunnel'), 'direct'))
def way(request: pytest.FixtureRequest) -> str:
    """Tests of one way after the other, as each needs a site of its own."""
    return request.param


@pytest.fixture
def pair(lab: Lab, way: str) -> Iterator[Cluster]:
    """A site in which de is to become the front end of en's service."""
    site = lab.site(dataclasses.replace(lab.spec, forward=way))
    site.end()
    lab.once = True
    lab.enable(site)
    if not site.spec.unchanged:
        for words in site['de'].offer(site['en'].service):
            site['de'].ctl(*words)
    yield site
    move(site, site['de'], site['en'])


def test_moved(pair: Cluster) -> None:
    """A connection goes on over another front end, and over the first one again."""
    expect_both_ways(pair)


def frequent(pair: Cluster) -> None:
    """Have the service in frequent mode."""
    for node in (pair['en'], pair['de']):
        node.ctl('service', 'set', pair['en'].service, '--mode', 'frequent')


def test_while_a_body_comes(pair: Cluster) -> None:
    """What seems to have overtaken a client's first segment may be anything but that."""
    frequent(pair)
    expect_the_body(pair)


def test_cookie_of_another(pair: Cluster) -> None:
    """In frequent mode the address may move before the client has said anything."""
    frequent(pair)
    with pair.client.capture() as capture:
        sock = pair.client.connect(pair['en'].vip)
        move(pair, pair['en'], pair['de'])
        sock.send(request('/fr/128k'))
        served(sock.response(), 'fr', '128k')
        assert pair['de'].stats()['cookies_answered'] == 1
        assert seeks(pair['de']) == {}
        sock.close()
        wait_for(lambda: not {'de', 'fr'} & set(pair.live_flows()),
                 'the connection is over')
    unbroken(capture.connection(sock.port))


def test_while_the_answer_comes(pair: Cluster) -> None:
    """Only acknowledgements of the client's come to the new front end."""
    expect_the_rest(pair)


def test_nobody_has_it(pair: Cluster) -> None:
    """What the first front end served itself is over; a new connection is welcome."""
    expect_the_end(pair)
    served(pair.client.curl.get(pair.url('en', '/fr/1k')), 'fr', '1k')


@pytest.mark.long
def test_nobody_answers(pair: Cluster) -> None:
    """Nodes that are silent are not waited for any longer than for a handoff."""
    expect_the_end(pair, silent=True)


def test_not_asked(pair: Cluster) -> None:
    """Nobody is asked about what is no service's, or by a node that drains."""
    client, node = pair.client, pair['de']
    # To a port on which nobody listens TCP's own answer has an acknowledgement.
    with pytest.raises(SocketError, match='ConnectionRefusedError'):
        client.connect(node.vip, 81)
    sock = hand_off(pair, 'en')
    node.ctl('drain', '--timeout', '1', check=False)
    move(pair, pair['en'], node)
    sock.send(request('/en/1k'))
    with pytest.raises(SocketError, match='ConnectionResetError'):
        sock.receive()
    assert seeks(node) == {}
    node.ctl('resume')


@pytest.mark.long
def test_under_load(pair: Cluster) -> None:
    """Forty connections move at once."""
    expect_many(pair)


@pytest.fixture
def crashed(lab: Lab, way: str) -> Cluster:
    """A site whose front end can crash."""
    cluster = lab.bare(dataclasses.replace(lab.spec, forward=way))
    cluster.start_servers()
    lab.enable(cluster)
    return cluster


def test_front_end_crashes(crashed: Cluster) -> None:
    """A connection survives its front end, and ends as any."""
    sock = hand_off(crashed)
    crash(crashed)
    sock.send(request('/fr/2m'))
    served(sock.response(), 'fr', '2m')
    assert seeks(crashed['en']) == FOUND
    sock.close()
    no_flows(crashed)
    assert crashed['en'].stats()['closed_heard'] == 1


@pytest.mark.long
def test_client_begins_anew(crashed: Cluster) -> None:
    """Nobody's connection does not keep its client from a new one with the same
    port."""
    front, client = crashed['en'], crashed.client
    sock = client.connect(front.vip, source=(client.address, 40003))
    sock.send(request('/fr/1k'))
    served(sock.response(), 'fr', '1k')
    client.nft('table inet f { chain o { type filter hook output priority 0; '
               'tcp flags rst tcp sport 40003 drop; }; }')
    crash(crashed)
    sock.reset()
    client.nft('')
    process = asks_again(client, 40003, crashed.url('en', '/fr/1k'))
    assert process.readline(40) == b'200 fr\n'
    no_flows(crashed)
