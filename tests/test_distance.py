# SPDX-License-Identifier: GPL-2.0
"""Clients that are far away, on links that lose packets: a back end's TCP, which
has not seen the handshake, sends nothing that is not needed, and what is lost once
more. What there is to be known is in the captures of both ends of the way."""

import collections
import dataclasses
import re
from typing import Counter, Dict, Iterator, Tuple

import pytest

from checks import no_flows, request, served, unbroken
from conftest import Lab
from harness.namespaces import SWITCH
from harness.patience import Patience
from harness.running import Cluster
from harness.sockets import Socket
from harness.trace import Connection, distance
from test_adopt import migration

MODES = ('rare', 'frequent', 'always')
MIGRATIONS = {'adopt': 'adopted', 'replay': 'replay'}
MSS = 1448
FIRST_FLIGHT = 10       # segments (RFC 6928)

# One of a hundred packets to the client, counted from the SYN-ACK on, is lost behind
# the switch; so none of the handshake's, and one of the answer's.
LOSS = '''
table netdev weather {
    chain out {
        type filter hook egress device "p-client" priority 0;
        tcp sport 80 numgen inc mod 100 == 40 drop
    }
}
'''

Segments = Counter[Tuple[int, int]]


@pytest.fixture
def far(lab: Lab) -> Iterator[Cluster]:
    """A site whose nodes send no more than a segment at a time, and remember nothing
    of clients."""
    site = lab.site(dataclasses.replace(lab.spec, forward='direct'))
    lab.enable(site)
    for node in site.nodes:
        node.offload(tso=False, gso=False)
        node.sysctl('net.ipv4.tcp_no_metrics_save', '1')
        node.run('ip tcp_metrics flush')
    yield site
    for node in site.nodes:
        node.offload(tso=True, gso=True)


def weather(cluster: Cluster, rules: str) -> None:
    """Replace what the switch does to packets."""
    cluster.kernels[0].guest.run(['ip', 'netns', 'exec', SWITCH, 'nft', '-f', '-'],
                                 input=f'flush ruleset\n{rules}\n')


def offer(cluster: Cluster, mode: str, migrate: str) -> None:
    """Have en's service in a mode, on all nodes that have it."""
    service = cluster['en'].service
    for node in cluster.nodes:
        if service in node.offered(cluster.spec.port):
            node.ctl('service', 'set', service, '--mode', mode, '--migrate', migrate)


def state(cluster: Cluster, sock: Socket) -> Dict[str, float]:
    """What the back end's TCP believes of the way to the client."""
    told = cluster['fr'].run(f'ss -Htin dport = :{sock.port}').out
    found = {name: float(value) for name, value in re.findall(
        r'\b(rto|rtt|cwnd|mss):([\d.]+)', told)}
    again = re.search(r'\bretrans:\d+/(\d+)', told)
    return {**found, 'retrans': int(again[1]) if again else 0}


def segments(connection: Connection) -> Segments:
    """How often each segment of the answer passed."""
    return collections.Counter((s.seq, s.length) for s in connection.of_server() if s.length)


def first_flight(sent: Connection) -> int:
    """How many segments had been sent when the client first acknowledged one."""
    first = next(s for s in sent.of_server() if s.length)
    count = 0
    for s in sent.segments:
        if s.source == sent.client and distance(s.ack, first.seq) > 0:
            return count
        count += s.source == sent.server and s.length > 0
    raise AssertionError('it was never acknowledged')


def exchange(cluster: Cluster, wanted: str) -> Tuple[int, Dict[str, float]]:
    """An answer over the way as it is: the client's port, and what TCP has learnt."""
    sock = cluster.client.connect(cluster['en'].vip)
    sock.send(request('/fr/128k'))
    served(sock.response(), 'fr', '128k')
    assert migration(cluster['fr'], sock) == wanted
    found = state(cluster, sock)
    sock.close()
    return sock.port, found


def judge(got: Connection, sent: Connection, found: Dict[str, float], rtt: float,
          lossy: bool) -> None:
    """Whether that is as it should be, by what came and what was sent."""
    unbroken(got, lossy=lossy)
    times, arrived = segments(sent), segments(got)
    lost = times - arrived
    again = collections.Counter({s: count - 1 for s, count in times.items() if count > 1})
    assert sum(lost.values()) == lossy, lost
    # Where all takes its time, as on the debug kernel, a tail loss probe may be early.
    spare = Patience.factor > 1
    assert not lost - again and sum((again - lost).values()) <= spare, (lost, again)
    assert first_flight(sent) == FIRST_FLIGHT
    assert rtt <= found['rtt'] < 2 * rtt + 100, found
    # It is at least 200 ms more than the round trip (TCP_RTO_MIN), and three of these
    # when there was but one.
    assert found['rtt'] + 200 <= found['rto'] < 3 * found['rtt'] + 400, found
    assert found['mss'] == MSS, found
    # Reduced by a third if something was lost, and no more: it was seen by
    # acknowledgements, not by a time-out.
    assert found['cwnd'] >= 7 if lossy else found['cwnd'] > FIRST_FLIGHT, found
    assert found['retrans'] == sum(again.values()), found


@pytest.mark.long
@pytest.mark.parametrize('rtt', (50, 200))
@pytest.mark.parametrize('mode', MODES)
def test_far(far: Cluster, mode: str, rtt: int) -> None:
    """Whichever way a connection enters TCP, with no loss and with 1 %."""
    far.client.link.netem(delay=rtt / 2000)
    done = []
    with far['fr'].capture() as behind, far.client.capture() as ahead:
        for migrate, wanted in MIGRATIONS.items():
            offer(far, mode, migrate)
            for lossy in (False, True):
                weather(far, LOSS if lossy else '')
                done.append((*exchange(far, wanted), lossy))
        no_flows(far)
    weather(far, '')
    offer(far, 'rare', 'adopt')
    for port, found, lossy in done:
        judge(ahead.connection(port), behind.connection(port), found, rtt, lossy)
