# SPDX-License-Identifier: GPL-2.0
"""One running kernel: its modules and what it had to say."""

import contextlib
import re
import subprocess
from typing import Iterator, List, Optional, Pattern

from .guest import Guest
from .paths import BUILD, CACHE, CHECKOUT
from .process import CommandTimeout

MODULES = ('carisma_btcp', 'carisma_utcp')      # in the order of loading
INFO = 6

# What loading any module from outside the kernel's own build says, once.
TAINTS = (
    re.compile(r'\S+: loading out-of-tree module taints kernel\.?'),
    re.compile(r'\S+: module verification failed: .* tainting kernel'),
)
# Some reports print their lines at a level that looks harmless.
REPORTS = re.compile(
    r'\b(BUG|WARNING|KASAN|KMSAN|UBSAN|INFO: task|INFO: rcu|Oops|'
    r'general protection|Call Trace|kmemleak|DEBUG_LOCKS|'
    r'possible (recursive|circular) locking|inconsistent lock state|'
    r'suspicious RCU|sleeping function|unregister_netdevice|refcount_t)\b')
KMEMLEAK = '/sys/kernel/debug/kmemleak'


class Kernel:
    """A guest's kernel."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self._expected: Optional[Pattern[str]] = None

    def load(self, *names: str) -> None:
        """Load the modules, or those named."""
        lines = ['modprobe nf_defrag_ipv6']
        lines += [f'insmod {self.guest.modules}/{name}.ko'
                  for name in names or MODULES]
        self.guest.run('set -e; ' + '; '.join(lines))

    def unload(self, *names: str) -> None:
        """Unload the modules, or those named; fails if one is in use."""
        wanted = names or MODULES[::-1]
        try:
            self.guest.run('set -e; ' + '; '.join(
                f'rmmod {name}' for name in wanted))
        except CommandTimeout as problem:
            stacks = self.guest.run('for it in $(pgrep rmmod); do cat /proc/$it/stack; done').out
            raise CommandTimeout(f'{problem}\n{stacks}') from problem

    def loaded(self) -> List[str]:
        """Those of our modules that are loaded."""
        listed = self.guest.run(['cat', '/proc/modules']).out.splitlines()
        present = {line.split()[0] for line in listed}
        return [name for name in MODULES if name in present]

    @contextlib.contextmanager
    def delayed(self, **functions: int) -> Iterator[None]:
        """Hold up whoever calls these functions of the kernel's, or of a module of ours, for so
        many milliseconds. MODULE__FUNCTION is that one of what both modules have."""
        def place(name: str) -> str:
            module, _, function = name.partition('__')
            if module in MODULES and function:
                return f'{module}:{function}'
            if name.startswith('carisma_btcp'):
                return f'carisma_btcp:{name}'
            return f'carisma_utcp:{name}' if name.startswith('carisma') else name
        tree = f'{CACHE}/{"debug" if self.guest.kernel == "debug" else "kernel"}/tree'
        built = f'{BUILD}/delay-{self.guest.kernel}'
        # The tests that run beside this one build it, too.
        subprocess.run(
            ['flock', f'{built}.lock',
             'make', '--silent', '--no-print-directory', '-C', tree, 'CC=gcc-14',
             f'M={CHECKOUT}/tests/harness/delay', f'MO={built}', 'modules'], check=True)
        names = ','.join(map(place, functions))
        self.guest.run(['insmod', f'{built}/delay.ko', f'function={names}',
                        f'ms={",".join(map(str, functions.values()))}'])
        try:
            yield
        finally:
            self.guest.run(['rmmod', 'delay'])

    def expect(self, pattern: str) -> None:
        """What `messages()` is not to report the next time."""
        self._expected = re.compile(pattern)

    def messages(self) -> List[str]:
        """The kernel's messages since the last call that it should not have
        given: more severe than `info`, or part of a report."""
        found = []
        expected, self._expected = self._expected, None
        for record in self.guest.kmsg():
            if any(taint.fullmatch(record.text) for taint in TAINTS):
                continue
            if expected and expected.fullmatch(record.text):
                continue
            if record.level < INFO or REPORTS.search(record.text):
                found.append(f'<{record.level}> {record.text}')
        return found

    def forget_leaks(self) -> None:
        """What the boot has lost is not of interest, nor when the kernel would
        look by itself."""
        self.guest.run(
            'mountpoint -q /sys/kernel/debug || '
            'mount -t debugfs none /sys/kernel/debug; '
            f'echo scan=off >{KMEMLEAK}')
        self.leaks()
        self.guest.run(f'echo clear >{KMEMLEAK}')

    def leaks(self) -> List[str]:
        """What kmemleak says was lost. It takes two looks, and only tells of
        what is older than 5 s (mm/kmemleak.c)."""
        return self.guest.run(
            f'set -e; for look in 1 2; do sleep 6; echo scan >{KMEMLEAK}; done; '
            f'cat {KMEMLEAK}', timeout=120).out.splitlines()
