# SPDX-License-Identifier: GPL-2.0
"""The ACK that ends a handshake, which BTCP keeps from TCP for a moment, and the request that
comes with it, behind it or later. In frequent mode the handshake is BTCP's, the rest the same."""

import re
import time
from typing import Dict, Iterator

import pytest

from checks import no_flows, request, served, unbroken
from conftest import Lab
from harness.node import Node
from harness.pcap import ACK, SYN
from harness.running import Cluster, wait_for
from harness.wire import Peer, Wire

AT_ONCE = 'connections_passed_decided'
WITHHELD = 'connections_withheld'


@pytest.fixture(params=('rare', 'frequent'))
def mode(request: pytest.FixtureRequest) -> str:
    """Whose the handshakes are."""
    return request.param


@pytest.fixture
def shaken(site: Cluster, lab: Lab, mode: str) -> Cluster:
    """The site in that mode."""
    lab.enable(site)
    for node in site.nodes:
        node.ctl('service', 'set', node.service, '--mode', mode)
    return site


@pytest.fixture
def wire(shaken: Cluster) -> Iterator[Wire]:
    """A client whose segments the test makes."""
    found = Wire(shaken)
    yield found
    found.stop()


def counted(node: Node, before: Dict[str, int]) -> Dict[str, int]:
    """What became of TCP's sockets since."""
    after = node.stats()
    return {name: after[name] - before[name] for name in (AT_ONCE, WITHHELD)}


def ask(peer: Peer, language: str) -> None:
    """The request is answered by this node, and nothing is odd; the client is gone then."""
    peer.send('PA', request(f'/{language}/1k'))
    peer.until(lambda: len(peer.stream.data) > 1024, 'an answer')
    assert not peer.reset() and not peer.wrong(), str(peer)
    assert f'X-Node: {language}'.encode() in peer.stream.data
    peer.quit()


@pytest.mark.parametrize('language', ('en', 'fr'))
def test_request_in_the_place_of_the_ack(shaken: Cluster, wire: Wire, language: str) -> None:
    """TCP makes the socket of it, if the request is its own, and none if not: nothing is
    withheld."""
    front = shaken['en']
    # The first time the emulator takes too long.
    for _ in range(5):
        before = front.stats()
        peer = wire.peer('en')
        peer.greet()
        peer.next = 1
        ask(peer, language)
        no_flows(shaken)
        found = counted(front, before)
        if language == 'fr' or found[AT_ONCE]:
            break
    assert found == {AT_ONCE: int(language == 'en'), WITHHELD: 0}


@pytest.mark.parametrize('language', ('en', 'fr'))
def test_probe_right_behind_the_ack(shaken: Cluster, wire: Wire, language: str) -> None:
    """What TCP answers while it waits for that ACK has a later timestamp than its SYN-ACK, and
    the request echoes it: TCP would not make its socket of that."""
    for _ in range(10):
        peer = wire.peer('en')
        peer.greet()
        peer.next = 1
        peer.post(peer.frames('A') + peer.frames('A', b'?', seq=0), wait=5, quiet=5, count=1)
        ask(peer, language)
    no_flows(shaken)


def test_requests_right_behind_the_ack(shaken: Cluster) -> None:
    """So it mostly is where the machine has time; all of them are served."""
    front, client = shaken['en'], shaken.client
    before = front.stats()
    for _ in range(10):
        answers = client.curl.fetch([shaken.url('en', '/en/1k')] * 10,
                                    options='-H "Connection: close"')
        for answer in answers:
            served(answer, 'en', '1k')
        if counted(front, before)[AT_ONCE]:
            break
    found = counted(front, before)
    assert found[AT_ONCE]
    assert front.stats()['requests_local'] - before['requests_local'] == sum(found.values())
    no_flows(shaken)


@pytest.mark.parametrize('mode', ('rare',), indirect=True)
def test_nothing_behind_the_ack(shaken: Cluster) -> None:
    """TCP gets it long before it would ask again."""
    front, client = shaken['en'], shaken.client
    before = front.stats()
    with client.capture() as capture:
        sock = client.connect(front.vip)
        wait_for(lambda: [it['state'] for it in front.flows()] == ['head'], 'it is open')
        assert counted(front, before) == {AT_ONCE: 0, WITHHELD: 1}
        time.sleep(2.5)
        sock.send(request('/en/1k'))
        served(sock.response(), 'en', '1k')
        port = sock.port
        sock.close()
        no_flows(shaken)
    found = capture.connection(port)
    unbroken(found)
    assert sum(it.flags & (SYN | ACK) == SYN | ACK for it in found.segments) == 1


@pytest.mark.parametrize('pause', (0, 0.1, 1))
def test_round_trip(shaken: Cluster, pause: float) -> None:
    """TCP knows it, whenever the request comes."""
    front, client = shaken['en'], shaken.client
    front.run('ip tcp_metrics flush; sysctl -qw net.ipv4.tcp_no_metrics_save=1')
    client.link.netem(delay=0.1)
    sock = client.connect(front.vip)
    time.sleep(pause)
    sock.send(request('/en/1k'))
    served(sock.response(), 'en', '1k')
    state = front.run(f'ss -Htinm dport = :{sock.port} | tr "\\n" " "').out
    sock.close()
    rtt = float(re.search(r'\brtt:([\d.]+)', state)[1])
    assert 200 <= rtt < 400, state
    no_flows(shaken)


@pytest.mark.parametrize('mode', ('rare',), indirect=True)
def test_long_way_to_tcp(shaken: Cluster) -> None:
    """The time for which the ACK is held is over while TCP is given it as there is half a head."""
    front, client = shaken['en'], shaken.client
    front.knob('handoff_timeout_ms', 10_000)
    with front.kernel.delayed(carisma_btcp__carisma_helper_inject=100):
        for _ in range(5):
            sock = client.connect(front.vip)
            sock.send(request('/fr/1k'), chunk=30, delay=0.002)
            served(sock.response(), 'fr', '1k')
            sock.close()
    no_flows(shaken)


@pytest.mark.parametrize('why', ('refused', 'silent'))
def test_nobody_takes_it(shaken: Cluster, why: str) -> None:
    """Another node was asked, and TCP here is to have the connection after all."""
    front, back = shaken['en'], shaken['fr']
    front.knob('handoff_trust_ms', 0)
    if why == 'refused':
        back.nginx.stop()
    else:
        back.nft('table inet t { chain c { type filter hook input priority 0; '
                 'tcp dport 80 drop; }; }')
        front.knob('handoff_timeout_ms', 300)
    before = front.stats()
    try:
        for _ in range(5):
            served(shaken.client.curl.get(shaken.url('en', '/fr/1k')), 'en', '1k')
    finally:
        if why == 'refused':
            back.nginx.start()
        else:
            back.nft('')
    found = front.stats()['handoffs_accepted'] - before['handoffs_accepted']
    assert found == 0
    no_flows(shaken)


@pytest.mark.parametrize('mode', ('rare',), indirect=True)
@pytest.mark.parametrize('language', ('en', 'fr'))
def test_request_as_tcp_gets_the_ack(shaken: Cluster, wire: Wire, language: str) -> None:
    """It comes on another processor, when TCP has made a socket and UTCP has not asked of it yet:
    it waits for that, and no longer, so that a client need not say it again."""
    front = shaken['en']
    for node in shaken.nodes:
        node.knob('handoff_timeout_ms', 10_000)
    before = front.stats()
    with front.kernel.delayed(carisma_btcp_put=200):
        peer = wire.peer('en').open()
        time.sleep(0.1)
        ask(peer, language)
        no_flows(shaken)
    assert counted(front, before) == {AT_ONCE: 0, WITHHELD: 1}
