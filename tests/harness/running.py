# SPDX-License-Identifier: GPL-2.0
"""A running cluster: what namespaces and guests have in common."""

import abc
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, Iterator, List, Sequence

from .address import alone, endpoint, family
from .cluster import PREFIXES, ClusterSpec, Host, NodeSpec, Rule
from .kernel import MODULES, Kernel
from .node import Node
from .paths import INSIDE, WORK
from .patience import patient


def wait_for(what: Callable[[], Any], text: str, timeout: float = 15,
             pause: float = 0.1) -> Any:
    """Wait until `what` gives something true, and return it."""
    timeout = patient(timeout)
    deadline = time.monotonic() + timeout
    while True:
        found = what()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f'after {timeout:g} s still not: {text}')
        time.sleep(pause)


class Cluster(abc.ABC):
    """The hosts of a description, running."""

    ready = False               # CARISMA is loaded and configured

    def __init__(self, spec: ClusterSpec, hosts: Sequence[Node]) -> None:
        self.spec = spec
        self.hosts: Dict[str, Node] = {host.name: host for host in hosts}

    def __getitem__(self, name: str) -> Node:
        return self.hosts[name]

    @property
    def nodes(self) -> List[Node]:
        """The nodes that are alive."""
        found = [self.hosts[node.name] for node in self.spec.nodes]
        return [node for node in found if not node.dead]

    @property
    def client(self) -> Node:
        """The first client."""
        return self.hosts[self.spec.clients[0].name]

    @property
    def kernels(self) -> List[Kernel]:
        """The kernels that nodes run on."""
        return list({id(node.kernel): node.kernel
                     for node in self.nodes}.values())

    @abc.abstractmethod
    def start(self) -> None:
        """Bring the hosts up, without servers or modules."""

    def stop(self) -> None:
        """End it all."""
        for host in self.hosts.values():
            if not host.dead:
                host.stop()

    def setup(self, host: Host) -> List[str]:
        """The commands that make a host out of a bare network stack."""
        lines = ['link set lo up', 'link set eth0 up']
        lines += [f'addr add {it}/{PREFIXES[family(it)]} dev eth0' for it in host.addresses]
        # Addresses of IPv6 are to be usable at once, and to stay; there is no
        # router.
        settings = ['sysctl -qw net.ipv6.conf.eth0.accept_dad=0 '
                    'net.ipv6.conf.eth0.keep_addr_on_down=1 '
                    'net.ipv6.conf.eth0.accept_ra=0']
        if isinstance(host, NodeSpec):
            lines += [f'addr add {self.virtual(vip)} dev eth0' for vip in host.vips]
            if self.spec.unchanged:
                # With IPv6 a host tells only the addresses of the device that
                # is asked.
                settings.append('sysctl -qw net.ipv4.conf.all.arp_ignore=1 '
                                'net.ipv4.conf.all.arp_announce=2')
                lines += [f'addr add {self.virtual(vip)} dev lo'
                          for other in self.spec.nodes if other != host
                          for vip in other.vips]
        # The hosts know each other's addresses: the first packets of a
        # capture are the test's own.
        for other in self.spec.hosts:
            if other.name == host.name:
                continue
            lines += [f'neigh replace {address} lladdr {other.mac} dev eth0 nud permanent'
                      for address in other.addresses + other.vips]
        return [*settings, 'ip -batch - <<-BATCH', *lines, 'BATCH']

    @staticmethod
    def virtual(address: str) -> str:
        """An address that a node has for clients, as `ip addr` is told it. One
        of IPv6 is deprecated, or it would be what the node calls others from:
        its prefix is the longest that fits (RFC 6724, rule 8)."""
        return alone(address) + (
            ' preferred_lft 0' if family(address) == 6 else '')

    # Servers.

    def make_documents(self) -> None:
        """Write the document trees, once in each guest."""
        for kernel in self.kernels:
            names = [node.name for node in self.nodes
                     if node.kernel is kernel]
            folder = f'{WORK}/documents'
            kernel.guest.run(
                f'[ -e {folder}/done ] || '
                f'{{ python3 {INSIDE}/documents.py {folder} '
                f'{" ".join(names)} && touch {folder}/done; }}', timeout=120)

    def start_servers(self) -> None:
        """Start nginx on every node, with documents."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda start: start(), [
                self.make_documents, *(node.nginx.start for node in self.nodes)]))

    # CARISMA.

    def load(self) -> None:
        """Load the modules everywhere."""
        for kernel in self.kernels:
            kernel.load()

    def unload(self) -> None:
        """Unload what is loaded of the modules, everywhere."""
        self.ready = False
        for kernel in self.kernels:
            present = kernel.loaded()
            if present:
                kernel.unload(*reversed(present))

    def end(self) -> None:
        """End what is handed off, and unload."""
        if any(kernel.loaded() for kernel in self.kernels):
            self.drain()
            self.unload()

    def tidy(self) -> None:
        """Undo what a test did to hosts and links."""
        for host in self.hosts.values():
            if not host.dead:
                host.tidy()

    def configure(self) -> None:
        """Configure every node and wait for the control connections."""
        # One by one: who is called by a node that it does not know yet counts that.
        for node in self.nodes:
            node.configure()
        for node in self.nodes:
            wait_for(lambda: self.joined(node),
                     f"{node.name}'s control connections are up")
        self.ready = True

    @contextlib.contextmanager
    def offering(self, port: int, rules: Sequence[Rule], names: Sequence[str] = ('en', 'fr')
                 ) -> Iterator[None]:
        """These nodes have services at one more port, too, with these rules."""
        nodes = [self[name] for name in names]
        for node in nodes:
            node.batch(node.offer(port=port, rules=rules))
        try:
            yield
        finally:
            for node in nodes:
                node.batch([['service', 'del', at] for at in node.offered(port)])

    @staticmethod
    def joined(node: Node) -> bool:
        """Whether a node's control connections are all up."""
        return all(other['state'] in ('up', 'self')
                   for other in node.ask('node', 'list'))

    def live_flows(self) -> Dict[str, List[Dict[str, Any]]]:
        """Each node's flows, but those that only linger."""
        found = {node.name: [flow for flow in node.flows()
                             if flow['state'] != 'lingering']
                 for node in self.nodes}
        return {name: flows for name, flows in found.items() if flows}

    def drain(self, force: bool = True) -> None:
        """End the handed-off connections of every node."""
        for node in self.nodes:
            words = ['drain', '--force'] if force else ['drain']
            node.ctl(*words)

    def url(self, node: str, path: str) -> str:
        """The URL by which a client asks a node for a path."""
        return f'http://{endpoint(self[node].vip, self.spec.port)}{path}'


__all__ = ['Cluster', 'MODULES', 'wait_for']
