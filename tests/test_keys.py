# SPDX-License-Identifier: GPL-2.0
"""The keys of the control connections: nodes whose keys differ, keys that are
exchanged, and what is told of them."""

import errno
import json
from typing import Any, Dict, List

import pytest

from checks import all_right, served
from conftest import Lab
from harness.load import Load
from harness.node import Node
from harness.paths import CARISMACTL
from harness.running import Cluster, wait_for
from test_auth import NEW, OLD, key_set, refusals, states
from test_config import ynl


def check_lines(node: Node, check: str) -> List[Dict[str, Any]]:
    """What `carismactl check` says of something."""
    told = json.loads(node.ctl('check', '--json', check=False).out)
    return [finding for finding in told if finding['check'] == check]


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


@pytest.mark.long
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


@pytest.mark.long
def test_a_key_that_the_acceptor_deletes(fresh: Cluster) -> None:
    """Who connects with it is not up for a moment, again and again."""
    en, fr = fresh['en'], fresh['fr']
    for node in fresh.nodes:
        key_set(node, 2, NEW, '--verify-only')
    fr.ctl('key', 'use', '2')
    fr.ctl('key', 'del', '1')
    wait_for(lambda: set(states(fr).values()) == {'unknown-key'}, 'closed')
    before = en.stats()['peers_connected']
    refused = fr.stats()['peers_unknown_key']
    wait_for(lambda: fr.stats()['peers_unknown_key'] > refused + 2, 'it tries again')
    assert en.stats()['peers_connected'] == before
    answered(fresh, '/fr/1k', 'en')
    en.ctl('key', 'use', '2')
    wait_for(lambda: states(en)['fr'] == 'up', 'fr is back')


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
    service = {'addr': '10.0.0.11', 'port': 80}
    always = ['do', 'service-add', {**service, 'mode': 'always'}]
    gone = [['do', 'key-del', {'id': number}] for number in (0, 1, 7)]
    last = ['do', 'key-del', {'id': 255}]
    answers = iter(ynl(empty, [
        ['do', 'key-set', {**SET, 'verify-only': True}], listed, *made, listed,
        *(['do', operation, words] for operation, words, *_ in REFUSED), listed,
        always, *gone, last, ['do', 'service-del', service], last, listed]))
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
    for call in [always, *gone]:
        assert 'error' not in next(answers), call
    needed = next(answers)
    assert (needed['error'], needed['at']) == (errno.EBUSY, 'id')
    assert needed['text'].startswith('id: a service in mode always')
    for _ in range(2):
        assert 'error' not in next(answers)
    assert next(answers) == {'answer': []}


@pytest.mark.long
def test_nodes_come_after_keys(empty: Node) -> None:
    """When carisma_utcp is loaded it has no control connections before it knows the keys, though
    a node be added meanwhile."""
    key_set(empty, 1, OLD)
    kernel = empty.kernel
    listening = "ss -Hltn 'sport = :7480'"
    # The node may wait for the lock until the keys are known, and would rightly be called then.
    for _ in range(6):
        kernel.unload('carisma_utcp')
        # By which it asks for the keys, for one namespace after the other.
        with kernel.delayed(carisma_btcp_put=1000):
            early = empty.run(
                f'insmod {kernel.guest.modules}/carisma_utcp.ko && '
                f'{CARISMACTL} node add {empty.name} {empty.address} --local && '
                f'sleep 0.1 && {listening}', timeout=90).out
        wait_for(lambda: empty.run(listening).out != '', 'it was told')
        if early == '':
            return
        empty.ctl('node', 'del', empty.name)
    pytest.fail('each time it listened at once')


@pytest.mark.long
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
