#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Load a module again and again, each time with another allocation failing.

    refuse.py MODULE.ko

The first attempt has the first allocation fail, the second the second, and so
on, until none is left to fail (Documentation/fault-injection). The kernel must
have been told which allocations count. A line of JSON tells what came of each
attempt: the name of the error, or an empty one. At last the module is loaded.
"""

import ctypes
import errno
import json
import os
import sys

FINIT_MODULE, DELETE_MODULE = 313, 176      # x86-64
NTH = '/proc/thread-self/fail-nth'

libc = ctypes.CDLL(None, use_errno=True)


def call(*arguments) -> str:
    """A system call; the name of its error."""
    if libc.syscall(*arguments) == 0:
        return ''
    return errno.errorcode[ctypes.get_errno()]


def main() -> None:
    """Until nothing has failed."""
    path = sys.argv[1]
    name = os.path.basename(path).removesuffix('.ko').encode()
    found = []
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
            found.append(error)
            if not error:
                call(DELETE_MODULE, name, os.O_NONBLOCK)
    if error:
        sys.exit(f'without a failure: {error}')
    print(json.dumps(found))


if __name__ == '__main__':
    main()
