# SPDX-License-Identifier: GPL-2.0
"""SYNs from strangers, by `inside/flood.py` and `inside/flood_fast.py`."""

import contextlib
from typing import TYPE_CHECKING, Iterator, Sequence

from .paths import INSIDE

if TYPE_CHECKING:
    from .node import Node


class Flood:
    """SYNs for a front end from the client's cable; how many there were, in all and
    a second, is known in the end."""

    sent, rate = 0, 0.0

    def __init__(self, client: 'Node', front: 'Node', program: str, *last: str,
                 through: Sequence[str] = ()) -> None:
        self._process = client.popen(
            [*through, 'python3', '-S', f'{INSIDE}/{program}.py', 'eth0', client.host.mac,
             front.host.mac, front.vip, '80', *last], stdin=True)
        assert self._process.readline(60) == b'begun\n'

    def end(self) -> None:
        """Stop."""
        self._process.write(b'', close=True)
        sent, seconds = self._process.readline(30).split()
        self.sent, self.rate = int(sent), int(sent) / float(seconds)


@contextlib.contextmanager
def flooded(client: 'Node', front: 'Node') -> Iterator[Flood]:
    """Meanwhile as many as one process can send, no two alike."""
    flood = Flood(client, front, 'flood')
    yield flood
    flood.end()


@contextlib.contextmanager
def flooded_at(client: 'Node', front: 'Node', rate: int, processor: int = 0) -> Iterator[Flood]:
    """Meanwhile that many a second, or with 0 as many as can be, of few different ones,
    sent by one processor of the guest."""
    flood = Flood(client, front, 'flood_fast', str(rate),
                  through=['taskset', '-c', str(processor)])
    yield flood
    flood.end()
