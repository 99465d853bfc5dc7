# SPDX-License-Identifier: GPL-2.0
"""To which of a rule's nodes a request goes: by its path, or by a cookie."""

from typing import Dict, List

import pytest

from harness.node import Node
from harness.running import Cluster, wait_for

NODES = ('en', 'fr', 'de')
PATHS = [f'/any/{number}.html' for number in range(40)]
MASK = (1 << 64) - 1


def mixed(number: int) -> int:
    """The finalizer of SplitMix64."""
    number = (number ^ number >> 30) * 0xbf58476d1ce4e5b9 & MASK
    number = (number ^ number >> 27) * 0x94d049bb133111eb & MASK
    return number ^ number >> 31


def fnv(text: str) -> int:
    """FNV-1a, 64 bits."""
    number = 0xcbf29ce484222325
    for byte in text.encode():
        number = (number ^ byte) * 0x100000001b3 & MASK
    return number


def owner(path: str, *nodes: str) -> str:
    """Whose a path is (rendezvous hashing)."""
    return max(nodes, key=lambda node: mixed(fnv(path) ^ mixed(fnv(node))))


def rule(cluster: Cluster, *words: str) -> None:
    """A rule for /any/ on every node, which names all."""
    for node in cluster.nodes:
        node.ctl('rule', 'add', node.service, '--path', '/any/',
                 *(word for name in NODES for word in ('--node', name)),
                 *words)


@pytest.fixture(autouse=True)
def tidy(cluster: Cluster):
    """The rule goes with the test."""
    yield
    for node in cluster.nodes:
        node.ctl('rule', 'del', node.service, '--path', '/any/', check=False)


def ask(cluster: Cluster, front: Node, paths: List[str], *headers: str
        ) -> List[str]:
    """Who answers requests for these, each on a connection of its own."""
    lines = ' '.join(f'-H "{header}"' for header in
                     ('Connection: close', *headers))
    answers = cluster.client.curl.fetch(
        [cluster.url(front.name, path) for path in paths], options=lines)
    assert {answer.status for answer in answers} == {404}
    return [answer.node for answer in answers]


def test_hash(cluster: Cluster) -> None:
    """Each path is one node's, whichever node the client came to."""
    rule(cluster, '--pick', 'hash')
    wanted = [owner(path, *NODES) for path in PATHS]
    assert set(wanted) == set(NODES)
    for front in cluster.nodes:
        assert ask(cluster, front, PATHS) == wanted, front.name
    # Without query, whatever is in it.
    assert ask(cluster, cluster['en'], [f'{path}?a=1' for path in PATHS]
               ) == wanted


@pytest.mark.long
def test_hash_without_a_node(cluster: Cluster) -> None:
    """While a node takes nothing its paths are others', and only those."""
    rule(cluster, '--pick', 'hash')
    gone = cluster['fr']
    gone.nginx.stop()
    try:
        wanted = [owner(path, *NODES) for path in PATHS]
        wanted = [owner(path, 'en', 'de') if node == 'fr' else node
                  for path, node in zip(PATHS, wanted)]
        assert ask(cluster, cluster['en'], PATHS) == wanted
    finally:
        gone.nginx.start()
    wait_for(lambda: ask(cluster, cluster['en'], PATHS) == [
        owner(path, *NODES) for path in PATHS], 'it has them again')


COOKIES: Dict[str, str] = {
    'node=de': 'de', 'node=fr': 'fr', 'node=en': 'en',
    'a=b; node=de; c=d': 'de', 'node=it': 'en', 'node=': 'en', 'node=d': 'en',
    'node=dee': 'en', 'Node=de': 'en', 'node=de; node=fr': 'de',
    'other=de': 'en',
}


def test_cookie(cluster: Cluster) -> None:
    """The cookie's node is asked first; without one that names any, the order
    is the rule's."""
    rule(cluster, '--cookie', 'node')
    for cookie, node in COOKIES.items():
        assert ask(cluster, cluster['en'], PATHS[:1], f'Cookie: {cookie}'
                   ) == [node], cookie
    assert ask(cluster, cluster['de'], PATHS[:1]) == ['en']


@pytest.mark.long
def test_cookie_without_its_node(cluster: Cluster) -> None:
    """A session whose node is gone is another's, by the hash."""
    rule(cluster, '--pick', 'hash', '--cookie', 'node')
    assert ask(cluster, cluster['en'], PATHS, 'Cookie: node=de'
               ) == ['de'] * len(PATHS)
    gone = cluster['de']
    gone.nginx.stop()
    try:
        assert ask(cluster, cluster['en'], PATHS, 'Cookie: node=de') == [
            owner(path, 'en', 'fr') for path in PATHS]
    finally:
        gone.nginx.start()
    assert ask(cluster, cluster['en'], PATHS) == [
        owner(path, *NODES) for path in PATHS]
