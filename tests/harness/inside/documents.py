#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Make the document trees of the site.

    documents.py FOLDER NODE...

Every node has the same names with other contents, so that the hash of a body
tells which node sent it. The contents are the same each time.
"""

import os
import random
import sys
from typing import Dict

SIZES = {
    'empty': 0,
    '1k': 1 << 10,
    '128k': 128 << 10,
    '2m': 2 << 20,
    '20m': 20 << 20,
}

BLOCK = 1 << 20

GREETINGS = {
    'en': 'Welcome to our site.',
    'fr': 'Bienvenue sur notre site.',
    'de': 'Willkommen auf unseren Seiten.',
}


def document(node: str, name: str) -> bytes:
    """The body that a node sends for a name."""
    if name == 'index.html':
        greeting = GREETINGS.get(node, f'This is {node}.')
        return (f'<!doctype html><html lang="{node}"><title>{node}</title>'
                f'<p>{greeting}</p></html>\n').encode()
    size = SIZES[name]
    source = random.Random(f'{node}/{name}')
    # A long document is a block again and again, each time with its number:
    # quickly made, and still no two parts of it are alike.
    block = source.randbytes(min(size, BLOCK))
    blocks = range(size // BLOCK + 1)
    return b''.join(block + b'%d' % number for number in blocks)[:size]


def tree(node: str) -> Dict[str, bytes]:
    """All the documents of a node."""
    return {name: document(node, name) for name in ('index.html', *SIZES)}


def main() -> None:
    """Write the trees of the nodes named on the command line."""
    folder = sys.argv[1]
    for node in sys.argv[2:]:
        os.makedirs(os.path.join(folder, node), exist_ok=True)
        for name, body in tree(node).items():
            with open(os.path.join(folder, node, name), 'wb') as out:
                out.write(body)


if __name__ == '__main__':
    main()
