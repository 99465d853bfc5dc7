# SPDX-License-Identifier: GPL-2.0
"""The same cluster with a kernel of its own for every host."""

import itertools
from typing import Iterator

import pytest

from checks import bypassed, gone, no_flows, request, served, unbroken
from conftest import Lab
from harness.running import Cluster, wait_for

LANGUAGES = ('en', 'fr', 'de')
CLOSE = '-H "Connection: close"'


@pytest.fixture
def guests(lab: Lab) -> Iterator[Cluster]:
    """Four guests: three nodes and a client."""
    cluster = lab.guests()
    cluster.start_servers()
    lab.enable(cluster)
    return cluster


@pytest.mark.long
def test_cluster_of_guests(guests: Cluster) -> None:
    """The life of a cluster: requests, a bad link, a death, a reload."""
    requests_are_answered(guests)
    wires_are_clean(guests)
    bad_link_is_survived(guests)
    module_is_missed_and_comes_back(guests)
    death_is_noticed(guests)


def requests_are_answered(guests: Cluster) -> None:
    """From every node to every other, all at once."""
    pairs = list(itertools.product(LANGUAGES, LANGUAGES, ('1k', '128k')))
    answers = guests.client.curl.fetch(
        [guests.url(front, f'/{back}/{name}')
         for front, back, name in pairs], parallel=9, options=CLOSE)
    for (_, back, name), answer in zip(pairs, answers):
        served(answer, back, name)


def wires_are_clean(guests: Cluster) -> None:
    """With real checksums, and no response byte at the front end."""
    with guests['en'].capture() as front, guests.client.capture() as client:
        answers = guests.client.curl.fetch(
            [guests.url('en', f'/fr/{name}')
             for name in ('1k', '20m', '128k')])
    for answer, name in zip(answers, ('1k', '20m', '128k')):
        served(answer, 'fr', name)
    bypassed(front, answers[0].port)
    # A guest that does not keep up loses frames.
    unbroken(client.connection(answers[0].port), lossy=True)
    for host in guests.hosts.values():
        assert not any(host.counter('TcpInCsumErrors').values())
    for node in guests.nodes:
        gone(node, 'sport = :80')
    no_flows(guests)


def bad_link_is_survived(guests: Cluster) -> None:
    """Loss and delay between the client and everything."""
    guests.client.link.netem(loss=0.03, delay=0.01)
    answer = guests.client.curl.get(guests.url('en', '/fr/128k'))
    guests.client.link.heal()
    served(answer, 'fr', '128k')


def module_is_missed_and_comes_back(guests: Cluster) -> None:
    """One node unloads: its pages are served elsewhere meanwhile."""
    node, front = guests['fr'], guests['en']
    node.ctl('drain', '--force')
    node.kernel.unload()
    wait_for(lambda: not guests.joined(front), 'the loss is known', 30)
    served(guests.client.curl.get(guests.url('en', '/fr/1k')), 'en', '1k')
    served(guests.client.curl.get(guests.url('fr', '/de/1k')), 'fr', '1k')
    node.load_modules()
    node.configure()
    wait_for(lambda: guests.joined(front), 'the peer is back', 30)
    served(guests.client.curl.get(guests.url('en', '/fr/1k')), 'fr', '1k')


def death_is_noticed(guests: Cluster) -> None:
    """A node loses its power with a connection handed off to it."""
    guests['en'].knob('peer_timeout_ms', 2000)
    sock = guests.client.connect(guests['en'].vip)
    sock.send(request('/de/1k'))
    served(sock.response(), 'de', '1k')
    guests['de'].kill()
    no_flows(guests, timeout=30)
    served(guests.client.curl.get(guests.url('en', '/de/1k')), 'en', '1k')
