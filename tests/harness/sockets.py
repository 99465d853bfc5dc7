# SPDX-License-Identifier: GPL-2.0
"""TCP connections that a test holds open, piece by piece, on a node."""

import base64
import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Dict, Optional

from .address import endpoint
from .paths import INSIDE
from .patience import patient

if TYPE_CHECKING:
    from .node import Node


class SocketError(Exception):
    """What went wrong with a connection, by the name of the exception."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f'{kind}: {text}')
        self.kind = kind


@dataclass(frozen=True)
class Answer:
    """An HTTP response, or bytes, as a held connection received them."""

    size: int
    sha256: str
    data: Optional[bytes] = field(repr=False)
    status: int = 0
    headers: Optional[Dict[str, str]] = None

    @property
    def node(self) -> str:
        """The node that answered."""
        return (self.headers or {}).get('x-node', '')


class Socket:
    """A connection, held by the process in the node."""

    def __init__(self, holder: 'SocketHolder', number: int,
                 local: Any) -> None:
        self._holder = holder
        self._number = number
        self.address, self.port = local

    @property
    def endpoint(self) -> str:
        """Address and port, as carismactl writes them."""
        return endpoint(self.address, self.port)

    def _order(self, order: str, **arguments: Any) -> Dict[str, Any]:
        return self._holder.order(order, number=self._number, **arguments)

    def _answer(self, order: str, **arguments: Any) -> Answer:
        told = self._order(order, **arguments)
        data = told.get('data')
        return Answer(
            told['size'], told['sha256'],
            None if data is None else base64.b64decode(data),
            told.get('status', 0), told.get('headers'))

    def send(self, data: bytes, chunk: int = 0, delay: float = 0) -> None:
        """Send data, in pieces of `chunk` bytes with a pause after each."""
        self._order('send', data=base64.b64encode(data).decode(),
                    chunk=chunk, delay=delay)

    def response(self, timeout: float = 20, head: bool = False) -> Answer:
        """Wait for one HTTP response."""
        return self._answer('response', timeout=timeout, head=head)

    def receive(self, timeout: float = 20) -> Answer:
        """Wait for everything up to the end of the stream."""
        return self._answer('receive', timeout=timeout)

    def some(self, size: int, timeout: float = 20) -> Answer:
        """Wait for so many bytes."""
        return self._answer('some', size=size, timeout=timeout)

    def shutdown(self) -> None:
        """Send FIN, go on reading."""
        self._order('shutdown')

    def close(self) -> None:
        """Close in the ordinary way."""
        self._order('close')

    def reset(self) -> None:
        """Close with an RST."""
        self._order('reset')


class SocketHolder:
    """The process in a node that holds its sockets."""

    def __init__(self, node: 'Node') -> None:
        self._process = node.popen(
            ['python3', '-S', f'{INSIDE}/sockets.py'], stdin=True)
        self._numbers = itertools.count()

    def order(self, order: str, timeout: float = 20, **arguments: Any
              ) -> Dict[str, Any]:
        """Have one thing done and wait until it is."""
        if order in ('connect', 'receive', 'some', 'response'):
            arguments['timeout'] = patient(timeout)
        line = json.dumps({'do': order, **arguments})
        self._process.write(line.encode() + b'\n')
        answer = json.loads(self._process.readline(timeout + 10))
        if 'error' in answer:
            raise SocketError(answer['error'], answer['text'])
        return answer

    def connect(self, host: str, port: int, **options: Any) -> Socket:
        """Open a connection."""
        number = next(self._numbers)
        told = self.order(
            'connect', number=number, host=host, port=port, **options)
        return Socket(self, number, told['local'])

    def clear(self) -> None:
        """Close everything."""
        self.order('clear')

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
