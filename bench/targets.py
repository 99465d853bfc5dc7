# SPDX-License-Identifier: GPL-2.0
"""What is aimed at, mostly as ratios of medians, and whether it was reached."""

from dataclasses import dataclass, replace
from typing import Any, Dict, List, Optional, Tuple

from plot import size as human
from results import Key, Results

KIB, MIB = 1 << 10, 1 << 20
SIZES = (KIB, 128 * KIB, MIB)

Configuration = Tuple[Optional[str], Optional[str], Optional[str]]

# What is aimed at is aimed at with these: as they hand off, and as they do not.
HANDING: Tuple[Configuration, ...] = (
    ('rare', 'nat', 'replay'), ('frequent', 'direct', 'adopt'),
    ('always', 'direct', 'adopt'))
# The modules of a row of functions.json that are not there without CARISMA.
OURS = ('carisma_btcp', 'carisma_utcp', 'netfilter')
SERVING: Tuple[Configuration, ...] = (
    ('rare', 'local', None), ('frequent', 'local', 'adopt'))


@dataclass(frozen=True)
class Verdict:
    """A ratio, or a number, and the most that it should be."""

    text: str
    limit: float
    ratio: Optional[float]      # None: not measured

    @property
    def measured(self) -> str:
        """What came out, with as many digits as it deserves."""
        if self.ratio is None:
            return '-'
        return f'{self.ratio:,.0f}' if self.limit >= 10 else f'{self.ratio:.3f}'

    @property
    def words(self) -> str:
        """What came of it."""
        if self.ratio is None:
            return 'not measured'
        return 'reached' if self.ratio <= self.limit else '**falls short**'


def cpu(results: Results, size: int, system: str,
        configuration: Configuration = (None, None, None)) -> Optional[float]:
    """The front end's time for a new connection, the median."""
    return results.median(
        Key(system, *configuration, size, False, 'fe_cpu_us'))


def ratio(over: Optional[float], under: Optional[float]) -> Optional[float]:
    """The ratio, if both are known and mean something."""
    if over is None or under is None or under <= 0:
        return None
    return over / under


def growth(results: Results, system: str,
           configuration: Configuration = (None, None, None)) -> Optional[float]:
    """Time for a further byte of response, from 1 KiB to 1 MiB."""
    small, big = (cpu(results, size, system, configuration)
                  for size in (KIB, MIB))
    return None if small is None or big is None else (big - small) / (MIB - KIB)


def remote(results: Results, which: Configuration) -> List[Verdict]:
    """What holds for a configuration that hands off."""
    name = ' '.join(filter(None, which))
    found = [Verdict(f'{name}: {human(size)}, of HAProxy\'s', limit, ratio(
        cpu(results, size, 'carisma', which), cpu(results, size, 'haproxy')))
        for size, limit in ((KIB, 1 / 4), (MIB, 1 / 10))]
    found.append(Verdict(
        f'{name}: growth from 1 KiB to 1 MiB, of IPVS\'s', 1, ratio(
            growth(results, 'carisma', which), growth(results, 'ipvs'))))
    limit = {'frequent': 2, 'always': 1.3}.get(which[0] or '')
    if limit:
        found += [Verdict(f'{name}: {human(size)}, of IPVS\'s', limit, ratio(
            cpu(results, size, 'carisma', which), cpu(results, size, 'ipvs')))
            for size in SIZES]
    return found


def of_median(results: Results, metric: str, over: Key, under: Key) -> Optional[float]:
    """The ratio of two medians of a metric."""
    return ratio(*(results.median(replace(key, metric=metric)) for key in (over, under)))


def passing(functions: List[Dict[str, Any]], size: int) -> Optional[float]:
    """Instructions for what passes the node, of those without the modules and
    the hooks that they bring. With and without them is compared in one run: from
    run to run it matters more which packets come together."""
    rows = {row['system']: row['modules'] for row in functions
            if row['size'] == size and (row['system'], row['forward']) in (
                ('carisma', 'other'), ('router', None))}
    if len(rows) < 2:
        return None
    whole = sum(rows['carisma'].values())
    # Some of netfilter is executed without the modules, too.
    ours = sum(rows['carisma'].get(module, 0) for module in OURS)
    ours -= rows['router'].get('netfilter', 0)
    return ratio(whole, whole - ours)


def others(results: Results, functions: List[Dict[str, Any]]) -> List[Verdict]:
    """What the node does for others, and what it keeps in mind."""
    found = [Verdict(f'rare: instructions for {human(size)} that pass the node, of no '
                     'service, of those without modules', 1.03, passing(functions, size))
             for size in (KIB, MIB)]
    found += [Verdict(f'{" ".join(filter(None, which))}: bytes for a connection that is '
                      'forwarded', 256, results.median(
                          Key('carisma', *which, KIB, True, 'fe_mem_per_conn')))
              for which in HANDING]
    few, many = (Key('carisma', None, None, None, size, False, '')
                 for size in (1_000, 1_000_000))
    found.append(Verdict('look-up among a million flows, of one among a thousand', 3,
                         of_median(results, 'lookup_ns', many, few)))
    found.append(Verdict('flows that a growing table moves at a time', 64,
                         results.median(replace(many, metric='table_step'))))
    for mode, system, what, limit in (
            ('frequent', 'tcp', 'half the round trip of a small message', 2),
            ('always', 'router', 'half that of a forwarded packet', 1.5)):
        found.append(Verdict(f'{mode}: a handoff, of {what}', limit, of_median(
            results, 'handoff_us', Key('carisma', mode, 'direct', 'adopt', KIB, False, ''),
            Key(system, None, None, None, 0, False, ''))))
    return found


def verdicts(results: Results, functions: List[Dict[str, Any]]) -> List[Verdict]:
    """All of them, also those of which nothing was measured."""
    found = []
    for which in HANDING:
        found += remote(results, which)
    for which in SERVING:
        found += [Verdict(
            f'{which[0]}: {human(size)} served where it arrived, of the '
            'server\'s without modules', 1.05,
            ratio(cpu(results, size, 'carisma', which),
                  cpu(results, size, 'server'))) for size in SIZES]
    return found + others(results, functions)
