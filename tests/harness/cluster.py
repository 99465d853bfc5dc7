# SPDX-License-Identifier: GPL-2.0
"""The description of a cluster: what there is, not how it is run.

    client          en              fr              de
    10.0.0.100      10.0.0.1        10.0.0.2        10.0.0.3
       |            VIP 10.0.0.11   VIP 10.0.0.12   VIP 10.0.0.13
       |               |               |               |
       +---------------+---- switch ---+---------------+

Each node serves the site in one language, on a virtual address of its own: a
client comes to any of them, and each hands off what the others should serve.
"""

from dataclasses import dataclass
from typing import List, Tuple


@dataclass(frozen=True)
class Host:
    """A machine on the switch."""

    name: str
    address: str

    @property
    def mac(self) -> str:
        """An Ethernet address made from the last byte of the IP address."""
        return f'02:00:00:00:00:{int(self.address.rpartition(".")[2]):02x}'


@dataclass(frozen=True)
class NodeSpec(Host):
    """A node of the cluster with the virtual address it accepts for."""

    vip: str


@dataclass(frozen=True)
class Rule:
    """Requests under `path` are for `node`, or for one of `others`."""

    path: str
    node: str
    host: str = ''
    others: Tuple[str, ...] = ()
    pick: str = ''              # how one of several is chosen
    cookie: str = ''            # that names the one

    @property
    def words(self) -> List[str]:
        """The rule as carismactl is told it."""
        words = ['--path', self.path]
        for node in (self.node, *self.others):
            words += ['--node', node]
        for option in ('host', 'pick', 'cookie'):
            value = getattr(self, option)
            if value:
                words += [f'--{option}', value]
        return words


@dataclass(frozen=True)
class ClusterSpec:
    """A whole cluster with its clients."""

    nodes: Tuple[NodeSpec, ...]
    clients: Tuple[Host, ...]
    rules: Tuple[Rule, ...]
    prefix: int = 24
    port: int = 80
    control_port: int = 7480
    key: str = ''               # of the control connections
    mode: str = 'rare'          # of the services
    migrate: str = 'adopt'      # how connections enter a back end's TCP
    forward: str = 'nat'        # how nodes get what they serve for others

    @property
    def hosts(self) -> Tuple[Host, ...]:
        """Everything that is plugged into the switch."""
        return self.nodes + self.clients

    @property
    def unchanged(self) -> bool:
        """Whether nodes have each other's services, and what is forwarded comes
        to these."""
        return self.forward != 'nat'


SITE = ClusterSpec(
    nodes=(
        NodeSpec('en', '10.0.0.1', '10.0.0.11'),
        NodeSpec('fr', '10.0.0.2', '10.0.0.12'),
        NodeSpec('de', '10.0.0.3', '10.0.0.13'),
    ),
    clients=(Host('client', '10.0.0.100'),),
    rules=(
        Rule('/en/', 'en'),
        Rule('/fr/', 'fr'),
        Rule('/de/', 'de'),
    ),
    key='3c' * 32,
)
