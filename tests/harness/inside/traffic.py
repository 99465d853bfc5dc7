#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Mixed traffic without an end, and what came of each exchange.

    traffic.py SEED LOOPS PATIENCE ADDRESS...

Loops ask the addresses for pages in random languages, of random sizes, in the
shapes of `exchange.py`; some clients leave early. Each exchange is a line of
JSON, with its time by this machine's monotonic clock. It ends with standard
input.
"""

import json
import os
import random
import socket
import struct
import sys
import threading
import time
from typing import Any, Dict, List

import exchange

LANGUAGES = ('en', 'fr', 'de')
SIZES = {'empty': 4, '1k': 8, '128k': 6, '2m': 1}
# Those of exchange.py, and after them those of clients that leave.
SHAPES = {'whole': 6, 'bytewise': 1, 'halves': 3, 'post': 3, 'expect': 1,
          'chunked': 1, 'pipelined': 3, 'persistent': 5, 'cookies': 2,
          'fin': 2, 'leave': 2, 'reset': 3}
LEAVERS = ('leave', 'reset')
LINGER = struct.pack('ii', 1, 0)


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

    def loop(number: int) -> None:
        rng = random.Random(f'{seed}/{number}')
        while not ended.is_set():
            this = case(rng, addresses)
            begin = time.monotonic()
            told = Client(this, float(patience)).run()
            told.update(this, begin=begin, end=time.monotonic())
            with printing:
                print(json.dumps(told), flush=True)
            time.sleep(rng.uniform(0, 0.1))

    threads = [threading.Thread(target=loop, args=(number,))
               for number in range(int(loops))]
    for thread in threads:
        thread.start()
    while os.read(0, 1 << 10):
        pass
    ended.set()
    for thread in threads:
        thread.join()


if __name__ == '__main__':
    main()
