# SPDX-License-Identifier: GPL-2.0
"""What is aimed at, as ratios of medians, and whether it was reached."""

from dataclasses import dataclass
from typing import List, Optional, Tuple

from plot import size as human
from results import Key, Results

KIB, MIB = 1 << 10, 1 << 20
SIZES = (KIB, 128 * KIB, MIB)

Configuration = Tuple[Optional[str], Optional[str], Optional[str]]


@dataclass(frozen=True)
class Verdict:
    """A ratio, and the most that it should be."""

    text: str
    limit: float
    ratio: Optional[float]      # None: not measured

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


def configurations(results: Results) -> List[Configuration]:
    """Those of CARISMA that were measured."""
    return list(dict.fromkeys(
        (key.mode, key.forward, key.migrate) for key in results.figures
        if key.system == 'carisma'))


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


def verdicts(results: Results) -> List[Verdict]:
    """All of them; modes that were not measured as well."""
    found = []
    present = configurations(results)
    for which in present:
        if which[1] != 'local':
            found += remote(results, which)
    for mode, limit in (('frequent', 2), ('always', 1.3)):
        if mode not in {which[0] for which in present}:
            found.append(Verdict(f'{mode}: of IPVS\'s', limit, None))
    for which in present:
        if which[1] == 'local':
            found += [Verdict(
                f'{which[0]}: {human(size)} served where it arrived, of the '
                'server\'s without modules', 1.05,
                ratio(cpu(results, size, 'carisma', which),
                      cpu(results, size, 'server'))) for size in SIZES]
    return found
