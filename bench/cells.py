# SPDX-License-Identifier: GPL-2.0
"""What is measured: a row for each system, and the sizes.

A mode, a way of forwarding or of migrating that `carismactl` learns becomes a
row of CELLS, with what it changes in the cluster's description
(tests/harness/cluster.py); nothing else has to change but, where a target
speaks of it, targets.py.
"""

from dataclasses import dataclass, field
from typing import Any, Mapping, Optional, Tuple, Type

from results import name
from systems import (Carisma, CarismaLocal, CarismaRouter, Haproxy, Ipvs,
                     Nginx, Redirect, Router, Server, System)


@dataclass(frozen=True)
class Cell:
    """A system in one configuration. What only CARISMA has is None for the
    others. `forward` is `local` where the front end serves the request, and
    `other` where the traffic is of no service, and only passes it."""

    system: str
    kind: Type[System]
    mode: Optional[str] = None
    forward: Optional[str] = None
    migrate: Optional[str] = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    runs: int = 5               # no more than these, whatever the load
    held: bool = True           # whether it is asked what an open connection takes
    times: int = 1              # as many requests as of others: see NEAR

    @property
    def name(self) -> str:
        """What people call it."""
        return name(self.system, self.mode, self.forward, self.migrate)


# Systems that differ by a few in a hundred are compared: as many requests as for others would
# differ by more than that from run to run.
NEAR = 4


def once(mode: str, forward: str) -> Cell:
    """A mode and a way to forward that are looked at once, for comparison."""
    return Cell('carisma', Carisma, mode, forward, 'adopt',
                {'mode': mode, 'forward': forward}, runs=1, held=False)


CELLS: Tuple[Cell, ...] = (
    Cell('carisma', Carisma, 'rare', 'nat', 'replay', {'migrate': 'replay'}),
    Cell('carisma', Carisma, 'frequent', 'direct', 'adopt',
         {'mode': 'frequent', 'forward': 'direct'}),
    Cell('carisma', Carisma, 'always', 'direct', 'adopt',
         {'mode': 'always', 'forward': 'direct'}),
    Cell('haproxy', Haproxy),
    Cell('ipvs', Ipvs),
    Cell('tc', Redirect, held=False),
    Cell('server', Server, held=False, times=NEAR),
    Cell('carisma', CarismaLocal, 'rare', 'local', None, held=False, times=NEAR),
    Cell('carisma', CarismaLocal, 'frequent', 'local', 'adopt', {'mode': 'frequent'},
         held=False, times=NEAR),
    Cell('nginx', Nginx),
    Cell('router', Router, held=False),
    Cell('carisma', CarismaRouter, 'rare', 'other', None, held=False),
    Cell('carisma', Carisma, 'rare', 'nat', 'adopt', runs=1, held=False),
    once('rare', 'direct'),
    once('rare', 'tunnel'),
    once('frequent', 'nat'),
    once('frequent', 'tunnel'),
    once('always', 'tunnel'),
)


@dataclass(frozen=True)
class Load:
    """So many requests for a document of this size."""

    size: int
    requests: int
    runs: int                   # taking turns with all the other systems
    keepalive: bool = False     # many requests a connection

    @property
    def main(self) -> bool:
        """Whether it is one of those that are measured several times."""
        return self.size in MAIN and not self.keepalive


KIB, MIB = 1 << 10, 1 << 20
MAIN = (1 * KIB, 128 * KIB, 1 * MIB)

LOADS: Tuple[Load, ...] = (
    Load(1 * KIB, 100, 5),
    Load(1 * MIB, 8, 5),
    Load(128 * KIB, 20, 5),
    Load(1 * KIB, 200, 1, keepalive=True),
    Load(16 * KIB, 40, 1),
    Load(0, 100, 1),
    Load(10 * MIB, 4, 1),
)

# Sizes for which it is told, too, where the front end's instructions go.
BY_FUNCTION = (1 * KIB, 1 * MIB)

# Connections that are held open for fe_mem_per_conn, and the size of the one
# response that each has had.
HELD, HELD_SIZE = 2000, 1 * KIB
