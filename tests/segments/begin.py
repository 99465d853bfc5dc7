# SPDX-License-Identifier: GPL-2.0
"""How connections begin: the handshake, and the head of a request."""

from typing import Any

from checks import request
from harness.pcap import ACK, RST, SYN
from harness.trace import distance

from .place import HALF, Place, case

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
