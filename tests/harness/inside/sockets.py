#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Hold TCP connections on behalf of a test, which tells what to do when.

Orders come as JSON, a line each, on standard input; each is answered by a
line on standard output. `harness/sockets.py` is the other end.
"""

import base64
import hashlib
import json
import re
import select
import socket
import struct
import sys
import time
from typing import Any, Dict

SMALL = 1 << 16
sockets: Dict[int, socket.socket] = {}
buffers: Dict[int, bytearray] = {}


def connect(number: int, host: str, port: int, source: Any = None,
            timeout: float = 10, receive_buffer: int = 0) -> Dict[str, Any]:
    """Open a connection that sends each piece at once."""
    family, _, _, _, to = socket.getaddrinfo(host, port)[0]
    sock = socket.socket(family)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    if source:
        # With the number of a link-local address's link.
        at, own = source
        sock.bind(socket.getaddrinfo(at or None, own, family, flags=socket.AI_PASSIVE)[0][4])
    sock.settimeout(timeout)
    sock.connect(to)
    sockets[number] = sock
    buffers[number] = bytearray()
    return {'local': sock.getsockname()[:2]}


def send(number: int, data: str, chunk: int = 0, delay: float = 0
         ) -> Dict[str, Any]:
    """Send bytes, whole or in pieces with a pause after each."""
    raw = base64.b64decode(data)
    chunk = chunk or max(len(raw), 1)
    for at in range(0, len(raw), chunk):
        sockets[number].sendall(raw[at:at + chunk])
        if delay:
            time.sleep(delay)
    return {'sent': len(raw)}


def more(number: int, deadline: float) -> bool:
    """Wait for more bytes; False at the end of the stream."""
    sock = sockets[number]
    if not select.select(
            [sock], [], [], max(deadline - time.monotonic(), 0))[0]:
        raise TimeoutError(
            f'nothing more came after {len(buffers[number])} bytes')
    data = sock.recv(1 << 18)
    buffers[number] += data
    return bool(data)


def take(number: int, size: int) -> bytes:
    """Remove bytes from the front of what came."""
    buffer = buffers[number]
    data = bytes(buffer[:size])
    del buffer[:size]
    return data


def told(data: bytes) -> Dict[str, Any]:
    """A body, or of a long one what identifies it."""
    answer: Dict[str, Any] = {
        'size': len(data), 'sha256': hashlib.sha256(data).hexdigest()}
    if len(data) <= SMALL:
        answer['data'] = base64.b64encode(data).decode()
    return answer


def receive(number: int, timeout: float = 10) -> Dict[str, Any]:
    """Everything up to the end of the stream."""
    deadline = time.monotonic() + timeout
    while more(number, deadline):
        pass
    return told(take(number, len(buffers[number])))


def some(number: int, size: int, timeout: float = 10) -> Dict[str, Any]:
    """At least `size` bytes, exactly those are given."""
    deadline = time.monotonic() + timeout
    while len(buffers[number]) < size and more(number, deadline):
        pass
    return told(take(number, size))


def response(number: int, timeout: float = 10, head: bool = False
             ) -> Dict[str, Any]:
    """One HTTP response with a Content-Length."""
    deadline = time.monotonic() + timeout
    while b'\r\n\r\n' not in buffers[number]:
        if not more(number, deadline):
            raise EOFError(
                f'closed after {bytes(buffers[number][:200])!r}')
    raw = take(number, buffers[number].index(b'\r\n\r\n') + 4).decode('latin1')
    lines = raw.split('\r\n')
    headers = {
        name.lower(): value.strip() for name, _, value in
        (line.partition(':') for line in lines[1:] if line)}
    size = 0 if head else int(headers.get('content-length', '0'))
    while len(buffers[number]) < size:
        if not more(number, deadline):
            raise EOFError(f'closed within the body, {len(buffers[number])} '
                           f'of {size} bytes came')
    status = re.match(r'HTTP/1\.\d (\d+)', lines[0])
    return {'status': int(status.group(1)) if status else 0,
            'headers': headers, **told(take(number, size))}


def shutdown(number: int) -> Dict[str, Any]:
    """Say that nothing more will be sent."""
    sockets[number].shutdown(socket.SHUT_WR)
    return {}


def close(number: int) -> Dict[str, Any]:
    """Close in the ordinary way."""
    sockets.pop(number).close()
    return {}


def reset(number: int) -> Dict[str, Any]:
    """Close with an RST."""
    sockets[number].setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    return close(number)


def clear() -> Dict[str, Any]:
    """Close everything."""
    while sockets:
        sockets.popitem()[1].close()
    buffers.clear()
    return {}


ORDERS = {order.__name__: order for order in (
    connect, send, receive, some, response, shutdown, close, reset, clear)}


def main() -> None:
    """Carry out orders until there are no more."""
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = ORDERS[order.pop('do')](**order)
        except (OSError, EOFError) as problem:
            answer = {'error': type(problem).__name__, 'text': str(problem)}
        print(json.dumps(answer), flush=True)


if __name__ == '__main__':
    main()
