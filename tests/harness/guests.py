# SPDX-License-Identifier: GPL-2.0
"""A cluster of one guest a host, joined by a switch on this machine."""

import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Sequence

from .cluster import ClusterSpec, Host
from .guest import Guest
from .kernel import Kernel
from .node import DIRECTIONS, Command, Link, Node
from .running import Cluster
from .switch import Port, Switch, Weather


class GuestLink(Link):
    """A port of the switch."""

    def __init__(self, port: Port, node: Node) -> None:
        self._port = port
        self._node = node

    def down(self) -> None:
        self.touched = True
        self._node.run('ip link set eth0 down')

    def up(self) -> None:
        self._node.run('ip link set eth0 up')

    def cut(self) -> None:
        self.touched = True
        self._port.cut = True

    def heal(self) -> None:
        self._port.cut = False
        for direction in DIRECTIONS:
            self._port.weather[direction] = Weather()

    def netem(self, loss: float = 0, delay: float = 0, jitter: float = 0,
              directions: Sequence[str] = DIRECTIONS, duplicate: float = 0
              ) -> None:
        self.touched = True
        for direction in directions:
            self._port.weather[direction] = Weather(
                loss, delay, jitter, duplicate)


class GuestNode(Node):
    """A host that is a guest."""

    def __init__(self, cluster: ClusterSpec, host: Host, kernel: Kernel,
                 port: Port) -> None:
        super().__init__(cluster, host, kernel)
        self.link = GuestLink(port, self)

    def _inside(self, command: Command) -> Command:
        return command

    def kill(self) -> None:
        self.dead = True
        self.kernel.guest.kill()


class GuestCluster(Cluster):
    """Every host a guest."""

    def __init__(self, spec: ClusterSpec, kernel: str = 'stock') -> None:
        self._folder = tempfile.mkdtemp(prefix='carisma-switch.')
        self._switch = Switch(
            self._folder, [host.name for host in spec.hosts])
        super().__init__(spec, [
            self._host(spec, host, kernel) for host in spec.hosts])

    def _host(self, spec: ClusterSpec, host: Host, kernel: str) -> Node:
        port = self._switch.ports[host.name]
        guest = Guest(host.name, kernel, nics=[(port.device, host.mac)])
        return GuestNode(spec, host, Kernel(guest), port)

    def _bring_up(self, node: Node) -> None:
        node.kernel.guest.start()
        node.run('\n'.join(['set -e', *self.setup(node.host)]))

    def _all(self, what: Callable[[Node], None]) -> None:
        with ThreadPoolExecutor(len(self.hosts)) as pool:
            list(pool.map(what, self.hosts.values()))

    def start(self) -> None:
        self._all(self._bring_up)

    def stop(self) -> None:
        super().stop()
        self._all(lambda host: host.kernel.guest.stop())
        self._switch.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
