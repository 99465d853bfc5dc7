# SPDX-License-Identifier: GPL-2.0
"""Tables of cases in which every pair of values of two axes occurs."""

import itertools
from typing import Dict, Hashable, Iterable, List, Mapping, Sequence, Set, Tuple

Case = Dict[str, Hashable]
Axes = Mapping[str, Sequence[Hashable]]
Pair = Tuple[Tuple[str, Hashable], Tuple[str, Hashable]]


def product(axes: Axes) -> List[Case]:
    """Every combination."""
    return [dict(zip(axes, values))
            for values in itertools.product(*axes.values())]


def pairs_of(case: Case) -> Iterable[Pair]:
    """The pairs that a case has."""
    return itertools.combinations(sorted(case.items()), 2)


def wanted(axes: Axes) -> Set[Pair]:
    """The pairs that there are."""
    return {pair for one, other in itertools.combinations(sorted(axes), 2)
            for pair in pairs_of_axes(one, axes[one], other, axes[other])}


def pairs_of_axes(one: str, values: Sequence[Hashable], other: str,
                  others: Sequence[Hashable]) -> Iterable[Pair]:
    """The pairs of two axes."""
    return (((one, value), (other, another))
            for value in values for another in others)


def complete(seeds: Iterable[Case], axes: Axes) -> List[Case]:
    """Give each seed a value for each axis that it leaves open: the one that
    makes the most pairs that were not there yet, and of equals the one that
    was used least. The same table comes out each time."""
    missing = wanted(axes)
    used: Dict[Tuple[str, Hashable], int] = {}
    table = []
    for seed in seeds:
        case = dict(seed)
        for axis in axes:
            if axis in case:
                continue
            case[axis] = max(axes[axis], key=lambda value: (
                sum(pair in missing for pair in pairs_of(
                    {**case, axis: value})), -used.get((axis, value), 0)))
        missing.difference_update(pairs_of(case))
        for item in case.items():
            used[item] = used.get(item, 0) + 1
        table.append(case)
    return table


def uncovered(table: Iterable[Case], axes: Axes) -> Set[Pair]:
    """The pairs that no case of the table has."""
    missing = wanted(axes)
    for case in table:
        missing.difference_update(pairs_of(case))
    return missing
