# SPDX-License-Identifier: GPL-2.0
"""What the suites expect of an answer, a connection, a node."""

import hashlib
from functools import lru_cache
from typing import Any, Dict, Iterable, List, Tuple, Union

import pytest

from harness.capture import Capture
from harness.curl import Response
from harness.inside.documents import SIZES, document
from harness.inside.exchange import UPLOAD
from harness.node import Node
from harness.running import Cluster, wait_for
from harness.sockets import Answer, Socket
from harness.trace import Connection

# Whom `inside/flood.py` pretends to be.
STRANGERS = {4: '198.18.0.0/15', 6: '2001:2::/48'}
# Keeps what clients send from a node's TCP, but not their acknowledgements.
KEPT_OUT = ('table inet t { chain c { type filter hook input priority 0; '
            'tcp dport 80 meta length > 80 drop; }; }')
UPLOADS = ('post', 'expect', 'chunked', 'fin')
LEAVERS = ('leave', 'reset')
# From so many seconds on a head may be answered 408: on a busy machine, some
# clients take as long for one.
SLOW = 8


@lru_cache(None)
def sha256(node: str, name: str) -> str:
    """The hash of a node's document."""
    return hashlib.sha256(document(node, name)).hexdigest()


def served(answer: Union[Response, Answer], node: str, name: str) -> None:
    """The answer is `node`'s document `name`, whole."""
    error = getattr(answer, 'error', '')
    assert not error, error
    assert answer.status == 200, f'status {answer.status}'
    assert answer.node == node, f'{answer.node} answered, not {node}'
    assert answer.sha256 == sha256(node, name), (
        f'{answer.size} bytes, but not the right ones')


def kept(answer: Union[Response, Answer], node: Node, body: bytes) -> None:
    """The upload was that server's, which got every byte of it."""
    assert (answer.status, answer.node) == (200, node.name), answer
    assert answer.headers
    came = node.get(answer.headers['x-body'])
    assert hashlib.sha256(came).digest() == hashlib.sha256(body).digest(), 'another body arrived'


def all_right(answers: Dict[str, int], path: str, *nodes: str
              ) -> Dict[str, int]:
    """Every answer that a load got for a path is that document of one of
    these nodes; how often it was whose."""
    name = path.rpartition('/')[2]
    wanted = {f'{path} 200 {sha256(node, name)}': node for node in nodes}
    wrong = {answer: count for answer, count in answers.items()
             if answer.split()[0] == path and answer not in wanted}
    assert not wrong, wrong
    return {node: answers.get(answer, 0) for answer, node in wanted.items()}


def exchange_faults(told: Dict[str, Any]) -> Tuple[List[str], List[str]]:
    """What is wrong with the answers to an exchange of `inside/traffic.py`,
    whose `address` is the node's name, and what is missing of them."""
    wrong: List[str] = []
    if told['end'] - told['begin'] > SLOW and any(
            ' 408 ' in answer['status'] for answer in told['answers']):
        return [], []
    nodes = (told['address'], told['language'])
    size, shape = told['size'], told['shape']
    names = {'pipelined': [size, '1k'], 'persistent': [size, '1k', 'empty'],
             }.get(shape, [size])
    answers = [answer for answer in told['answers']
               if ' 100 ' not in answer['status']]
    for name, answer in zip(names, answers):
        node = {key.lower(): value for key, value in answer['headers']
                }.get('x-node', '')
        answer['node'] = node
        status = answer['status'].split()[1]
        if node not in nodes:
            wrong.append(f'answered by {node or "nobody"}')
        elif status != '200':
            wrong.append(f'status {status}')
        elif shape in UPLOADS:
            body = UPLOAD[:SIZES[size]]
            if body and answer['kept'] != hashlib.sha256(body).hexdigest():
                wrong.append('another body was kept')
        elif answer['sha256'] != sha256(node, name):
            wrong.append('the body is not the document')
    missing: List[str] = []
    closes = told['reaction'] == 'close' or shape == 'fin'
    if shape in LEAVERS:
        if told['ended'].startswith('TimeoutError'):
            missing.append(told['ended'])
    elif len(answers) < len(names):
        missing.append(f'{len(answers)} answers, then {told["ended"]}')
    elif told['ended'] != ('closed' if closes else 'open'):
        missing.append(f'{told["ended"]} at the end')
    return wrong, missing


def unbroken(connection: Connection, **kind: bool) -> None:
    """The client saw one TCP connection from its SYN to its end."""
    faults = connection.faults(**kind)
    assert not faults, '\n'.join(faults + ['', str(connection)[:8000]])


def bypassed(capture: Capture, port: int) -> None:
    """No payload passed that wire towards the client's port."""
    crossed = capture.connection(port).response_bytes()
    assert crossed == 0, f'{crossed} response bytes crossed this wire'


def gone(node: Node, wanted: str, timeout: float = 15) -> None:
    """No socket matches, but in TIME_WAIT."""
    def left():
        return [line for line in node.sockets(wanted)
                if not line.startswith('TIME-WAIT')]
    try:
        wait_for(lambda: not left(), 'sockets are gone', timeout)
    except TimeoutError:
        assert not left(), f'left on {node.name}'


def no_flows(cluster: Cluster, timeout: float = 15) -> None:
    """No node holds a flow any more, but those that linger."""
    try:
        wait_for(lambda: not cluster.live_flows(), 'flows are gone', timeout)
    except TimeoutError:
        left = cluster.live_flows()
        assert not left, left


def some_long(values: Iterable[Any], *short: Any) -> List[Any]:
    """The values of a parameter, with all but the short ones marked as taking too long for each
    change."""
    return [value if value in short else pytest.param(value, marks=pytest.mark.long)
            for value in values]


def request(path: str, method: str = 'GET', body: bytes = b'',
            **headers: str) -> bytes:
    """The bytes of a request."""
    lines = [f'{method} {path} HTTP/1.1', 'Host: www.example']
    lines += [f'{name.replace("_", "-")}: {value}'
              for name, value in headers.items()]
    if body:
        lines.append(f'Content-Length: {len(body)}')
    return '\r\n'.join(lines + ['', '']).encode() + body


def hand_off(cluster: Cluster, language: str = 'fr') -> Socket:
    """An open connection that another node serves."""
    sock = cluster.client.connect(cluster['en'].vip)
    sock.send(request(f'/{language}/1k'))
    served(sock.response(), language, '1k')
    return sock
