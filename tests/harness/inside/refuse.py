#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Load a module again and again, each time with another allocation failing.

    refuse.py MODULE.ko

The first attempt has the first allocation fail, the second the second, and so
on, until none is left to fail (Documentation/fault-injection). The kernel must
have been told which allocations count. A line of JSON tells what came of each
attempt: the name of the error; if the module was loaded all the same, which of
its files in sysfs were missing. At last the module is loaded.
"""

import ctypes
import errno
import json
import os
import sys
from typing import List, Set, Union

FINIT_MODULE, DELETE_MODULE = 313, 176      # x86-64
NTH = '/proc/thread-self/fail-nth'
SYSFS = '/sys/kernel/carisma'

libc = ctypes.CDLL(None, use_errno=True)


def call(*arguments) -> str:
    """A system call; the name of its error."""
    if libc.syscall(*arguments) == 0:
        return ''
    return errno.errorcode[ctypes.get_errno()]


def files() -> Set[str]:
    """All that there is in sysfs."""
    return {os.path.join(folder, name)
            for folder, folders, names in os.walk(SYSFS)
            for name in folders + names}


def main() -> None:
    """Until nothing has failed."""
    path = sys.argv[1]
    name = os.path.basename(path).removesuffix('.ko').encode()
    found: List[Union[str, Set[str]]] = []
    with open(path, 'rb') as module:
        while True:
            with open(NTH, 'w', encoding='ascii') as nth:
                nth.write(str(len(found) + 1))
            error = call(FINIT_MODULE, module.fileno(), b'', 0)
            with open(NTH, encoding='ascii') as nth:
                left = int(nth.read())
            with open(NTH, 'w', encoding='ascii') as nth:
                nth.write('0')
            if left:
                break
            found.append(error or files())
            if not error:
                call(DELETE_MODULE, name, os.O_NONBLOCK)
    if error:
        sys.exit(f'without a failure: {error}')
    whole = files()
    print(json.dumps([one if isinstance(one, str) else sorted(whole - one)
                      for one in found]))


if __name__ == '__main__':
    main()
