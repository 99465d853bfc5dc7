# SPDX-License-Identifier: GPL-2.0
"""Front ends that change or crash, and what is expected of the connections that
they handed off, in any mode."""

from typing import Dict

import pytest

from checks import gone, hand_off, kept, no_flows, request, served, unbroken
from harness.address import alone
from harness.load import Load
from harness.node import Node
from harness.running import MODULES, Cluster, wait_for
from harness.sockets import SocketError

# Of who has asked for one connection and been told who has it, and of that one.
FOUND = {'seeks_started': 1, 'seeks_found': 1}
MOVED = {'handoffs_moved': 1}
MANY = 40


def move(cluster: Cluster, before: Node, after: Node) -> None:
    """Let a node have the virtual address that is en's, and another, which may be dead, not."""
    vip = cluster['en'].vip
    here = cluster.virtual(vip)
    keep = f'ip addr replace {here} dev lo' if cluster.spec.unchanged else ':'
    if not before.dead:
        before.run(f'ip addr del {alone(vip)} dev eth0 2>/dev/null; {keep}')
    after.run(f'ip addr del {alone(vip)} dev lo 2>/dev/null; ip addr replace {here} dev eth0')
    for host in cluster.hosts.values():
        if host is not after and not host.dead:
            host.run(f'ip neigh replace {vip} lladdr {after.host.mac} dev eth0 nud permanent')


def seeks(node: Node) -> Dict[str, int]:
    """What came of its questions, and of those to it."""
    return {name: value for name, value in node.stats().items()
            if value and (name.startswith('seeks_') or name == 'handoffs_moved')}


def crash(cluster: Cluster) -> None:
    """The front end loses all that it knows, and comes back."""
    front = cluster['en']
    front.kill()
    cluster.revive(front)
    front.nginx.start()
    front.configure()
    if cluster.kernels[0].loaded() == list(MODULES):
        wait_for(lambda: cluster.joined(front), 'it is back')


def expect_both_ways(pair: Cluster) -> None:
    """A connection goes on over another front end, and over the first one again;
    who is it no more forgets it, and hears of the end no more."""
    front, new, back = pair['en'], pair['de'], pair['fr']
    with pair.client.capture() as capture:
        sock = hand_off(pair)
        move(pair, front, new)
        sock.send(request('/fr/128k'))
        served(sock.response(), 'fr', '128k')
        assert (seeks(new), seeks(front), seeks(back)) == (FOUND, {}, MOVED)
        wait_for(lambda: not front.flows(), 'the first one has forgotten it')
        flow, = new.flows()
        assert (flow['state'], flow['node']) == ('handed-off', 'fr')
        assert [it['node'] for it in back.flows()] == ['de']
        move(pair, new, front)
        sock.send(request('/fr/2m'))
        served(sock.response(), 'fr', '2m')
        assert (seeks(front), seeks(back)) == (FOUND, {'handoffs_moved': 2})
        sock.close()
        no_flows(pair)
    unbroken(capture.connection(sock.port))
    gone(back, f'sport = :80 and dport = :{sock.port}')
    # The end was told to who is the front end now.
    assert front.stats()['closed_heard'] == 2
    assert new.stats()['closed_heard'] == 1


def expect_the_rest(pair: Cluster) -> None:
    """An answer goes on while only acknowledgements of the client's come to the new
    front end."""
    with pair.client.capture() as capture:
        sock = hand_off(pair)
        pair['fr'].link.netem(delay=0.05)
        sock.send(request('/fr/2m'))
        move(pair, pair['en'], pair['de'])
        served(sock.response(), 'fr', '2m')
        sock.close()
        no_flows(pair)
    unbroken(capture.connection(sock.port))
    assert seeks(pair['de']) == FOUND


def expect_the_body(pair: Cluster) -> None:
    """A request goes on of which the server has answered nothing yet, so that all that the
    client sends seems to have overtaken its first segment."""
    front, new = pair['en'], pair['de']
    body = bytes(range(256)) * 400
    head = request('/fr/upload/', 'POST', body)
    with pair.client.capture() as capture:
        sock = pair.client.connect(front.vip)
        sock.send(head[:60_000])
        wait_for(lambda: 'fr' in pair.live_flows(), 'it is handed over')
        wait_for(lambda: [flow['state'] for flow in front.flows()] == ['handed-off'],
                 'the front end has heard that')
        move(pair, front, new)
        sock.send(head[60_000:])
        kept(sock.response(), pair['fr'], body)
        sock.close()
        no_flows(pair)
    unbroken(capture.connection(sock.port))
    assert seeks(new) == FOUND
    assert new.stats()['packets_parked'] >= 1


def expect_the_end(pair: Cluster, silent: bool = False) -> None:
    """A connection that nobody has, or says to have, ends, and its client is told."""
    sock = hand_off(pair, 'en')
    move(pair, pair['en'], pair['de'])
    others = [pair[name].link for name in ('en', 'fr') if silent]
    for link in others:
        link.cut()
    sock.send(request('/en/1k'))
    with pytest.raises(SocketError, match='ConnectionResetError'):
        sock.receive()
    assert seeks(pair['de']) == {'seeks_started': 1}
    assert not pair['de'].flows()
    for link in others:
        link.heal()


def expect_many(pair: Cluster) -> None:
    """Many connections move at once, and new ones come."""
    socks = [hand_off(pair) for _ in range(MANY)]
    move(pair, pair['en'], pair['de'])
    for sock in socks:
        sock.send(request('/fr/1k'))
    for sock in socks:
        served(sock.response(), 'fr', '1k')
        sock.close()
    assert seeks(pair['de']) == {'seeks_started': MANY, 'seeks_found': MANY}
    no_flows(pair)
    answers = Load(pair.client, pair['en'].service, ['/fr/1k', '/de/1k'], threads=4, count=40).end()
    assert sum(answers.values()) == 40
