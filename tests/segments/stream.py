# SPDX-License-Identifier: GPL-2.0
"""Windows, losses, timestamps, congestion, wrong checksums, probes."""

from typing import Any, List, Set, Tuple

from harness.pcap import ECE
from harness.trace import distance
from harness.wire import MSS, Peer

from .place import HALF, Place, case, finish, reach

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
    peer = place.peer()
    peer.greet()
    peer.next = 1
    # The handshake says it already: who makes a socket before it gets the request does not follow
    # a segment that has the same number and a smaller window.
    peer.send('A', window=3 * MSS)
    peer.send('PA', place.ask('128k'), window=3 * MSS)
    # A server that hears nothing sends one segment more, after two round trips (RFC 8985, section
    # 7.2), which under load are long.
    peer.hear(6, quiet=2.5)
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
