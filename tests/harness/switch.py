# SPDX-License-Identifier: GPL-2.0
"""An Ethernet switch for guests, on Unix datagram sockets.

QEMU's `dgram` network device sends each frame as a datagram. A port can be
unplugged, cut, made lossy or slow, each direction for itself.
"""

import heapq
import os
import random
import selectors
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Sequence, Tuple

DIRECTIONS = ('to', 'from')


@dataclass
class Weather:
    """What happens to the frames of one direction of a port."""

    loss: float = 0
    delay: float = 0
    jitter: float = 0
    duplicate: float = 0

    def wait(self) -> Optional[float]:
        """How long a frame takes; None if it is lost."""
        if self.loss and random.random() < self.loss:
            return None
        return max(0, self.delay + random.uniform(-1, 1) * self.jitter)

    def copies(self) -> int:
        """How many come of a frame that is not lost."""
        return 2 if self.duplicate and random.random() < self.duplicate else 1


@dataclass
class Port:
    """Where one guest is plugged in."""

    name: str
    folder: str
    cut: bool = False
    weather: Dict[str, Weather] = field(default_factory=lambda: {
        direction: Weather() for direction in DIRECTIONS})

    def __post_init__(self) -> None:
        self.here = os.path.join(self.folder, f'{self.name}.switch')
        self.there = os.path.join(self.folder, f'{self.name}.guest')
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.here)
        self.socket.setblocking(False)
        # A 20 MB transfer must not overrun a busy guest at once.
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            self.socket.setsockopt(socket.SOL_SOCKET, option, 4 << 20)

    @property
    def device(self) -> str:
        """QEMU's -netdev option, but its id."""
        return (f'dgram,local.type=unix,local.path={self.there},'
                f'remote.type=unix,remote.path={self.here}')


class Switch:
    """A learning switch in a thread of its own."""

    def __init__(self, folder: str, names: Sequence[str]) -> None:
        os.makedirs(folder, exist_ok=True)
        self.ports = {name: Port(name, folder) for name in names}
        self._learned: Dict[bytes, Port] = {}
        self._late: List[Tuple[float, int, Port, bytes]] = []
        self._count = 0
        self._running = True
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Unplug everything."""
        self._running = False
        self._thread.join()
        for port in self.ports.values():
            port.socket.close()
            os.unlink(port.here)

    def _run(self) -> None:
        waiting = selectors.DefaultSelector()
        for port in self.ports.values():
            waiting.register(port.socket, selectors.EVENT_READ, port)
        while self._running:
            timeout = 0.2
            if self._late:
                timeout = min(timeout, max(
                    0, self._late[0][0] - time.monotonic()))
            for key, _ in waiting.select(timeout):
                self._receive(key.data)
            while self._late and self._late[0][0] <= time.monotonic():
                _, _, port, frame = heapq.heappop(self._late)
                self._deliver(port, frame)
        waiting.close()

    def _receive(self, port: Port) -> None:
        for _ in range(64):
            try:
                frame = port.socket.recv(1 << 17)
            except BlockingIOError:
                return
            if len(frame) < 14:
                continue
            self._learned[frame[6:12]] = port
            wait = port.weather['from'].wait()
            if port.cut or wait is None:
                continue
            target = self._learned.get(frame[:6])
            for other in ([target] if target else self.ports.values()):
                if other is not port:
                    for _ in range(port.weather['from'].copies()):
                        self._send(other, frame, wait)

    def _send(self, port: Port, frame: bytes, waited: float) -> None:
        wait = port.weather['to'].wait()
        if port.cut or wait is None:
            return
        for _ in range(port.weather['to'].copies()):
            if waited + wait > 0:
                self._count += 1
                heapq.heappush(self._late, (
                    time.monotonic() + waited + wait, self._count, port,
                    frame))
            else:
                self._deliver(port, frame)

    @staticmethod
    def _deliver(port: Port, frame: bytes) -> None:
        try:
            port.socket.sendto(frame, port.there)
        except OSError:
            pass        # the guest is gone, or does not keep up
