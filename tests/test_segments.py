# SPDX-License-Identifier: GPL-2.0
"""Exact segments, in every order that a network or a client can make.

Each case is a client of segments that the test makes one by one. It is run
three times: without the modules, for a request that is served where it arrives,
and for one that is handed off. What the client sees must be the same.
"""

import functools
import queue
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Set, Tuple

import pytest

from checks import request
from conftest import Lab
from harness.inside.documents import document
from harness.pcap import ACK, ECE, FIN, RST, SYN
from harness.running import Cluster
from harness.trace import distance
from harness.wire import MSS, Peer, Wire

pytestmark = pytest.mark.xdist_group('segments')

PLACES = ('plain', 'local', 'handed-off')
HALF = 11
AT_ONCE = 8


class Place:
    """Where requests are served, and who has answered them."""

    def __init__(self, name: str, wire: Wire) -> None:
        self._wire = wire
        self.node = 'fr' if name == 'handed-off' else 'en'
        self.nodes: List[str] = []
        self.peers: List[Peer] = []

    def peer(self, **options: Any) -> Peer:
        """A connection, not begun yet."""
        self.peers.append(self._wire.peer('en', **options))
        return self.peers[-1]

    def ask(self, name: str = '1k', **more: Any) -> bytes:
        """A request."""
        return request(f'/{self.node}/{name}', **more)

    def end(self) -> None:
        """Leave nothing behind."""
        for peer in self.peers:
            peer.quit()

    def read(self, peer: Peer, *names: str, **how: Any) -> List[Any]:
        """Read answers, and say whether they are these documents."""
        peer.until(lambda: len(responses(peer)) >= len(names),
                   f'{len(names)} answers', **how)
        return self.judge(peer, *names)

    def judge(self, peer: Peer, *names: str) -> List[Any]:
        """Say of the answers that were read whether they are these."""
        found = responses(peer)
        self.nodes += [node for _, node, _ in found]
        return [(status, body == document(node, name)) for
                (status, node, body), name in zip(found, names)]


def responses(peer: Peer) -> List[Tuple[int, str, bytes]]:
    """The whole HTTP responses that came: status, node, body."""
    data = bytes(peer.stream.data) if peer.stream else b''
    found = []
    while b'\r\n\r\n' in data:
        raw, _, rest = data.partition(b'\r\n\r\n')
        lines = raw.decode().split('\r\n')
        headers = dict(line.split(': ', 1) for line in lines[1:])
        size = int(headers['Content-Length'])
        if len(rest) < size:
            break
        found.append((int(lines[0].split()[1]), headers.get('X-Node', ''),
                      rest[:size]))
        data = rest[size:]
    return found


Case = Callable[[Place], Any]
CASES: Dict[str, Case] = {}
STAYS = set()       # the cases that are served where they arrive, anyway
SLOW = set()        # those that want a handoff to take a while


def case(*arguments: Any, stays: bool = False, slow: bool = False
         ) -> Callable[..., Any]:
    """A case, or several that differ in the arguments."""
    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        name = function.__name__.replace('_', '-')
        for some in arguments or ((),):
            words = some if isinstance(some, tuple) else (some,)
            full = '-'.join([name, *map(str, words)])
            CASES[full] = functools.partial(
                lambda words, place: function(place, *words), words)
            if stays:
                STAYS.add(full)
            if slow:
                SLOW.add(full)
        return function
    return add


# The handshake.


@case()
def syn_twice(place: Place) -> Any:
    """The SYN comes again before the handshake has gone on."""
    peer = place.peer()
    first = peer.greet()
    second = peer.greet()
    peer.next = 1
    peer.send('A')
    peer.send('PA', place.ask())
    return (len({s.seq for s in first + second}), len(first + second),
            place.read(peer, '1k'))


@case()
def syn_with_another_number(place: Place) -> Any:
    """A client that began anew: what it is told makes it reset the old
    attempt, and the next one is a connection."""
    peer = place.peer()
    peer.greet()
    old = peer.isn
    peer.isn = (old + (1 << 30)) % (1 << 32)
    challenge = peer.greet()
    told = [(s.flags & (SYN | ACK | RST), distance(s.ack, old))
            for s in challenge]
    peer.send('R', seq=distance(old + 1, peer.isn))
    peer.open()
    peer.send('PA', place.ask())
    return told, place.read(peer, '1k')


@case()
def syn_ack_lost(place: Place) -> Any:
    """The server's SYN-ACK is lost; it sends it again."""
    peer = place.peer()
    first = peer.greet()
    again = peer.hear(5, quiet=5, count=1)
    peer.next = 1
    peer.send('A')
    peer.send('PA', place.ask())
    return len({s.seq for s in first + again}), place.read(peer, '1k')


@case()
def ack_lost(place: Place) -> Any:
    """The handshake's ACK is lost; the request stands in for it."""
    peer = place.peer()
    peer.greet()
    peer.next = 1
    peer.send('PA', place.ask())
    return place.read(peer, '1k')


@case('end', 'all')
def fin_overtakes(place: Place, what: str) -> Any:
    """The FIN, alone or with half of the request, comes first of all."""
    peer, ask = place.peer(), place.ask()
    peer.greet()
    peer.next = 1
    at = HALF if what == 'all' else len(ask)
    peer.send('FA', ask[at:], seq=1 + at)
    peer.send('A', seq=1)
    peer.send('PA', ask[:at], seq=1)
    peer.persist(ask, fin=True)
    told = place.read(peer, '1k')
    peer.until(lambda: peer.stream.fin is not None, 'FIN')
    return told


# The head.

PIECES = {
    'overlapping': ((0, 12), (8, 30), (20, None)),
    'doubled': ((0, 12), (0, 12), (12, None), (0, None)),
    'reversed': ((30, None), (12, 30), (0, 12)),
    'contained': ((10, 14), (5, 20), (0, 25), (0, None)),
}


@case(*PIECES)
def pieces(place: Place, how: str) -> Any:
    """The request comes in pieces."""
    peer, ask = place.peer().open(), place.ask()
    for start, end in PIECES[how]:
        peer.send('PA', ask[start:end], seq=1 + start)
    peer.persist(ask)
    return place.read(peer, '1k')


@case()
def before_the_ack(place: Place) -> Any:
    """The second half of the request overtakes the handshake's ACK."""
    peer, ask = place.peer(), place.ask()
    peer.greet()
    peer.send('PA', ask[HALF:], seq=1 + HALF)
    peer.send('A', seq=1)
    peer.send('PA', ask[:HALF], seq=1)
    peer.persist(ask)
    return place.read(peer, '1k')


@case(slow=True)
def asked_again(place: Place) -> Any:
    """The request is sent again and again while it is decided."""
    peer, ask = place.peer().open(), place.ask()
    for _ in range(4):
        peer.send('PA', ask, seq=1, wait=0.08, quiet=0.08)
    return place.read(peer, '1k'), peer.reset()


@case('first', 'second', stays=True)
def urgent_head(place: Place, where: str) -> Any:
    """A byte of the head is urgent: servers do not read it."""
    ask = place.ask().replace(b'1k', b'1!k')
    peer = place.peer().open()
    if where == 'second':
        peer.send('PA', ask[:HALF - 2])
    at = peer.next - 1
    peer.send('UPA', ask[at:-2], urgent=ask.index(b'!') + 1 - at, wait=0.2)
    peer.send('PA', ask[-2:])
    return place.read(peer, '1k')


@case('before', 'after', slow=True)
def urgent_behind_the_head(place: Place, when: str) -> Any:
    """A byte of the second request is urgent, while the first is decided or
    after it."""
    again = place.ask().replace(b'1k', b'1!k')
    peer = place.peer().open()
    peer.send('PA', place.ask())
    if when == 'after':
        place.read(peer, '1k')
    peer.send('UPA', again[:-2], urgent=again.index(b'!') + 1)
    place.read(peer, '1k')
    peer.send('PA', again[-2:])
    return place.read(peer, '1k', '1k')


@case('atoms', 'swapped')
def fragments(place: Place, how: str) -> Any:
    """The head comes in fragments of IP, and so does the body."""
    body = b'0123456789' * 140
    ask = request(f'/{place.node}/upload/', 'POST', body)
    head = len(ask) - len(body)
    peer = place.peer().open()
    for data, size in ((ask[:head], 24), (ask[head:], 560)):
        parts = peer.frames('PA', data, pieces=size)
        peer.next += len(data)
        peer.post(parts[::-1] if how == 'swapped' else parts, wait=0.2)
    peer.persist(ask)
    return place.read(peer, 'empty')[0][0]


@case('nop', 'record-route')
def ip_options(place: Place, what: str) -> Any:
    """Every segment of the client has options of IP."""
    raw = {'nop': b'\1\1\1\0',
           'record-route': b'\7\x0b\4' + bytes(8) + b'\0'}[what]
    peer = place.peer()
    peer.greet(ip_options=raw)
    peer.next = 1
    peer.send('A', ip_options=raw)
    peer.send('PA', place.ask(), ip_options=raw)
    place.read(peer, '1k')
    peer.send('PA', place.ask('128k'), ip_options=raw)
    return place.read(peer, '1k', '128k')


@case()
def last_hop(place: Place) -> Any:
    """The client's segments have come with their last hop."""
    peer = place.peer()
    peer.ttl = 1
    peer.open().send('PA', place.ask('128k'))
    return place.read(peer, '128k')


# Windows, losses, timestamps, congestion.


@case('handshake', 'later')
def zero_window(place: Place, when: str) -> Any:
    """The client's window is closed when it asks, and opens later."""
    peer = place.peer()
    if when == 'handshake':
        peer.greet()
        peer.next = 1
        peer.send('A', window=0)
    else:
        peer.open().send('PA', place.ask('empty'))
        place.read(peer, 'empty')
    size = len(peer.stream.data)
    peer.send('PA', place.ask(), window=0, wait=1, quiet=1)
    early = len(peer.stream.data) - size
    peer.send('A')
    names = ('1k',) if when == 'handshake' else ('empty', '1k')
    return early, place.read(peer, *names)


@case(slow=True)
def window_opens_meanwhile(place: Place) -> Any:
    """The window opens while the request is decided."""
    peer = place.peer().open()
    peer.send('PA', place.ask(), window=0)
    peer.send('A', window=64_000)
    return place.read(peer, '1k')


@case()
def zero_window_in_the_body(place: Place) -> Any:
    """The window closes within the answer; nothing crosses its edge."""
    peer = place.peer().open()
    peer.send('PA', place.ask('128k'), window=3 * MSS)
    peer.hear(2, quiet=0.5)
    first = len(peer.stream.data)
    peer.send('A', window=0)
    peer.hear(0.6, quiet=0.6)
    more = len(peer.stream.data) - first
    peer.send('A')
    return first <= 3 * MSS, more, place.read(peer, '128k')


@case('timestamps', 'bare')
def loss_at_the_client(place: Place, what: str) -> Any:
    """The client names what it got by SACK: just the hole is sent again."""
    peer = place.peer(ts=what == 'timestamps').open()
    flight = [s for s in peer.send('PA', place.ask('128k'), wait=5, quiet=5,
                                   count=10) if s.length]
    # As if the first had not come; the last are left out, which the server
    # may send again if it hears nothing for long.
    edges = [s[1] + s[3] for s in peer.brief(flight)[:6]]
    frames = []
    for right in edges[1:]:
        frames += peer.frames('A', ack=1, sack=[(edges[0], right)])
    peer.post(frames)
    holes: Set[int] = set()
    for _ in range(100):
        holes |= {s[1] for s in peer.brief(peer.hear(5, quiet=5, count=1))
                  if s[3] and s[1] < edges[-1]}
        if holes:
            break
    peer.send('A', sack=[(1, edges[0])])        # a D-SACK: it came twice
    return holes, place.read(peer, '128k')


@case()
def sack_of_the_client(place: Place) -> Any:
    """A hole in what the client sends is named by SACK, and so is what it
    sends twice."""
    peer = place.peer().open()
    peer.send('PA', place.ask())
    place.read(peer, '1k')
    at, ask = peer.next, place.ask()
    early = peer.ask('PA', ask[HALF:], seq=at + HALF)
    peer.send('PA', ask[:HALF], seq=at)
    place.read(peer, '1k', '1k')
    late = peer.ask('PA', ask, seq=at)
    return [blocks(peer, at, found) for found in (early, late)]


def blocks(peer: Peer, at: int, found: List[Any]) -> List[Tuple[int, ...]]:
    """What segments acknowledge by SACK, counted from the client's `at`."""
    return [tuple(distance(edge, peer.isn) - at for edge in block)
            for segment in found for block in segment.options.sack]


@case(True, False)
def holes_in_the_head(place: Place, permitted: bool) -> Any:
    """Of a head whose pieces come out of order each is acknowledged by SACK,
    the newest first, if that was agreed on."""
    peer, ask = place.peer(sack=permitted).open(), place.ask()
    at, size = peer.next, len(ask) // 10
    told = []
    for number in (8, 2, 4, 6, 5, 3, 7):
        heard = peer.ask('PA', ask[number * size:(number + 1) * size],
                         seq=at + number * size)
        told.append(({distance(s.ack, peer.isn) - at for s in heard},
                     blocks(peer, at, heard)))
    peer.send('PA', ask[:2 * size], seq=at)
    peer.send('PA', ask[9 * size:], seq=at + 9 * size)
    return told, place.read(peer, '1k')


@case('head', 'body')
def from_the_past(place: Place, where: str) -> Any:
    """A segment with an old timestamp is not taken (PAWS)."""
    peer = place.peer().open()
    if where == 'body':
        peer.send('PA', place.ask())
        place.read(peer, '1k')
    at, ask = peer.next, place.ask()
    peer.send('PA', ask[:HALF], wait=0.3)
    old = (peer.clock() - 100_000) % (1 << 32)
    told = peer.ask('PA', ask[HALF:], seq=at + HALF, ts=old)
    acks = {s[2] - at for s in peer.brief(told)}
    peer.send('PA', ask[HALF:], seq=at + HALF)
    return acks, place.read(peer, *['1k'] * (1 + (where == 'body')))


@case()
def marks(place: Place) -> Any:
    """A client that was agreed with on ECN hears of each mark, until it says
    that it has (RFC 3168)."""
    peer = place.peer()
    answer, = peer.greet('SEC')
    peer.next = 1
    peer.send('A')
    peer.send('PA', place.ask())
    told = [place.read(peer, '1k')]
    peer.tos = 3
    heard = peer.send('PA', place.ask(), wait=0.5)
    peer.tos = 2
    told.append(all(s.flags & ECE for s in heard
                    if distance(s.ack, peer.isn) == peer.next))
    told.append(place.read(peer, '1k', '1k'))
    heard = peer.send('CPA', place.ask(), wait=0.5)
    told.append(any(s.flags & ECE for s in heard
                    if distance(s.ack, peer.isn) == peer.next))
    return bool(answer.flags & ECE), told


# Wrong checksums.


@case()
def wrong_checksums(place: Place) -> Any:
    """Whatever has one is answered by nobody, and changes nothing."""
    peer, ask = place.peer(), place.ask()
    told = []

    def wrong(flags: str, data: bytes = b'', **how: Any) -> None:
        before = peer.seen
        told.append([s for s in peer.send(
            flags, data, good=False, wait=0.3, **how)
            if not peer.is_old(s, before)])

    def bad() -> None:
        wrong('PA', b'GARBAGE')
        wrong('PA', b'x', seq=peer.next - 1)
        wrong('R')
    wrong('S', seq=0)
    peer.open()
    bad()
    peer.send('PA', ask[:HALF], wait=0.3)
    bad()
    peer.send('PA', ask[HALF:])
    first = place.read(peer, '1k')
    bad()
    peer.send('PA', ask)
    return list(map(len, told)), first, place.read(peer, '1k', '1k')


# Probes.


@case(*((step, size) for step in ('idle', 'half', 'answered')
        for size in (0, 1)))
def keep_alive(place: Place, step: str, size: int) -> Any:
    """A probe, with a garbage byte or without one, is answered with what is
    awaited next."""
    peer = reach(place, step)
    probe = peer.ask('A', b'?' * size, seq=peer.next - 1)
    told = peer.brief(probe)
    return told, finish(place, peer, step)


def reach(place: Place, step: str) -> Peer:
    """A connection that has come so far."""
    peer, ask = place.peer().open(), place.ask()
    if step == 'half':
        peer.send('PA', ask[:HALF], wait=0.3)
    elif step == 'asked':
        peer.send('PA', ask)
    elif step in ('answered', 'ended'):
        peer.send('PA', ask)
        place.read(peer, '1k')
    if step == 'ended':
        peer.send('FA')
        peer.until(lambda: peer.stream.fin is not None, 'FIN')
    return peer


def finish(place: Place, peer: Peer, step: str) -> Any:
    """Go on with the connection to an answer."""
    ask = place.ask()
    names = ['1k']
    if step == 'half':
        peer.send('PA', ask[HALF:])
    elif step == 'idle':
        peer.send('PA', ask)
    elif step == 'answered':
        peer.send('PA', ask)
        names *= 2
    elif step == 'ended':
        names = []
    return place.read(peer, *names)


# The end.


@case(*((step, number) for step in (
    'idle', 'half', 'asked', 'answered', 'ended') for number in (
        'exact', 'first', 'inside', 'outside')), slow=True)
def reset(place: Place, step: str, number: str) -> Any:
    """Only the exact number ends the connection; one within the window is
    asked back, any other passed over (RFC 5961)."""
    peer = reach(place, step)
    seq = {'exact': peer.next, 'first': 1, 'inside': peer.next + 100,
           'outside': peer.next + (1 << 24)}[number]
    reset = (peer.ask if number == 'inside' and step not in (
        'asked', 'ended') else functools.partial(peer.send, wait=0.3))
    told = [s for s in reset('R', seq=seq)
            if not s.length and not s.flags & FIN]
    if seq == peer.next:
        # Nobody knows the connection any more.
        peer.hear(1, quiet=0.5)
        dead = [s.flags & RST for s in peer.ask('A', seq=peer.next - 1)]
        return bool(dead and all(dead))
    told = peer.brief(told) if step not in ('asked', 'ended') else []
    return told, finish(place, peer, step), peer.reset()


@case('half', 'answered')
def syn_on_a_connection(place: Place, step: str) -> Any:
    """It is asked back by what is awaited next; a client that has forgotten
    resets the connection by that."""
    peer = reach(place, step)
    there = peer.next
    challenge = peer.ask('S', seq=there + 5000, options=[('MSS', MSS)])
    told = peer.brief(challenge)
    peer.send('R', seq=told[0][2], wait=0.2)
    dead = peer.ask('A', seq=there - 1)
    return told, bool(dead) and all(s.flags & RST for s in dead)


@case('higher', 'lower')
def syn_in_time_wait(place: Place, number: str) -> Any:
    """The client's port is used again, at once."""
    peer = place.peer(ts=number == 'lower').open()
    peer.send('PA', place.ask(Connection='close'))
    told = [place.read(peer, '1k')]
    peer.until(lambda: peer.stream.fin is not None, 'FIN')
    peer.send('FA', wait=0.3)
    told.append(peer.wrong())
    peer.segments.clear()
    peer.isn = (peer.isn + (1 << 20 if number == 'higher' else -(1 << 20))
                ) % (1 << 32)
    peer.next, peer.acked, peer.told, peer.stream = 1, 0, 0, None
    peer.open().send('PA', place.ask())
    told.append(place.read(peer, '1k'))
    return told


@case('asking', 'asked', 'answered', slow=True)
def half_close(place: Place, when: str) -> Any:
    """The client sends no more, but reads to the end."""
    peer, ask = place.peer().open(), place.ask()
    if when == 'asking':
        peer.send('FPA', ask)
    else:
        peer.send('PA', ask)
        if when == 'answered':
            place.read(peer, '1k')
        peer.send('FA')
    told = place.read(peer, '1k')
    peer.until(lambda: peer.stream.fin is not None, 'FIN')
    peer.hear(0.3)
    return told, peer.reset()


@case()
def half_closed_by_the_server(place: Place) -> Any:
    """The client goes on sending to a server that has closed."""
    peer = place.peer().open()
    peer.send('PA', place.ask(Connection='close'))
    told = place.read(peer, '1k')
    peer.until(lambda: peer.stream.fin is not None, 'FIN')
    return told, peer.brief(peer.ask('PA', b'more'))


@case()
def both_close(place: Place) -> Any:
    """Both FINs cross; each side acknowledges the other's."""
    peer = place.peer().open()
    peer.send('PA', place.ask(Connection='close'))
    peer.hear(5, quiet=1)
    told = [place.judge(peer, '1k')]
    before = peer.seen - 1
    crossing = peer.ask('FA', ack=before)
    told.append([s[0::2] for s in peer.brief(crossing)])
    peer.send('A', wait=0.2)
    again = peer.ask('FA', seq=peer.next - 1)
    told.append([s[0::2] for s in peer.brief(again)])
    return told


@case()
def old_duplicates(place: Place) -> Any:
    """Everything that the client has sent comes once more."""
    peer, ask = place.peer().open(), place.ask()
    peer.send('PA', ask[:HALF], wait=0.2)
    peer.send('PA', ask[HALF:])
    place.read(peer, '1k')
    told = [peer.brief(peer.ask('A', seq=1, ack=1)),
            peer.brief(peer.ask('PA', ask[:HALF], seq=1)),
            peer.brief(peer.ask('PA', ask, seq=1))]
    peer.send('PA', ask)
    return told, place.read(peer, '1k', '1k')


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
def test_case(results: Dict[Tuple[str, str], Result], name: str, where: str
              ) -> None:
    """The client sees what it would see without us."""
    plain, found = results[name, 'plain'], results[name, where]
    for result in (plain, found):
        assert not result.error, f'{result.error}\n{result.log}'
        assert not result.wrong, '\n'.join(result.wrong)
    assert found.told == plain.told, f'{plain.log}\n\n{found.log}'
    handed_off = where == 'handed-off' and name not in STAYS
    assert set(found.nodes) <= {'fr' if handed_off else 'en'}
