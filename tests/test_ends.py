# SPDX-License-Identifier: GPL-2.0
"""How long the nodes know of a connection that has ended, for each mode, each way
to forward, and whoever ends it: as long as its last segments may come again, and no
longer.

All connections are carried out first, and then looked after at once, as a TIME_WAIT
takes a minute. The client is one of exact segments: no TCP of its own says or repeats
anything.
"""

import itertools
import time
from dataclasses import dataclass, field, replace
from typing import Dict, Iterator, List, Optional, Tuple

import pytest

from checks import request
from conftest import Lab
from harness.node import Node
from harness.patience import patient
from harness.paths import CARISMACTL
from harness.pcap import ACK, FIN, RST, Segment
from harness.running import Cluster, wait_for
from harness.wire import Peer, Wire

pytestmark = [pytest.mark.xdist_group('ends'), pytest.mark.long]

MODES = ('rare', 'frequent', 'always')
# Front end and back end.
WAYS = {'nat': ('en', 'fr'), 'direct': ('en', 'de'), 'tunnel': ('fr', 'de')}
ENDS = ('client', 'server', 'client-resets', 'server-resets')

# Seconds: what one end keeps in TIME_WAIT may be asked for so long; else only what is
# on its way may come; a reset of the client's is believed in always mode if nothing
# follows it for so long, as nobody says that it was.
TIME_WAIT = 60
ON_ITS_WAY = 1
UNSURE = 10
# How much later a timer may be, and the one who looks.
LATE = 6
# The client has not got the last acknowledgement, and sends its FIN again, so long after:
# a TIME_WAIT begins anew with that.
AGAIN = 30
# The client's own last one, if the server has closed after it, comes so late.
HESITATION = 2


@dataclass
class Life:
    """A connection that has ended, and what was known of it since: for each node,
    when it was seen last, and when not any more."""

    peer: Peer
    ended: float = 0        # or is about to
    seen: Dict[str, float] = field(default_factory=dict)
    missed: Dict[str, float] = field(default_factory=dict)
    # Whether each node knew it before the client's last acknowledgement.
    before: Tuple[bool, ...] = ()
    # What was said to the FIN that came again.
    again: Optional[List[Segment]] = None

    def look(self, name: str, ports: List[int], now: float) -> None:
        """A node has told of which ports it knows."""
        if self.peer.port in ports:
            self.seen[name] = now - self.ended
        else:
            self.missed.setdefault(name, now - self.ended)


Case = Tuple[str, str, str]
CASES = [case for case in itertools.product(MODES, WAYS, ENDS)
         if case[:2] != ('always', 'nat')]


def ports(node: Node) -> List[int]:
    """The client's ports of the flows that a node has."""
    return [int(flow['client'].rpartition(':')[2]) for flow in node.flows()]


def configure(cluster: Cluster) -> None:
    """Each node is forwarded to as WAYS says."""
    forwards = {('en', 'fr'): 'nat', ('fr', 'fr'): 'nat', ('de', 'fr'): 'nat',
                ('fr', 'de'): 'tunnel', ('de', 'de'): 'tunnel'}
    for node in cluster.nodes:
        node.put('/tmp/carisma.key', cluster.spec.key)
        calls = []
        for words in node.configuration():
            if words[:2] == ['node', 'add']:
                words[-1] = forwards.get((node.name, words[2]), 'direct')
            calls.append(words)
        node.batch(calls)
    for node in cluster.nodes:
        wait_for(lambda: cluster.joined(node), 'the control connections are up')


def begin(cluster: Cluster, wire: Wire, case: Case) -> Life:
    """A connection that was handed off, and answered."""
    _, way, end = case
    front, back = WAYS[way]
    peer = wire.peer(front).open()
    more = {'Connection': 'close'} if end == 'server' else {}
    peer.send('PA', request(f'/{back}/1k', **more), quiet=0)

    def answered() -> bool:
        closed = end != 'server' or peer.stream.fin == len(peer.stream.data)
        return closed and len(peer.stream.data) > 1024
    peer.until(answered, 'it is answered')
    for name in (front, back):
        wait_for(lambda: peer.port in ports(cluster[name]), f'{name} knows it')
    return Life(peer)


def end(cluster: Cluster, case: Case, life: Life) -> None:
    """End it."""
    _, way, how = case
    peer = life.peer
    life.ended = time.monotonic()
    if how == 'client':
        peer.send('FA', quiet=0)
        wait_for(lambda: peer.hear(0.2) and peer.stream.fin is not None, 'its FIN has come')
        peer.hear(HESITATION, quiet=HESITATION)
        life.before = tuple(peer.port in ports(cluster[name]) for name in WAYS[way])
        life.ended = time.monotonic()
        peer.send('A', quiet=0)
    elif how == 'server':
        found = peer.ask('FA')
        assert found and peer.acked == peer.next, f'no acknowledgement\n{peer}'
    elif how == 'client-resets':
        peer.send('R', quiet=0)
    else:
        cluster[WAYS[way][1]].run(
            f'ss -K "sport = :80 and dport = :{peer.port}" >/dev/null')
        wait_for(lambda: peer.hear(0.2) and peer.reset(), 'it is reset')


def look(cluster: Cluster, lives: Dict[Case, Life]) -> bool:
    """See what is left, and send the FINs that are due; whether that is all."""
    known = {node.name: ports(node) for node in cluster.nodes}
    now = time.monotonic()
    for (_, way, how), life in lives.items():
        for name in WAYS[way]:
            life.look(name, known[name], now)
        if how == 'server' and life.again is None and now - life.ended >= AGAIN:
            life.again = life.peer.ask('FA', seq=life.peer.next - 1)
    return not any(known.values())


@pytest.fixture(scope='module')
def lives(session_lab: Lab) -> Iterator[Dict[Case, Life]]:
    """All of them, carried out, and looked after until no flow is left."""
    cluster = session_lab.site(replace(session_lab.spec, forward='direct'))
    cluster.end()
    session_lab.once = True
    found: Dict[Case, Life] = {}
    cluster.load()
    configure(cluster)
    wire = Wire(cluster)
    try:
        for mode, cases in itertools.groupby(CASES, lambda case: case[0]):
            for node in cluster.nodes:
                node.run('\n'.join(f'{CARISMACTL} service set {cluster[name].service} '
                                   f'--mode {mode}' for name in ('en', 'fr')))
            for case in cases:
                life = begin(cluster, wire, case)
                end(cluster, case, life)
                found[case] = life
                look(cluster, found)
        deadline = time.monotonic() + patient(AGAIN + TIME_WAIT + 30)
        while not look(cluster, found) and time.monotonic() < deadline:
            time.sleep(0.5)
    finally:
        wire.stop()
        session_lab.dismiss(again=False)
    yield found


def wanted(mode: str, how: str) -> int:
    """How long the front end needs to know of such an end, in seconds."""
    if how == 'server':
        return AGAIN + TIME_WAIT
    return UNSURE + ON_ITS_WAY if (mode, how) == ('always', 'client-resets') else ON_ITS_WAY


def name_of(case: Case) -> str:
    """What a case is called."""
    return '-'.join(case)


@pytest.mark.parametrize('case', CASES, ids=name_of)
def test_front_end(lives: Dict[Case, Life], case: Case) -> None:
    """It knows of it as long as the other two may have something to say."""
    mode, way, how = case
    life, name, least = lives[case], WAYS[way][0], wanted(mode, how)
    told = f'{life}\n{life.peer}'
    assert life.missed.get(name, least) >= least, told
    assert life.seen.get(name, 0) < least + patient(LATE), told


@pytest.mark.parametrize('case', CASES, ids=name_of)
def test_back_end(lives: Dict[Case, Life], case: Case) -> None:
    """So does the back end, which knows whether its TCP has it in TIME_WAIT; in
    always mode it looks when that has said that it ends, else every ten seconds."""
    mode, way, how = case
    life, name = lives[case], WAYS[way][1]
    least = AGAIN + TIME_WAIT if how == 'server' else ON_ITS_WAY
    most = least + (UNSURE if mode == 'always' else 0)
    told = f'{life}\n{life.peer}'
    assert life.missed.get(name, least) >= least, told
    assert life.seen.get(name, 0) < most + patient(LATE), told


@pytest.mark.parametrize('case', [case for case in CASES if case[2] == 'server'], ids=name_of)
def test_fin_comes_again(lives: Dict[Case, Life], case: Case) -> None:
    """What the back end has in TIME_WAIT is answered by that, however late."""
    life = lives[case]
    assert life.again is not None, 'its front end had forgotten it'
    flags = [s.flags & (ACK | FIN | RST) for s in life.again]
    acks = {s.ack for s in life.again}
    assert flags == [ACK], life.peer
    assert acks == {(life.peer.isn + life.peer.next) % (1 << 32)}, life.peer


@pytest.mark.parametrize('case', [case for case in CASES if case[2] == 'client'], ids=name_of)
def test_acknowledgement_comes_late(lives: Dict[Case, Life], case: Case) -> None:
    """Until the client has acknowledged the server's FIN, both nodes know the
    connection, however often that is sent."""
    life = lives[case]
    fins = [s for s in life.peer.heard() if s.flags & FIN]
    assert life.before == (True, True), life
    assert len(fins) > 1 and len({s.seq + s.length for s in fins}) == 1, life.peer
    assert not life.peer.reset(), life.peer
