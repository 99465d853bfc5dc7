# SPDX-License-Identifier: GPL-2.0
"""What a handoff is, in each mode by each way to forward, with both migrations and both versions of
IP: conversations with a server here and with one at another node, to each of their ends.

The options of a run change nothing here. In always mode there is no `nat`, as its back ends
have the address of the service."""

import dataclasses
import itertools

import pytest

from checks import bypassed, gone, kept, no_flows, request, served, unbroken
from conftest import Lab
from harness.running import Cluster
from harness.sockets import Socket
from test_adopt import migration
from test_always import counted
from test_distance import MIGRATIONS, MODES, offer

pytestmark = pytest.mark.xdist_group('product')

FORWARDS = ('nat', 'direct', 'tunnel')
CASES = [case for case in itertools.product(FORWARDS, (4, 6), MODES, MIGRATIONS)
         if case[0] != 'nat' or case[2] != 'always']
# Each used once: two connections of one port would be one in a capture.
PORTS = itertools.count(31_000)
ENDS = ('server', 'client', 'reset')
BODY = bytes(range(256)) * 256


def converse(cluster: Cluster, language: str, end: str, wanted: str) -> Socket:
    """A head in pieces, requests behind each other, a body each way, and that end."""
    server = cluster[language]
    sock = cluster.client.connect(cluster['en'].vip, source=('', next(PORTS)))
    sock.send(request(f'/{language}/1k'), chunk=20, delay=0.01)
    served(sock.response(), language, '1k')
    if language != 'en':
        assert migration(server, sock) == wanted
    sock.send(request(f'/{language}/1k') + request(f'/{language}/empty'))
    served(sock.response(), language, '1k')
    served(sock.response(), language, 'empty')
    sock.send(request(f'/{language}/upload/', 'POST', BODY))
    kept(sock.response(), server, BODY)
    sock.send(request(f'/{language}/128k', **({'Connection': 'close'} if end == 'server' else {})))
    served(sock.response(), language, '128k')
    if end == 'server':
        assert sock.receive().size == 0
    (sock.reset if end == 'reset' else sock.close)()
    return sock


@pytest.mark.parametrize('forward, family, mode, migrate', CASES)
def test_conversations(lab: Lab, forward: str, family: int, mode: str, migrate: str) -> None:
    """Each answer is whole, and the right server's; no byte of another node's passes the front end,
    and nothing is left."""
    cluster = lab.site(dataclasses.replace(
        lab.of_family(family), forward=forward, mode='rare', migrate='adopt'))
    lab.enable(cluster)
    offer(cluster, mode, migrate)
    front, back, client = cluster['en'], cluster['fr'], cluster.client
    before = front.stats(), back.stats()
    with client.capture() as far, front.capture() as near:
        socks = [(converse(cluster, language, end, MIGRATIONS[migrate]), language, end)
                 for language, end in itertools.product(('en', 'fr'), ENDS)]
        for sock, language, _ in socks:
            gone(cluster[language], f'dport = :{sock.port}')
        no_flows(cluster, timeout=30)
    for sock, language, end in socks:
        unbroken(far.connection(sock.port), reset=end == 'reset')
        if language != 'en':
            bypassed(near, sock.port)
    ahead, behind = (counted(node, then) for node, then in zip((front, back), before))
    assert ahead['handoffs_accepted'] == len(ENDS), ahead
    assert behind['handoffs_in'] == len(ENDS), behind
    assert behind.get('handoffs_in_adopted', 0) == len(ENDS) * (migrate == 'adopt'), behind
    for found in (ahead, behind):
        assert not found.get('packets_dropped_malformed'), found
    offer(cluster, 'rare', 'adopt')
