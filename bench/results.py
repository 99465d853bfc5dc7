# SPDX-License-Identifier: GPL-2.0
"""results.json: raw figures, and what may be in it."""

import json
import statistics
from dataclasses import dataclass
from typing import Any, Dict, List, Optional

SYSTEMS = ('carisma', 'haproxy', 'nginx', 'ipvs', 'tc', 'server', 'router', 'tcp')
METRICS = ('fe_cpu_us', 'rps', 'p50_us', 'p99_us', 'fe_bytes',
           'fe_mem_per_conn', 'handoff_us', 'lookup_ns', 'table_step')
# Members of an object and their types, in the order in which they are written.
MEMBERS = {
    'system': (str,),
    'mode': (str, type(None)),
    'forward': (str, type(None)),
    'migrate': (str, type(None)),
    'size': (int,),
    'keepalive': (bool,),
    'metric': (str,),
    'runs': (list,),
}


def name(*words: Optional[str]) -> str:
    """What people call a system: all that tells it from others."""
    return ' '.join(word for word in words if word)


def problems(results: Any) -> List[str]:
    """What is wrong with the shape of results."""
    if not isinstance(results, list) or not results:
        return ['it is not a list with something in it']
    found, seen = [], set()
    for number, row in enumerate(results):
        if not isinstance(row, dict) or list(row) != list(MEMBERS):
            found.append(f'{number}: the members are not {", ".join(MEMBERS)}')
            continue
        odd = [f'{number}: {member} is a {type(row[member]).__name__}'
               for member, kinds in MEMBERS.items()
               if type(row[member]) not in kinds]
        if odd:
            found += odd
            continue
        if row['system'] not in SYSTEMS:
            found.append(f'{number}: no such system: {row["system"]}')
        if row['metric'] not in METRICS:
            found.append(f'{number}: no such metric: {row["metric"]}')
        if row['size'] < 0:
            found.append(f'{number}: the size is negative')
        if not row['runs'] or any(type(run) not in (int, float)
                                  for run in row['runs']):
            found.append(f'{number}: the runs are not numbers')
        key = tuple(row[member] for member in MEMBERS if member != 'runs')
        if key in seen:
            found.append(f'{number}: {key} is there twice')
        seen.add(key)
    return found


@dataclass(frozen=True)
class Key:
    """What a figure is of."""

    system: str
    mode: Optional[str]
    forward: Optional[str]
    migrate: Optional[str]
    size: int
    keepalive: bool
    metric: str


class Results:
    """Figures by what they are of, in the order in which they came."""

    def __init__(self) -> None:
        self.figures: Dict[Key, List[float]] = {}

    def add(self, key: Key, run: float) -> None:
        """Take in one run's figure."""
        self.figures.setdefault(key, []).append(run)

    def rows(self) -> List[Dict[str, Any]]:
        """As they are written."""
        return [{**vars(key), 'runs': runs} for key, runs in self.figures.items()]

    def write(self, path: str) -> None:
        """Write results.json: an object a line."""
        lines = ',\n'.join(json.dumps(row) for row in self.rows())
        with open(path, 'w', encoding='ascii') as file:
            file.write(f'[\n{lines}\n]\n')

    @classmethod
    def read(cls, path: str) -> 'Results':
        """Read what write() wrote."""
        with open(path, encoding='ascii') as file:
            rows = json.load(file)
        wrong = problems(rows)
        if wrong:
            raise ValueError(f'{path}: ' + '; '.join(wrong))
        results = cls()
        for row in rows:
            runs = row.pop('runs')
            results.figures[Key(**row)] = runs
        return results

    def median(self, key: Key) -> Optional[float]:
        """The median of a figure's runs, if there are any."""
        runs = self.figures.get(key)
        return statistics.median(runs) if runs else None
