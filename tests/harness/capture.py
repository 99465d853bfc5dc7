# SPDX-License-Identifier: GPL-2.0
"""What passes on a host's wire."""

import io
import itertools
import os
import signal
from typing import TYPE_CHECKING, Dict, List

from . import pcap, trace
from .paths import WORK

if TYPE_CHECKING:
    from .node import Node

NUMBER = itertools.count()

# The captures of the current test, to look at should it fail.
KEPT: Dict[str, bytes] = {}

# Nothing more is written: what was on the wire is in the file.
SETTLE = '''
old=-1
while new=$(stat -c %s {file}); [ "$new" != "$old" ]; do
    old=$new
    sleep 0.15
done
'''


# The longest packet that a device is given. Of the buffer each takes as much as
# the longest may have: with tcpdump's own 256 KiB there would be room for a hundred.
WHOLE = 66_000


class Capture:
    """tcpdump on one device, or on 'any', from `start` to `stop`.

    As a context manager it covers the block; `segments` and `connections()`
    are there after it.
    """

    def __init__(self, node: 'Node', wanted: str = 'tcp port 80',
                 device: str = 'eth0', bytes_each: int = WHOLE) -> None:
        self._node = node
        self._file = f'{WORK}/{node.name}.{next(NUMBER)}.pcap'
        self._command = (
            'exec tcpdump -n -p -U -Z root --immediate-mode -B 49152 '
            f'-i {device} -s {bytes_each} -w {self._file} {wanted} 2>&1')
        self.segments: List[pcap.Segment] = []

    def start(self) -> 'Capture':
        """Begin; what comes from now on is captured."""
        self._process = self._node.popen(self._command)
        self._process.wait_for('listening on', 20)
        return self

    def stop(self) -> 'Capture':
        """End and read what was captured."""
        self._node.run(SETTLE.format(file=self._file))
        self._process.signal(signal.SIGINT)
        lost = self._process.wait_for(r'(\d+) packets? dropped by kernel')
        if int(lost.group(1)):
            raise RuntimeError(f'tcpdump lost packets: {lost.string}')
        content = self._node.get(self._file)
        self._node.run(['rm', '-f', self._file])
        KEPT[os.path.basename(self._file)] = content
        self._content = content
        self.segments = pcap.read(io.BytesIO(content))
        return self

    def packets(self) -> List[bytes]:
        """All that was captured, without Ethernet headers."""
        return [frame[14:] for _, frame, _ in
                pcap.frames(io.BytesIO(self._content))]

    def connections(self, port: int = 80) -> List[trace.Connection]:
        """The connections to servers at `port`."""
        return trace.connections(self.segments, port)

    def connection(self, client_port: int, port: int = 80
                   ) -> trace.Connection:
        """The connection from that port of the client."""
        for found in self.connections(port):
            if found.client[1] == client_port:
                return found
        raise LookupError(f'no connection from port {client_port} on the '
                          f'wire of {self._node.name}')

    def __enter__(self) -> 'Capture':
        return self.start()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.stop()
        else:
            self._process.kill()
