#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Drive a netlink family by its YAML description, with the kernel's ynl.

    ynl.py PYYNL SCHEMA DESCRIPTION <CALLS >ANSWERS

A call is [KIND, OPERATION, ATTRIBUTES], where KIND is "do" or "dump"; an
answer is {"answer": ...} or {"error": NUMBER, "text": ..., "at": ATTRIBUTE}.
Both are JSON, many in a list, so that the description is read once.
"""

import json
import sys

sys.dont_write_bytecode = True


def main() -> None:
    """Make all calls and print all answers."""
    pyynl, schema, description = sys.argv[1:]
    sys.path.insert(0, pyynl)
    from lib import NlError, YnlFamily    # noqa: E402

    family = YnlFamily(description, schema=schema)
    answers = []
    for kind, operation, attributes in json.load(sys.stdin):
        try:
            call = family.dump if kind == 'dump' else family.do
            answers.append({'answer': call(operation, attributes)})
        except NlError as error:
            acked = error.nl_msg.extack or {}
            at = acked.get('bad-attr') or acked.get('miss-type') or ''
            answers.append({'error': error.error, 'text': acked.get('msg', ''),
                            'at': str(at).lstrip('.')})
    json.dump(answers, sys.stdout)


if __name__ == '__main__':
    main()
