# SPDX-License-Identifier: GPL-2.0
"""Where a case of exact segments is carried out, and which there are."""

import functools
from typing import Any, Callable, Dict, List, Tuple

from checks import request
from harness.inside.documents import document
from harness.wire import Peer, Wire

HALF = 11       # of a head, roughly


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


def answered(peer: Peer, *wanted: Tuple[str, str]) -> None:
    """The answers are these nodes' documents, and nothing is odd."""
    peer.until(lambda: len(responses(peer)) >= len(wanted), f'{len(wanted)} answers')
    assert responses(peer) == [(200, node, document(node, name)) for node, name in wanted]
    assert not peer.wrong() and not peer.reset()


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
