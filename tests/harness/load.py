# SPDX-License-Identifier: GPL-2.0
"""Many connections from a host, by `inside/load.py`."""

import json
from typing import TYPE_CHECKING, Dict, Sequence

from .paths import INSIDE

if TYPE_CHECKING:
    from .node import Node


class Load:
    """A process on a host that asks and asks.

    With a `count` it ends by itself, otherwise with `end()`.
    """

    def __init__(self, host: 'Node', service: str, paths: Sequence[str],
                 threads: int = 8, count: int = 0,
                 ways: Sequence[str] = ('server', 'client', 'reset')) -> None:
        self._endless = not count
        self._process = host.popen(
            ['python3', '-S', f'{INSIDE}/load.py', service, str(threads),
             str(count), ','.join(ways), *paths], stdin=True)
        assert self._process.readline(60) == b'begun\n'

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def end(self, timeout: float = 60) -> Dict[str, int]:
        """Wait for the end; how often there was which answer: path, status
        and hash, or what went wrong."""
        if self._endless:
            self._process.write(b'', close=True)
        told = json.loads(self._process.readline(timeout))
        self._process.wait(10)
        return told
