#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Mixed traffic without an end, and what came of each exchange.

    traffic.py SEED LOOPS PATIENCE ADDRESS...

Loops ask the addresses for pages in random languages, of random sizes, in the
shapes of `exchange.py`; some clients leave early. Each exchange is a line of
JSON, with its time by this machine's monotonic clock; so is, once, one that
lasts suspiciously long, as {"stuck": ...}. It ends with standard input.
"""

import json
import random
import select
import socket
import struct
import sys
import threading
import time
from typing import Any, Dict, List, Tuple

import exchange

LANGUAGES = ('en', 'fr', 'de')
SIZES = {'empty': 4, '1k': 8, '128k': 6, '2m': 1}
# Those of exchange.py, and after them those of clients that leave.
SHAPES = {'whole': 6, 'bytewise': 1, 'halves': 3, 'post': 3, 'expect': 1,
          'chunked': 1, 'pipelined': 3, 'persistent': 5, 'cookies': 2,
          'fin': 2, 'leave': 2, 'reset': 3}
LEAVERS = ('leave', 'reset')
LINGER = struct.pack('ii', 1, 0)
LONG = 25       # seconds; exchange.py gives up after 40


def choose(rng: random.Random, weights: Dict[str, int]) -> str:
    """One of them, as often as its weight says."""
    return rng.choices(list(weights), list(weights.values()))[0]


class Client(exchange.Client):
    """One connection, perhaps of a client that leaves."""

    def leave(self) -> None:
        """A part of a head, then the end, or a reset."""
        head = self.head('1k')
        self.send(head[:self.case['cut'] % len(head)])
        time.sleep(0.05)
        if self.case['cut'] % 2:
            self._abort()

    def reset(self) -> None:
        """A reset in the middle of the answer, or before it."""
        self.send(self.head(self.case['size']))
        if self.case['cut'] % 3:
            self._more()
        self._abort()

    def port(self) -> int:
        """Where it is, or 0 if it has ended meanwhile."""
        try:
            return self._sock.getsockname()[1]
        except OSError:
            return 0

    def _abort(self) -> None:
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)

    def end(self) -> str:
        """Nothing is expected by one that leaves."""
        return '' if self.case['shape'] in LEAVERS else super().end()


def case(rng: random.Random, addresses: List[str]) -> Dict[str, Any]:
    """A random exchange."""
    return {
        'address': rng.choice(addresses), 'language': rng.choice(LANGUAGES),
        'size': choose(rng, SIZES), 'shape': choose(rng, SHAPES),
        'reaction': rng.choice(('close', 'keep')), 'cut': rng.randrange(300),
        'buffer': rng.choice(('auto', 'auto', '4096')),
        'mss': rng.choice(('link', 'link', '536'))}


def main() -> None:
    """Run the loops until standard input ends."""
    seed, loops, patience, *addresses = sys.argv[1:]
    ended = threading.Event()
    printing = threading.Lock()
    running: Dict[int, Tuple[float, Client]] = {}

    def tell(told: Dict[str, Any]) -> None:
        with printing:
            print(json.dumps(told), flush=True)

    def loop(number: int) -> None:
        rng = random.Random(f'{seed}/{number}')
        while not ended.is_set():
            this = case(rng, addresses)
            begin = time.monotonic()
            client = Client(this, float(patience))
            running[number] = begin, client
            told = client.run()
            running.pop(number, None)
            told.update(this, begin=begin, end=time.monotonic())
            tell(told)
            time.sleep(rng.uniform(0, 0.1))

    threads = [threading.Thread(target=loop, args=(number,))
               for number in range(int(loops))]
    for thread in threads:
        thread.start()
    while not select.select([0], [], [], 1)[0]:
        for number, (begin, client) in list(running.items()):
            if time.monotonic() > begin + LONG * float(patience):
                running.pop(number, None)
                tell({'stuck': {'port': client.port(), **client.case}})
    ended.set()
    for thread in threads:
        thread.join()


if __name__ == '__main__':
    main()
