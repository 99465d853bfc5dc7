# SPDX-License-Identifier: GPL-2.0
"""Authentication of the control connections: who is talked to, and how every
attempt to be taken for somebody else is refused and counted."""

from typing import Any, Callable, Dict, Iterator

import pytest

from harness.cluster import SITE
from harness.control import (HELLO, HELLO_LEN, KEY_LEN, TAG_LEN, VERSION, Speaker, abort,
                             record)
from harness.node import Node
from harness.paths import CARISMACTL
from harness.running import Cluster, wait_for

OLD = SITE.key
NEW = '8b' * 32
NAME = 'aa'         # sorts before the nodes' names: it connects to them

# What a healthy control connection counts, or BTCP makes of what it says.
ORDINARY = ('peers_connected', 'records_received', 'records_sent',
            'records_bad', 'records_unsent', 'records_unsent_down')


def states(node: Node) -> Dict[str, str]:
    """The state of each other node, with what is the trouble."""
    return {other['name']: other['trouble'] or other['state']
            for other in node.ask('node', 'list') if not other['local']}


def refusals(node: Node) -> Dict[str, int]:
    """All that is counted of connections that were closed."""
    return {name: value for name, value in node.stats().items()
            if name.startswith(('peers_', 'records_'))
            and name not in ORDINARY}


def key_set(node: Node, number: int, key: str, *more: str) -> None:
    """Set a key."""
    node.run([CARISMACTL, 'key', 'set', str(number), *more], input=key)


# A node that speaks for itself

@pytest.fixture
def node(cluster: Cluster) -> Iterator[Node]:
    """A node that knows the client as a node."""
    node = cluster['en']
    node.ctl('node', 'add', NAME, cluster.client.address, '--remote')
    yield node
    node.ctl('node', 'del', NAME)


def speaker(node: Node, client: Node, key: str = OLD, **options: Any) -> Speaker:
    """A new connection of that node."""
    return Speaker(client, node, NAME, key, **options)


def joined(node: Node, client: Node) -> Speaker:
    """A good connection of that node, which is up."""
    before = node.stats()['peers_connected']
    peer = speaker(node, client).join()
    wait_for(lambda: node.stats()['peers_connected'] == before + 1
             and states(node)[NAME] == 'up', 'it is up')
    return peer


@pytest.mark.ipv6
def test_a_session(cluster: Cluster, node: Node) -> None:
    """Who knows the key, and what the document says, is taken for a node."""
    before = refusals(node)
    peer = joined(node, cluster.client)
    received = node.stats()['records_received']
    peer.send(*(peer.tagged(abort(i)) for i in range(20)))
    wait_for(lambda: node.stats()['records_received'] == received + 20,
             'records came')
    # A byte at a time, too.
    for byte in peer.tagged(abort(20)):
        peer.send(bytes([byte]))
    wait_for(lambda: node.stats()['records_received'] == received + 21,
             'it came')
    assert states(node)[NAME] == 'up'
    assert refusals(node) == before
    peer.close()
    wait_for(lambda: states(node)[NAME] == 'down', 'it is down')
    before['peers_lost'] += 1
    assert refusals(node) == before


def test_keys_change_in_a_session(cluster: Cluster, node: Node) -> None:
    """Either end goes over to another key while the connection lives."""
    peer = joined(node, cluster.client)
    before = refusals(node)
    for each in cluster.nodes:
        key_set(each, 2, NEW, '--verify-only')
    try:
        peer.send(peer.tagged(abort(1)))
        peer.change(2, NEW)
        received = node.stats()['records_received']
        peer.send(peer.tagged(abort(2)))
        wait_for(lambda: node.stats()['records_received'] > received,
                 'a record came under the new key')
        node.ctl('key', 'use', '2')
        assert peer.hear_proof(NEW) == 2
        node.ctl('key', 'use', '1')
        assert peer.hear_proof(OLD) == 1
        assert refusals(node) == before
        # What it signs with is deleted.
        node.ctl('key', 'del', '2')
        assert peer.closed() == b''
        before['peers_rekeyed'] += 1
        assert refusals(node) == before
    finally:
        for each in cluster.nodes:
            each.ctl('key', 'del', '2', check=False)
    joined(node, cluster.client).close()


# What somebody does who has no key, or changes what others say.

def forged(peer: Speaker) -> None:
    """A record under another key."""
    peer.join()
    peer.send(abort(1), bytes(TAG_LEN))


def changed(peer: Speaker) -> None:
    """A record of which a bit was changed on the way."""
    said = bytearray(peer.join().tagged(abort(1)))
    said[15] ^= 1
    peer.send(bytes(said))


def reflected(peer: Speaker) -> None:
    """The node's own proof, sent back."""
    peer.greet()
    peer.send(peer.proof())
    peer.send(peer.read(KEY_LEN + TAG_LEN))


def replayed(peer: Speaker) -> None:
    """A record twice."""
    said = peer.join().tagged(abort(1))
    peer.send(said, said)


def reordered(peer: Speaker) -> None:
    """Two records in the wrong order."""
    peer.join()
    first, second = peer.tagged(abort(1)), peer.tagged(abort(2))
    peer.send(second, first)


def truncated(peer: Speaker) -> None:
    """Half a record."""
    peer.send(peer.join().tagged(abort(1))[:30])
    peer.shutdown()


def tag_missing(peer: Speaker) -> None:
    """A record without its tag, then another one."""
    peer.join()
    peer.send(abort(1), abort(2))


def oversized(peer: Speaker) -> None:
    """A record that says it is longer than it can be."""
    said = bytearray(peer.join().tagged(abort(1)))
    said[2:4] = b'\xff\xff'
    peer.send(bytes(said))


def no_kind(peer: Speaker) -> None:
    """A record of a kind that there is not."""
    peer.send(peer.join().tagged(record(99, bytes(60))))


def second_hello(peer: Speaker) -> None:
    """A HELLO once more, signed."""
    peer.send(peer.join().tagged(peer.hello))


def other_version(peer: Speaker) -> None:
    """A HELLO as it was in version 1."""
    peer.send(bytes([1, HELLO, 0, 32]) + bytes(12) + b'aa' + bytes(14))


def next_version(peer: Speaker) -> None:
    """A HELLO as it may once be."""
    peer.send(peer.make_hello(NAME, version=VERSION + 1))


def no_proof(peer: Speaker) -> None:
    """A record before the proof."""
    peer.greet()
    peer.send(peer.tagged(abort(1)))


def silence(peer: Speaker) -> None:
    """No proof, nor anything else."""
    peer.greet()


def gone(peer: Speaker) -> None:
    """The end instead of a proof."""
    peer.greet()
    peer.shutdown()


def wrong_proof(peer: Speaker) -> None:
    """Another key under the same number."""
    peer.greet()
    peer._key = bytes.fromhex(NEW)
    peer.send(peer.proof())


def unknown_key(peer: Speaker) -> None:
    """A key of another number."""
    peer.greet()
    peer._number = 99
    peer.send(peer.proof())


def unsigned(peer: Speaker) -> None:
    """A node without keys."""
    peer.send(peer.make_hello(NAME, signs=False))


def other_name(peer: Speaker) -> None:
    """The name of another node."""
    peer.send(peer.make_hello('de'))


def no_hello(peer: Speaker) -> None:
    """Something else."""
    peer.send(b'GET / HTTP/1.1\r\nHost: www.example\r\n\r\n' * 2)


ATTACKS: Dict[Callable[[Speaker], None], str] = {
    forged: 'records_forged',
    changed: 'records_forged',
    reflected: 'records_forged',
    tag_missing: 'records_forged',
    replayed: 'records_replayed',
    reordered: 'records_reordered',
    truncated: 'records_truncated',
    oversized: 'records_oversized',
    no_kind: 'peers_malformed',
    second_hello: 'peers_malformed',
    other_version: 'peers_version',
    next_version: 'peers_version',
    no_proof: 'peers_unproven',
    silence: 'peers_unproven',
    gone: 'peers_unreachable',
    wrong_proof: 'peers_unproven',
    unknown_key: 'peers_unknown_key',
    unsigned: 'peers_unauthenticated',
    other_name: 'peers_strange',
    no_hello: 'peers_strange',
}
TROUBLES = {'peers_version': 'version', 'peers_unproven': 'unproven',
            'peers_unknown_key': 'unknown-key', 'peers_strange': 'strange',
            'peers_unauthenticated': 'unauthenticated'}


def counted(node: Node, before: Dict[str, int], counter: str) -> None:
    """This was counted once, and nothing else."""
    wait_for(lambda: refusals(node) != before, 'it is counted')
    assert refusals(node) == {**before, counter: before[counter] + 1}


@pytest.mark.parametrize('attack', ATTACKS, ids=lambda attack: attack.__name__)
def test_attacks(cluster: Cluster, node: Node, attack) -> None:
    """Each is refused, counted by its counter alone, and shown; then the node
    itself can connect as if nothing had been."""
    before = refusals(node)
    handled = node.stats()['records_received']
    peer = speaker(node, cluster.client)
    attack(peer)
    peer.closed()
    counted(node, before, ATTACKS[attack])
    trouble = TROUBLES.get(ATTACKS[attack], 'down')
    wait_for(lambda: states(node)[NAME] == trouble, f'it is known as {trouble}')
    # Nothing that was said has got through, but what was good.
    assert node.stats()['records_received'] == handled + (attack is replayed)
    joined(node, cluster.client).close()


def test_old_session_again(cluster: Cluster, node: Node) -> None:
    """All that a connection said, in another one, is good for nothing; nor
    are its records in a connection that is good."""
    peer = speaker(node, cluster.client).join()
    old = peer.tagged(abort(1))
    peer.close()
    wait_for(lambda: states(node)[NAME] == 'down', 'it is down')
    before = refusals(node)
    again = speaker(node, cluster.client)
    again.send(peer.hello)
    again.read(HELLO_LEN)       # of which the nonce is another one
    peer._sent = 0
    again.send(peer.proof(), old)
    again.closed()
    counted(node, before, 'peers_unproven')
    before = refusals(node)
    again = joined(node, cluster.client)
    again.send(old)
    again.closed()
    counted(node, before, 'records_forged')


@pytest.mark.ipv6(long=True)
def test_strangers_do_not_disturb(cluster: Cluster, node: Node) -> None:
    """A connection that is up is not given up for one that proves nothing."""
    peer = joined(node, cluster.client)
    for attack in (unsigned, wrong_proof, other_version, no_hello):
        before = refusals(node)
        stranger = speaker(node, cluster.client)
        attack(stranger)
        stranger.closed()
        counted(node, before, ATTACKS[attack])
        assert states(node)[NAME] == 'up'
    received = node.stats()['records_received']
    peer.send(peer.tagged(abort(1)))
    wait_for(lambda: node.stats()['records_received'] > received, 'it lives')
    # One that does is the node, which would not come again without need.
    before = refusals(node)
    joined(node, cluster.client)
    peer.closed()
    assert refusals(node) == {**before, 'peers_lost': before['peers_lost'] + 1}


@pytest.mark.long
def test_strangers_are_few(cluster: Cluster, node: Node) -> None:
    """More than may wait for their proof at a time: the oldest are given up,
    each is counted, and who comes then is heard, even at once."""
    before = refusals(node)
    peers = []
    for _ in range(20):
        peers.append(speaker(node, cluster.client))
        peers[-1].send(peers[-1].hello)
    for peer in peers[:16]:
        peer.closed()
    joined(node, cluster.client)
    for peer in peers[16:]:
        peer.closed()
    counter = 'peers_unproven'
    wait_for(lambda: refusals(node) == {**before, counter: before[counter] + 20},
             'all are counted')
