# SPDX-License-Identifier: GPL-2.0
"""The description of a cluster: what there is, not how it is run.

    client          en              fr              de
    10.0.0.100      10.0.0.1        10.0.0.2        10.0.0.3
       |            VIP 10.0.0.11   VIP 10.0.0.12   VIP 10.0.0.13
       |               |               |               |
       +---------------+---- switch ---+---------------+

Each node serves the site in one language, on a virtual address of its own: a
client comes to any of them, and each hands off what the others should serve.
With IPv6 the addresses are fd00::1, fd00::11 and so on.
"""

import re
from dataclasses import dataclass, field, replace
from typing import List, Tuple

from .address import NAMES, family


# Of an address and those on its link.
PREFIXES = {4: 24, 6: 64}


@dataclass(frozen=True)
class Host:
    """A machine on the switch."""

    name: str
    address: str
    other: str = field(default='', kw_only=True)    # its address of the other family

    @property
    def addresses(self) -> List[str]:
        """Those that it is called by on the switch."""
        return [it for it in (self.address, self.other) if it]

    @property
    def vips(self) -> List[str]:
        """Those that it has for clients: none."""
        return []

    @property
    def mac(self) -> str:
        """An Ethernet address made from the last number of the IP address."""
        return f'02:00:00:00:00:{int(re.split("[.:]", self.address)[-1]):02x}'


@dataclass(frozen=True)
class NodeSpec(Host):
    """A node of the cluster with the virtual address it accepts for."""

    vip: str
    other_vip: str = field(default='', kw_only=True)    # the same of the other family

    @property
    def vips(self) -> List[str]:
        """One, or one of each family."""
        return [it for it in (self.vip, self.other_vip) if it]


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
    port: int = 80
    control_port: int = 7480
    key: str = ''               # of the control connections
    mode: str = 'rare'          # of the services
    migrate: str = 'adopt'      # how connections enter a back end's TCP
    forward: str = 'nat'        # how nodes get what they serve for others
    other_forward: str = ''     # the same of services of the other family

    @property
    def hosts(self) -> Tuple[Host, ...]:
        """Everything that is plugged into the switch."""
        return self.nodes + self.clients

    @property
    def family(self) -> int:
        """That of the nodes' addresses: 4 or 6."""
        return family(self.nodes[0].address)

    @property
    def ip(self) -> str:
        """The family as nft calls it."""
        return NAMES[self.family]

    @property
    def prefix(self) -> int:
        """The length of the prefix that addresses on the switch share."""
        return PREFIXES[self.family]

    def at(self, number: int, net: int = 0) -> str:
        """An address on the switch by its last number, or one elsewhere."""
        return address(self.family, number, net)

    @property
    def by_cookie(self) -> bool:
        """Whether handshakes are by cookies: of a client that has said nothing no node knows."""
        return self.mode != 'rare'

    @property
    def unchanged(self) -> bool:
        """Whether nodes have each other's services, and what is forwarded comes
        to these."""
        return self.forward != 'nat'


def address(kind: int, number: int, net: int = 0) -> str:
    """An address of that family on the switch, by its last number, or one of
    another net."""
    if kind == 6:
        return f'fd{net:02}::{number}'
    return f'10.{net}.0.{number}'


WRITTEN = re.compile(r'\b10\.(\d+)\.0\.(\d+)(/\d+)?(:\d+)?')


def written(text: str, kind: int) -> str:
    """A text about hosts that have addresses of IPv4, about hosts of that family."""
    def other(match: 're.Match[str]') -> str:
        net, number, size, port = match.groups()
        found = address(6, int(number), int(net))
        if port:
            return f'[{found}]{port}'
        return found + {'/32': '/128', '/24': '/64'}.get(size, '')
    return WRITTEN.sub(other, text) if kind == 6 else text


def languages(kind: int) -> ClusterSpec:
    """The site of three languages, with addresses of that family."""
    names = ('en', 'fr', 'de')
    return ClusterSpec(
        nodes=tuple(NodeSpec(name, address(kind, number), address(kind, 10 + number))
                    for number, name in enumerate(names, 1)),
        clients=(Host('client', address(kind, 100)),),
        rules=tuple(Rule(f'/{name}/', name) for name in names),
        key='3c' * 32,
    )


def both_families(kind: int) -> ClusterSpec:
    """The same, whose hosts and services have addresses of either family; nodes
    talk to each other with addresses of that one."""
    spec, other = languages(kind), languages(10 - kind)
    return replace(
        spec,
        nodes=tuple(replace(node, other=twin.address, other_vip=twin.vip)
                    for node, twin in zip(spec.nodes, other.nodes)),
        clients=tuple(replace(client, other=twin.address)
                      for client, twin in zip(spec.clients, other.clients)))


SITE = languages(4)
