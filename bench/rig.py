# SPDX-License-Identifier: GPL-2.0
"""The machines of the benchmark.

    front end           wire            peers
    guest, -icount ---- bridge ---- guest with namespaces: be, client

The front end's guest is the one that is measured, and has nothing but the
front end in it. Back end and client are network namespaces of a second guest,
behind a bridge of its own, so what a back end sends a client directly does not
pass the front end's device. The guests are joined by two taps and a bridge in
a network namespace of this process's: devices with checksum and segmentation
offload, as servers have them, which QEMU's socket devices have not.
"""

import mmap
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, List, Mapping, Optional, Tuple

from harness.cluster import ClusterSpec, Host, NodeSpec, Rule
from harness.guest import Guest
from harness.kernel import Kernel
from harness.namespaces import SWITCH, NamespaceCluster
from harness.node import Command, Node
from harness.paths import BUILD

SPEC = ClusterSpec(
    nodes=(NodeSpec('fe', '10.0.0.1', '10.0.0.11'),
           NodeSpec('be', '10.0.0.2', '10.0.0.12')),
    clients=(Host('client', '10.0.0.100'),),
    rules=(Rule('/be/', 'be'),),
    key='3c' * 32,
)
WORK = f'{BUILD}/bench'

# The emulator counts each byte that `rep movsb` copies as an instruction, which
# would make copies, hence proxies, dearer than on any processor that has the
# feature. Without it the kernel copies 64 bytes in about 18 instructions.
PROCESSOR = 'max,erms=off,fsrm=off,fsrs=off,fzrm=off'

# Nothing but what is asked for passes the wire, and neither a slow client nor
# a slow front end is taken for a lost segment: emulated guests run at some
# tenth of a machine's speed, and this one's clock stands still while it waits
# for the host's processor.
SYSCTLS = {
    'net.ipv6.conf.all.disable_ipv6': 1,
    'net.ipv6.conf.default.disable_ipv6': 1,
    'net.ipv4.tcp_rto_min_us': 3_000_000,
    'net.ipv4.tcp_early_retrans': 0,
    'net.ipv4.tcp_recovery': 5,
    'net.ipv4.tcp_reordering': 300,
    'net.ipv4.tcp_no_metrics_save': 1,
    'net.ipv4.tcp_max_tw_buckets': 65536,
}
# Not every one of them belongs to a network namespace.
QUIET = [f'sysctl -qw {name}={value} 2>/dev/null || true'
         for name, value in SYSCTLS.items()]

# Nor does the kernel make huge pages of small ones in between: that came to a tenth of some
# requests.
NO_HUGE_PAGES = 'echo never >/sys/kernel/mm/transparent_hugepage/enabled'

# The front end's is slow, and this machine may have other things to do.
BOOT_SECONDS = 600

# The default discipline, which is not to drop what a guest was too slow to take.
PATIENT = 'root fq_codel limit 20000 target 10s interval 20s'


def in_order(device: str) -> List[str]:
    """Has a veth device take what comes in through one queue. Otherwise each
    processor has a queue of its own, packets overtake each other, and TCP takes
    that for loss."""
    return [f'ethtool -L {device} rx 1 tx 1', f'ethtool -K {device} gro on']


class Counter:
    """The number of instructions that the front end has executed."""

    def __init__(self) -> None:
        os.makedirs(WORK, exist_ok=True)
        plugin, self._path = f'{WORK}/count.so', f'{WORK}/instructions'
        subprocess.run(
            ['gcc', '-O2', '-Wall', '-Wextra', '-shared', '-fPIC', '-fvisibility=hidden',
             '-o', plugin, '/carisma/bench/count.c'], check=True)
        self._words: Optional[memoryview] = None
        self.arguments = ['-plugin', f'file={plugin},into={self._path}',
                          '-cpu', PROCESSOR]

    def _mapped(self) -> memoryview:
        """What the plugin writes; it is there when QEMU is."""
        if self._words is None:
            with open(self._path, 'rb') as file:
                self._words = memoryview(
                    mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)).cast('Q')
        return self._words

    def read(self) -> int:
        """As many so far."""
        return self._mapped()[0]

    def blocks(self) -> List[Tuple[int, int]]:
        """Where each block begins, and how many were executed there."""
        words, found = self._mapped(), []
        for at in range(1, len(words) - 1, 2):
            if not words[at]:
                break
            found.append((words[at], words[at + 1]))
        return found


class FrontEnd(Node):
    """The host that is a guest of its own."""

    def _inside(self, command: Command) -> Command:
        return command

    def kill(self) -> None:
        self.dead = True
        self.kernel.guest.kill()


class Rig(NamespaceCluster):
    """Both guests, joined."""

    def __init__(self) -> None:
        self.counter = Counter()
        self._guests = [
            Guest('fe', mem=768, icount=True, arguments=self.counter.arguments,
                  nics=[(self._tap('fe'), SPEC.nodes[0].mac)]),
            Guest('peers', nics=[self._tap('peers')])]
        front, peers = (Kernel(guest) for guest in self._guests)
        super().__init__(SPEC, peers)
        self.front = self.hosts['fe'] = FrontEnd(SPEC, SPEC.nodes[0], front)
        self.back = self.hosts['be']

    @staticmethod
    def _tap(name: str) -> str:
        return f'tap,ifname={name},script=no,downscript=no,vnet_hdr=on'

    def _wire(self) -> None:
        lines = ['set -e', 'sysctl -qw net.ipv6.conf.all.disable_ipv6=1 '
                 'net.ipv6.conf.default.disable_ipv6=1 || true',
                 'ip link add wire type bridge forward_delay 0 mcast_snooping 0',
                 'ip link set wire up']
        for guest in self._guests:
            lines += [f'ip tuntap add {guest.name} mode tap vnet_hdr',
                      f'ip link set {guest.name} master wire up']
        subprocess.run(['sh', '-c', '\n'.join(lines)], check=True)

    def _peers(self) -> List[str]:
        lines = ['set -e', *QUIET, f'ip netns add {SWITCH}',
                 f'ip -n {SWITCH} link add br0 type bridge '
                 'forward_delay 0 mcast_snooping 0',
                 f'ip -n {SWITCH} link set br0 up',
                 f'ip link set eth0 netns {SWITCH}',
                 f'ip -n {SWITCH} link set eth0 master br0 up',
                 f'tc -n {SWITCH} qdisc replace dev eth0 {PATIENT}']
        for name in ('be', 'client'):
            lines += [*self._plug([self.hosts[name].host]),
                      f'ip netns exec {SWITCH} sh -es <<-END',
                      *in_order(f'p-{name}'), 'END',
                      f'ip netns exec {name} sh -es <<-END', *QUIET,
                      *in_order('eth0'), 'END']
        # For direct routing.
        return [*lines, 'ip netns exec be sh -es <<-END',
                'sysctl -qw net.ipv4.conf.all.arp_ignore=1 '
                'net.ipv4.conf.all.arp_announce=2',
                f'ip addr add {self.front.vip}/32 dev lo', 'END']

    def describe(self, changes: Mapping[str, Any]) -> None:
        """How CARISMA is to be configured, where it differs from SPEC."""
        self.spec = replace(SPEC, **changes)
        for host in self.hosts.values():
            host.cluster = self.spec

    def start(self) -> None:
        self._wire()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda guest: guest.start(BOOT_SECONDS), self._guests))
        self.kernel.guest.run('\n'.join(self._peers()), timeout=120)
        self.front.run('\n'.join(
            ['set -e', *QUIET, NO_HUGE_PAGES, *self.setup(self.front.host),
             f'tc qdisc replace dev eth0 {PATIENT}']), timeout=60)

    def stop(self) -> None:
        for guest in self._guests:
            guest.stop()
