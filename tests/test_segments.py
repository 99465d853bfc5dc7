# SPDX-License-Identifier: GPL-2.0
"""Exact segments, in every order that a network or a client can make.

Each case is a client of segments that the test makes one by one. It is run
three times: without the modules, for a request that is served where it arrives,
and for one that is handed off. What the client sees must be the same, but for
what comes of a handshake of which nothing is kept.
"""

import queue
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

import pytest

from conftest import Lab
from harness.pcap import ACK, SYN
from harness.running import Cluster
from harness.wire import Wire
from segments.place import CASES, SLOW, STAYS, Place

pytestmark = pytest.mark.xdist_group('segments')

PLACES = ('plain', 'local', 'handed-off')
AT_ONCE = 8
# What a client may be told, by a test's or a case's name, whose handshake is with a cookie: each
# SYN is answered anew, with no ECN; and what follows on a reset before another TCP has the
# connection answers the cookie as well as what overtook the client's first segment would: it is
# not reset.
BY_COOKIE: Dict[str, Tuple[Any, ...]] = {
    'syn-with-another-number': (([(SYN | ACK, (1 << 30) + 1)], [(200, True)]),),
    'marks': ((False, [[(200, True)], False, [(200, True)] * 2, False]),),
    'syn-on-a-connection-half': (([('A', 1, 12, 0)], False),),
    'reset-idle-exact': (False,),
    'reset-idle-first': (False,),
    'reset-half-exact': (False,),
    # A node that is trusted has got it with the request.
    'reset-asked-exact-handed-off': (False, True),
}


class Result(NamedTuple):
    """What came of a case."""

    told: Any = None
    nodes: Tuple[str, ...] = ()
    wrong: Tuple[str, ...] = ()
    error: str = ''
    log: str = ''


def carry_out(wire: Wire, name: str, where: str) -> Result:
    """One case at one place."""
    place = Place(where, wire)
    told, error, wrong = None, '', []
    try:
        told = CASES[name](place)
        wrong = [fault for peer in place.peers for fault in peer.wrong()]
    except Exception:
        error = traceback.format_exc()
    place.end()
    return Result(told, tuple(place.nodes), tuple(wrong), error,
                  '\n\n'.join(map(str, place.peers)))


def carry_out_all(wires: List[Wire], names: List[str], where: str
                  ) -> List[Result]:
    """Cases at one place, as many at once as there are wires."""
    free = queue.SimpleQueue()
    for wire in wires:
        free.put(wire)

    def one(name: str) -> Result:
        wire = free.get()
        try:
            return carry_out(wire, name, where)
        finally:
            free.put(wire)
    with ThreadPoolExecutor(len(wires)) as workers:
        return list(workers.map(one, names))


def asked_for(request: pytest.FixtureRequest, what: str) -> List[str]:
    """The values of a parameter in the tests that are to be run."""
    return list(dict.fromkeys(
        item.callspec.params[what] for item in request.session.items
        if what in getattr(item, 'fixturenames', ())
        and item.function is test_case))


@pytest.fixture(scope='module')
def results(session_lab: Lab, request: pytest.FixtureRequest
            ) -> Iterator[Dict[Tuple[str, str], Result]]:
    """All the cases that are asked for, carried out."""
    names = asked_for(request, 'name')
    found: Dict[Tuple[str, str], Result] = {}
    cluster: Cluster = session_lab.site()
    cluster.end()
    session_lab.once = True
    wires = [Wire(cluster, number) for number in range(AT_ONCE)]
    try:
        for where in ['plain', *asked_for(request, 'where')]:
            if where != 'plain' and not cluster.ready:
                session_lab.enable(cluster)
                for node in ('en', 'fr') if cluster.ready else ():
                    cluster[node].knob('handoff_timeout_ms', 5000)
            for slow in (False, True):
                if slow:
                    cluster['fr'].link.netem(delay=0.15)
                part = [name for name in names if (name in SLOW) == slow]
                found.update(zip(((name, where) for name in part),
                                 carry_out_all(wires, part, where)))
                cluster['fr'].link.heal()
    finally:
        for wire in wires:
            wire.stop()
        session_lab.dismiss(again=False)
    yield found


@pytest.mark.parametrize('where', PLACES[1:])
@pytest.mark.parametrize('name', CASES)
def test_case(results: Dict[Tuple[str, str], Result], name: str, where: str,
              pytestconfig: pytest.Config) -> None:
    """The client sees what it would see without us."""
    plain, found = results[name, 'plain'], results[name, where]
    wanted: Tuple[Any, ...] = (plain.told,)
    if pytestconfig.getoption('--mode') != 'rare':
        wanted = BY_COOKIE.get(f'{name}-{where}', BY_COOKIE.get(name, wanted))
    for result in (plain, found):
        assert not result.error, f'{result.error}\n{result.log}'
        assert not result.wrong, '\n'.join(result.wrong)
    assert found.told in wanted, f'{plain.log}\n\n{found.log}'
    handed_off = where == 'handed-off' and name not in STAYS
    assert set(found.nodes) <= {'fr' if handed_off else 'en'}
