# SPDX-License-Identifier: GPL-2.0
"""Bad links, missing peers, strict packet filters."""

import time

import pytest

from checks import KEPT_OUT, hand_off, no_flows, request, served, some_long, unbroken
from conftest import Lab
from harness.control import ACCEPT, CHECK, CLOSED, DATA, REQ, TAKEN, Speaker, reply
from harness.load import Load
from harness.patience import patient
from harness.running import Cluster, wait_for
from harness.sockets import SocketError

# What is lost with a node that was given it at once is test_trusted's.
pytestmark = pytest.mark.wary
CLOSE = '-H "Connection: close"'
STRICT = '''
table inet strict {
    chain in { type filter hook input priority 0; ct state invalid drop; }
    chain out { type filter hook output priority 0; ct state invalid drop; }
    chain on { type filter hook forward priority 0; ct state invalid drop; }
}
'''
CONTROL = '''
table inet cut {
    chain in { type filter hook input priority 0; tcp sport 7480 drop; tcp dport 7480 drop; }
}
'''


@pytest.mark.parametrize('weather', some_long((
    {'loss': 0.05}, {'delay': 0.05}, {'loss': 0.02, 'delay': 0.02},
    {'delay': 0.01, 'jitter': 0.01},
), {'loss': 0.05}), ids=('loss', 'delay', 'both', 'reordering'))
def test_clients_link(cluster: Cluster, weather) -> None:
    """Downloads and uploads over a bad link end, with the right bytes."""
    client = cluster.client
    client.run('head -c 300000 /dev/urandom >/tmp/carisma/body')
    client.link.netem(**weather)
    with client.capture() as capture:
        answers = client.curl.fetch(
            [cluster.url('en', f'/{language}/128k')
             for language in ('en', 'fr', 'de')], options=CLOSE)
        posted = client.curl.get(
            cluster.url('en', '/fr/upload/'),
            options=f'{CLOSE} --data-binary @/tmp/carisma/body')
    for answer, language in zip(answers, ('en', 'fr', 'de')):
        served(answer, language, '128k')
    assert (posted.status, posted.node) == (200, 'fr')
    for connection in capture.connections():
        unbroken(connection, lossy=True)


def test_lossy_links_of_the_nodes(cluster: Cluster) -> None:
    """Loss between the nodes delays a handoff, no more."""
    for node in cluster.nodes:
        node.link.netem(loss=0.03)
    answers = cluster.client.curl.fetch(
        [cluster.url('en', '/fr/1k')] * 20, options=CLOSE)
    for answer in answers:
        served(answer, answer.node, '1k')
    assert sum(answer.node == 'fr' for answer in answers) >= 15


@pytest.mark.control
def test_peer_without_carisma(bare: Cluster, lab: Lab) -> None:
    """A node that nobody configured is not waited for."""
    bare.start_servers()
    if not lab.plain:
        bare.load()
        for name in ('en', 'de'):
            bare[name].configure()
        wait_for(lambda: {other['name']: other['state'] for other in
                          bare['en'].ask('node', 'list')} == {
                              'en': 'self', 'fr': 'down', 'de': 'up'},
                 'en and de know each other')
    for language, node in (('fr', 'en'), ('de', 'de'), ('en', 'en')):
        answer = bare.client.curl.get(bare.url('en', f'/{language}/1k'))
        served(answer, node, '1k')
        assert answer.time < patient(1)
    assert bare['en'].stats()['requests_local_peer_down'] == 1


@pytest.mark.control
@pytest.mark.long
def test_control_connection_is_cut(fresh: Cluster) -> None:
    """Until the loss is noticed each request waits a little, then it is
    served here; when the link is back, it is handed off again."""
    front, client = fresh['en'], fresh.client
    front.knob('handoff_timeout_ms', int(patient(1000)))
    url = fresh.url('en', '/de/1k')
    served(client.curl.get(url), 'de', '1k')
    fresh['de'].link.cut()
    answer = client.curl.get(url)
    served(answer, 'en', '1k')
    assert answer.time < patient(5)
    assert front.stats()['handoffs_timed_out'] == 1
    wait_for(lambda: not fresh.joined(front), 'the peer is known down', 30)
    answer = client.curl.get(url)
    served(answer, 'en', '1k')
    assert answer.time < patient(1)
    # The others go on meanwhile.
    served(client.curl.get(fresh.url('en', '/fr/1k')), 'fr', '1k')
    fresh['de'].link.heal()
    wait_for(lambda: fresh.joined(front), 'the peer is back', 30)
    served(client.curl.get(url), 'de', '1k')


@pytest.mark.long
def test_peer_without_a_server(fresh: Cluster) -> None:
    """The peer's refusal is known at once; the request is served here."""
    fresh['fr'].nginx.stop()
    try:
        answer = fresh.client.curl.get(fresh.url('en', '/fr/1k'))
    finally:
        fresh['fr'].nginx.start()
    served(answer, 'en', '1k')
    assert answer.time < patient(1)
    assert fresh['en'].stats()['handoffs_rejected'] == 1
    served(fresh.client.curl.get(fresh.url('en', '/fr/1k')), 'fr', '1k')


@pytest.mark.long
def test_connection_tracking(bare: Cluster, lab: Lab) -> None:
    """conntrack sees one consistent connection on either node. What a front end in
    always mode would serve itself is none to its own: it has not seen it begin."""
    languages = ('fr',) if bare.spec.mode == 'always' else ('en', 'fr')
    asked = [(language, name) for language in languages for name in ('1k', '20m')]
    for name in ('en', 'fr'):
        bare[name].nft(STRICT)
    bare.start_servers()
    lab.enable(bare)
    bare.client.run('head -c 100000 /dev/urandom >/tmp/carisma/body')
    with bare.client.capture() as capture:
        answers = bare.client.curl.fetch(
            [bare.url('en', f'/{language}/{name}') for language, name in asked],
            options=CLOSE)
        kept = bare.client.curl.fetch([bare.url('en', '/fr/1k')] * 3)
        posted = bare.client.curl.get(
            bare.url('en', '/fr/upload/'),
            options='--data-binary @/tmp/carisma/body')
    for answer, (language, name) in zip(answers, asked):
        served(answer, language, name)
    for answer in kept:
        served(answer, 'fr', '1k')
    assert (posted.status, posted.node) == (200, 'fr')
    for connection in capture.connections():
        unbroken(connection)


def test_back_end_dies(bare: Cluster, lab: Lab) -> None:
    """What a node served that is out of reach for so long ends with a
    reset, although the client sends nothing; new requests are served without
    it."""
    bare.start_servers()
    lab.enable(bare)
    bare['en'].knob('peer_timeout_ms', 2000)
    sock = hand_off(bare, 'de')
    # Of what this one got the front end sees no acknowledgement: the number that
    # it names is one that the client has left behind, and does not believe.
    unsure = bare.client.connect(bare['en'].vip)
    bare.client.nft('table inet t { chain c { type filter hook output '
                    'priority 0; tcp dport 80 tcp flags == ack drop; }; }')
    unsure.send(request('/de/1k'))
    served(unsure.response(), 'de', '1k')
    # What dies takes its time for it here, when nothing is heard of it any more.
    bare['de'].link.cut()
    bare.client.nft('')
    bare['de'].kill()
    no_flows(bare, timeout=30)
    for lost in (sock, unsure):
        with pytest.raises(SocketError, match='ConnectionResetError'):
            lost.receive()
    # In always mode that is known sooner of a connection than of the node.
    wait_for(lambda: not bare.joined(bare['en']), 'the node is known to be down', 30)
    served(bare.client.curl.get(bare.url('en', '/de/1k')), 'en', '1k')
    bare.unload()


def test_front_end_dies(bare: Cluster, lab: Lab) -> None:
    """A back end does not keep what can hear nothing any more."""
    bare.start_servers()
    lab.enable(bare)
    hand_off(bare, 'de')
    bare['en'].kill()
    served(bare.client.curl.get(bare.url('fr', '/de/1k')), 'de', '1k')


@pytest.mark.long
def test_impatient_back_end(fresh: Cluster) -> None:
    """How long a back end waits for the commitment does not depend on its own
    time-out alone: what it has offered is not gone when that comes."""
    fresh['de'].knob('handoff_timeout_ms', 10)
    fresh['de'].link.netem(delay=0.1)
    answers = fresh.client.curl.fetch(
        [fresh.url('en', '/de/1k')] * 5, options=CLOSE)
    for answer in answers:
        served(answer, 'de', '1k')


@pytest.mark.control
@pytest.mark.long
def test_end_while_control_connection_is_down(fresh: Cluster) -> None:
    """A connection may end while nobody can tell its front end; that asks
    when it can. Those that have not ended go on."""
    front, back = fresh['en'], fresh['de']
    socks = [fresh.client.connect(front.vip) for _ in range(3)]
    for sock in socks:
        sock.send(request('/de/1k'))
        served(sock.response(), 'de', '1k')
    back.nft(CONTROL)
    front.run('ss -K dport = :7480 or sport = :7480 >/dev/null')
    wait_for(lambda: not fresh.joined(front) and not fresh.joined(back),
             'the control connection is down', 30)
    for sock in socks[:2]:
        sock.close()
    wait_for(lambda: len(fresh.live_flows()['de']) == 1, 'two have ended')
    assert len(fresh.live_flows()['en']) == 3
    back.nft('')
    wait_for(lambda: fresh.joined(front), 'the peer is back', 30)
    wait_for(lambda: len(fresh.live_flows()['en']) == 1, 'the front end knows')
    # It is not asked again of the one that goes on.
    time.sleep(patient(1))
    sent = front.stats()['records_sent']
    time.sleep(patient(2.5))
    assert front.stats()['records_sent'] == sent
    socks[2].send(request('/de/128k'))
    served(socks[2].response(), 'de', '128k')
    socks[2].close()
    no_flows(fresh)


@pytest.mark.control
def test_front_end_asks_until_it_is_answered(fresh: Cluster) -> None:
    """A back end may have no room for the answer: it is asked again. What it has
    not answered when it is out of reach again stays for as long as that may be."""
    front, client = fresh['en'], fresh.client
    front.knob('peer_timeout_ms', int(patient(4000)))
    front.ctl('node', 'add', 'aa', client.address, '--remote')
    front.ctl('rule', 'add', front.service, '--path', '/aa/', '--node', 'aa')

    def joined() -> Speaker:
        found = Speaker(client, front, 'aa', fresh.spec.key).join()
        wait_for(lambda: fresh.joined(front), 'it is up')
        return found

    def heard(kind: int) -> bytes:
        said = peer.hear()
        assert said[1] == kind
        return said
    peer = joined()
    sock = client.connect(front.vip)
    sock.send(request('/aa/1k'))
    peer.send(peer.tagged(reply(ACCEPT, heard(REQ), front.vip)))
    peer.send(peer.tagged(reply(TAKEN, heard(DATA), front.vip)))
    wait_for(lambda: [flow['state'] for flow in front.flows()] == ['handed-off'],
             'it is handed off')
    for _ in range(2):
        peer.close()
        wait_for(lambda: not fresh.joined(front), 'it is down')
        peer = joined()
        heard(CHECK)
        check = heard(CHECK)
    peer.close()
    wait_for(lambda: not fresh.joined(front), 'it is down')
    time.sleep(patient(2.5))
    assert [flow['state'] for flow in front.flows()] == ['handed-off']
    peer = joined()
    heard(CHECK)
    peer.send(peer.tagged(reply(CLOSED, check, front.vip, bytes(4))))
    no_flows(fresh)
    assert front.stats()['closed_heard'] == 1
    peer.close()


@pytest.mark.control
def test_closed_is_all_it_hears(fresh: Cluster) -> None:
    """That a connection is closed says that it was taken, too, of which the record may be lost."""
    front, client = fresh['en'], fresh.client
    front.ctl('node', 'add', 'aa', client.address, '--remote')
    front.ctl('rule', 'add', front.service, '--path', '/aa/', '--node', 'aa')
    peer = Speaker(client, front, 'aa', fresh.spec.key).join()
    wait_for(lambda: fresh.joined(front), 'it is up')
    client.connect(front.vip).send(request('/aa/1k'))
    asked = peer.hear()
    assert asked[1] == REQ
    peer.send(peer.tagged(reply(ACCEPT, asked, front.vip)))
    data = peer.hear()
    assert data[1] == DATA
    peer.send(peer.tagged(reply(CLOSED, data, front.vip, bytes(4))))
    no_flows(fresh)
    stats = front.stats()
    assert stats['handoffs_accepted'] == stats['closed_heard'] == 1
    assert stats['records_bad'] == 0
    peer.close()


@pytest.mark.control
@pytest.mark.long
@pytest.mark.parametrize('held', (False, True), ids=('served', 'held'))
def test_front_end_comes_back_anew(bare: Cluster, lab: Lab, held: bool) -> None:
    """What a front end has handed over and knows nothing of any more ends at
    the back end, if its client says nothing for as long as a node may be away;
    also what TCP there gets only when the front end is back."""
    bare.start_servers()
    lab.enable(bare)
    front, back = bare['en'], bare['de']
    back.knob('peer_timeout_ms', int(patient(2000)))
    if held:
        back.nft(KEPT_OUT)
        bare.client.connect(front.vip).send(request('/de/upload/', 'POST', bytes(500))[:-1])
        wait_for(lambda: [flow['state'] for flow in front.flows()] == ['handed-off'],
                 'it is handed over')
    else:
        hand_off(bare, 'de')
    front.kill()
    assert bare.live_flows()
    bare.revive(front)
    front.configure()
    wait_for(lambda: bare.joined(front), 'the node is back', 30)
    back.nft('')
    no_flows(bare)
    assert back.stats()['flows_reset'] == 1
    front.nginx.start()
    served(bare.client.curl.get(bare.url('en', '/de/1k')), 'de', '1k')


@pytest.mark.long
def test_server_dies_again_and_again(cluster: Cluster) -> None:
    """Whatever a server's end meets, at any step of a handoff: nothing of the
    connection stays at either node."""
    back = cluster['de']
    load = Load(cluster.client, cluster['en'].service, ['/de/1k'], threads=12,
                ways=('server', 'client'))
    try:
        for _ in range(20):
            wait_for(lambda: back.flows(), 'something is handed off')
            back.nginx.crash()
            back.nginx.start()
    finally:
        load.end()
    no_flows(cluster, timeout=30)
