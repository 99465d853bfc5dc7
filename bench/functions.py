# SPDX-License-Identifier: GPL-2.0
"""Where the front end's instructions go: how many each function executes."""

import bisect
import re
import subprocess
from collections import Counter as Multiset
from typing import Dict, List, Tuple

from rig import Rig

KALLSYMS = "grep -E ' [tTwW] ' /proc/kallsyms"
# What is below is not the kernel's.
KERNEL = 1 << 63
USER = 'programs'
HOOKS, HOOKED = 'netfilter', ('nf_hook_slow', 'nf_hook_slow_list')
# How many functions of a run are kept, and from how many instructions on those of CARISMA's.
KEPT, KEPT_OWN = 40, 40

# What follows the name of a module's function.
MODULE = re.compile(r'\[(\w+)\]$')

Blocks = List[Tuple[int, int]]


def demangled(names: List[str]) -> List[str]:
    """Rust's names as people write them, without the crates' hashes."""
    return subprocess.run(
        ['c++filt', '--format=rust', '--no-verbose'], input='\n'.join(names), check=True,
        capture_output=True, text=True).stdout.split('\n')


class Symbols:
    """The functions of the front end's kernel, with the modules that are
    loaded now."""

    _own: List[Tuple[int, str]] = []     # the kernel's, which stay where they are

    def __init__(self, rig: Rig) -> None:
        if not Symbols._own:
            Symbols._own = self._read(rig, f"{KALLSYMS} | grep -v '\\['")
        lines = sorted(Symbols._own + self._read(rig, f"{KALLSYMS} | grep '\\['"))
        self._begins = [begin for begin, _ in lines]
        self._names = [name for _, name in lines]

    @staticmethod
    def _read(rig: Rig, command: str) -> List[Tuple[int, str]]:
        found = []
        for line in rig.front.run(f'{command} || true', timeout=120).out.splitlines():
            address, _, name = line.split(maxsplit=2)
            name, _, module = name.partition('\t')
            found.append((int(address, 16), f'{name} {module}'.strip()))
        return found

    def of(self, address: int) -> str:
        """The function that an address lies in, and its module."""
        if address < KERNEL:
            return USER
        place = bisect.bisect_right(self._begins, address) - 1
        return self._names[place] if place >= 0 else hex(address)


def executed(before: Blocks, after: Blocks) -> Multiset:
    """How many instructions were executed in between, by where their blocks
    begin. A block keeps its place; new ones come behind."""
    found: Multiset = Multiset()
    for place, (begin, count) in enumerate(after):
        count -= before[place][1] if place < len(before) else 0
        if count:
            found[begin] += count
    return found


def module_of(function: str) -> str:
    """What a function belongs to."""
    match = MODULE.search(function)
    if match:
        return match[1]
    # Nobody calls a hook if there is none.
    return {USER: USER, **dict.fromkeys(HOOKED, HOOKS)}.get(function, 'kernel')


def by_function(symbols: Symbols, busy: Multiset, idle: Multiset, share: float,
                requests: int) -> Dict[str, Dict[str, float]]:
    """Instructions for a request, without what the idle front end executes,
    `share` of what was seen: `modules`, by module, and `functions`, of which
    those that execute the most, and CARISMA's own."""
    found: Multiset = Multiset()
    for begin, count in busy.items():
        found[symbols.of(begin)] += count / requests
    for begin, count in idle.items():
        found[symbols.of(begin)] -= count * share / requests
    modules: Multiset = Multiset()
    for function, count in found.items():
        modules[module_of(function)] += count
    kept = dict(found.most_common(KEPT))
    for function, count in found.most_common():
        if count >= KEPT_OWN and module_of(function).startswith('carisma'):
            kept[function] = count
    return {
        'modules': {module: round(count, 1) for module, count in modules.most_common()},
        'functions': dict(zip(demangled(list(kept)),
                              (round(count, 1) for count in kept.values()))),
    }
