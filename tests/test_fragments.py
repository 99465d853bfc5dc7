# SPDX-License-Identifier: GPL-2.0
"""Segments in fragments of IPv4; those of IPv6 are in test_ipv6.py."""

import pytest

from checks import no_flows, request
from harness.running import Cluster
from harness.wire import Wire
from segments.place import answered

# What loads conntrack, which puts fragments together before anybody else.
TRACKING = ('table inet tracking { chain c { type filter hook input priority 0; '
            'ct state invalid drop; }; }')
SIZE = 24
BOTH = pytest.mark.parametrize('language', ('en', 'fr'))


@pytest.fixture(scope='module')
def family() -> int:
    """That of hosts and services."""
    return 4


@BOTH
@pytest.mark.parametrize('tracked', (False, True), ids=('', 'tracked'))
def test_all_in_fragments(cluster: Cluster, wire: Wire, tracked: bool, language: str) -> None:
    """Every segment of the client's is, from the handshake to the end."""
    for node in cluster.nodes:
        node.nft(TRACKING if tracked else '')
    peer, raw = wire.peer('en'), request(f'/{language}/1k')
    peer.greet(pieces=8)
    peer.next = 1
    peer.send('A', pieces=8)
    peer.send('PA', raw[:20], wait=0.2, pieces=SIZE)
    peer.send('PA', raw[20:], pieces=SIZE)
    answered(peer, (language, '1k'))
    peer.send('PA', request(f'/{language}/128k', Connection='close'), pieces=SIZE)
    answered(peer, (language, '1k'), (language, '128k'))
    peer.until(lambda: peer.stream.fin is not None, 'FIN')
    peer.send('FA', wait=0.3, pieces=8)
    no_flows(cluster)


@BOTH
def test_in_any_order(cluster: Cluster, wire: Wire, language: str) -> None:
    """The last may come first."""
    peer, raw = wire.peer('en').open(), request(f'/{language}/1k')
    frames = peer.frames('PA', raw, pieces=SIZE)
    assert len(frames) > 2
    peer.next += len(raw)
    peer.post(frames[::-1])
    answered(peer, (language, '1k'))
    peer.quit()


@BOTH
@pytest.mark.parametrize('lost', (0, -1))
def test_a_fragment_is_lost(cluster: Cluster, wire: Wire, language: str, lost: int) -> None:
    """What is left of a segment is not a segment; it is sent again."""
    peer, raw = wire.peer('en').open(), request(f'/{language}/1k')
    frames = peer.frames('PA', raw, pieces=SIZE)
    del frames[lost]
    peer.post(frames, wait=0.3)
    assert peer.acked == 1
    peer.send('PA', raw, pieces=SIZE)
    answered(peer, (language, '1k'))
    peer.quit()


@BOTH
def test_wrong_checksums(cluster: Cluster, wire: Wire, language: str) -> None:
    """A segment whose fragments make a wrong one is nobody's."""
    peer, raw = wire.peer('en').open(), request(f'/{language}/1k')
    peer.send('PA', b'?' * len(raw), good=False, wait=0.3, pieces=SIZE)
    assert peer.acked == 1
    peer.send('PA', raw, pieces=SIZE)
    answered(peer, (language, '1k'))
    peer.quit()
