# SPDX-License-Identifier: GPL-2.0
"""What the three sites have in common."""

import abc
import itertools
from dataclasses import replace
from typing import List, Sequence, Tuple

from harness.cluster import SITE, ClusterSpec, Host, NodeSpec
from harness.namespaces import NamespaceCluster

from .exchange import Exchange
from .report import Total

# Of the client, below those that its kernel chooses.
PORTS = itertools.count(20_000)


def nodes(*names: str) -> Tuple[NodeSpec, ...]:
    """The nodes of the usual cluster by other names."""
    return tuple(NodeSpec(name, node.address, node.vip)
                 for name, node in zip(names, SITE.nodes))


def client(name: str) -> Host:
    """Its client by another name."""
    return replace(SITE.clients[0], name=name)


def connection() -> List[str]:
    """Have curl make a connection for one request, from a port that no other
    has: on the wires it is known by that."""
    return ['header = "Connection: close"', f'local-port = {next(PORTS)}']


class Site(abc.ABC):
    """A site of the paper on a cluster, and the requests that show it."""

    title: str
    picture: str                # with the names of `spec` in braces
    servers: str                # what `serve` does
    spec: ClusterSpec

    def __init__(self, cluster: NamespaceCluster) -> None:
        self.cluster = cluster
        self.exchanges: List[Exchange] = []

    @abc.abstractmethod
    def serve(self) -> None:
        """Start the servers."""

    def compare(self) -> None:
        """Do the requests without the modules."""

    @abc.abstractmethod
    def play(self) -> None:
        """Do them with the modules, with captures on every wire."""

    @abc.abstractmethod
    def report(self) -> bool:
        """Print all that is to know; True if it is as it should be."""

    def handoffs(self) -> List[Total]:
        """What the modules counted, and what the wires carried."""
        stats = [node.stats() for node in self.cluster.nodes]
        remote = [e for e in self.exchanges if e.remote]
        frequent = self.spec.mode == 'frequent'
        return [
            ('handshakes below TCP (by the front ends\' counters)',
             sum(s['cookies_answered'] for s in stats),
             len(self.exchanges) if frequent else 0),
            ('connections handed off (by the front ends\' counters)',
             sum(s['handoffs_accepted'] for s in stats), len(remote)),
            ('connections taken over (by the back ends\' counters)',
             sum(s['handoffs_in'] for s in stats), len(remote)),
            ('requests served where they arrived',
             sum(s['requests_local'] for s in stats),
             len(self.exchanges) - len(remote)),
            ('response bytes of handed-off requests through a front end',
             sum(e.through_front for e in remote), 0),
            ('bytes of these responses altogether',
             sum(e.answer.size for e in remote), from_back_ends(remote)),
        ]


def from_back_ends(remote: Sequence[Exchange]) -> int:
    """Bytes of the bodies that came over the wire of who sent them."""
    return sum(e.answer.size for e in remote
               if e.crossed.get(e.node, 0) >= e.answer.size)
