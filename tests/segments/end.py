# SPDX-License-Identifier: GPL-2.0
"""How connections end, and what comes afterwards."""

import functools
from typing import Any

from harness.pcap import FIN, RST
from harness.wire import MSS

from .place import HALF, Place, case, finish, reach


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
