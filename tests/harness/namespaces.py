# SPDX-License-Identifier: GPL-2.0
"""A cluster as network namespaces of one guest.

Each host is a namespace with an `eth0`, whose other end is a port of a bridge
in a namespace of its own, `switch` by name if there is no other cluster.
"""

import json
import re
from typing import Dict, List, Sequence

from .cluster import ClusterSpec, Host
from .kernel import Kernel
from .node import DIRECTIONS, Command, Link, Node
from .running import Cluster

SWITCH = 'switch'
# What looks at /sys, by itself or by its path.
SYSFS = re.compile(r'/sys\b|/carismactl check|/refuse\.py')


class NamespaceLink(Link):
    """A veth pair."""

    def __init__(self, kernel: Kernel, host: Host, switch: str) -> None:
        self._guest = kernel.guest
        self._host = host
        self._switch = switch
        self._port = f'p-{host.name}'

    def _at_switch(self, command: str) -> str:
        return f'ip netns exec {self._switch} {command}'

    def _at_host(self, command: str) -> str:
        return f'ip netns exec {self._host.name} {command}'

    def down(self) -> None:
        self.touched = True
        self._guest.run(self._at_switch(f'ip link set {self._port} down'))

    def up(self) -> None:
        self._guest.run(self._at_switch(f'ip link set {self._port} up'))

    def cut(self) -> None:
        self.touched = True
        self._guest.run(self._at_switch(
            f'bridge link set dev {self._port} state disabled'))

    def heal(self) -> None:
        self._guest.run('; '.join((
            self._at_switch(f'tc qdisc del dev {self._port} root 2>/dev/null'),
            self._at_host('tc qdisc del dev eth0 root 2>/dev/null'),
            self._at_switch(
                f'bridge link set dev {self._port} state forwarding'))))

    def netem(self, loss: float = 0, delay: float = 0, jitter: float = 0,
              directions: Sequence[str] = DIRECTIONS, duplicate: float = 0
              ) -> None:
        self.touched = True
        what = (f'netem limit 10000 delay {delay}s {jitter}s '
                f'loss {loss:%} duplicate {duplicate:%}')
        ends = {'to': self._at_switch(
                    f'tc qdisc replace dev {self._port} root {what}'),
                'from': self._at_host(
                    f'tc qdisc replace dev eth0 root {what}')}
        self._guest.run('set -e; ' + '; '.join(
            ends[direction] for direction in directions))


class NamespaceNode(Node):
    """A host that is a network namespace."""

    def __init__(self, cluster: ClusterSpec, host: Host, kernel: Kernel,
                 switch: str = SWITCH) -> None:
        super().__init__(cluster, host, kernel)
        self.link = NamespaceLink(kernel, host, switch)
        self.netns = host.name

    def _inside(self, command: Command) -> Command:
        words = (['sh', '-c', command] if isinstance(command, str)
                 else list(command))
        # That is of the namespace that it was mounted from. To mount it anew takes longer than most
        # commands do.
        if SYSFS.search(' '.join(map(str, words))):
            words = ['ip', 'netns', 'exec', self.name, *words]
        return words

    def kill(self) -> None:
        self.dead = True
        self.link.cut()
        # A socket that is left would keep the namespace alive.
        self.kernel.guest.run(
            f'ip netns pids {self.name} | xargs -r kill -9; '
            f'ip netns exec {self.name} ss -K state all >/dev/null; '
            f'ip netns del {self.name}')


class NamespaceCluster(Cluster):
    """All the hosts in one guest. Clusters in the same guest have switches,
    and hosts, of different names."""

    def __init__(self, spec: ClusterSpec, kernel: Kernel, switch: str = SWITCH
                 ) -> None:
        super().__init__(spec, [
            NamespaceNode(spec, host, kernel, switch) for host in spec.hosts])
        self.kernel = kernel
        # Not one of the hosts: what passes there is what passed on all wires.
        self.switch = NamespaceNode(spec, Host(switch, ''), kernel, switch)

    def ports(self) -> Dict[str, int]:
        """The indices of the hosts' ports of the switch."""
        links = json.loads(self.switch.run('ip -j link').out)
        index = {link['ifname']: link['ifindex'] for link in links}
        return {host.name: index[f'p-{host.name}'] for host in self.spec.hosts}

    def _script(self) -> List[str]:
        return [
            'set -e', f'ip netns add {self.switch.name}',
            f'ip -n {self.switch.name} -batch - <<-BATCH',
            'link add br0 type bridge forward_delay 0 mcast_snooping 0',
            'link set br0 up', 'BATCH', *self._plug(self.spec.hosts)]

    def _plug(self, hosts: Sequence[Host]) -> List[str]:
        # By as few programs as can be: under emulation it is starting one that takes long.
        lines = ['ip -batch - <<-BATCH', *(f'netns add {host.name}' for host in hosts), 'BATCH',
                 f'ip -n {self.switch.name} -batch - <<-BATCH']
        for host in hosts:
            lines += [f'link add p-{host.name} type veth '
                      f'peer name eth0 address {host.mac} netns {host.name}',
                      f'link set p-{host.name} master br0 up']
        lines.append('BATCH')
        for host in hosts:
            lines += [f'ip netns exec {host.name} sh -es <<-END', *self.setup(host), 'END']
        return lines

    def revive(self, node: Node) -> None:
        """Put a new host in the place of one that was killed."""
        # The old one's cable goes when the last reference to it does.
        self.kernel.guest.run('\n'.join([
            f'while ip -n {self.switch.name} link show p-{node.name} >/dev/null 2>&1; '
            'do sleep 0.05; done',
            'set -e', *self._plug([node.host])]))
        node.dead = False

    def start(self) -> None:
        self.kernel.guest.run('\n'.join(self._script()), timeout=120)

    def stop(self) -> None:
        super().stop()
        names = ' '.join([self.switch.name, *(host.name for host in self.spec.hosts)])
        # A killed process's sockets are gone a moment after it.
        self.kernel.guest.run(f'''
            for name in {names}; do
                [ -e /run/netns/$name ] || continue
                ip netns pids $name
            done | xargs -r kill -9
            for name in {names}; do
                [ ! -e /run/netns/$name ] || echo netns del $name
            done | ip -force -batch -''', timeout=60)
