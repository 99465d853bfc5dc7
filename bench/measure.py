# SPDX-License-Identifier: GPL-2.0
"""One run: a load on a system, and what it cost the front end."""

import json
import time
from collections import Counter as Multiset
from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

from cells import HELD, HELD_SIZE, Load
from functions import Blocks, Symbols, by_function, executed
from harness.running import wait_for
from rig import Rig
from systems import System

WARM_UP = 12
# How long the idle front end is looked at: as long as the load took, within
# these limits.
IDLE_SECONDS = 2.0, 20.0
# The front end is quiet when it executes less than that in so many seconds: what
# a command leaves behind, or the end of connections, is over.
QUIET, SETTLE = 250_000, 0.3
# At -icount shift=0 an instruction takes a nanosecond of the guest's clock.
PER_US = 1000


class Unsettled(Exception):
    """The run is not worth counting."""


class Client:
    """Where the requests come from: one process for the whole benchmark."""

    def __init__(self, rig: Rig) -> None:
        self._process = rig.client.popen(
            ['python3', '-S', '/carisma/bench/inside/load.py'], stdin=True)

    def ask(self, system: System, size: int, requests: int, way: str
            ) -> Tuple[float, List[float]]:
        """Do so many requests: seconds altogether, and of each."""
        self._process.write(
            f'{system.address} {system.path}{size} {size} {requests} {system.at_a_time} '
            f'{way}\n'.encode())
        line = self._process.readline(600)
        told = json.loads(line or '{"problem": "the client has ended"}')
        if 'problem' in told:
            raise RuntimeError(f'{system.path}{size}: {told["problem"]}')
        return told['seconds'], told['latencies']

    def let_go(self) -> None:
        """Close what is held."""
        self._process.write(b'\n')


SNMP = '/proc/net/snmp'
DEVICE = '/sys/class/net/eth0/statistics'


def retransmitted(snmp: str) -> int:
    """Segments that were sent again, from the kernel's table of counters."""
    names, values = (line.split() for line in snmp.splitlines()
                     if line.startswith('Tcp:'))
    return int(values[names.index('RetransSegs')])


@dataclass(frozen=True)
class Reading:
    """What is read before and after a load."""

    clock: float                # the front end's, in seconds
    carried: int                # bytes that its device has received and sent
    again: int                  # segments that any host has sent again

    @classmethod
    def take(cls, rig: Rig) -> 'Reading':
        """Read it all."""
        others = sum(retransmitted(rig.hosts[name].run(['cat', SNMP]).out)
                     for name in ('be', 'client'))
        clock, received, sent, snmp = rig.front.run(
            ['cat', '/proc/uptime', f'{DEVICE}/rx_bytes', f'{DEVICE}/tx_bytes',
             SNMP]).out.split('\n', 3)
        return cls(float(clock.split()[0]), int(received) + int(sent),
                   others + retransmitted(snmp))


def settle(rig: Rig) -> None:
    """Wait until the front end is quiet."""
    deadline = time.monotonic() + 60
    executed = QUIET
    while executed >= QUIET:
        if time.monotonic() > deadline:
            raise Unsettled('the front end does not come to rest')
        before = rig.counter.read()
        time.sleep(SETTLE)
        executed = rig.counter.read() - before


def percentile(values: List[float], share: float) -> float:
    """The smallest value that so many are not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True)
class Told:
    """What a run has told: figures by metric and, if it was asked for,
    instructions of the front end's for a request, by function."""

    figures: Dict[str, float]
    functions: Optional[Dict[str, Dict[str, float]]]


@dataclass(frozen=True)
class Span:
    """What the front end has executed since some time, and in how long."""

    count: int
    blocks: Blocks              # empty if functions are not asked for
    at: float

    @classmethod
    def begin(cls, rig: Rig, functions: bool) -> 'Span':
        """From now on."""
        return cls(rig.counter.read(), rig.counter.blocks() if functions else [],
                   time.monotonic())

    def until(self, end: 'Span') -> Tuple[int, Multiset, float]:
        """Instructions until then, by where their blocks begin, and seconds of
        this machine's clock."""
        return (end.count - self.count, executed(self.blocks, end.blocks),
                end.at - self.at)


def run(rig: Rig, client: Client, system: System, load: Load,
        symbols: Optional[Symbols] = None) -> Told:
    """Measure a load on a system that has been started, also by function if its
    symbols are given."""
    way = 'keep' if load.keepalive else 'new'
    by_block = symbols is not None
    client.ask(system, load.size, min(WARM_UP, load.requests), way)
    begin, begun = Reading.take(rig), time.monotonic()
    settle(rig)
    before = Span.begin(rig, by_block)
    seconds, latencies = client.ask(system, load.size, load.requests, way)
    settle(rig)
    after = Span.begin(rig, by_block)
    end, ended = Reading.take(rig), time.monotonic()
    if end.again > begin.again:
        raise Unsettled(f'{end.again - begin.again} segments were sent again')
    settle(rig)
    idle_from = Span.begin(rig, by_block)
    time.sleep(min(max(seconds, IDLE_SECONDS[0]), IDLE_SECONDS[1]))
    idle, idle_blocks, waited = idle_from.until(Span.begin(rig, by_block))
    count, busy_blocks, _ = before.until(after)
    # The clock of a guest that waits goes with this machine's.
    unseen = before.at - begun + ended - after.at
    share = (end.clock - begin.clock - unseen) / waited
    count -= idle * share
    functions = symbols and by_function(symbols, busy_blocks, idle_blocks, share,
                                        load.requests)
    return Told({
        'fe_cpu_us': round(count / PER_US / load.requests, 3),
        'fe_bytes': round((end.carried - begin.carried) / load.requests, 1),
        'rps': round(load.requests / seconds, 2),
        'p50_us': round(percentile(latencies, 0.5) * 1e6),
        'p99_us': round(percentile(latencies, 0.99) * 1e6),
    }, functions)


def memory(rig: Rig) -> int:
    """Bytes of the slabs' objects that are in use, of per-processor data and of
    processes' own pages at the front end."""
    # Then none is counted that is only kept for its processor.
    rig.front.run('for file in /sys/kernel/slab/*/shrink; do echo 1 >$file; done')
    meminfo, slabs = rig.front.run(
        'cat /proc/meminfo; echo =; cat /proc/slabinfo').out.split('=\n')
    kib = {line.split(':')[0]: int(line.split()[1]) for line in meminfo.splitlines()}
    # Behind the lines that name the columns: name, in use, all, size.
    objects = [line.split()[1:4] for line in slabs.splitlines()[2:]]
    return (sum(int(used) * int(size) for used, _, size in objects) +
            ((kib['AnonPages'] + kib['Percpu']) << 10))


def held(rig: Rig, client: Client, system: System) -> float:
    """Bytes at the front end for a connection that is open and idle."""
    settle(rig)
    before = memory(rig)
    client.ask(system, HELD_SIZE, HELD, 'hold')
    settle(rig)
    taken = memory(rig) - before
    client.let_go()
    # While there still is somebody who forwards the ends of the connections: what nobody
    # acknowledges would be sent again during the next runs.
    wait_for(lambda: not open_sockets(rig), 'the connections that were held have ended', 300)
    settle(rig)
    return round(taken / HELD, 1)


def open_sockets(rig: Rig) -> str:
    """The client's sockets whose connections have not ended, and what the back end has
    ended of its own that was not acknowledged."""
    return (rig.client.run('ss -tnH state connected exclude time-wait').out +
            rig.back.run('ss -tnH state last-ack').out)
