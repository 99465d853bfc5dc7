# SPDX-License-Identifier: GPL-2.0
"""What is measured in one guest: how long handoffs and look-ups take, and what
they are compared with.

Front end, back end and client are namespaces of that guest, whose one clock
counts instructions: so all that takes time is what is executed, and nothing
else runs. A handoff begins when the segment comes in at the front end with which
the head is whole, and ends when the back end's TCP has the request.
"""

import json
import os
import re
import statistics
import subprocess
from collections import Counter
from dataclasses import replace
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from harness.guest import Guest
from harness.kernel import Kernel
from harness.namespaces import NamespaceCluster
from results import Key
from rig import BOOT_SECONDS, PROCESSOR, SPEC, WORK
from systems import SERVER, make_documents, start_nginx

MODES = ('rare', 'frequent', 'always')
REQUESTS, SIZE = 40, 1024
TRACEFS = '/sys/kernel/tracing'
MESSAGE, LOOKUP = f'{WORK}/message', f'{WORK}/lookup'
TREE = '/cache/kernel/tree'
# What the module says that measures look-ups.
LOOKED = re.compile(r'lookup: few (\d+) many (\d+) longest (\d+)')
FEW, MANY = 1_000, 1_000_000
LINE = re.compile(r'.*\] \S+ +(?P<at>\d+): (?P<event>\w+): (?P<rest>.*)')
# Which of several a tracepoint of CARISMA's tells.
WHICH = re.compile(r' (?:kind|outcome)=(\S+)')
# Tracepoints by which a handoff begins and ends; each costs about a microsecond.
ENDS = ('net/netif_receive_skb', 'carisma/head_decided', 'tcp/tcp_probe')

# What happened in a handoff, and how many nanoseconds after its beginning.
Steps = List[Tuple[str, float]]


def median_us(nanoseconds: List[float]) -> float:
    """The median, in microseconds, without the first few, which find caches empty."""
    return round(statistics.median(nanoseconds[len(nanoseconds) // 4:]) / 1000, 1)


def handoffs(trace: str, client: str) -> List[Steps]:
    """The handoffs, in the order in which they began."""
    came = 0
    steps: Optional[Steps] = None
    found = []
    for line in trace.splitlines():
        match = LINE.fullmatch(line)
        if not match:
            continue
        at, event, rest = int(match['at']), match['event'], match['rest']
        if event == 'head_decided':
            steps = []
        if steps is None:
            if event == 'netif_receive_skb':
                came = at
            continue
        which = WHICH.search(rest)
        steps.append((f'{event} {which[1]}' if which else event, float(at - came)))
        if event == 'tcp_probe' and f'dest={client}:' in rest:
            found.append(steps)
            steps = None
    return found


def usual(found: List[Steps]) -> Steps:
    """How most handoffs went: the medians of those that took the same steps."""
    def names(steps: Steps) -> Tuple[str, ...]:
        return tuple(name for name, _ in steps)

    most = Counter(map(names, found)).most_common(1)[0][0]
    same = [steps for steps in found if names(steps) == most]
    return [(name, median_us([steps[number][1] for steps in same]))
            for number, name in enumerate(most)]


def build() -> None:
    """Build the programs that measure, before a guest looks at their folder."""
    os.makedirs(LOOKUP, exist_ok=True)
    subprocess.run(['gcc', '-O2', '-Wall', '-Wextra', '-o', MESSAGE,
                    '/carisma/bench/inside/message.c'], check=True)
    with open(f'{TREE}/.config', encoding='utf-8') as config:
        compiler = re.search('^CONFIG_CC_VERSION_TEXT="(\\S+)', config.read(), re.M)
    subprocess.run(
        ['make', '-s', '-C', TREE, 'M=/carisma/bench/inside/lookup', f'MO={LOOKUP}',
         f'CC={compiler[1] if compiler else "gcc"}', 'CHECKOUT=/carisma',
         'CONFIG_DEBUG_INFO_BTF_MODULES=', 'modules'],
        check=True, stdout=subprocess.DEVNULL)


class Nodes(NamespaceCluster):
    """Front end, back end and client in one guest that counts instructions."""

    def __init__(self) -> None:
        build()
        self._guest = Guest('one', mem=1024, icount=True, arguments=['-cpu', PROCESSOR])
        spec = replace(SPEC, forward='direct', mode='frequent')
        super().__init__(spec, Kernel(self._guest))

    def start(self) -> None:
        self._guest.start(BOOT_SECONDS)
        super().start()

    def stop(self) -> None:
        self._guest.stop()

    def message(self) -> float:
        """Half the round trip of a small message of TCP's between processes of
        front end and back end, in microseconds."""
        server = self['be'].popen([MESSAGE, 'serve', '10.0.0.2', '7'])
        server.readline(60)
        told = self['fe'].run([MESSAGE, 'ask', '10.0.0.2', '7', '200'], timeout=120).out
        return round(median_us([float(line) for line in told.split()]) / 2, 1)

    def forwarded(self) -> float:
        """Half the round trip of a packet that the front end forwards, as a
        router, between client and back end, in microseconds."""
        self['fe'].run('sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 '
                       'net.ipv4.conf.eth0.send_redirects=0')
        self['client'].run('ip route add 10.0.0.2/32 via 10.0.0.1')
        self['be'].run('ip route add 10.0.0.100/32 via 10.0.0.1')
        told = self['client'].run('ping -n -c 60 -i 0.02 10.0.0.2', timeout=120).out
        self['client'].run('ip route del 10.0.0.2/32')
        self['be'].run('ip route del 10.0.0.100/32')
        self['fe'].run('sysctl -qw net.ipv4.ip_forward=0')
        times = [float(it) * 1e6 for it in re.findall(r'time=([0-9.]+) ms', told)]
        return round(median_us(times) / 2, 1)

    def look_up(self) -> Tuple[float, float, int]:
        """Nanoseconds of a look-up among few flows and among many, and the most
        entries that a growing table moves at a time."""
        # It refuses to stay.
        self._guest.run(['insmod', f'{LOOKUP}/lookup.ko'], timeout=600, check=False)
        for record in self._guest.kmsg():
            match = LOOKED.search(record.text)
            if match:
                few, many, longest = map(int, match.groups())
                return few / 1000, many / 1000, longest
        raise RuntimeError('nothing was said of look-ups')

    def prepare(self, mode: str) -> None:
        """Load and configure the modules for a mode."""
        self.spec = replace(self.spec, mode=mode)
        for host in self.hosts.values():
            host.cluster = self.spec
        self.load()
        self.configure()

    def handoff(self, events: Sequence[str]) -> List[Steps]:
        """Handoffs, as these tracepoints tell of them."""
        loader = self['client'].popen(
            ['python3', '-S', '/carisma/bench/inside/load.py'], stdin=True)
        self._guest.run('\n'.join([
            'set -e', f'cd {TRACEFS}', 'echo x86-tsc >trace_clock', 'echo >trace',
            'echo \'name == "eth0"\' >events/net/netif_receive_skb/filter',
            'echo "data_len > 0" >events/tcp/tcp_probe/filter',
            *(f'echo 1 >events/{event}/enable' for event in events)]))
        loader.write(f'10.0.0.11:80 /be/{SIZE} {SIZE} {REQUESTS} 1 new\n'.encode())
        told = json.loads(loader.readline(300))
        self._guest.run('for event in net carisma tcp; do '
                        f'echo 0 >{TRACEFS}/events/$event/enable; done')
        if 'problem' in told:
            raise RuntimeError(told['problem'])
        trace = self._guest.run(['cat', f'{TRACEFS}/trace'], timeout=120).out
        loader.terminate()
        found = handoffs(trace, '10.0.0.100')
        if len(found) < REQUESTS:
            raise RuntimeError(f'{len(found)} of {REQUESTS} handoffs were seen')
        return found


def measure(add: Callable[[Key, float], None], say: Callable[[str], None]) -> Dict[str, Steps]:
    """All of it; `add` gets the figures, `say` is told of them. Returns the steps of a handoff
    in each mode, in microseconds since it began."""
    nodes = Nodes()
    steps = {}

    def key(metric: str, system: str, mode: Optional[str] = None, size: int = 0) -> Key:
        forward, migrate = ('direct', 'adopt') if mode else (None, None)
        return Key(system, mode, forward, migrate, size, False, metric)

    try:
        nodes.start()
        for system, took in (('tcp', nodes.message()), ('router', nodes.forwarded())):
            add(key('handoff_us', system), took)
            say(f'half a round trip, {system}: {took} us')
        for name in ('fe', 'be'):
            start_nginx(nodes[name], SERVER)
        make_documents(nodes['be'], {str(SIZE): SIZE})
        for mode in MODES:
            nodes.prepare(mode)
            times = [found[-1][1] / 1000 for found in nodes.handoff(ENDS)]
            for took in times[REQUESTS // 4:]:
                add(key('handoff_us', 'carisma', mode, SIZE), round(took, 1))
            steps[mode] = usual(nodes.handoff([*ENDS, 'carisma']))
            nodes.end()
            say(f'handoff, {mode}: {statistics.median(times)} us: {steps[mode]}')
        few, many, longest = nodes.look_up()
        for count, took in ((FEW, few), (MANY, many)):
            add(key('lookup_ns', 'carisma', size=count), took)
        add(key('table_step', 'carisma', size=MANY), longest)
        say(f'look-up: {few} ns of {FEW} flows, {many} of {MANY}; at most {longest} move '
            'at a time')
    finally:
        nodes.stop()
    return steps


if __name__ == '__main__':
    measure(lambda key, figure: None, print)
