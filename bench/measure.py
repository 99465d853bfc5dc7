# SPDX-License-Identifier: GPL-2.0
"""One run: a load on a system, and what it cost the front end."""

import json
import time
from typing import Dict, List, Tuple

from cells import HELD, HELD_SIZE, Load
from rig import Rig
from systems import System

CONCURRENCY = 4
WARM_UP = 12
IDLE_SECONDS = 2.0
# How long what a command in the guest leaves behind, and what a front end does
# when connections have ended, may take.
SETTLE = 0.5
# At -icount shift=0 an instruction takes a nanosecond of the guest's clock.
PER_US = 1000


class Unsettled(Exception):
    """The run is not worth counting: something was sent twice."""


def ask(rig: Rig, system: System, load: Load, requests: int) -> Tuple[float, List[float]]:
    """Do so many requests: seconds altogether, and of each."""
    told = json.loads(rig.client.run(
        ['python3', '-S', '/carisma/bench/inside/load.py', '10.0.0.11:80',
         f'{system.path}{load.size}', str(load.size), str(requests),
         str(CONCURRENCY), 'keep' if load.keepalive else 'new'],
        timeout=240).out)
    return told['seconds'], told['latencies']


def uptime(rig: Rig) -> float:
    """The front end's clock, in seconds."""
    return float(rig.front.run(['cat', '/proc/uptime']).out.split()[0])


def passed(rig: Rig) -> int:
    """Bytes that the front end's device has received and sent."""
    folder = '/sys/class/net/eth0/statistics'
    return sum(map(int, rig.front.run(
        ['cat', f'{folder}/rx_bytes', f'{folder}/tx_bytes']).out.split()))


def retransmitted(rig: Rig) -> int:
    """Segments that any host has sent again."""
    return sum(host.counter('TcpRetransSegs')['TcpRetransSegs']
               for host in rig.hosts.values())


def background(rig: Rig) -> float:
    """Instructions a second while nobody asks. The clock of a guest that waits
    goes with this machine's."""
    time.sleep(SETTLE)
    before, begin = rig.counter.read(), time.monotonic()
    time.sleep(IDLE_SECONDS)
    return (rig.counter.read() - before) / (time.monotonic() - begin)


def percentile(values: List[float], share: float) -> float:
    """The smallest value that so many are not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def run(rig: Rig, system: System, load: Load) -> Dict[str, float]:
    """Measure a load, by metric. The system has been started, and is warm."""
    ask(rig, system, load, min(WARM_UP, load.requests))
    idle = background(rig)
    sent_again, carried, clock = retransmitted(rig), passed(rig), uptime(rig)
    time.sleep(SETTLE)
    before = rig.counter.read()
    seconds, latencies = ask(rig, system, load, load.requests)
    time.sleep(SETTLE)
    executed = rig.counter.read() - before
    executed -= idle * (uptime(rig) - clock - SETTLE)
    carried = passed(rig) - carried
    again = retransmitted(rig) - sent_again
    if again:
        raise Unsettled(f'{again} segments were sent again')
    return {
        'fe_cpu_us': round(executed / PER_US / load.requests, 3),
        'fe_bytes': round(carried / load.requests, 1),
        'rps': round(load.requests / seconds, 2),
        'p50_us': round(percentile(latencies, 0.5) * 1e6),
        'p99_us': round(percentile(latencies, 0.99) * 1e6),
    }


def memory(rig: Rig) -> int:
    """Bytes of slabs and of processes' own pages at the front end."""
    lines = rig.front.run(['cat', '/proc/meminfo']).out.splitlines()
    kib = {line.split(':')[0]: int(line.split()[1]) for line in lines}
    return (kib['Slab'] + kib['AnonPages'] + kib['Percpu']) << 10


def held(rig: Rig, system: System) -> float:
    """Bytes at the front end for a connection that is open and idle."""
    before = memory(rig)
    client = rig.client.popen(
        ['python3', '-S', '/carisma/bench/inside/load.py', '10.0.0.11:80',
         f'{system.path}{HELD_SIZE}', str(HELD_SIZE), str(HELD),
         str(CONCURRENCY), 'hold'], stdin=True)
    if not client.readline(120):
        raise RuntimeError(client.stderr)
    time.sleep(1)
    taken = memory(rig) - before
    client.write(b'', close=True)
    client.wait(30)
    return round(taken / HELD, 1)
