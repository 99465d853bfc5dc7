# SPDX-License-Identifier: GPL-2.0
"""Shape x option x failure, each compared with the same exchange without us.

What is handed off comes in every combination of the first three axes; the
others, and what is served where it arrives, are spread over these cases such
that every pair of values of any two axes occurs. Exchanges that share option,
failure, windows and offloads are carried out at the same time.

The exchange to compare with is the same bytes sent, with no module loaded, to
the node that should answer.

In always mode, which has no control connections, what is about their failures is
left out.
"""

import itertools
import json
from typing import Any, Dict, Iterator, List, Tuple

import pytest

from checks import some_long
from conftest import Lab
from harness.address import endpoint
from harness.inside.documents import document
from harness.inside.exchange import SIZES
from harness.node import Node
from harness.pairs import Case, complete, product, uncovered
from harness.paths import CHECKOUT, INSIDE
from harness.patience import Patience, patient
from harness.running import Cluster, wait_for

pytestmark = pytest.mark.xdist_group('matrix')

AXES: Dict[str, Tuple[Any, ...]] = {
    'failure': ('none', 'loss', 'reordering', 'duplicates', 'refused',
                'down', 'cut', 'unheard'),
    'option': ('all', 'no-timestamps', 'no-sack', 'no-scaling', 'none'),
    'offload': ('on', 'off', 'software-checksums'),
    'windows': ('equal', 'wider', 'narrower'),      # of the back end
    'place': ('handed-off', 'local'),
    'shape': ('whole', 'bytewise', 'halves', 'post', 'expect', 'chunked',
              'pipelined', 'persistent', 'cookies', 'fin'),
    'size': tuple(SIZES),           # of the answer, or of the body of an upload
    'buffer': ('auto', 16_384),                     # of the client
    'mss': ('link', 536),
    'migrate': ('adopt', 'replay'),                 # at the back end
    'reaction': ('close', 'keep-alive'),            # of the server
}
SHARED = ('failure', 'option', 'offload', 'windows')

# What en's counters say of each request that was to be handed off.
EVIDENCE = {
    'none': ('handoffs_accepted',),
    'loss': ('handoffs_accepted',),
    'reordering': ('handoffs_accepted',),
    'duplicates': ('handoffs_accepted',),
    'refused': ('handoffs_rejected',),
    'down': ('requests_local_peer_down',),
    'cut': ('handoffs_timed_out',),
    'unheard': ('handoffs_timed_out',),
}
CONTROLLED = ('down', 'cut', 'unheard')     # by control connections
REPLAYED = 21                   # en's address too; its service is never adopted
CLIENTS_LINK = {
    'loss': {'loss': 0.02},
    'reordering': {'delay': 0.004, 'jitter': 0.004},
    'duplicates': {'duplicate': 0.1},
}
CONTROL = '''
table inet control {{
    chain in {{ type filter hook input priority 0; {inbound}; }}
    chain out {{ type filter hook output priority 0; {outbound}; }}
}}
'''
OFFLOADS = {
    'on': {'tx': True, 'tso': True, 'gso': True, 'gro': True},
    'off': {'tx': True, 'tso': False, 'gso': False, 'gro': False},
    'software-checksums': {'tx': False, 'gro': True},
}
WINDOWS = {
    'equal': None,
    'wider': '4096 131072 67108864',
    'narrower': '4096 16384 65535',
}
# One setting of so many is tried each time, all of them by make test-long.
SLICE = 8
# Each used once: at the back end, connections to either service are to its own address, where
# one in TIME_WAIT that has the client's port would be in the way of an adoption.
PORTS = itertools.count(20_000)


def make_table() -> List[Case]:
    """All the cases, those that share a setting together."""
    settings = complete(
        product({axis: AXES[axis] for axis in ('failure', 'option')}),
        {axis: AXES[axis] for axis in SHARED})
    settings.sort(key=lambda setting: (
        AXES['failure'].index(setting['failure']),
        AXES['offload'].index(setting['offload'])))
    shapes = itertools.cycle(AXES['shape'])
    seeds: List[Case] = []
    for setting in settings:
        seeds += [{**setting, 'place': 'handed-off', 'shape': shape}
                  for shape in AXES['shape']]
        seeds += [{**setting, 'place': 'local', 'shape': next(shapes)}
                  for _ in range(3)]
        next(shapes)        # or each option would only meet some shapes
    return complete(seeds, AXES)


TABLE = make_table()


def shared(case: Case) -> Tuple[Any, ...]:
    """The setting of a case."""
    return tuple(case[axis] for axis in SHARED)


SETTINGS = list(dict.fromkeys(map(shared, TABLE)))


def answers(case: Case) -> str:
    """The node that is to answer."""
    handed_off = (case['place'] == 'handed-off' and
                  EVIDENCE[str(case['failure'])] == ('handoffs_accepted',))
    return 'fr' if handed_off else 'en'


def language(case: Case) -> str:
    """The language that is asked for, whoever answers."""
    return 'fr' if case['place'] == 'handed-off' else 'en'


def alike(case: Case) -> Tuple[Any, ...]:
    """What cases have in common that have the same exchange."""
    return (answers(case), language(case), case['shape'], case['size'],
            case['reaction'])


class Exchanges:
    """The program on the client that carries exchanges out."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._process = cluster.client.popen(
            ['python3', '-S', f'{INSIDE}/exchange.py', str(Patience.factor)],
            stdin=True)

    def run(self, cases: List[Case], direct: bool = False
            ) -> List[Dict[str, Any]]:
        """Carry out all of these at once; `direct` asks the node that is to
        answer instead of the one that would hand off."""
        front = self._cluster['en']
        services = {'adopt': front.vip, 'replay': self._cluster.spec.at(REPLAYED)}
        orders = [{**case, 'language': language(case), 'address':
                   self._cluster[answers(case)].vip if direct
                   else services[str(case['migrate'])], 'port': next(PORTS)}
                  for case in cases]
        self._process.write(json.dumps(orders).encode() + b'\n')
        return json.loads(self._process.readline(60))

    def stop(self) -> None:
        """End the program."""
        self._process.kill()


class Setting:
    """The hosts, as the cases of one setting want them."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._offload = ''
        self._windows = cluster['fr'].run(
            ['sysctl', '-n', 'net.ipv4.tcp_rmem']).out.strip()

    def make(self, failure: str, option: str, offload: str, windows: str
             ) -> None:
        """Make it so."""
        off = {'all': (), 'none': ('timestamps', 'sack', 'window_scaling'),
               'no-timestamps': ('timestamps',), 'no-sack': ('sack',),
               'no-scaling': ('window_scaling',)}[option]
        self._cluster.client.run(['sysctl', '-qw', *(
            f'net.ipv4.tcp_{name}={int(name not in off)}' for name in
            ('timestamps', 'sack', 'window_scaling'))])
        self._cluster['fr'].run(['sysctl', '-qw', 'net.ipv4.tcp_rmem='
                                 f'{WINDOWS[windows] or self._windows}'])
        if offload != self._offload:
            self._offload = offload
            for host in self._cluster.hosts.values():
                host.offload(**OFFLOADS[offload])
        self._fail(failure)

    def _fail(self, failure: str) -> None:
        front, back = self._cluster['en'], self._cluster['fr']
        if failure in CLIENTS_LINK:
            self._cluster.client.link.netem(**CLIENTS_LINK[failure])
        elif failure == 'refused':
            back.nginx.stop()
        elif failure == 'down':
            self._control(back, 'tcp dport 7480 reject with tcp reset',
                          'tcp dport 7480 reject with tcp reset')
            back.run('ss -K sport = :7480 >/dev/null; '
                     'ss -K dport = :7480 >/dev/null')
            wait_for(lambda: not self._cluster.joined(front),
                     'the control connection is down')
        elif failure == 'cut':
            self._control(back, 'tcp dport 7480 drop; tcp sport 7480 drop',
                          'tcp dport 7480 drop; tcp sport 7480 drop')
        elif failure == 'unheard':
            self._control(front, f'{front.cluster.ip} saddr {back.address} '
                          'tcp sport 7480 drop', '')

    @staticmethod
    def _control(node: Node, inbound: str, outbound: str) -> None:
        node.nft(CONTROL.format(
            inbound=inbound.replace('; ', '\n'),
            outbound=outbound.replace('; ', '\n')))

    def heal(self, failure: str) -> None:
        """End a failure, and wait until nothing of it is left."""
        front, back = self._cluster['en'], self._cluster['fr']
        if failure in CLIENTS_LINK:
            self._cluster.client.link.heal()
        elif failure == 'refused':
            # Its listener is to be as it was.
            back.run(['sysctl', '-qw', f'net.ipv4.tcp_rmem={self._windows}'])
            back.nginx.start()
        elif failure in ('down', 'cut', 'unheard'):
            # A connection that lost much would be up again only after its
            # next retransmission: a new one is there at once.
            back.run('ss -K sport = :7480 >/dev/null')
            for node in (front, back):
                node.nft('')
            for node in (front, back):
                wait_for(lambda: self._cluster.joined(node), 'joined again')

    def undo(self) -> None:
        """As it was before the first."""
        self.make('none', 'all', 'on', 'equal')


class Results:
    """What came of all exchanges."""

    def __init__(self) -> None:
        self.reference: Dict[Tuple[Any, ...], Dict[str, Any]] = {}
        self.found: Dict[int, Dict[str, Any]] = {}
        self.counted: Dict[Tuple[Any, ...], Dict[str, int]] = {}
        self.adopted: Dict[Tuple[Any, ...], int] = {}


def run_reference(cluster: Cluster, results: Results, settings: List[Tuple[Any, ...]]) -> None:
    """Carry out each different exchange with no module loaded."""
    wanted = list({alike(case): case for case in TABLE if shared(case) in settings}.items())
    exchanges = Exchanges(cluster)
    for at in range(0, len(wanted), 16):
        part = wanted[at:at + 16]
        told = exchanges.run([case for _, case in part], direct=True)
        for (key, _), one in zip(part, told):
            results.reference[key] = one
    exchanges.stop()


def offer_replayed(cluster: Cluster) -> None:
    """The same service by another address, at every node that needs it."""
    for node in cluster.nodes:
        device = 'eth0' if node.name == 'en' else 'lo'
        if device == 'eth0' or cluster.spec.unchanged:
            addr = cluster.spec.at(REPLAYED)
            node.run(f'ip addr add {cluster.virtual(addr)} dev {device}')
            for words in node.offer(endpoint(addr, 80), 'replay'):
                node.ctl(*words)


def runs(failure: str, mode: str) -> bool:
    """Whether what fails so is a case of this mode."""
    return mode != 'always' or failure not in CONTROLLED


def run_table(cluster: Cluster, results: Results, settings: List[Tuple[Any, ...]]) -> None:
    """Carry out all cases of these settings, one after the other."""
    cluster['fr'].knob('handoff_timeout_ms', int(patient(5000)))
    # As long as nginx waits for a head: a client with little luck takes long.
    cluster['en'].knob('head_timeout_ms', int(patient(60_000)))
    offer_replayed(cluster)
    exchanges, setting = Exchanges(cluster), Setting(cluster)
    for wanted in settings:
        failure = wanted[0]
        # What cannot be answered is not waited for, nor given away at once; on a busy machine what
        # can takes a while.
        unanswered = failure in ('cut', 'unheard')
        cluster['en'].knob('handoff_trust_ms', 0 if unanswered else 50)
        cluster['en'].knob('handoff_timeout_ms', 500 if unanswered else int(patient(5000)))
        setting.make(*wanted)
        before = cluster['en'].stats()
        adopted = -cluster['fr'].stats()['handoffs_in_adopted']
        numbers = [number for number, case in enumerate(TABLE)
                   if shared(case) == wanted]
        told = exchanges.run([TABLE[number] for number in numbers])
        results.found.update(zip(numbers, told))
        after = cluster['en'].stats()
        results.counted[wanted] = {
            name: after[name] - before[name] for name in after}
        results.adopted[wanted] = (
            adopted + cluster['fr'].stats()['handoffs_in_adopted'])
        setting.heal(failure)
    setting.undo()
    exchanges.stop()


@pytest.fixture(scope='module')
def results(session_lab: Lab, request: pytest.FixtureRequest) -> Iterator[Results]:
    """What is asked for of the table, carried out once."""
    asked = {item.callspec.params['setting'] if 'setting' in item.callspec.params
             else shared(TABLE[item.callspec.params['number']])
             for item in request.session.items
             if item.module is request.module and hasattr(item, 'callspec')}
    settings = [setting for setting in SETTINGS if setting in asked]
    found = Results()
    cluster = session_lab.site()
    cluster.end()
    session_lab.once = True
    run_reference(cluster, found, settings)
    session_lab.enable(cluster)
    try:
        run_table(cluster, found, settings)
    finally:
        session_lab.dismiss(again=False)
    yield found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The settings and the cases of the mode."""
    mode = metafunc.config.getoption('--mode')
    settings = [setting for setting in SETTINGS if runs(setting[0], mode)]
    short = settings[::SLICE]
    if 'setting' in metafunc.fixturenames:
        metafunc.parametrize('setting', some_long(settings, *short), ids='-'.join)
    if 'number' in metafunc.fixturenames:
        numbers = [number for number, case in enumerate(TABLE) if shared(case) in settings]
        metafunc.parametrize('number', some_long(numbers, *(
            number for number in numbers if shared(TABLE[number]) in short)), ids=[
                name_of(TABLE[number]) for number in numbers])


def test_every_pair_is_covered() -> None:
    """The table is what the head of this file and the README say."""
    assert not uncovered(TABLE, AXES)
    with open(f'{CHECKOUT}/README.md', encoding='utf-8') as readme:
        assert f'{len(TABLE)} exchanges' in readme.read()
    full = {(case['shape'], case['option'], case['failure'])
            for case in TABLE if case['place'] == 'handed-off'}
    assert len(full) == (len(AXES['shape']) * len(AXES['option'])
                         * len(AXES['failure']))


def test_uncovered_pairs_are_noticed() -> None:
    """A table that lacks a pair is told from one that has all."""
    axes = {'a': (1, 2), 'b': (1, 2), 'c': (1, 2)}
    table = complete(product({'a': (1, 2), 'b': (1, 2)}), axes)
    assert not uncovered(table, axes)
    assert uncovered(table[:3], axes)


def test_reference_is_what_servers_answer(results: Results) -> None:
    """What is compared with is no failure itself."""
    assert results.reference, 'no exchange was asked for'
    for key, told in results.reference.items():
        node, _, shape, size, reaction = key
        wanted = {'pipelined': 2, 'persistent': 3, 'expect': 2}.get(shape, 1)
        assert len(told['answers']) == wanted, (key, told)
        first, last = told['answers'][0], told['answers'][-1]
        assert last['status'] == 'HTTP/1.1 200 OK', (key, told)
        assert ['X-Node', node] in last['headers'], (key, told)
        assert told['ended'] == (
            'closed' if reaction == 'close' or shape == 'fin' else 'open')
        if shape in ('post', 'expect', 'chunked', 'fin'):
            assert size == 'empty' or last['kept'], (key, told)
        else:
            assert first['size'] == len(document(node, size)), (key, told)


def test_it_failed_as_it_should(results: Results, setting: Tuple[str, ...]
                                ) -> None:
    """The failure took place, for each request that was to be handed off."""
    counted = results.counted[setting]
    count = sum(shared(case) == setting and case['place'] == 'handed-off'
                for case in TABLE)
    evidence = EVIDENCE[setting[0]]
    if evidence == ('handoffs_timed_out',) and Patience.factor > 1 and counted[evidence[0]]:
        # TCP may give a control connection up (after 10 s) before the last of them.
        evidence += ('handoffs_aborted', 'requests_local_peer_down')
    assert sum(counted[name] for name in evidence) == count, (
        {name: number for name, number in counted.items() if number})


def test_it_migrated_as_it_should(results: Results, setting: Tuple[str, ...],
                                  pytestconfig: pytest.Config) -> None:
    """What may be adopted was, and nothing else."""
    may = pytestconfig.getoption('--migrate') == 'adopt'
    count = sum(shared(case) == setting and answers(case) == 'fr'
                and case['migrate'] == 'adopt' and may for case in TABLE)
    assert results.adopted[setting] == count


def name_of(case: Case) -> str:
    """What a case is called."""
    return '-'.join(str(case[axis]) for axis in AXES)


def test_exchange(results: Results, number: int) -> None:
    """Status lines, headers, bodies, their order, and how it ended: nothing
    differs from the exchange without us."""
    assert results.found[number] == results.reference[alike(TABLE[number])]
