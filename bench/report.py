# SPDX-License-Identifier: GPL-2.0
"""report.md and its plots, from results.json and about.json."""

import os
from typing import Any, Callable, Dict, List, Optional, Tuple

from plot import Plot, size as human
from results import Key, Results, name
from targets import verdicts

Cell = Tuple[str, Optional[str], Optional[str], Optional[str]]

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

KEEPALIVE = '''
On connections that are kept, for a request, at {}:
'''

BYTES = '''
## What passes the front end

Bytes for one request that the front end's device received and sent, the median.
'''

MEMORY = '''
## What a connection takes

Bytes of slabs, per-processor data and processes' own pages at the front end for a connection that
is open and idle after one response, from one run.
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

    def __init__(self, results: Results, about: Dict[str, Any]) -> None:
        self._results = results
        self._about = about
        self._cells: List[Cell] = list(dict.fromkeys(
            (key.system, key.mode, key.forward, key.migrate)
            for key in results.figures))

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
        for verdict in verdicts(self._results):
            short += 'short' in verdict.words
            rows.append([
                verdict.text, f'{verdict.limit:g}',
                '-' if verdict.ratio is None else f'{verdict.ratio:.3f}',
                verdict.words])
        said = (f'{short} of these fall short of what is aimed at.' if short else
                'None that was measured falls short of what is aimed at.')
        return (f'\n## Against what is aimed at\n\nRatios of medians of the front '
                f"end's time for a request on a\nnew connection. {said}\n" +
                table(['CARISMA', 'at most', 'measured', ''], rows))

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
            found[file] = Plot(title, 'size of the response', beside, lines)
        return found

    def markdown(self) -> str:
        """The report itself."""
        kept = self._sizes('fe_cpu_us', True)
        return ''.join([
            HEAD, self._machine(), self._targets(),
            CPU, self._by_size('fe_cpu_us', self._spread), '\n![](cpu.svg)\n',
            KEEPALIVE.format(', '.join(map(human, kept))) if kept else '',
            self._single('', 'fe_cpu_us', True),
            BYTES, self._by_size('fe_bytes', self._median), '\n![](bytes.svg)\n',
            MEMORY, self._single('', 'fe_mem_per_conn', True),
            self._client()])

    def write(self, folder: str) -> None:
        """Write all of it."""
        texts = {file: plot.svg() for file, plot in self.plots().items()}
        for file, text in {**texts, 'report.md': self.markdown()}.items():
            with open(os.path.join(folder, file), 'w', encoding='utf-8') as out:
                out.write(text)
