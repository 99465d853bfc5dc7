# SPDX-License-Identifier: GPL-2.0
"""What happens to a cluster during a soak, and what each thing excuses."""

import math
import random
import time
from dataclasses import dataclass
from typing import Callable, Dict, List

from .namespaces import NamespaceCluster
from .node import Node
from .process import CommandFailed
from .running import wait_for

EVERY = '*'
# The knobs that change, as they are at first.
KNOBS = {'head_timeout_ms': 10_000, 'handoff_timeout_ms': 1_000,
         'head_max': 32_768, 'flows_max': 262_144}


@dataclass
class Event:
    """Something that was done to one node, or to all.

    `ends` names the connections that it may end before they are answered:
    `all` of the node, those that are handed off (`remote`), or those that
    have had an answer (`kept`); none by default. As long as it lasts, the node
    need not hand off what is another's.
    """

    what: str
    node: str
    begin: float
    ends: str = ''
    end: float = math.inf

    def meets(self, nodes: List[str], begin: float, end: float) -> bool:
        """Whether it fell into that time, at one of the nodes."""
        return (self.node in (EVERY, *nodes) and begin <= self.end
                and self.begin <= end)


class Events:
    """Does random things to a cluster."""

    # How often each of them happens.
    WEIGHTS = {'weather': 4, 'rules': 4, 'service': 3, 'knobs': 3, 'hup': 3,
               'crash': 3, 'cut': 3, 'drain': 3, 'force': 2, 'reload': 3,
               'death': 1}

    def __init__(self, cluster: NamespaceCluster, rng: random.Random,
                 journal: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._rng = rng
        self._journal = journal
        self.begun: List[Event] = []
        self.counts: Dict[str, int] = {}

    def now(self) -> float:
        """The guest's monotonic clock."""
        told = self._cluster.kernel.guest.run(['cat', '/proc/uptime']).out
        return float(told.split()[0])

    def next(self) -> None:
        """Have one thing happen, to its end."""
        what = self._rng.choices(
            list(self.WEIGHTS), list(self.WEIGHTS.values()))[0]
        self.counts[what] = self.counts.get(what, 0) + 1
        getattr(self, f'_{what}')(self._rng.choice(self._cluster.nodes))

    def _begin(self, what: str, node: str, ends: str = '') -> Event:
        # The clock has hundredths of a second.
        event = Event(what, node, self.now() - 0.01, ends)
        self.begun.append(event)
        self._journal(f'{event.begin:10.2f} {what} {node}')
        return event

    def _end(self, event: Event) -> None:
        """What it has done to a handoff shows a handoff's time later."""
        event.end = self.now() + 3
        self._journal(f'{event.end - 3:10.2f} end of {event.what} {event.node}')

    def _pause(self) -> None:
        time.sleep(self._rng.uniform(0.2, 2))

    # What happens.

    def _weather(self, _node: Node) -> None:
        """Bad weather on some cable; TCP copes."""
        link = self._rng.choice(list(self._cluster.hosts.values())).link
        event = self._begin('weather', EVERY)
        link.netem(loss=self._rng.choice((0, 0.005, 0.02)),
                   delay=self._rng.choice((0, 0.001, 0.02)),
                   duplicate=self._rng.choice((0, 0, 0.02)))
        time.sleep(self._rng.uniform(1, 6))
        link.heal()
        self._end(event)

    def _rules(self, node: Node) -> None:
        """Rules go and come, with some that fit nothing."""
        event = self._begin('rules', node.name)
        service = self._rng.choice(node.services)
        rules = [words[3:] for words in node.offer(service)[1:]]
        other = ['--host', f'h{self._rng.randrange(99)}.example',
                 '--path', '/none/', '--node', 'fr']
        gone = self._rng.sample(rules, self._rng.randrange(1, len(rules)))
        node.ctl('rule', 'add', service, *other)
        for rule in gone:
            node.ctl('rule', 'del', service, *rule[:-2])
        self._pause()
        for rule in gone:
            node.ctl('rule', 'add', service, *rule)
        node.ctl('rule', 'del', service, *other[:-2])
        self._end(event)

    def _service(self, node: Node) -> None:
        """One of the node's services is deleted, and added again."""
        event = self._begin('service', node.name)
        service = self._rng.choice(node.services)
        node.ctl('service', 'del', service)
        self._pause()
        for words in node.offer(service):
            node.ctl(*words)
        self._end(event)

    def _knobs(self, node: Node) -> None:
        """Other limits for a while; with some nothing is handed off."""
        event = self._begin('knobs', node.name)
        values = {'head_timeout_ms': self._rng.randrange(8_000, 600_000),
                  'handoff_timeout_ms': self._rng.choice((10, 500, 60_000)),
                  'head_max': self._rng.randrange(20_000, 32_768),
                  'flows_max': self._rng.choice((0, 5, 262_144))}
        self._journal(f'    {values}')
        for name, value in values.items():
            node.knob(name, value)
        self._pause()
        for name, value in KNOBS.items():
            node.knob(name, value)
        self._end(event)

    def _hup(self, node: Node) -> None:
        """nginx reads its configuration anew; old workers end idle
        connections."""
        event = self._begin('hup', node.name, 'kept')
        node.run(f'kill -HUP $(cat {node.nginx.folder}/pid)')
        self._pause()
        self._end(event)

    def _crash(self, node: Node) -> None:
        """nginx dies, and is started again."""
        event = self._begin('crash', node.name, 'all')
        node.nginx.crash()
        self._pause()
        wait_for(lambda: not node.run(
            ['pgrep', '-F', f'{node.nginx.folder}/pid'], check=False).out,
            'nginx has ended')
        node.nginx.start()
        self._end(event)

    def _cut(self, node: Node) -> None:
        """The control connections of a node break, with what they carry."""
        port = self._cluster.spec.control_port
        event = self._begin('cut', node.name, 'remote')
        node.run(f'ss -K sport = :{port} or dport = :{port} >/dev/null')
        wait_for(self._joined, 'the control connections are back', 30)
        self._end(event)

    def _joined(self) -> bool:
        return all(self._cluster.joined(node) for node in self._cluster.nodes)

    def _drain(self, node: Node) -> None:
        """A node hands nothing off for a while; it loses nothing."""
        event = self._begin('drain', node.name)
        node.ctl('drain', '--timeout', '1', check=False)
        self._pause()
        node.ctl('resume')
        self._end(event)

    def _force(self, node: Node) -> None:
        """The handed-off connections of a node are reset."""
        event = self._begin('force', node.name, 'remote')
        node.ctl('drain', '--force')
        node.ctl('resume')
        self._end(event)

    def _reload(self, _node: Node) -> None:
        """Both modules go and come, when what is handed off is over; after a
        while that is reset."""
        event = self._begin('reload', EVERY)
        for node in self._cluster.nodes:
            node.ctl('drain', '--timeout', '0', check=False)
        try:
            wait_for(self._unloaded, 'unloaded', 10)
        except TimeoutError:
            event.ends = 'remote'
            self._journal(f'{self.now():10.2f} by force')
            self._cluster.drain()
            wait_for(self._unloaded, 'unloaded', 30)
        self._pause()
        self._cluster.load()
        self._cluster.configure()
        self._end(event)

    def _unloaded(self) -> bool:
        try:
            self._cluster.unload()
        except CommandFailed as problem:
            if 'in use' not in str(problem):
                raise
            return False
        return True

    def _death(self, node: Node) -> None:
        """A node is gone, with all it knew, and another in its place."""
        event = self._begin('death', node.name, 'all')
        node.kill()
        self._pause()
        self._cluster.revive(node)
        node.nginx.start()
        node.batch(node.configuration())
        wait_for(self._joined, 'the node is back', 30)
        self._end(event)
