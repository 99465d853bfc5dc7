# SPDX-License-Identifier: GPL-2.0
"""Authentication of the control connections: who is talked to, and how every
attempt to be taken for somebody else is refused and counted."""

import errno
import json
from typing import Any, Callable, Dict, Iterator, List

import pytest

from checks import all_right, served
from conftest import Lab
from harness.cluster import SITE
from harness.control import (HELLO, KEY_LEN, TAG_LEN, VERSION, Speaker, abort,
                             record)
from harness.load import Load
from harness.node import Node
from harness.paths import CARISMACTL
from harness.running import Cluster, wait_for
from test_config import ynl

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


def check_lines(node: Node, check: str) -> List[Dict[str, Any]]:
    """What `carismactl check` says of something."""
    told = json.loads(node.ctl('check', '--json', check=False).out)
    return [finding for finding in told if finding['check'] == check]


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


def reflected(peer: Speaker) -> None:
    """The node's own proof, sent back."""
    peer.greet()
    peer.send(peer.read(KEY_LEN + TAG_LEN))


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
    reflected: 'peers_unproven',
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
    again.read(96)      # of which the nonce is another one
    peer._sent = 0
    again.send(peer.proof(), old)
    again.closed()
    counted(node, before, 'peers_unproven')
    before = refusals(node)
    again = joined(node, cluster.client)
    again.send(old)
    again.closed()
    counted(node, before, 'records_forged')


@pytest.mark.ipv6
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


# Clusters with keys that differ

def configured(cluster: Cluster, **keys: str) -> None:
    """Load the modules; each node has its key, or none."""
    cluster.load()
    for node in cluster.nodes:
        key = keys.get(node.name, '')
        for words in node.configuration():
            if words[0] != 'key':
                node.ctl(*words)
            elif key:
                key_set(node, 1, key)


def answered(cluster: Cluster, path: str, by: str) -> None:
    """A request to `en` is answered by this node."""
    served(cluster.client.curl.get(cluster.url('en', path)), by, '1k')


def test_keys_that_differ(site: Cluster, lab: Lab) -> None:
    """Nodes with the same key are connected. One with another key or none is
    not, each says why, and its requests are served where they arrive; when it
    has the key it is there."""
    if lab.plain:
        pytest.fail('this needs the modules')
    configured(site, en=OLD, fr=NEW)
    en, fr, de = site.nodes
    wait_for(lambda: states(en) == {'fr': 'unproven', 'de': 'unauthenticated'},
             'en knows why')
    wait_for(lambda: states(de) == {'en': 'unauthenticated', 'fr': 'unauthenticated'},
             'de knows why')
    for path in ('/fr/1k', '/de/1k', '/en/1k'):
        answered(site, path, 'en')
    peers = {finding['text']: finding for finding in check_lines(en, 'peer')}
    assert set(peers) == {
        'fr is down: it did not prove that it has the key',
        'de is down: one of the two nodes has keys, and the other has none'}
    assert all(finding['level'] == 'error' and finding['advice']
               for finding in peers.values())
    assert 'down (unproven)' in en.ctl('node', 'list').out
    assert check_lines(en, 'key')[0]['level'] == 'ok'
    assert check_lines(de, 'key')[0]['level'] == 'warning'
    key_set(de, 1, OLD)
    wait_for(lambda: states(en)['de'] == 'up', 'de has the key')
    fr.ctl('key', 'del', '1')
    key_set(fr, 2, NEW)
    wait_for(lambda: states(en)['fr'] == 'unknown-key', 'en does not know it')
    answered(site, '/de/1k', 'de')
    fr.ctl('key', 'del', '2')
    key_set(fr, 1, OLD)
    wait_for(lambda: site.joined(en) and site.joined(fr), 'all have the key')
    answered(site, '/fr/1k', 'fr')
    assert {finding['level'] for finding in check_lines(en, 'peer')} == {'ok'}


def test_the_first_key_and_the_last(site: Cluster, lab: Lab) -> None:
    """Without keys all works, and is warned of. The first key ends that at
    once; without the last key it is so again."""
    if lab.plain:
        pytest.fail('this needs the modules')
    configured(site)
    en = site['en']
    wait_for(lambda: all(site.joined(node) for node in site.nodes), 'up')
    answered(site, '/fr/1k', 'fr')
    line, = check_lines(en, 'key')
    assert line['level'] == 'warning' and 'not authenticated' in line['text']
    before = refusals(en)
    key_set(en, 1, OLD)
    wait_for(lambda: set(states(en).values()) == {'unauthenticated'}, 'closed')
    assert refusals(en)['peers_rekeyed'] == before['peers_rekeyed'] + 2
    for name in ('fr', 'de'):
        key_set(site[name], 1, OLD)
    wait_for(lambda: all(site.joined(node) for node in site.nodes), 'up again')
    answered(site, '/fr/1k', 'fr')
    for node in site.nodes:
        node.ctl('key', 'del', '1')
    wait_for(lambda: all(site.joined(node) for node in site.nodes), 'without')
    answered(site, '/fr/1k', 'fr')


def test_rotation(fresh: Cluster) -> None:
    """A new key everywhere, then used, then the old one deleted: no control
    connection is closed, and no request is lost."""
    load = Load(fresh.client, fresh['en'].service,
                ['/fr/1k', '/de/1k', '/en/1k'], threads=4)
    before = {node.name: node.stats() for node in fresh.nodes}
    for node in fresh.nodes:
        key_set(node, 2, NEW, '--verify-only')
    assert fresh['en'].ask('key', 'list') == [
        {'id': 1, 'signs': True}, {'id': 2, 'signs': False}]
    for words in (('use', '2'), ('del', '1')):
        for node in fresh.nodes:
            node.ctl('key', *words)
        # All nodes have heard of it: every connection has had a record.
        wanted = {node.name: node.stats()['records_received'] + 10
                  for node in fresh.nodes}
        wait_for(lambda: all(node.stats()['records_received'] > wanted[node.name]
                             for node in fresh.nodes), 'records were exchanged', 60)
    answers = load.end()
    handed_off = 0
    for path, back in (('/fr/1k', 'fr'), ('/de/1k', 'de'), ('/en/1k', 'en')):
        found = all_right(answers, path, back, 'en')
        assert found[back]
        handed_off += found[back] if back != 'en' else 0
    assert handed_off > 20
    for node in fresh.nodes:
        assert node.ask('key', 'list') == [{'id': 2, 'signs': True}]
        after = node.stats()
        assert {name: after[name] - value for name, value in before[node.name].items()
                if name.startswith('peers_') and after[name] != value} == {}


def test_a_key_is_deleted_too_early(fresh: Cluster) -> None:
    """What another node still signs with closes its connections when it is
    deleted; they are back when that one signs with another."""
    en, fr = fresh['en'], fresh['fr']
    for node in fresh.nodes:
        key_set(node, 2, NEW, '--verify-only')
    en.ctl('key', 'use', '2')
    en.ctl('key', 'del', '1')
    wait_for(lambda: set(states(en).values()) == {'unknown-key'}, 'closed')
    assert en.stats()['peers_rekeyed'] == 2
    answered(fresh, '/fr/1k', 'en')
    fr.ctl('key', 'use', '2')
    wait_for(lambda: states(en)['fr'] == 'up', 'fr is back')
    answered(fresh, '/fr/1k', 'fr')


# The keys themselves

def test_keys_stay_over_a_reload(fresh: Cluster) -> None:
    """carisma_btcp keeps them, and tells carisma_utcp when it is back."""
    kernel = fresh['en'].kernel
    kernel.unload('carisma_utcp')
    for node in fresh.nodes:
        assert node.ask('key', 'list') == [{'id': 1, 'signs': True}]
        key_set(node, 2, NEW)
    kernel.load('carisma_utcp')
    wait_for(lambda: all(fresh.joined(node) for node in fresh.nodes), 'up', 30)
    assert refusals(fresh['en'])['peers_unauthenticated'] == 0
    answered(fresh, '/fr/1k', 'fr')


SECRET = 'c0ffee' + '5a' * 29
SET = {'id': 1, 'secret': SECRET}
REFUSED = [
    # operation, attributes: error, attribute, what the text says
    ('key-set', {'id': 1}, errno.EINVAL, 'secret', 'secret: must be 32 bytes'),
    ('key-set', {**SET, 'secret': '5a' * 31}, errno.EINVAL, 'secret', 'secret: must be'),
    ('key-set', {**SET, 'secret': '5a' * 33}, errno.EINVAL, 'secret', 'secret: must be'),
    ('key-set', {**SET, 'secret': '00' * 32}, errno.EINVAL, 'secret', 'secret: must be'),
    ('key-set', {'secret': SECRET}, errno.EINVAL, 'id', 'id: must be 0 to 255'),
    ('key-set', {**SET, 'id': 256}, errno.EINVAL, 'id', 'id: must be 0 to 255'),
    ('key-set', SET, errno.EEXIST, 'id', 'id: a key of this number exists'),
    ('key-set', {**SET, 'id': 9}, errno.ENOSPC, 'id', 'id: there are 4 keys'),
    ('key-use', {}, errno.EINVAL, 'id', 'id: must be 0 to 255'),
    ('key-use', {'id': 9}, errno.ENOENT, 'id', 'id: no such key'),
    ('key-del', {}, errno.EINVAL, 'id', 'id: must be 0 to 255'),
    ('key-del', {'id': 9}, errno.ENOENT, 'id', 'id: no such key'),
    ('key-del', {'id': 255}, errno.EBUSY, 'id', 'id: this key signs'),
]


@pytest.fixture
def empty(site: Cluster, lab: Lab) -> Node:
    """A node with the modules loaded, and nothing configured."""
    if not lab.plain:
        site.load()
    return site['en']


def test_what_is_refused(empty: Node) -> None:
    """Each refusal names the attribute and changes nothing."""
    listed = ['dump', 'key-get', {}]
    made = [['do', 'key-set', {**SET, 'id': number}] for number in (1, 0, 7)]
    made += [['do', 'key-set', {**SET, 'id': 255, 'verify-only': True}],
             ['do', 'key-use', {'id': 255}]]
    gone = [['do', 'key-del', {'id': number}] for number in (0, 1, 7, 255)]
    answers = iter(ynl(empty, [
        ['do', 'key-set', {**SET, 'verify-only': True}], listed, *made, listed,
        *(['do', operation, words] for operation, words, *_ in REFUSED), listed,
        *gone, listed]))
    first = next(answers)
    assert (first['error'], first['at']) == (errno.EINVAL, 'verify-only')
    assert next(answers) == {'answer': []}
    for call in made:
        assert 'error' not in next(answers), call
    before = next(answers)
    assert before['answer'] == [{'id': 255, 'signs': True}, {'id': 7}, {'id': 0}, {'id': 1}]
    for operation, words, error, at, text in REFUSED:
        answer = next(answers)
        assert (answer.get('error'), answer.get('at')) == (error, at), (operation, words)
        assert answer['text'].startswith(text)
    assert next(answers) == before
    for call in gone:
        assert 'error' not in next(answers), call
    assert next(answers) == {'answer': []}


def test_keys_are_not_told(empty: Node) -> None:
    """Nobody can read a key again: not root, not by netlink, sysfs or the
    kernel's log."""
    key_set(empty, 1, SECRET)
    key_set(empty, 2, NEW, '--verify-only')
    answer, = ynl(empty, [['dump', 'key-get', {}]])
    assert answer['answer'] == [{'id': 1, 'signs': True}, {'id': 2}]
    assert empty.ctl('key', 'list').out == (
        'KEY  USE\n'
        '  1  sign, verify\n'
        '  2  verify\n')
    told = ''.join(empty.ctl(*words.split(), check=False).out for words in (
        'key list', '--json key list', '--json stats', '--json node list', 'check --json'))
    told += empty.run('dmesg; grep -r . /sys/kernel/carisma').out
    assert '"signs"' in told
    for secret in (SECRET, NEW):
        raw = bytes.fromhex(secret)
        assert secret not in told and raw not in told.encode('utf8', 'surrogateescape')


def test_carismactl_reads_keys(empty: Node) -> None:
    """From a file or standard input, as it has made them itself."""
    made = empty.ctl('key', 'generate').out
    again = empty.ask('key', 'generate')['key']
    assert len(bytes.fromhex(made)) == len(bytes.fromhex(again)) == 32
    assert again != made.strip()
    empty.put('/tmp/key', made)
    empty.ctl('key', 'set', '1', '--file', '/tmp/key')
    empty.run(f'{CARISMACTL} key generate | {CARISMACTL} key set 2 --file -')
    for bad in ('', 'x' * 64, '5a' * 31, '5a' * 33, f'{NEW}\n{NEW}'):
        answer = empty.run([CARISMACTL, 'key', 'set', '3'], input=bad, check=False)
        assert answer.rc == 1
        assert answer.err.startswith('carismactl: file: -: it must have 64 hexadecimal digits')
    answer = empty.ctl('key', 'set', '3', '--file', '/tmp/none', check=False)
    assert answer.rc == 1 and 'file: /tmp/none: No such file' in answer.err
    assert [key['id'] for key in empty.ask('key', 'list')] == [2, 1]


def test_only_administrators_change_keys(empty: Node) -> None:
    """Everybody may read which there are."""
    key_set(empty, 1, OLD)
    user = ['setpriv', '--reuid', '1000', '--clear-groups']
    assert '1  sign' in empty.run([*user, CARISMACTL, 'key', 'list']).out
    for words in (['set', '2'], ['use', '1'], ['del', '1']):
        answer = empty.run([*user, CARISMACTL, 'key', *words], input=NEW, check=False)
        assert answer.rc == 1 and 'CAP_NET_ADMIN' in answer.err
    assert empty.ask('key', 'list') == [{'id': 1, 'signs': True}]
