# SPDX-License-Identifier: GPL-2.0
"""What the demo shows: steps, tables, totals, and what is wrong with them."""

import contextlib
import sys
import time
from typing import Iterator, List, Sequence, Tuple

from .exchange import Exchange

COLOURS = {'bold': '1', 'dim': '2', 'red': '31', 'green': '32', 'cyan': '36'}

# A line of a table: the request in words, the exchange, what is wrong with it.
Row = Tuple[str, Exchange, List[str]]
# What is counted, the number, and the number that it should be.
Total = Tuple[str, int, int]


def paint(text: str, colour: str) -> str:
    """Colour a text, on a terminal."""
    if not sys.stdout.isatty():
        return text
    return f'\033[{COLOURS[colour]}m{text}\033[0m'


@contextlib.contextmanager
def step(text: str) -> Iterator[None]:
    """Show what is being done, and how long it took."""
    print(f'  {text} ... ', end='', flush=True)
    begin = time.monotonic()
    try:
        yield
    except BaseException:
        print(paint('failed', 'red'))
        raise
    print(paint(f'{time.monotonic() - begin:.1f} s', 'dim'))


def size(count: int) -> str:
    """A number of bytes for people."""
    if count < 10_000:
        return f'{count} B'
    if count < 10_000_000:
        return f'{count / 1e3:.0f} kB'
    return f'{count / 1e6:.1f} MB'


def line(text: str, faults: Sequence[str], remote: bool) -> None:
    """Print a line of a table in the colour that it deserves."""
    text = '  '.join((text, '; '.join(faults))).rstrip()
    print(paint(text, 'red' if faults else 'cyan' if remote else 'dim'))


def table(rows: Sequence[Row]) -> None:
    """Print a line for each request."""
    form = '{:<36} {:<9} {:<9} {:>6} {:>8} {:>9} {:>12}'
    print(paint(form.format(
        'request', 'accepted', 'answered', 'status', 'time', 'response',
        'through it'), 'bold'))
    for text, exchange, faults in rows:
        answer = exchange.answer
        line(form.format(
            text, exchange.accepted, exchange.node or '-', answer.status,
            f'{answer.time * 1000:.0f} ms', size(answer.size),
            size(exchange.through_front)), faults, exchange.remote)


def totals(counted: Sequence[Total]) -> bool:
    """Print what the whole came to; True if it is as it should be."""
    for text, number, wanted in counted:
        if number == wanted:
            print(f'{number:>10}  {text}')
        else:
            print(paint(f'{number:>10}  {text}, not {wanted}', 'red'))
    return all(number == wanted for _, number, wanted in counted)
