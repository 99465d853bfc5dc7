# SPDX-License-Identifier: GPL-2.0
"""A host of a running cluster, however it is run."""

import abc
import json
from typing import Any, Dict, List, Optional, Sequence, Union

from . import paths
from .address import endpoint
from .capture import Capture
from .cluster import ClusterSpec, Host, NodeSpec, Rule
from .curl import Curl
from .kernel import Kernel
from .nginx import Nginx
from .process import Process, Result
from .sockets import SocketHolder

Command = Union[str, Sequence[str]]
DIRECTIONS = ('to', 'from')
KEY_FILE = '/tmp/carisma.key'


class Link(abc.ABC):
    """The cable between a host and the switch."""

    touched = False             # a test did something to it

    @abc.abstractmethod
    def down(self) -> None:
        """Unplug: both ends see that the carrier is gone."""

    @abc.abstractmethod
    def up(self) -> None:
        """Plug in again."""

    @abc.abstractmethod
    def cut(self) -> None:
        """Lose every frame, silently."""

    @abc.abstractmethod
    def heal(self) -> None:
        """End a cut and whatever netem did."""

    @abc.abstractmethod
    def netem(self, loss: float = 0, delay: float = 0, jitter: float = 0,
              directions: Sequence[str] = DIRECTIONS, duplicate: float = 0
              ) -> None:
        """Lose that share of the frames (0 to 1), delay the rest (seconds),
        deliver a share twice; `to` the host, `from` it, or both."""


class Node(abc.ABC):
    """A host: a node of the cluster or a client."""

    link: Link
    dead = False
    netns = ''                  # of the guest, in which commands run

    def __init__(self, cluster: ClusterSpec, host: Host, kernel: Kernel
                 ) -> None:
        self.cluster = cluster
        self.host = host
        self.kernel = kernel
        self.name = host.name
        self.address = host.address
        self.vip = host.vip if isinstance(host, NodeSpec) else ''
        self.nginx = Nginx(self, cluster.port)
        self.curl = Curl(self)
        self._sockets: Optional[SocketHolder] = None
        self._filtered = False
        self._sysctls: Dict[str, str] = {}

    @abc.abstractmethod
    def _inside(self, command: Command) -> Command:
        """A command as the guest has to run it for this host."""

    @abc.abstractmethod
    def kill(self) -> None:
        """Die at once, without a word on the wire."""

    def run(self, command: Command, timeout: float = 30,
            input: Union[str, bytes] = b'', check: bool = True) -> Result:
        """Run a command to its end: status, output, error output."""
        return self.kernel.guest.run(
            self._inside(command), timeout=timeout, input=input, check=check, netns=self.netns)

    def popen(self, command: Command, stdin: bool = False) -> Process:
        """Start a command that runs on; with stdin, one to speak with."""
        return self.kernel.guest.popen(
            self._inside(command), stdin=stdin, netns=self.netns)

    def put(self, path: str, data: Union[str, bytes]) -> None:
        """Write a file on the node."""
        self.kernel.guest.put(path, data)

    def get(self, path: str) -> bytes:
        """Read a file of the node."""
        return self.kernel.guest.get(path)

    def load_modules(self, *names: str) -> None:
        """Load the modules into the kernel that this host runs on."""
        self.kernel.load(*names)

    def capture(self, wanted: str = 'tcp port 80', **options: Any
                ) -> Capture:
        """A capture on this host's wire, to be started."""
        return Capture(self, wanted, **options)

    def connect(self, host: str, port: int = 80, **options: Any) -> Any:
        """A TCP connection from here, held until the test ends it."""
        if self._sockets is None:
            self._sockets = SocketHolder(self)
        return self._sockets.connect(host, port, **options)

    def nft(self, rules: str) -> None:
        """Replace the host's packet filter by these rules."""
        self._filtered = bool(rules)
        self.run(['nft', '-f', '-'], input=f'flush ruleset\n{rules}\n')

    def sysctl(self, name: str, value: str) -> None:
        """Set a kernel parameter until the end of the test."""
        self._sysctls.setdefault(
            name, self.run(['sysctl', '-n', name]).out.strip())
        self.run(['sysctl', '-qw', f'{name}={value}'])

    def tidy(self) -> None:
        """Undo what a test did here."""
        if self._sockets is not None:
            self._sockets.clear()
        if self._filtered:
            self.nft('')
        for name, value in self._sysctls.items():
            self.run(['sysctl', '-qw', f'{name}={value}'])
        self._sysctls.clear()
        if self.link.touched:
            self.link.up()
            self.link.heal()
            self.link.touched = False

    def stop(self) -> None:
        """End what the harness runs here."""
        if self._sockets is not None:
            self._sockets.stop()
            self._sockets = None

    # What runs on the node.

    def sockets(self, wanted: str = '') -> List[str]:
        """The TCP sockets but listeners that match an ss filter."""
        return self.run(f'ss -tanH state all exclude listening {wanted}'
                        ).out.splitlines()

    def counter(self, *names: str) -> Dict[str, int]:
        """The kernel's own counters, as nstat names them."""
        told = self.run(['nstat', '-asz', '--json', *names]).out
        return next(iter(json.loads(told).values()))

    def forget_paths(self) -> None:
        """Forget what routers told of paths."""
        self.run(f'ip -{self.cluster.family} route flush cache')

    def offload(self, **features: bool) -> None:
        """Switch features of the network device (tso, gso, gro, tx …)."""
        words = [word for name, on in features.items()
                 for word in (name, 'on' if on else 'off')]
        self.run(['ethtool', '-K', 'eth0', *words])

    # CARISMA on the node.

    @property
    def service(self) -> str:
        """The virtual service that this node accepts for."""
        return self.at(self.cluster.port)

    @property
    def services(self) -> List[str]:
        """That, and the one of the other family, if it has an address for it."""
        return self._services_of(self.host, self.cluster.port)

    @staticmethod
    def _services_of(host: Host, port: int) -> List[str]:
        return [endpoint(vip, port) for vip in host.vips]

    def at(self, port: int) -> str:
        """This node's virtual address, with a port."""
        return endpoint(self.vip, port)

    def ctl(self, *words: str, check: bool = True) -> Result:
        """carismactl with these words."""
        return self.run([paths.CARISMACTL, *words], check=check)

    def batch(self, calls: Sequence[Sequence[str]]) -> None:
        """carismactl with the words of each call, all of which must succeed."""
        self.run([paths.CARISMACTL, 'batch', '-'], timeout=120,
                 input='\n'.join(map(' '.join, calls)))

    def ask(self, *words: str) -> Any:
        """carismactl's answer as data."""
        return json.loads(self.ctl(*words, '--json').out)

    def stats(self) -> Dict[str, int]:
        """The modules' counters."""
        return self.ask('stats')

    def flows(self) -> List[Dict[str, Any]]:
        """The modules' flows."""
        return self.ask('flows')

    def knob(self, name: str, value: int) -> None:
        """Write one of the knobs below sysfs."""
        self.knobs(**{name: value})

    def knobs(self, **values: int) -> None:
        """Write several."""
        self.run('set -e; cd /sys/kernel/carisma/net; ' + '; '.join(
            f'echo {value} >{name}' for name, value in values.items()))

    def configuration(self) -> List[List[str]]:
        """The words of each carismactl call that configures this node."""
        calls = []
        if self.cluster.key:
            calls.append(['key', 'set', '1', '--file', KEY_FILE])
        for other in self.cluster.nodes:
            side = '--local' if other.name == self.name else '--remote'
            calls.append(['node', 'add', other.name, other.address, side,
                          '--port', str(self.cluster.control_port),
                          '--forward', self.cluster.forward])
            if other.other:
                calls[-1] += ['--other', other.other]
            if self.cluster.other_forward:
                calls[-1] += ['--other-forward', self.cluster.other_forward]
        return calls + self.offer()

    def offered(self, port: int) -> List[str]:
        """The services that this node has at a port: its own; and those of the other nodes, if
        what they forward comes to the address of the service."""
        services = self._services_of(self.host, port)
        if self.cluster.unchanged:
            for node in self.cluster.nodes:
                if node.name != self.name:
                    services += self._services_of(node, port)
        return services

    def offer(self, service: str = '', migrate: str = '', mode: str = '', port: int = 0,
              rules: Sequence[Rule] = ()) -> List[List[str]]:
        """Those of them that configure services: this one, or those that it has at the port."""
        services = [service] if service else self.offered(port or self.cluster.port)
        calls = []
        for at in services:
            calls.append(['service', 'add', at,
                          '--mode', mode or self.cluster.mode,
                          '--migrate', migrate or self.cluster.migrate])
            calls += [['rule', 'add', at, *rule.words]
                      for rule in rules or self.cluster.rules]
        return calls

    def configure(self) -> None:
        """Configure this node as the cluster's description says."""
        self.put(KEY_FILE, self.cluster.key)
        self.batch(self.configuration())
