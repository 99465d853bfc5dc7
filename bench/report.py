# SPDX-License-Identifier: GPL-2.0
"""report.md and its plots, from results.json and about.json."""

import os
import statistics
from typing import Any, Callable, Dict, List, Optional, Tuple

from plot import Plot, size as human
from results import Key, Results, name
from targets import HANDING, KIB, MIB, SERVING, cpu, ratio, verdicts

Cell = Tuple[str, Optional[str], Optional[str], Optional[str]]

# What tells a row of functions.json from the others, but for its size; and how many functions of
# one are shown.
WORDS = ('system', 'mode', 'forward', 'migrate')
SHOWN = 20

HEAD = '''<!-- SPDX-License-Identifier: GPL-2.0 -->
<!-- Written by `make bench` from results.json and about.json. -->
# Benchmark

[How it is measured, and how to read it](../docs/benchmark.md). Raw figures:
[results.json](results.json).
'''

CPU = '''
## What a request costs the front end

Microseconds of the front end's clock for one request on a connection of its own, at one
instruction a nanosecond: the median, and with more than one run the lowest and the highest.
'''

TARGETS = '''
## Against what is aimed at

Ratios of medians, of the front end's time for a request on a new connection if nothing else is
said. {}
'''

FLOOR = '''
No front end comes below what `tc` takes that gets packets one by one, as modules do, behind the
device's driver: it sends on what comes in, below IP, and reads nothing of it but the destination.
That is {:.3f} of HAProxy's time at 1 KiB and {:.3f} at 1 MiB. CARISMA's front end has at least one
packet more, by which it hears of the end: at 1 KiB six for five, which makes {:.3f} before anything
has looked at a request. IPVS takes {:.2f} and {:.2f}.
'''

ALONE = '''
## How long handoffs and look-ups take

Front end, back end and client are namespaces of one guest here, whose clock counts instructions.
'''

STEPS = '''
What happens in a handoff, and how long after its beginning: medians, while all of CARISMA's
tracepoints are on, each of which takes about a microsecond of it.
'''

LEAST = '''
Of that, TCP at the back end takes {:.1f} µs to make the socket{}. With half a round trip of
{}, and nothing else, that is {:.2f} times half a round trip.
'''

MODULES = '''
## Where the time goes

Instructions for a request on a new connection, at 1 KiB, by where they are executed. From one run.
'''

TOP = '''
The functions that execute the most of them:
'''

KEEPALIVE = '''
On connections that are kept, for a request, at {}:
'''

BYTES = '''
## What passes the front end

Bytes for one request that the front end's device received and sent, the median.
'''

MEMORY = '''
## What a connection takes

Bytes of objects in slabs, per-processor data and processes' own pages at the front end for a
connection that is open and idle after one response, from one run.
'''

CLIENT = '''
## At the client

No claim is made of these: both guests share this machine's processors with whatever else runs,
and the front end's emulation, at one instruction at a time, is what takes most of the time.
'''


def table(heads: List[str], rows: List[List[str]]) -> str:
    """A table of Markdown; all columns but the first are numbers."""
    lines = [heads, ['---'] + ['---:'] * (len(heads) - 1), *rows]
    return '\n' + '\n'.join(f'| {" | ".join(line)} |' for line in lines) + '\n'


def figure(value: float) -> str:
    """A figure, with no more digits than it deserves."""
    return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'


class Report:
    """What is to be said of a set of results."""

    def __init__(self, results: Results, about: Dict[str, Any],
                 functions: List[Dict[str, Any]]) -> None:
        self._results = results
        self._about = about
        self._functions = functions
        self._cells: List[Cell] = list(dict.fromkeys(
            (key.system, key.mode, key.forward, key.migrate)
            for key in results.figures if key.metric == 'fe_cpu_us'))

    def _sizes(self, metric: str, keepalive: bool) -> List[int]:
        return sorted({key.size for key in self._results.figures
                       if key.metric == metric and key.keepalive == keepalive})

    def _runs(self, cell: Cell, size: int, metric: str, keepalive: bool = False
              ) -> List[float]:
        return self._results.figures.get(
            Key(*cell, size, keepalive, metric), [])

    def _median(self, cell: Cell, size: int, metric: str, keepalive: bool = False
                ) -> str:
        value = self._results.median(Key(*cell, size, keepalive, metric))
        return '-' if value is None else figure(value)

    def _spread(self, cell: Cell, size: int, metric: str) -> str:
        runs = self._runs(cell, size, metric)
        text = self._median(cell, size, metric)
        if len(runs) > 1:
            text += f' ({figure(min(runs))} to {figure(max(runs))})'
        return text

    def _by_size(self, metric: str, what: Callable[[Cell, int, str], str]) -> str:
        sizes = self._sizes(metric, False)
        return table(['', *map(human, sizes)], [
            [name(*cell), *(what(cell, size, metric) for size in sizes)]
            for cell in self._cells])

    def _machine(self) -> str:
        lines = [f'- {word}: {value}' for word, value in self._about['machine'].items()]
        notes = [f'- {note}' for note in self._about['notes']]
        return '\n## The run\n\n' + '\n'.join(lines + notes) + '\n'

    def _targets(self) -> str:
        rows = []
        short = 0
        for verdict in verdicts(self._results, self._functions):
            short += 'short' in verdict.words
            rows.append([verdict.text, f'{verdict.limit:g}', verdict.measured,
                         verdict.words])
        said = (f'{short} of these fall short of what is aimed at.' if short else
                'None that was measured falls short of what is aimed at.')
        return TARGETS.format(said) + table(['CARISMA', 'at most', 'measured', ''], rows)

    def _floor(self) -> str:
        """What of it nobody can reach who forwards what the client sends."""
        tc, ipvs = ([ratio(cpu(self._results, size, system),
                           cpu(self._results, size, 'haproxy')) for size in (KIB, MIB)]
                    for system in ('tc', 'ipvs'))
        if None in tc + ipvs:
            return ''
        return FLOOR.format(*tc, tc[0] * 6 / 5, *ipvs)

    def _by_module(self) -> str:
        rows = [row for row in self._functions if row['size'] == KIB]
        if not rows:
            return ''
        modules = list(dict.fromkeys(module for row in rows for module, count
                                     in row['modules'].items() if count >= 500))
        return MODULES + table(['', *modules], [
            [name(*(row[word] for word in WORDS)),
             *(figure(row['modules'].get(module, 0)) for module in modules)]
            for row in rows])

    def _top(self) -> str:
        """Where it goes in CARISMA's own code, and what is added to that."""
        by_cell = {tuple(row[word] for word in WORDS): row for row in self._functions
                   if row['size'] == KIB}
        parts = []
        for which in HANDING + SERVING:
            row = by_cell.get(('carisma', *which))
            if row:
                shown = list(row['functions'].items())[:SHOWN]
                parts.append(f'\n{name("carisma", *which)}:\n' + table(
                    ['function', 'instructions'],
                    [[f'`{function}`', figure(count)] for function, count in shown]))
        return TOP + ''.join(parts) if parts else ''

    def _alone(self) -> str:
        """What was measured in one guest."""
        rows = []
        for key, runs in self._results.figures.items():
            if key.metric == 'handoff_us':
                what = {'tcp': 'half the round trip of a small message of TCP\'s',
                        'router': 'half the round trip of a forwarded packet'}.get(
                            key.system, f'a handoff, {key.mode} {key.forward}')
                rows.append([what, f'{figure(statistics.median(runs))} µs'])
            elif key.metric == 'lookup_ns':
                rows.append([f'a look-up among {key.size:,} flows',
                             f'{figure(runs[0])} ns'])
        return ALONE + table(['', 'time'], rows) + self._steps() if rows else ''

    def _steps(self) -> str:
        """Where the time of a handoff goes, and what of it is TCP's."""
        parts = []
        for mode, found in self._about['steps'].items():
            parts.append(f'\n{mode} direct:\n' + table(
                ['step', 'µs'], [[f'`{name}`', figure(took)] for name, took in found]))
            parts.append(self._least(mode, dict(found)))
        return STEPS + ''.join(parts) if parts else ''

    def _least(self, mode: str, at: Dict[str, float]) -> str:
        """What a handoff takes at the least."""
        if mode == 'always':
            # The front end has received a forwarded packet, too.
            system, what, read = 'router', 'a forwarded packet', 0.0
        else:
            system, what, read = 'tcp', 'a small message', at['head_decided requests_remote']
        trip = self._results.median(Key(system, None, None, None, 0, False, 'handoff_us'))
        if not trip or not {'replay_step adopt', 'replay_step offer'} <= set(at):
            return ''
        made = at['replay_step offer'] - at['replay_step adopt']
        before = f', and the front end {read:.1f} until it has read the head' if read else ''
        return LEAST.format(made, before, what, (read + made + trip) / trip)

    def _single(self, heads: str, metric: str, keepalive: bool) -> str:
        sizes = self._sizes(metric, keepalive)
        rows = [[name(*cell), *(self._median(cell, size, metric, keepalive)
                                for size in sizes)] for cell in self._cells]
        return table([heads, *map(human, sizes)], rows) if sizes else ''

    def _client(self) -> str:
        parts = [CLIENT]
        for metric, text in (('rps', 'requests a second'),
                             ('p50_us', 'median latency, µs'),
                             ('p99_us', '99th percentile, µs')):
            parts.append(f'\n{text[0].upper()}{text[1:]}:\n' +
                         self._by_size(metric, self._median))
        return ''.join(parts)

    def plots(self) -> Dict[str, Plot]:
        """The plots by the names of their files. Without 0 B, for which a
        logarithmic axis has no place."""
        found = {}
        for file, metric, title, beside in (
                ('cpu.svg', 'fe_cpu_us', 'Front end: time for a new connection with one request',
                 'µs (1 instruction = 1 ns)'),
                ('bytes.svg', 'fe_bytes', 'Front end: bytes on its wire for a request', 'bytes')):
            lines = {}
            for cell in self._cells:
                points = []
                for size in self._sizes(metric, False):
                    median = self._results.median(Key(*cell, size, False, metric))
                    if size and median is not None and median > 0:
                        points.append((size, median))
                if points:
                    lines[name(*cell)] = points
            if lines:
                found[file] = Plot(title, 'size of the response', beside, lines)
        return found

    def markdown(self) -> str:
        """The report itself."""
        kept = self._sizes('fe_cpu_us', True)
        return ''.join([
            HEAD, self._machine(), self._targets(), self._floor(),
            CPU, self._by_size('fe_cpu_us', self._spread), '\n![](cpu.svg)\n',
            KEEPALIVE.format(', '.join(map(human, kept))) if kept else '',
            self._single('', 'fe_cpu_us', True),
            BYTES, self._by_size('fe_bytes', self._median), '\n![](bytes.svg)\n',
            MEMORY, self._single('', 'fe_mem_per_conn', True),
            self._alone(), self._by_module(), self._top(),
            self._client()])

    def write(self, folder: str) -> None:
        """Write all of it."""
        texts = {file: plot.svg() for file, plot in self.plots().items()}
        for file, text in {**texts, 'report.md': self.markdown()}.items():
            with open(os.path.join(folder, file), 'w', encoding='utf-8') as out:
                out.write(text)
