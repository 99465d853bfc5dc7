# SPDX-License-Identifier: GPL-2.0
"""carismactl check: what is broken is noticed, and nothing else."""

import json
from typing import Any, Dict, List, NamedTuple, Tuple

import pytest

from harness.address import alone, endpoint
from harness.cluster import written
from harness.kernel import MODULES
from harness.node import Node
from harness.paths import CARISMACTL
from harness.running import Cluster, wait_for

STATUS = {'ok': 0, 'error': 1, 'warning': 4}

LISTEN = '''
import socket, sys, time
s = socket.socket(int(sys.argv[3]), socket.SOCK_STREAM, int(sys.argv[1]))
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((sys.argv[2], 8080))
s.listen()
print('listening', flush=True)
time.sleep(1000)
'''


class Break(NamedTuple):
    """How to break something, and how to mend it; what is then to be said."""

    how: str
    mend: str
    check: str
    level: str
    text: str


# With addresses of IPv4, whatever the hosts have: `written()` is what they read.
C = CARISMACTL
RULE = f'{C} rule %s 10.0.0.11:80 --path /%s/'
BREAKS = [
    Break('ip addr del 10.0.0.11/32 dev eth0', 'ip addr add VIRTUAL dev eth0',
          'service', 'warning', 'no interface has the address of any service'),
    Break(f'{RULE % ("del", "en")}; {C} node del en',
          f'{C} node add en 10.0.0.1; {RULE % ("add", "en")} --node en',
          'node', 'error', 'no node is this one'),
    Break(f'{RULE % ("del", "en")}; {C} node del en; {C} node add en 10.0.0.77 --local',
          f'{C} node del en; {C} node add en 10.0.0.1; {RULE % ("add", "en")} --node en',
          'node', 'error', 'no interface has its address 10.0.0.77'),
    Break(f'{C} node add it 10.0.0.100', f'{C} node del it',
          'peer', 'error', 'it is down: nobody listens at 10.0.0.100:7480'),
    Break(f'ip route add unreachable 10.66.0.0/24; {C} node add it 10.66.0.1',
          f'ip route del unreachable 10.66.0.0/24; {C} node del it',
          'peer', 'error', 'it is down: 10.66.0.1:7480 cannot be reached'),
    Break(f'{C} drain --timeout 5', f'{C} resume', 'drain', 'warning', 'this node is draining'),
    Break('sysctl -qw net.ipv4.conf.eth0.rp_filter=1', 'sysctl -qw net.ipv4.conf.eth0.rp_filter=0',
          'rp_filter', 'warning', 'the reverse path filter is strict at eth0'),
    Break('sysctl -qw net.ipv4.tcp_syncookies=0', 'sysctl -qw net.ipv4.tcp_syncookies=1',
          'syncookies', 'warning', 'tcp_syncookies is 0: TCP adopts no connection'),
    Break('ip link add big mtu 9000 type veth; ip addr add 10.77.0.1/24 dev big',
          'ip link del big', 'mtu', 'warning', 'MTU of 1500, but big has one of 9000'),
]


def checked(node: Node) -> Tuple[int, List[Dict[str, Any]]]:
    """The status and the findings."""
    answer = node.ctl('check', '--json', check=False)
    return answer.rc, json.loads(answer.out)


def found(node: Node, check: str, level: str, text: str) -> None:
    """Exactly this is wrong, with what to do about it."""
    text = written(text, node.cluster.family)
    status, findings = checked(node)
    wrong = [finding for finding in findings if finding['level'] != 'ok']
    assert wrong and all(
        (finding['check'], finding['level']) == (check, level) for finding in wrong), wrong
    assert text in wrong[0]['text']
    assert all(finding['advice'] for finding in wrong)
    assert status == STATUS[level]


def all_is_well(node: Node) -> None:
    """Nothing is wrong."""
    assert [finding for finding in checked(node)[1] if finding['level'] != 'ok'] == []


@pytest.fixture
def node(fresh: Cluster) -> Node:
    """A node about which there is nothing to be said."""
    all_is_well(fresh['en'])
    return fresh['en']


def test_nothing_is_wrong(fresh: Cluster) -> None:
    """On a whole node each line is ok, also after some requests."""
    fresh.client.curl.fetch([fresh.url('en', '/fr/1k'), fresh.url('fr', '/fr/1k')])
    for node in fresh.nodes:
        status, findings = checked(node)
        assert {finding['level'] for finding in findings} == {'ok'}, findings
        assert status == 0
        # The two other nodes; the listener for clients and that for other nodes.
        checks = [finding['check'] for finding in findings]
        assert checks == ['modules', 'node', 'key', 'listener', 'listener', 'peer', 'peer',
                          'settings', 'counters']
    lines = fresh['en'].ctl('check').out.splitlines()
    assert lines[1] == (
        f'ok       node: this is en, its address {fresh["en"].address} is ours')


@pytest.mark.parametrize('case', BREAKS, ids=[f'{it.check}-{i}' for i, it in enumerate(BREAKS)])
def test_what_is_broken(node: Node, case: Break) -> None:
    """Each is noticed, alone, and only as long as it is broken."""
    how, text, mend = (written(words, node.cluster.family)
                       for words in (case.how, case.text, case.mend))
    node.run(f'set -e; {how}')
    try:
        found(node, case.check, case.level, case.text)
        line = next(line for line in node.ctl('check', check=False).out.splitlines()
                    if text in line)
        assert line.split()[:2] == [case.level, f'{case.check}:']
    finally:
        node.run('set -e; ' + mend.replace('VIRTUAL', Cluster.virtual(node.vip)))
    wait_for(lambda: checked(node)[0] == 0, 'all is well again')


@pytest.mark.long
def test_one_configuration_for_all(node: Node) -> None:
    """A service whose address is another node's is no trouble."""
    other = node.cluster.at(12)
    node.ctl('service', 'add', endpoint(other, 80))
    all_is_well(node)
    assert (f'ok       service: {endpoint(other, 80)} is for clients of other nodes: its address '
            'is not ours') in node.ctl('check').out.splitlines()
    node.ctl('service', 'add', endpoint(other, 8080))
    found(node, 'listener', 'error', 'nobody listens at 10.0.0.1:8080, where connections of other')


def test_always_alone(fresh: Cluster) -> None:
    """A front end that hands everything over needs neither UTCP nor a server."""
    node = fresh['en']
    for name in ('en', 'fr', 'de'):
        node.ctl('rule', 'del', node.service, '--path', f'/{name}/')
    node.ctl('service', 'set', node.service, '--mode', 'always')
    node.ctl('rule', 'add', node.service, '--node', 'fr')
    fresh.kernels[0].unload(MODULES[1])
    node.nginx.stop()
    all_is_well(node)
    # For what no rule fits there has to be a server.
    node.ctl('rule', 'del', node.service)
    node.ctl('rule', 'add', node.service, '--path', '/fr/', '--node', 'fr')
    found(node, 'listener', 'error', 'nobody listens at')
    node.nginx.start()


def test_wrong_name(node: Node) -> None:
    """A node that is called something else: its port answers, but it is not
    the one; and what it says of itself is counted."""
    node.run(written(
        f'set -e; {RULE % ("del", "fr")}; {C} node del fr; {C} node add gr 10.0.0.2',
        node.cluster.family))
    wait_for(lambda: node.stats()['peers_strange'] > 0, 'it has said its name')
    status, findings = checked(node)
    peer, counter = [finding for finding in findings if finding['level'] != 'ok']
    assert (status, peer['check'], counter['check']) == (1, 'peer', 'counters')
    assert peer['text'] == 'gr is down: it says that it is another node'
    assert f'is it `gr` there, and does it know `en` as {node.address}?' in peer['advice']
    assert counter['text'].startswith('peers_strange is ')


def test_servers(node: Node) -> None:
    """A server that is missing, or listens where it is of no use, or how."""
    node.nginx.stop()
    try:
        found(node, 'listener', 'error', 'nobody listens at 10.0.0.11:80, where connections of '
              'clients')
    finally:
        node.nginx.start()
    all_is_well(node)
    node.ctl('service', 'add', node.at(8080))
    family = node.cluster.family
    for protocol, address, level, text in [
            ('6', '10.0.0.11', 'error', 'nobody listens at 10.0.0.1:8080, where connections of '
             'other nodes'),
            ('6', '10.0.0.1', 'error', 'nobody listens at 10.0.0.11:8080, where'),
            ('262', '', 'warning', 'is not attached: it is one of Multipath TCP')]:
        server = node.popen([
            'python3', '-uc', LISTEN, protocol, written(address, family),
            {4: '2', 6: '10'}[family]])
        assert server.readline(30) == b'listening\n'
        found(node, 'listener', level, text)
        server.kill()


ARP = 'sysctl -qw net.ipv4.conf.all.arp_'


def test_direct(node: Node) -> None:
    """A node that gets segments directly has the addresses of all services, but
    does not tell its neighbours."""
    family, vip = node.cluster.family, node.cluster.at(12)
    node.run(written(f"""set -e; {RULE % ("del", "en")}; {C} node del en
        {C} node add en 10.0.0.1 --forward direct
        {RULE % ("add", "en")} --node en; {C} service add 10.0.0.12:80""", family))
    found(node, 'service', 'warning', 'no interface has the address of 10.0.0.12:80: what other '
          'nodes hand to this one is refused')
    node.run(f'ip addr add {Cluster.virtual(vip)} dev lo')
    try:
        if family == 4:
            found(node, 'arp', 'warning', 'arp_ignore is 0 at eth0: ARP there answers requests '
                  'for 10.0.0.12, which is on lo')
            node.run(f'{ARP}ignore=1')
            found(node, 'arp', 'warning', 'arp_announce is 0 at eth0: ARP there asks in the name '
                  'of 10.0.0.12')
            node.run(f'{ARP}announce=2')
        all_is_well(node)
        lines = node.ctl('check').out.splitlines()
        # Neighbours of IPv6 are told of nothing but what is on the link.
        assert (f'ok       arp: {vip} is not told to neighbours' in lines) == (family == 4)
        # The node's own address has no listener then, and needs none.
        assert not any(endpoint(node.address, 80) in line for line in lines)
    finally:
        node.run(f'ip addr del {alone(vip)} dev lo; {ARP}ignore=0; {ARP}announce=0')


def test_modules(fresh: Cluster, node: Node) -> None:
    """One is missing, or both."""
    fresh['fr'].kernel.unload('carisma_utcp')
    status, findings = checked(node)
    assert status == 1
    assert (findings[0]['check'], findings[0]['level']) == ('modules', 'error')
    assert findings[0]['text'].startswith('carisma_utcp is not loaded')
    fresh.unload()
    found(node, 'modules', 'error', 'carisma_btcp is not loaded')


@pytest.mark.long
def test_counters(fresh: Cluster, node: Node) -> None:
    """A counter that tells of trouble, with its meaning."""
    node.knob('flows_max', 0)
    fresh.client.curl.fetch([fresh.url('en', '/en/1k')])
    found(node, 'counters', 'warning', 'flows_refused_limit is 1: A SYN began no flow')
