# SPDX-License-Identifier: GPL-2.0
"""No memory, whenever one of our modules asks for some.

Only the debug kernel can have allocations fail, so these are collected with
--kernel=debug alone.
"""

import json
import time
from typing import Any, Dict, Iterator, List, Tuple

import pytest

from checks import exchange_faults, no_flows, served
from conftest import Lab
from harness.kernel import MODULES, Kernel
from harness.node import Node
from harness.paths import INSIDE
from harness.running import Cluster, wait_for

FAULTS = '/sys/kernel/debug'
ALLOCATORS = ('failslab', 'fail_page_alloc')
GAUGES = ('flows', 'withheld', 'handed_off_out', 'handed_off_in')
# By which the kernel's functions tell of it, the socket's as well.
ERRORS = {'ENOMEM', 'ENFILE', 'ENOBUFS'}
# What the kernel says by itself of functions that had no memory.
MURMURS = (r'kobject: can not set name properly!|socket: no more sockets|'
           r'kobject: kobject_add_internal failed for \S+ \(error: -12 .*|'
           r'ref_tracker: memory allocation failure, unreliable .*')
# And where it cannot make a slab cache: that, and how it came to that. Whatever else it had to
# say in that form begins with a line that is in neither list.
NO_CACHE = (r'__kmem_cache_create_args\(carisma_\w+\) failed with error -(12|22)|'
            r'SLUB: Unable to add cache carisma_\w+ to sysfs|'
            r'SLUB: Unable to initialize free list for carisma_\w+|'
            r'CPU: \d+ .*|Tainted: .*|Hardware name: .*|Call Trace:| </?TASK>|'
            r' (\? )?[\w.]+\+0x\S+( \[.*\])?|RIP: 0033:.*|Code: .*|RSP: 002b:.*|'
            r'(R[A-D]X|RBP|R\d\d): .*')
# What lists tell that nobody has configured.
OBSERVED = {'state', 'epoch', 'trouble', 'current', 'remote'}
PERCENT = 5
SECONDS = 60


RANGE = '''
echo 0 >/proc/sys/kernel/kptr_restrict
awk '$2 ~ /[tT]/ { print $1, (SYMBOLS) ? 1 : 0 }' /proc/kallsyms | sort | awk '
    $2 { if (!start) start = $1; inside = 1; next }
    inside { end = $1; inside = 0 }
    END { print start, inside ? "ffffffffffffffff" : end }'
'''


class Injection:
    """Failures of the allocations that are asked for, directly or not, by
    what lies in a range of the kernel's text."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._write(ignore_gfp_wait='N', verbose=0, times=-1, interval=1,
                    stacktrace_depth=32, probability=0)
        self._kernel.guest.run(
            f'set -e; echo N >{FAULTS}/fail_page_alloc/ignore-gfp-highmem; '
            f'echo 0 >{FAULTS}/fail_page_alloc/min-order')

    def _write(self, **values: Any) -> None:
        self._kernel.guest.run('set -e\n' + '\n'.join(
            f'echo {value} >{FAULTS}/{allocator}/{name.replace("_", "-")}'
            for name, value in values.items() for allocator in ALLOCATORS))

    def aim(self, symbols: str) -> None:
        """At the text from the first of the symbols that this pattern of awk
        selects from /proc/kallsyms to the one behind the last."""
        start, end = (int(address, 16) for address in self._kernel.guest.run(
            RANGE.replace('SYMBOLS', symbols)).out.split())
        assert 0 < start < end, symbols
        self._write(require_start=hex(start), require_end=hex(end))

    def percent(self, percent: int) -> None:
        """How many of them fail from now on."""
        self._write(probability=percent)

    def end(self) -> None:
        """No more."""
        self._write(probability=0, require_start=0,
                    require_end=hex((1 << 64) - 1))


@pytest.fixture
def injection(lab: Lab) -> Iterator[Injection]:
    """Failures in the guest of the lab."""
    made = Injection(lab.kernel)
    yield made
    made.end()


@pytest.mark.parametrize('module', MODULES)
def test_loading(lab: Lab, injection: Injection, module: str) -> None:
    """A module for which any one allocation fails refuses to load, and leaves
    nothing behind that would keep it from loading the next time. What it does
    without (the kernel falls back, or nobody needed to be told) makes no
    difference to what is there afterwards."""
    kernel = lab.empty()
    guest = kernel.guest
    guest.run('modprobe nf_defrag_ipv6')
    if module != MODULES[0]:
        kernel.load(MODULES[0])
    kernel.expect(f'{MURMURS}|{NO_CACHE}')
    injection.aim('$3 == "do_one_initcall"')
    try:
        found = json.loads(guest.run(
            ['python3', '-S', f'{INSIDE}/refuse.py',
             f'{guest.modules}/{module}.ko'], timeout=600).out)
    finally:
        injection.end()
    refused = [error for error in found if isinstance(error, str)]
    print(f'{module}: {len(found)} allocations, {len(refused)} refused')
    assert len(refused) > 5
    assert set(refused) <= ERRORS and 'ENOMEM' in refused, found
    assert not [missing for missing in found if missing not in refused + [[]]]
    assert module in kernel.loaded()
    for name in reversed(kernel.loaded()):
        kernel.unload(name)
    guest.run('! test -e /sys/kernel/carisma')


def listed(node: Node) -> Dict[str, Any]:
    """All that is configured on a node, without what is measured and what peers say."""
    found = {what: node.ask(what, 'list') for what in ('service', 'node', 'rule')}
    for one in found['node'] + found['service']:
        for name in OBSERVED & set(one):
            del one[name]
    return found


def changes(node: Node) -> List[Tuple[str, ...]]:
    """Calls of carismactl that configure, and undo it."""
    other = '10.0.0.99:81'
    return [('service', 'add', other), ('node', 'add', 'it', '10.0.0.9'),
            ('rule', 'add', other, '--host', 'h.example', '--node', 'it'),
            ('rule', 'add', node.service, '--path', '/it/', '--node', 'it'),
            ('rule', 'del', node.service, '--path', '/it/'),
            ('rule', 'del', other, '--host', 'h.example'),
            ('node', 'del', 'it'), ('service', 'del', other)]


def configure(node: Node, injection: Injection) -> Dict[bool, int]:
    """Each change until it succeeds; how many did, and how many did not. One
    that fails has changed nothing."""
    count = {True: 0, False: 0}
    for words in changes(node):
        done = False
        for _ in range(50):
            if done:
                break
            injection.percent(0)
            before = listed(node)
            injection.percent(PERCENT)
            done = node.ctl(*words, check=False).rc == 0
            injection.percent(0)
            assert (listed(node) != before) == done, words
            count[done] += 1
        assert done, words
    injection.percent(PERCENT)
    return count


@pytest.mark.parametrize('module', MODULES)
def test_running(fresh: Cluster, injection: Injection, module: str) -> None:
    """Without memory every request still is answered rightly, or its
    connection ends; a change of the configuration is made, or not at all; and
    nothing is left."""
    names = {node.vip: node.name for node in fresh.nodes}
    fresh.kernels[0].expect(MURMURS)
    injection.aim(f'$4 == "[{module}]"')
    injection.percent(PERCENT)
    traffic = fresh.client.popen(
        ['python3', '-S', f'{INSIDE}/traffic.py', '1', '4', '2', *names],
        stdin=True)
    end = time.monotonic() + SECONDS
    count = {True: 0, False: 0}
    while time.monotonic() < end:
        for done, more in configure(fresh['de'], injection).items():
            count[done] += more
    traffic.write(b'', close=True)
    traffic.wait(120)
    injection.end()
    found = [told for told in map(json.loads, traffic.stdout.splitlines())
             if 'stuck' not in told]
    print(f'{len(found)} exchanges; changes: {count[True]} made, '
          f'{count[False]} refused')
    answers = 0
    for told in found:
        answers += len(told['answers'])
        told['address'] = names[told['address']]
        wrong, missing = exchange_faults(told)
        assert not wrong, (wrong, told)
        assert 'TimeoutError' not in str(missing), (missing, told)
    assert answers > 20 and count[True] > 0
    no_flows(fresh, 60)
    for node in fresh.nodes:
        wait_for(lambda: not node.flows(), 'nothing lingers', 75)
        stats = node.stats()
        assert not {gauge: stats[gauge] for gauge in GAUGES if stats[gauge]}
    # What was not attached for want of memory is, when it is looked for.
    for node in fresh.nodes:
        node.ctl('service', 'del', node.service)
        for words in node.offer():
            node.ctl(*words)
    for node in fresh.nodes:
        wait_for(lambda: fresh.joined(node), 'the nodes are joined', 30)
    for language in ('en', 'fr', 'de'):
        served(fresh.client.curl.get(fresh.url('en', f'/{language}/1k')),
               language, '1k')
