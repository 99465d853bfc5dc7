# SPDX-License-Identifier: GPL-2.0
"""Fuzzers that need a kernel. Each goes on for FUZZ_SECONDS; FUZZ_SEED makes
it do the same again, as far as times let it."""

import json
import os
import random
import re

import pytest

from checks import all_right, gone, no_flows, served
from conftest import Lab
from harness.load import Load
from harness.paths import CHECKOUT, INSIDE
from harness.patience import patient
from harness.running import Cluster, wait_for

DESCRIPTION = f'{CHECKOUT}/include/uapi/linux/carisma.yaml'
SECONDS = int(os.environ.get('FUZZ_SECONDS') or 60)
PORTS = '20000-29999'           # of the fuzzer's, at the client

# What the kernel says of malformed netlink messages.
REMARK = re.compile(
    r'^<4> (netlink: .*(leftover after parsing|has an invalid length)|'
    r'.*: \d+ callbacks suppressed)')


@pytest.fixture
def seed() -> int:
    """The beginning of all that is random."""
    number = int(os.environ.get('FUZZ_SEED') or random.randrange(1 << 31))
    print(f'\nfuzz: FUZZ_SEED={number}, {SECONDS} s')
    return number


def test_netlink(site: Cluster, lab: Lab, seed: int) -> None:
    """Requests of any kind are answered, and those that are refused change
    nothing."""
    if not lab.plain:
        site.load()
    node = site['en']
    answer = node.run(['python3', f'{INSIDE}/fuzz_netlink.py', DESCRIPTION, str(seed),
                       str(SECONDS)], timeout=SECONDS + patient(120))
    print(f'fuzz: netlink: {answer.out.strip()}')
    counts = json.loads(answer.out)
    for outcome in ('taken', 'EINVAL', 'ENOENT'):
        assert counts.get(outcome, 0) > 0, counts
    for words in (['service', 'list'], ['node', 'list'], ['rule', 'list'], ['flows'], ['stats']):
        node.ask(*words)
    # The kernel's own remarks on such messages, and nothing else.
    said = [line for line in node.kernel.messages() if not REMARK.search(line)]
    assert not said


def test_packets(fresh: Cluster, seed: int) -> None:
    """Segments of any kind, on connections and beside them: who behaves is
    served as ever, and what the others leave behind goes away."""
    client, front = fresh.client, fresh['en']
    # Nothing at the client answers to what the fuzzer provokes.
    client.nft('table inet t { chain c { type filter hook input priority 0; '
               f'tcp dport {PORTS} drop; }}; }}')
    for node in fresh.nodes:
        node.knob('head_timeout_ms', 3000)
    targets = [f'{host.address}/{host.mac}' if at == 'own' else f'{host.vip}/{host.mac}'
               for host in fresh.spec.nodes for at in ('vip', 'own')]
    paths = ('/en/1k', '/fr/1k', '/de/1k')
    load = Load(client, front.service, paths, threads=1)
    answer = client.run(['python3', '-S', f'{INSIDE}/fuzz_packets.py', client.address, PORTS,
                         str(seed), str(SECONDS), *targets], timeout=SECONDS + patient(120))
    answers = load.end(patient(60))
    print(f'fuzz: packets: {answer.out.strip()}, beside {sum(answers.values())} requests')
    counts = json.loads(answer.out)
    for what in ('opened', 'answered'):
        assert counts.get(what, 0) > 0, counts
    for path in paths:
        node = path[1:3]
        # A bound that the fuzzer reached has a request served where it arrived.
        right = all_right({it: count for it, count in answers.items()
                           if it.split()[0] == path}, path, node, 'en')
        assert right[node] > 0, answers

    # The client's TCP resets what it knows nothing of.
    client.nft('')
    wait_for(lambda: not any(node.stats()['withheld'] for node in fresh.nodes),
             'nothing is withheld', 30)
    no_flows(fresh, 150)
    for node in fresh.nodes:
        gone(node, 'sport = :80', 150)
    for path in paths:
        served(client.curl.get(fresh.url('en', path)), path[1:3], '1k')
    for node in fresh.nodes:
        stats = node.stats()
        assert (stats['handed_off_out'], stats['handed_off_in']) == (0, 0), stats
