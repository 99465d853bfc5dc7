# SPDX-License-Identifier: GPL-2.0
"""Requests: who answers, and whether the answer is the right one."""

import itertools

import pytest

from checks import gone, kept, no_flows, request, served, sha256, some_long
from conftest import Lab
from harness.inside.documents import SIZES
from harness.running import Cluster

LANGUAGES = ('en', 'fr', 'de')
CLOSE = '-H "Connection: close"'


def test_every_node_hands_off_to_every_other(cluster: Cluster) -> None:
    """A client may come to any node with any URL."""
    pairs = list(itertools.product(LANGUAGES, LANGUAGES))
    answers = cluster.client.curl.fetch(
        [cluster.url(front, f'/{back}/1k') for front, back in pairs],
        options=CLOSE)
    for (_, back), answer in zip(pairs, answers):
        served(answer, back, '1k')
    no_flows(cluster)


@pytest.mark.parametrize('size', SIZES)
def test_bodies(cluster: Cluster, size: str) -> None:
    """Bodies of all sizes arrive whole, from here and from there."""
    for language in ('en', 'fr'):
        served(cluster.client.curl.get(
            cluster.url('en', f'/{language}/{size}')), language, size)


@pytest.mark.parametrize('language', ('en', 'fr'))
def test_keep_alive(cluster: Cluster, language: str) -> None:
    """Several requests on one connection, local or handed off."""
    answers = cluster.client.curl.fetch(
        [cluster.url('en', f'/{language}/{size}')
         for size in ('1k', 'empty', '128k', '1k', '128k')])
    for answer, size in zip(answers, ('1k', 'empty', '128k', '1k', '128k')):
        served(answer, language, size)
    assert len({answer.port for answer in answers}) == 1, 'reconnected'
    counts = [line.count for line in cluster[language].nginx.log()
              if line.port == answers[0].port]
    assert counts[-5:] == [1, 2, 3, 4, 5]


def test_handed_off_connection_stays(cluster: Cluster) -> None:
    """In rare mode the first request decides for its connection."""
    answers = cluster.client.curl.fetch(
        [cluster.url('en', f'/{language}/1k') for language in LANGUAGES[1:]])
    for answer in answers:
        served(answer, 'fr', '1k')


def test_pipelined_requests(cluster: Cluster) -> None:
    """What follows the first head in its segment goes with it."""
    for language in ('en', 'fr'):
        sock = cluster.client.connect(cluster['en'].vip)
        sock.send(request(f'/{language}/1k') + request(f'/{language}/128k'))
        served(sock.response(), language, '1k')
        served(sock.response(), language, '128k')
        sock.close()


def test_fifty_at_once(cluster: Cluster) -> None:
    """Local and handed-off connections side by side."""
    wanted = list(itertools.islice(itertools.cycle(
        itertools.product(LANGUAGES, ('1k', '128k', 'empty'))), 50))
    answers = cluster.client.curl.fetch(
        [cluster.url('en', f'/{language}/{size}')
         for language, size in wanted], parallel=50, options=CLOSE)
    for answer, (language, size) in zip(answers, wanted):
        served(answer, language, size)
    assert len({answer.port for answer in answers}) == 50
    for node in cluster.nodes:
        gone(node, 'sport = :80')
    no_flows(cluster)


@pytest.mark.parametrize('size', some_long((10, 300_000, 2_000_000), 10, 2_000_000))
@pytest.mark.parametrize('language', ('en', 'fr'))
def test_post(cluster: Cluster, language: str, size: int) -> None:
    """A request's body arrives whole; curl asks `100-continue` for a long
    one first."""
    body = '/tmp/carisma/body'
    client = cluster.client
    client.run(f'head -c {size} /dev/urandom >{body}')
    answer = client.curl.get(
        cluster.url('en', f'/{language}/upload/'),
        options=f'--data-binary @{body}')
    assert (answer.status, answer.node) == (200, language), answer
    there = answer.headers['x-body']
    sums = [host.run(['sha256sum', path]).out.split()[0]
            for host, path in ((client, body), (cluster[language], there))]
    assert sums[0] == sums[1], 'another body arrived'


def test_log_has_the_clients_address(cluster: Cluster) -> None:
    """The server behind a handoff sees who really asks."""
    answer = cluster.client.curl.get(cluster.url('en', '/fr/1k'))
    served(answer, 'fr', '1k')
    line = cluster['fr'].nginx.log()[-1]
    assert (line.client, line.port) == (
        cluster.client.address, answer.port)
    assert not any(line.port == answer.port and '/fr/' in line.request
                   for line in cluster['en'].nginx.log()), (
        'the front end served it as well')


def test_head_method(cluster: Cluster) -> None:
    """Other methods are routed alike."""
    for language in ('en', 'fr'):
        sock = cluster.client.connect(cluster['en'].vip)
        sock.send(request(f'/{language}/128k', method='HEAD'))
        answer = sock.response(head=True)
        assert (answer.status, answer.node) == (200, language)
        sock.close()


def test_no_rule_means_local(cluster: Cluster) -> None:
    """What no rule names is served where it arrives."""
    for node in ('en', 'fr'):
        served(cluster.client.curl.get(cluster.url(node, '/it/1k')),
               node, '1k')


def test_error_of_the_other_server(cluster: Cluster) -> None:
    """The other server's refusal comes through like any answer."""
    answer = cluster.client.curl.get(cluster.url('en', '/fr/missing'))
    assert (answer.status, answer.node) == (404, 'fr')


def test_rules_by_host(cluster: Cluster) -> None:
    """A host's rule goes before one for any host, and can be deleted."""
    front = cluster['en']
    client = cluster.client
    url = cluster.url('en', '/fr/1k')
    front.ctl('rule', 'add', front.service, '--host', 'de.example',
              '--path', '/', '--node', 'de')
    for host, node in (('de.example', 'de'), ('DE.Example:80', 'de'),
                       ('fr.example', 'fr')):
        served(client.curl.get(url, options=f'-H "Host: {host}"'), node, '1k')
    front.ctl('rule', 'del', front.service, '--host', 'de.example',
              '--path', '/')
    served(client.curl.get(url, options='-H "Host: de.example"'), 'fr', '1k')


def test_servers_that_start_after_the_modules(
        bare: Cluster, lab: Lab) -> None:
    """Listeners are found whether they are old or new."""
    lab.enable(bare)
    bare.start_servers()
    for language in ('en', 'fr'):
        served(bare.client.curl.get(
            bare.url('en', f'/{language}/1k')), language, '1k')
    bare['fr'].nginx.stop()
    bare['fr'].nginx.start()
    served(bare.client.curl.get(bare.url('en', '/fr/1k')), 'fr', '1k')


@pytest.mark.long
def test_namespaces_do_not_know_each_other(cluster: Cluster) -> None:
    """All state belongs to a network namespace."""
    everywhere = cluster.spec.unchanged   # each has all services
    seen = {node.name: str(node.ask('service', 'list'))
            for node in cluster.nodes}
    for node in cluster.nodes:
        for other in cluster.nodes:
            assert (other.vip in seen[node.name]) == (
                everywhere or other is node)
    assert not cluster.client.ask('service', 'list')
    assert not cluster.client.ask('node', 'list')
    # What lingers after other tests.
    known = {flow['id'] for flow in cluster['de'].flows()}
    served(cluster.client.curl.get(cluster.url('en', '/fr/1k')), 'fr', '1k')
    assert {flow['id'] for flow in cluster['de'].flows()} <= known


def test_big_upload_by_hash(cluster: Cluster) -> None:
    """Bytes sent piecemeal on a handed-off connection keep their order."""
    body = bytes(range(256)) * 128
    sock = cluster.client.connect(cluster['en'].vip)
    sock.send(request('/fr/upload/', 'POST', body), chunk=1000, delay=0.005)
    kept(sock.response(), cluster['fr'], body)


def test_documents_differ() -> None:
    """The hashes can tell who answered."""
    sums = {sha256(node, '1k') for node in LANGUAGES}
    assert len(sums) == len(LANGUAGES)
