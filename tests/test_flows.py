# SPDX-License-Identifier: GPL-2.0
"""What carismactl says of connections, of few and of very many."""

import time
from typing import Any, Dict, List

import pytest

from harness.address import endpoint
from harness.paths import INSIDE
from harness.patience import Patience
from harness.running import Cluster, wait_for

REQUEST = b'GET /%s/1k HTTP/1.1\r\nHost: x\r\n\r\n'

# Sends SYNs from addresses that nobody has: first, how many, to whom.
SYNS = '''
import socket, struct, sys
sys.path.insert(0, sys.argv[4])
from flood import packed, segment
first, count, to = int(sys.argv[1]), int(sys.argv[2]), packed(sys.argv[3])
family = socket.AF_INET6 if len(to) == 16 else socket.AF_INET
s = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
for i in range(first, first + count):
    # 10.99. or fd99::
    net = b'\\x0a\\x63' if len(to) == 4 else b'\\xfd\\x99'
    source = net + (i // 1000).to_bytes(len(to) - 2, 'big')
    s.sendto(segment(source, to, (20000 + i % 1000, 80), i), (sys.argv[3], 0))
'''


def test_columns_and_filters(fresh: Cluster) -> None:
    """Each connection with all that is known of it, at both ends; filters."""
    front, back = fresh['en'], fresh['fr']
    remote = fresh.client.connect(front.vip)
    remote.send(REQUEST % b'fr')
    remote.some(1)
    waiting = fresh.client.connect(front.vip)
    waiting.send(REQUEST[:5])
    wait_for(lambda: len(front.flows()) == 2, 'two flows')
    time.sleep(0.3)

    def listed(*words: str) -> List[Dict[str, Any]]:
        return front.ask('flows', *words)
    there, = back.flows()
    flow, = listed('--state', 'handed-off')
    vip = front.service
    client = remote.endpoint
    assert (flow['client'], flow['vip'], flow['local']) == (client, vip, vip)
    assert (flow['role'], flow['node']) == ('front-end', 'fr')
    local = vip if fresh.spec.unchanged else endpoint(back.address, 80)
    assert (there['client'], there['vip'], there['local']) == (client, vip, local)
    assert (there['role'], there['state'], there['node']) == ('back-end', 'handed-off', 'en')
    # What is handed over in band has none.
    assert flow['id'] == there['id']
    assert (flow['id'] is None) == (fresh.spec.mode == 'always')
    assert 300 <= there['age_ms'] <= flow['age_ms'] < 60_000
    head, = listed('--state', 'head')
    assert head['client'] == waiting.endpoint
    assert (head['id'], head['node'], head['packets']) == (None, None, 0)

    def ports(*words: str) -> List[int]:
        return sorted(int(flow['client'].rpartition(':')[2]) for flow in listed(*words))
    both = sorted([remote.port, waiting.port])
    assert ports() == ports('--client', fresh.client.address) == both
    assert ports('--client', client) == ports('--node', 'fr') == [remote.port]
    assert ports('--state', 'head', '--state', 'handed-off') == both
    assert ports('--node', 'fr', '--state', 'head') == ports(
        '--client', fresh.spec.at(1, 1)) == []
    lines = front.ctl('flows', '--node', 'fr').out.splitlines()
    assert lines[0].split() == [
        'CLIENT', 'VIP', 'ROLE', 'STATE', 'NODE', 'MIGRATION', 'AGE', 'PACKETS', 'HANDOFF']
    assert lines[1].split()[:5] == [client, vip, 'front-end', 'handed-off', 'fr']
    assert lines[1].split()[8] == str(flow['id'] or '-')
    assert front.ctl('flows', '--state', 'open', check=False).rc == 2


@pytest.mark.long
def test_very_many(fresh: Cluster) -> None:
    """A list of 20,000 has each of them once, also while more come, and takes
    a time in proportion. (2,000 on the debug kernel, where it takes longer to
    send 20,000 SYNs than a handshake may.)"""
    node = fresh['en']
    node.knob('handshakes_max', 40_000)
    count = 20_000 if Patience.factor == 1 else 2_000
    first = count // 20

    def syns(first: int, count: int) -> List[str]:
        return ['python3', '-c', SYNS, str(first), str(count), node.vip, INSIDE]

    def timed() -> float:
        begin = time.monotonic()
        node.ctl('flows', '--node', 'nobody')
        return time.monotonic() - begin
    fresh.client.run(syns(0, first), timeout=60)
    early = {flow['client'] for flow in node.flows()}
    assert len(early) == first
    few = min(timed() for _ in range(5))
    # On a slow machine those have gone by the time that all of these are sent.
    fresh.client.run(syns(first, count), timeout=120)
    flows = node.flows()
    clients = {flow['client'] for flow in flows}
    assert len(clients) == len(flows)
    assert len(clients - early) == count
    assert {flow['state'] for flow in flows} == {'handshake'}
    many = min(timed() for _ in range(5))
    print(f'{first} flows: {few:.3f} s, {count} flows: {many:.3f} s')
    # Twenty times as long, with something to spare; 400 times if it were
    # quadratic. To start the program takes its time, too.
    assert many < 60 * few
    # The table grows meanwhile, and may lose the oldest. What is there before
    # and after a list is in it.
    more = fresh.client.popen(syns(first + count, count * 3 // 4))
    wait_for(lambda: node.stats()['flows_created'] > first + count, 'more come')
    lists = [flows] + [node.flows() for _ in range(5)]
    found = [{flow['client'] for flow in one} for one in lists]
    assert [len(one) for one in lists] == [len(one) for one in found]
    for before, meanwhile, after in zip(found, found[1:], found[2:]):
        assert before & after and before & after <= meanwhile
    assert more.wait(120) == 0
