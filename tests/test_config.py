# SPDX-License-Identifier: GPL-2.0
"""The configuration: carismactl, the netlink family, sysfs."""

import errno
import json
import os
import re
from typing import Any, Dict, List

import pytest

from conftest import Lab
from harness.node import Node
from harness.paths import CARISMACTL, CHECKOUT, INSIDE
from harness.process import Result
from harness.running import Cluster, wait_for

# Addresses are written out here.
pytestmark = pytest.mark.family(4)

DESCRIPTION = f'{CHECKOUT}/include/uapi/linux/carisma.yaml'
MANUAL = f'{CHECKOUT}/docs/configuration.md'
KERNEL_TREE = '/cache/kernel/tree'      # of the Debian tree, not of the guests
YNL = '/tmp/ynl'
SYSFS = '/sys/kernel/carisma'

VIP = '10.0.0.11:80'
RULE_GET = 9        # the command's number


@pytest.fixture
def node(site: Cluster, lab: Lab) -> Node:
    """A node with the modules loaded, and nothing configured."""
    if not lab.plain:
        site.load()
    return site['en']


def ynl(node: Node, calls: List[List[Any]]) -> List[Dict[str, Any]]:
    """Make calls with the kernel's own ynl."""
    folder = f'{KERNEL_TREE}/tools/net/ynl/pyynl/lib'
    if node.run(['test', '-e', f'{YNL}/genetlink.yaml'], check=False).rc != 0:
        node.run(['mkdir', '-p', f'{YNL}/lib'])
        for name in os.listdir(folder):
            if name.endswith('.py'):
                with open(f'{folder}/{name}', 'rb') as file:
                    node.put(f'{YNL}/lib/{name}', file.read())
        with open(f'{KERNEL_TREE}/Documentation/netlink/genetlink.yaml', 'rb') as file:
            node.put(f'{YNL}/genetlink.yaml', file.read())
    answer = node.run(
        ['python3', f'{INSIDE}/ynl.py', YNL, f'{YNL}/genetlink.yaml', DESCRIPTION],
        input=json.dumps(calls), timeout=120)
    return json.loads(answer.out)


def everything(node: Node) -> Dict[str, Any]:
    """All that is configured."""
    return {what: node.ask(what, 'list') for what in ('service', 'node', 'rule')}


def many(node: Node, lines: List[str]) -> None:
    """Carry out each line; all must succeed."""
    node.batch([[line] for line in lines])


# Lists

def test_what_is_added_is_listed(node: Node) -> None:
    """Services, nodes and rules come and go, one by one."""
    many(node, [
        f'service add {VIP}',
        'service add 10.0.0.11:8080 --mode frequent --migrate replay',
        'node add en 10.0.0.1', 'node add fr 10.0.0.2 --port 7000',
        'node add de 10.0.0.3 --remote --forward direct --other fd00::3 --other-forward nat',
        f'rule add {VIP} --path /fr/ --node fr',
        f'rule add {VIP} --host WWW.Example. --node en',
        'rule add 10.0.0.11:8080 --host [2001:DB8::1] --path / --node de --node fr '
        '--otherwise unavailable --pick hash --cookie node'])
    assert node.ask('service', 'list') == [
        {'address': '10.0.0.11', 'port': 80, 'mode': 'rare', 'current': 'rare',
         'remote': 0, 'migrate': 'adopt', 'rules': 2},
        {'address': '10.0.0.11', 'port': 8080, 'mode': 'frequent', 'current': 'frequent',
         'remote': 0, 'migrate': 'replay', 'rules': 1}]
    nodes = node.ask('node', 'list')
    assert [(n['name'], n['address'], n['port'], n['local'], n['forward'], n['state'])
            for n in nodes] == [
        ('en', '10.0.0.1', 7480, True, 'auto', 'self'),      # the machine's own address
        ('fr', '10.0.0.2', 7000, False, 'auto', 'down'),
        ('de', '10.0.0.3', 7480, False, 'direct', 'down')]
    assert [(n['other_address'], n['other_forward']) for n in nodes] == [
        (None, None), (None, None), ('fd00::3', 'nat')]
    assert node.ask('rule', 'list') == [
        {'address': '10.0.0.11', 'port': 80, 'host': None, 'path': '/fr/',
         'nodes': ['fr'], 'otherwise': 'local', 'pick': 'order', 'cookie': None},
        {'address': '10.0.0.11', 'port': 80, 'host': 'www.example', 'path': None,
         'nodes': ['en'], 'otherwise': 'local', 'pick': 'order', 'cookie': None},
        {'address': '10.0.0.11', 'port': 8080, 'host': '[2001:db8::1]', 'path': '/',
         'nodes': ['de', 'fr'], 'otherwise': 'unavailable', 'pick': 'hash', 'cookie': 'node'}]
    assert node.ctl('service', 'list').out == (
        'SERVICE         MODE      REMOTE  MIGRATE  RULES\n'
        '10.0.0.11:80    rare      0 %     adopt        2\n'
        '10.0.0.11:8080  frequent  0 %     replay       1\n')
    node.ctl('service', 'set', '10.0.0.11:8080', '--mode', 'rare')
    node.ctl('service', 'set', VIP, '--migrate', 'replay')
    assert [(s['mode'], s['migrate'], s['rules']) for s in node.ask('service', 'list')] == [
        ('rare', 'replay', 2), ('rare', 'replay', 1)]
    assert node.ctl('node', 'list').out == (
        'NODE  ADDRESS                 FORWARD      STATE\n'
        'en    10.0.0.1:7480           auto         self\n'
        'fr    10.0.0.2:7000           auto         down\n'
        'de    10.0.0.3:7480, fd00::3  direct, nat  down\n')
    assert node.ctl('rule', 'list').out == (
        'SERVICE         HOST           PATH  NODES  PICK   COOKIE  OTHERWISE\n'
        '10.0.0.11:80    *              /fr/  fr     order  -       local\n'
        '10.0.0.11:80    www.example    *     en     order  -       local\n'
        '10.0.0.11:8080  [2001:db8::1]  /     de fr  hash   node    unavailable\n')

    many(node, [
        f'rule del {VIP} --host www.EXAMPLE', 'service del 10.0.0.11:8080', 'node del de'])
    assert [rule['path'] for rule in node.ask('rule', 'list')] == ['/fr/']
    assert [service['port'] for service in node.ask('service', 'list')] == [80]
    assert [n['name'] for n in node.ask('node', 'list')] == ['en', 'fr']
    many(node, [f'rule del {VIP} --path /fr/', 'node del fr', 'node del en',
                f'service del {VIP}'])
    assert everything(node) == {'service': [], 'node': [], 'rule': []}


def test_always_needs_a_key(node: Node) -> None:
    """Other nodes could not check the cookies without one."""
    node.ctl('service', 'add', VIP)
    answer = node.ctl('service', 'set', VIP, '--mode', 'always', check=False)
    assert answer.rc and 'mode: always needs a key' in answer.err
    node.put('/tmp/key', '3c' * 32)
    node.ctl('key', 'set', '1', '--file', '/tmp/key')
    node.ctl('service', 'set', VIP, '--mode', 'always')
    [service] = node.ask('service', 'list')
    assert (service['mode'], service['current']) == ('always', 'always')
    # Nor could they without the last one.
    node.ctl('key', 'set', '2', '--verify-only', '--file', '/tmp/key')
    node.ctl('key', 'del', '2')
    answer = node.ctl('key', 'del', '1', check=False)
    assert answer.rc and 'id: a service in mode always needs this key' in answer.err
    assert node.ask('key', 'list') == [{'id': 1, 'signs': True}]
    node.ctl('service', 'set', VIP, '--mode', 'rare')
    node.ctl('key', 'del', '1')


@pytest.mark.long
def test_long_lists_are_whole(node: Node) -> None:
    """Lists that take many messages: each entry once, in order."""
    paths = ['/' + f'{i:03}'.ljust(254, 'x') for i in range(256)]
    calls = [['do', 'service-add', {'addr': '10.0.0.11', 'port': 80}],
             ['do', 'node-add', {'name': 'fr', 'addr': '10.0.0.2'}]]
    calls += [['do', 'rule-add', {'addr': '10.0.0.11', 'port': 80, 'path': path, 'node': 'fr'}]
              for path in paths]
    answers = ynl(node, calls + [['dump', 'rule-get', {}]])
    assert not [answer for answer in answers if 'error' in answer]
    assert [rule['path'] for rule in answers[-1]['answer']] == paths
    assert [rule['path'] for rule in node.ask('rule', 'list')] == paths
    # One that changes while it is read says so.
    listing = ['python3', f'{INSIDE}/genl.py', 'interrupt', 'carisma', str(RULE_GET)]
    for program, changed in ((['true'], False),
                             ([CARISMACTL, 'rule', 'del', VIP, '--path', paths[0]], True)):
        parts, marked = map(int, node.run([*listing, *program]).out.split())
        assert parts > 2
        assert (marked > 0) == changed


# Refusals

REFUSED = {
    # call: (error, attribute, what the text says)
    ('service-add', 'addr=10.0.0.12'): (errno.EINVAL, 'port', 'port: must be 1 to 65535'),
    ('service-add', 'addr=10.0.0.12 port=0'): (errno.EINVAL, 'port', 'port: must be 1 to 65535'),
    ('service-add', 'port=80'): (errno.EINVAL, 'addr', 'addr: must be a unicast address, 4'),
    ('service-add', 'addr=0.0.0.0 port=80'): (errno.EINVAL, 'addr', 'addr: must be a unicast'),
    ('service-add', 'addr=239.1.2.3 port=80'): (errno.EINVAL, 'addr', 'addr: must be a unicast'),
    ('service-add', 'addr=255.255.255.255 port=80'): (errno.EINVAL, 'addr', 'addr: must be'),
    ('service-add', 'addr=:: port=80'): (errno.EINVAL, 'addr', 'addr: must be'),
    ('service-add', 'addr=fe80::1 port=80'): (errno.EINVAL, 'addr', 'addr: must be'),
    ('service-add', 'addr=ff0e::1 port=80'): (errno.EINVAL, 'addr', 'addr: must be'),
    ('service-add', 'addr=::ffff:239.1.2.3 port=80'): (errno.EINVAL, 'addr', 'addr: must be'),
    ('service-add', 'addr=10.0.0.12 port=80 mode=always'): (
        errno.EINVAL, 'mode', "mode: always needs a key of the cluster's"),
    ('service-set', 'addr=10.0.0.12 port=80 mode=1'): (
        errno.ENOENT, 'addr', 'addr, port: no such service'),
    ('service-set', 'addr=10.0.0.11 port=80 mode=9'): (errno.EINVAL, 'mode', 'mode: must be'),
    ('service-add', 'addr=10.0.0.12 port=80 migrate=2'): (
        errno.EINVAL, 'migrate', 'migrate: must be 0 (adopt) or 1 (replay)'),
    ('service-add', 'addr=10.0.0.11 port=80'): (errno.EEXIST, 'addr', 'addr, port: '),
    ('service-add', 'addr=::ffff:10.0.0.11 port=80'): (errno.EEXIST, 'addr', 'addr, port: '),
    ('service-del', 'addr=10.0.0.11 port=81'): (errno.ENOENT, 'addr', 'addr, port: no such'),
    ('node-add', 'addr=10.0.0.9'): (errno.EINVAL, 'name', 'name: must be 1 to 15 letters'),
    ('node-add', 'name= addr=10.0.0.9'): (errno.EINVAL, 'name', 'name: must be 1 to 15'),
    ('node-add', 'name=0123456789abcdef addr=10.0.0.9'): (errno.EINVAL, 'name', 'name: must be'),
    ('node-add', 'name=-x addr=10.0.0.9'): (errno.EINVAL, 'name', 'name: must be 1 to 15'),
    ('node-add', 'name=a/b addr=10.0.0.9'): (errno.EINVAL, 'name', 'name: must be 1 to 15'),
    ('node-add', 'name=it'): (errno.EINVAL, 'addr', 'addr: must be a unicast address, 4'),
    ('node-add', 'name=it addr=10.0.0.9 port=0'): (errno.EINVAL, 'port', 'port: must be 1'),
    ('node-add', 'name=fr addr=10.0.0.9'): (errno.EEXIST, 'name', 'name: a node of this name'),
    ('node-add', 'name=it addr=10.0.0.2'): (errno.EEXIST, 'addr', 'addr: another node has'),
    ('node-add', 'name=it addr=10.0.0.9 local=1'): (errno.EEXIST, 'local', 'local: another node'),
    ('node-add', 'name=it addr=10.0.0.9 forward=4'): (
        errno.EINVAL, 'forward', 'forward: must be 0 (nat), 1 (direct), 2 (tunnel) or 3 (auto)'),
    ('node-add', 'name=it addr=10.0.0.9 other-addr=10.0.0.10'): (
        errno.EINVAL, 'other-addr', 'other-addr: must be such an address as addr, but IPv6'),
    ('node-add', 'name=it addr=fd00::9 other-addr=::ffff:239.1.2.3'): (
        errno.EINVAL, 'other-addr', 'other-addr: must be such an address as addr, but IPv6'),
    ('node-add', 'name=it addr=fd00::9 other-addr=10.0.0.2'): (
        errno.EEXIST, 'other-addr', 'other-addr: another node has'),
    ('node-add', 'name=it addr=fd00::2'): (errno.EEXIST, 'addr', 'addr: another node has'),
    ('node-add', 'name=it addr=10.0.0.9 other-forward=4'): (
        errno.EINVAL, 'other-forward', 'other-forward: must be 0 (nat), 1 (direct), 2 (tunnel) or'),
    ('node-del', ''): (errno.EINVAL, 'name', 'name: must be 1 to 15 letters'),
    ('node-del', 'name=it'): (errno.ENOENT, 'name', 'name: no such node'),
    ('node-del', 'name=fr'): (errno.EBUSY, 'name', 'name: a rule sends requests'),
    ('rule-add', 'addr=10.0.0.11 port=80'): (errno.EINVAL, 'node', "node: must be a node's name"),
    ('rule-add', 'addr=10.0.0.11 port=80 node=it'): (errno.ENOENT, 'node', 'node: no such node'),
    ('rule-add', 'addr=10.0.0.11 port=80 node=fr otherwise=2'): (
        errno.EINVAL, 'otherwise', 'otherwise: must be 0 (local) or 1 (unavailable)'),
    ('rule-add', 'addr=10.0.0.11 port=80 node=fr pick=2'): (
        errno.EINVAL, 'pick', 'pick: must be 0 (order) or 1 (hash)'),
    ('rule-add', 'addr=10.0.0.12 port=80 node=fr'): (errno.ENOENT, 'addr', 'addr, port: no such'),
    ('rule-add', 'addr=10.0.0.11 port=80 node=fr path=/fr/'): (
        errno.EEXIST, 'path', 'host, path: the service has a rule'),
    ('rule-del', 'addr=10.0.0.11 port=80 path=/it/'): (errno.ENOENT, 'path', 'host, path: '),
    ('rule-del', 'addr=10.0.0.11 port=80 host=fr'): (errno.ENOENT, 'host', 'host, path: '),
}
BAD_HOSTS = ['', '.', 'a:80', '[::1]:80', 'a/b', 'a_b c', 'x' * 254]
BAD_COOKIES = ['', 'a b', 'a=b', 'a;b', '"a"', 'x' * 64]
BAD_PATHS = ['', 'fr/', '/a?b', '/a#b', '/a b', '/a%20', '/a//b', '/a/../b', '/.', '/a;b',
             '/a\\b', '/a\x01', '/' * 2, '/' + 'x' * 255]
REFUSED.update({
    ('rule-add', 'addr=10.0.0.11 port=80 node=fr', 'host', host): (
        errno.EINVAL, 'host', 'host: must be a host name') for host in BAD_HOSTS})
REFUSED.update({
    ('rule-add', 'addr=10.0.0.11 port=80 node=fr', 'cookie', cookie): (
        errno.EINVAL, 'cookie', 'cookie: must be 1 to 63') for cookie in BAD_COOKIES})
REFUSED.update({
    ('rule-add', 'addr=10.0.0.11 port=80 node=fr', 'path', path): (
        errno.EINVAL, 'path', 'path: must be 1 to 255') for path in BAD_PATHS})


def test_nonsense_is_refused(node: Node) -> None:
    """Each refusal names the attribute and what it may be; nothing changes."""
    many(node, [f'service add {VIP}', 'node add en 10.0.0.1',
                'node add fr 10.0.0.2 --other fd00::2',
                f'rule add {VIP} --path /fr/ --node fr'])
    before = everything(node)
    calls = []
    for operation, words, *more in REFUSED:
        attributes: Dict[str, Any] = dict(word.split('=', 1) for word in words.split())
        attributes.update({key: int(attributes[key])
                           for key in ('port', 'local') if key in attributes})
        if more:
            attributes[more[0]] = more[1]
        calls.append(['do', operation, attributes])
    for call, answer, (error, at, text) in zip(calls, ynl(node, calls), REFUSED.values()):
        assert (answer.get('error'), answer.get('at')) == (error, at), (call, answer)
        assert answer['text'].startswith(text), (call, answer)
    assert everything(node) == before


def test_nodes_of_a_rule(node: Node) -> None:
    """Up to 16, each once, in their order."""
    names = [f'n{number}' for number in range(1, 18)]
    many(node, [f'service add {VIP}'] + [
        f'node add {name} 10.0.1.{name[1:]} --remote' for name in names])

    def add(*names: str) -> Any:
        words = [word for name in names for word in ('--node', name)]
        return node.ctl('rule', 'add', VIP, '--path', '/a/', *words, check=False)
    for wrong in (names, ('n1', 'n2', 'n1')):
        assert 'node: must be 1 to 16 nodes, each named once' in add(*wrong).err
    assert 'node: no such node' in add('n1', 'it').err
    assert not node.ask('rule', 'list')
    add(*names[15::-1])
    rule, = node.ask('rule', 'list')
    assert rule['nodes'] == names[15::-1]
    for name in rule['nodes']:
        assert 'a rule sends requests to this node' in node.ctl(
            'node', 'del', name, check=False).err
    many(node, ['node del n17', f'service del {VIP}', 'node del n1'])


def test_carismactl_says_why(node: Node) -> None:
    """The kernel's text on standard error, as JSON if wanted; status 1."""
    answer = node.ctl('service', 'add', '10.0.0.11:0', check=False)
    assert (answer.rc, answer.out) == (1, '')
    assert answer.err == 'carismactl: port: must be 1 to 65535\n'
    answer = node.ctl('--json', 'node', 'del', 'it', check=False)
    assert answer.rc == 1
    assert json.loads(answer.err) == {
        'error': 'name: no such node', 'errno': 'ENOENT', 'attribute': 'name'}
    assert node.ctl('service', 'add', '10.0.0.11', check=False).rc == 2


def test_batch(node: Node) -> None:
    """A file's commands, in their order; a wrong one keeps all from being done, one that
    fails those after it."""
    def batch(text: str, *options: str) -> Result:
        node.put('/tmp/batch', text)
        return node.ctl('batch', '/tmp/batch', *options, check=False)
    good = f'# This site\n\n  service add {VIP}\nnode add en 10.0.0.1\n'
    answer = batch(good + 'node add fr 10.0.0.2 --forward gre\n')
    assert (answer.rc, answer.out) == (1, '')
    assert answer.err.startswith("carismactl: line 5: invalid value 'gre' for '--forward")
    assert everything(node) == {'service': [], 'node': [], 'rule': []}
    answer = batch(good + 'node add de 10.0.0.1\nnode add it 10.0.0.4', '--json')
    assert (answer.rc, answer.out) == (1, '{"done":true}\n' * 2)
    assert json.loads(answer.err) == {
        'error': 'addr: another node has this address', 'errno': 'EEXIST',
        'attribute': 'addr', 'line': 5}
    assert [it['name'] for it in node.ask('node', 'list')] == ['en']
    answer = node.run([CARISMACTL, 'batch', '-'], input='node list\nresume')
    assert answer.out == node.ctl('node', 'list').out
    answer = node.ctl('batch', '/nowhere', check=False)
    assert (answer.rc, answer.err) == (
        1, 'carismactl: /nowhere: No such file or directory (os error 2)\n')


def test_carismactl_without_modules(site: Cluster) -> None:
    """It says what is missing."""
    answer = site['en'].ctl('stats', check=False)
    assert answer.rc == 1
    assert 'carisma_btcp is not loaded' in answer.err


@pytest.mark.long
@pytest.mark.parametrize('kind, limit', [('service', 256), ('node', 64), ('rule', 256)])
def test_limits(node: Node, kind: str, limit: int) -> None:
    """So many may be, and no more."""
    calls: List[List[Any]] = [
        ['do', 'service-add', {'addr': '10.1.0.0', 'port': 1}],
        ['do', 'node-add', {'name': 'n0', 'addr': '10.2.0.0'}],
        ['do', 'rule-add', {'addr': '10.1.0.0', 'port': 1, 'path': '/0', 'node': 'n0'}]]
    more = {
        'service': lambda i: {'addr': f'10.1.{i // 9}.{i % 9}', 'port': i + 1},
        'node': lambda i: {'name': f'n{i}', 'addr': f'10.2.0.{i}'},
        'rule': lambda i: {'addr': '10.1.0.0', 'port': 1, 'path': f'/{i}', 'node': 'n0'},
    }[kind]
    calls += [['do', f'{kind}-add', more(i)] for i in range(1, limit + 1)]
    *made, refused = ynl(node, calls)
    assert not [answer for answer in made if 'error' in answer]
    assert refused['error'] == errno.ENOSPC
    assert f'{limit} {kind}s' in refused['text']
    assert len(node.ask(kind, 'list')) == limit
    # One goes, one comes.
    gone = more(limit // 2)
    gone.pop('node', None)
    if kind == 'node':
        gone = {'name': gone['name']}
    answers = ynl(node, [['do', f'{kind}-del', gone], calls[-1], calls[-1]])
    assert [answer.get('error') for answer in answers] == [None, None, errno.EEXIST]
    assert len(node.ask(kind, 'list')) == limit


# ynl

def test_ynl_drives_the_family(node: Node) -> None:
    """Every operation, by the description alone."""
    service = {'addr': '10.0.0.11', 'port': 80}
    key = {**service, 'host': 'www.example', 'path': '/fr/'}
    rule = {**key, 'node': ['fr', 'en'], 'otherwise': 'unavailable', 'pick': 'hash',
            'cookie': 'node'}
    calls = [
        ['do', 'service-add', {**service, 'mode': 'frequent'}],
        ['do', 'service-set', {**service, 'mode': 'rare'}],
        ['do', 'node-add', {'name': 'en', 'addr': '10.0.0.1', 'local': True}],
        ['do', 'node-add', {'name': 'fr', 'addr': '10.0.0.2', 'port': 7481,
                            'other-addr': 'fd00::2', 'other-forward': 'tunnel'}],
        ['do', 'rule-add', rule],
        ['dump', 'service-get', {}], ['dump', 'node-get', {}], ['dump', 'rule-get', {}],
        ['dump', 'flow-get', {}], ['dump', 'stats-get', {}],
        ['do', 'drain', {'force': True}], ['do', 'drain-get', {}],
        ['do', 'resume', {}], ['do', 'drain-get', {}],
        ['do', 'rule-del', key], ['do', 'node-del', {'name': 'fr'}],
        ['do', 'node-del', {'name': 'en'}], ['do', 'service-del', service]]
    answers = ynl(node, calls)
    assert not [pair for pair in zip(calls, answers) if 'error' in pair[1]]
    found = {call[1]: answer['answer'] for call, answer in zip(calls[:11], answers)}
    assert found['service-get'] == [{
        **service, 'mode': 'rare', 'rules': 1, 'migrate': 'adopt', 'current': 'rare', 'remote': 0}]
    assert found['node-get'] == [
        {'index': 1, 'name': 'en', 'addr': '10.0.0.1', 'port': 7480, 'local': True,
         'state': 'self', 'forward': 'auto'},
        {'index': 2, 'name': 'fr', 'addr': '10.0.0.2', 'port': 7481, 'state': 'down',
         'forward': 'auto', 'other-addr': 'fd00::2', 'other-forward': 'tunnel'}]
    assert found['rule-get'] == [rule]
    assert found['flow-get'] == []
    assert {stat['name'] for stat in found['stats-get']} == set(node.stats())
    nothing = {'handed-off-out': 0, 'handed-off-in': 0}
    assert answers[11]['answer'] == {**nothing, 'draining': True}
    assert answers[13]['answer'] == nothing
    assert everything(node) == {'service': [], 'node': [], 'rule': []}
    stats = ynl(node, [['dump', 'stats-get', {}]])[0]['answer']
    assert {stat['name']: stat['value'] for stat in stats} == node.stats()


# Who may, and where

def test_only_administrators_change(node: Node) -> None:
    """Everybody may read; changes need CAP_NET_ADMIN."""
    node.ctl('service', 'add', VIP)
    user = ['setpriv', '--reuid', '1000', '--clear-groups']
    without = ['setpriv', '--bounding-set', '-net_admin', '--inh-caps', '-net_admin']
    for who in (user, without):
        assert VIP in node.run([*who, CARISMACTL, 'service', 'list']).out
        for words in (['service', 'del', VIP], ['drain'], ['resume'],
                      ['node', 'add', 'fr', '10.0.0.2']):
            answer = node.run([*who, CARISMACTL, *words], check=False)
            assert answer.rc == 1 and 'CAP_NET_ADMIN' in answer.err
        knob = f'{SYSFS}/net/head_timeout_ms'
        assert node.run([*who, 'sh', '-c', f'cat {knob}; echo 500 >{knob}'],
                        check=False).rc != 0
        assert node.run(['cat', knob]).out == '10000\n'
    # Root of a user namespace administrates the network namespaces that are its own.
    answer = node.run(['unshare', '--user', '--map-root-user', '--net', 'sh', '-c',
                       f'{CARISMACTL} service list --json && {CARISMACTL} service add {VIP}'])
    assert answer.out == '[]\n'


def test_namespaces_are_separate(site: Cluster, node: Node) -> None:
    """What one has, others have not, in netlink and in sysfs."""
    other = site['fr']
    knob = f'{SYSFS}/net/head_max'
    many(node, [f'service add {VIP}', 'node add en 10.0.0.1', f'rule add {VIP} --node en'])
    node.run(f'echo 1000 >{knob}')
    node.ctl('drain')
    assert everything(other) == {'service': [], 'node': [], 'rule': []}
    assert other.run(['cat', knob]).out == '32768\n'
    assert ynl(other, [['do', 'drain-get', {}]]) == [
        {'answer': {'handed-off-out': 0, 'handed-off-in': 0}}]
    many(other, [f'service add {VIP}', 'node add en 10.0.0.1'])
    assert not other.ask('node', 'list')[0]['local']
    assert node.ask('node', 'list')[0]['local']


@pytest.mark.long
def test_namespaces_come_and_go(node: Node) -> None:
    """Configured namespaces leave nothing when they are deleted."""
    script = f'''
    set -e
    for i in 1 2 3 4 5; do
        ip netns add gone$i
        ip netns exec gone$i {CARISMACTL} service add {VIP}
        ip netns exec gone$i {CARISMACTL} node add fr 10.0.0.2
        ip netns exec gone$i {CARISMACTL} rule add {VIP} --node fr
        ip netns exec gone$i sh -c 'echo 500 >{SYSFS}/net/head_timeout_ms'
    done
    for i in 1 2 3 4 5; do ip netns del gone$i; done
    '''
    node.run(script, timeout=120)
    assert everything(node) == {'service': [], 'node': [], 'rule': []}


# sysfs

def test_counters_are_files(node: Node) -> None:
    """One value a file; the same as carismactl's."""
    folder = f'{SYSFS}/net/counters'
    told = node.run(f'cd {folder} && grep -H . *').out.split()
    assert dict(line.split(':') for line in told) == {
        name: str(value) for name, value in node.stats().items()}
    assert node.run(f'echo 1 >{folder}/flows', check=False).rc != 0


def test_counters_are_explained(node: Node) -> None:
    """Each has a name of its own and a line that says what it means, of both
    modules, in netlink as in what people read."""
    explained = node.ask('stats', '--explain')
    assert {stat['name']: stat['value'] for stat in explained} == node.stats()
    assert len({stat['name'] for stat in explained}) == len(explained)
    assert len({stat['meaning'] for stat in explained}) == len(explained)
    head, *lines = node.ctl('stats', '--explain').out.splitlines()
    assert head.split() == ['NAME', 'VALUE', 'MEANING']
    for stat, line in zip(explained, lines, strict=True):
        assert re.fullmatch(r'[a-z][a-z0-9_]*', stat['name'])
        assert re.fullmatch(r'[A-Z`].*[.]', stat['meaning'])
        assert line.split(maxsplit=2) == [stat['name'], str(stat['value']), stat['meaning']]
    assert 'listeners_attached' in {stat['name'] for stat in explained}


def test_upper_counters_stay(node: Node) -> None:
    """What UTCP has counted is still there when it has gone, and goes on when
    it is back."""
    node.ctl('service', 'add', VIP)         # to which nginx listens
    wait_for(lambda: node.stats()['listeners_attached'] > 0, 'a listener is attached')
    before = node.stats()['listeners_attached']
    node.kernel.unload('carisma_utcp')
    after = node.stats()
    assert (after['listeners_attached'], after['listeners_detached']) == (before, before)
    node.kernel.load('carisma_utcp')
    wait_for(lambda: node.stats()['listeners_attached'] == 2 * before, 'it is attached again')


@pytest.mark.long
def test_changes_before_utcp_asks(node: Node) -> None:
    """What carisma_utcp was not told of yet, as it has only just been loaded, can be deleted
    all the same, and what is added meanwhile it may be told twice."""
    many(node, [f'service add {VIP}', 'node add en 10.0.0.1',
                'service add 10.0.0.12:80', 'node add fr 10.0.0.2'])
    node.put('/tmp/changes', '\n'.join([
        'service del 10.0.0.12:80', 'node del fr', 'service add 10.0.0.13:8081',
        'node add de 10.0.0.3']))
    kernel = node.kernel
    kernel.unload('carisma_utcp')
    before = node.stats()['listeners_attached']
    # That is how it asks.
    with kernel.delayed(carisma_btcp_put=200):
        node.run(f'insmod {kernel.guest.modules}/carisma_utcp.ko && '
                 f'{CARISMACTL} batch /tmp/changes')
        wait_for(lambda: node.stats()['listeners_attached'] > before, 'it was told')
    assert {it['address'] for it in node.ask('service', 'list')} == {'10.0.0.11', '10.0.0.13'}
    assert {it['name'] for it in node.ask('node', 'list')} == {'en', 'de'}


def test_knobs_are_as_documented(node: Node) -> None:
    """The manual has all of them, with what each is at first and may be."""
    folder = f'{SYSFS}/net'
    with open(MANUAL, encoding='utf-8') as file:
        rows = re.findall(r'^\| `(\w+)` \| (\d+) to (\d+) \| (\d+) \|',
                          file.read().split('## sysfs')[1], re.MULTILINE)
    found = node.run(f'find {folder} -maxdepth 1 -type f -printf "%f "').out.split()
    assert sorted(name for name, *_ in rows) == sorted(found)
    script = f'cd {folder}\n' + '''
    knob=$1; shift
    cat $knob
    for value; do
        if echo $value 2>/dev/null >$knob; then echo ok; else echo no; fi
        cat $knob
    done
    '''
    for name, least, most, default in rows:
        values = [least, str(int(least) - 1), most, str(int(most) + 1)]
        answer = node.run(['sh', '-c', script, 'sh', name, *values]).out.split()
        assert answer == [default, 'ok', least, 'no', least, 'ok', most, 'no', most], name


def test_knobs_are_files(node: Node) -> None:
    """They take what is in range; all else is EINVAL and changes nothing."""
    folder = f'{SYSFS}/net'
    default = int(node.run(['cat', f'{folder}/head_timeout_ms']).out)
    script = f'cd {folder}\n' + '''
    for value; do
        if printf "$value" 2>/tmp/why >head_timeout_ms; then echo ok; else echo no; fi
        cat head_timeout_ms
    done
    '''
    values = ['100', '99', '600000', '600001', '-1', '5000x', 'x', '4294967396',
              '99999999999999999999', '1 2', '2000\\n', ' 3000 \\n', '0x1000']
    answer = node.run(['sh', '-c', script, 'sh', *values]).out.split()
    assert default == 10000
    assert list(zip(answer[::2], answer[1::2])) == [
        ('ok', '100'), ('no', '100'), ('ok', '600000'), *[('no', '600000')] * 7,
        ('ok', '2000'), ('ok', '3000'), ('ok', '4096')]
    # The error is EINVAL.
    answer = node.run(['python3', '-c', f'open("{folder}/flows_max", "w").write("x")'],
                      check=False)
    assert 'Invalid argument' in answer.err


# Unloading

@pytest.mark.long
def test_unloading_leaves_nothing(site: Cluster, node: Node) -> None:
    """Neither files nor the family nor what was configured stay."""
    many(node, [f'service add {VIP}', 'node add en 10.0.0.1', f'rule add {VIP} --node en'])
    # A file that is open meanwhile.
    reader = node.popen(['sh', '-c', f'exec <{SYSFS}/net/head_max; echo open; sleep 1000'])
    wait_for(lambda: 'open' in reader.stdout, 'a file is open')
    for _ in range(3):
        site.unload()
        assert node.run(['test', '-e', SYSFS], check=False).rc != 0
        assert 'not loaded' in node.ctl('service', 'list', check=False).err
        site.load()
        assert everything(node) == {'service': [], 'node': [], 'rule': []}
    reader.kill()


@pytest.mark.long
def test_unloading_under_requests(site: Cluster, node: Node) -> None:
    """The modules go while the family and the files are in use."""
    busy = node.popen(['sh', '-c', f'''
        while :; do
            {CARISMACTL} service add {VIP}
            {CARISMACTL} node add fr 10.0.0.2
            {CARISMACTL} rule add {VIP} --node fr
            {CARISMACTL} stats
            {CARISMACTL} rule del {VIP}
        done 2>&1 | grep -c .'''])
    files = node.popen(['sh', '-c', f'''
        while :; do
            cat {SYSFS}/net/counters/* {SYSFS}/net/head_max
            echo 500 >{SYSFS}/net/head_timeout_ms
        done >/dev/null 2>&1'''])
    for _ in range(5):
        wait_for(lambda: unloaded(site), 'unloaded')
        site.load()
    busy.kill()
    files.kill()


def unloaded(site: Cluster) -> bool:
    """Unload, unless a request holds a module just now."""
    for kernel in site.kernels:
        for name in reversed(kernel.loaded()):
            if kernel.guest.run(['rmmod', name], check=False).rc != 0:
                return False
    return True
