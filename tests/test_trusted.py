# SPDX-License-Identifier: GPL-2.0
"""A node that was heard of a moment ago is given a request at once, with the
question whether it takes it (docs/handoff-protocol.md, "The six steps")."""

import pytest

from checks import no_flows, request, served
from harness.control import ACCEPT, CLOSED, TAKEN, Speaker, reply, wide
from harness.node import Node
from harness.patience import patient
from harness.running import Cluster, wait_for
from harness.sockets import SocketError
from test_elsewhere import ask, rule, times_served

pytestmark = pytest.mark.control


@pytest.fixture
def trusting(fresh: Cluster) -> Cluster:
    """A site whose nodes trust who was heard of in the last minute, and have
    heard of each other."""
    for node in fresh.nodes:
        node.knob('handoff_trust_ms', 60000)
    served(ask(fresh), 'fr', '1k')
    assert fresh['en'].stats()['handoffs_trusted'] == 0
    return fresh


def test_trusted(trusting: Cluster) -> None:
    """All that was heard of; and nobody if nobody is to be."""
    front, client = trusting['en'], trusting.client
    for size in ('empty', '1k', '128k', '2m'):
        served(client.curl.get(trusting.url('en', f'/fr/{size}')), 'fr', size)
    stats = front.stats()
    assert (stats['handoffs_trusted'], stats['handoffs_accepted']) == (4, 5)
    client.run('head -c 300000 /dev/urandom >/tmp/carisma/body')
    answer = client.curl.get(
        trusting.url('en', '/fr/upload/'),
        options='--data-binary @/tmp/carisma/body -H "Content-Type: a/b"')
    assert (answer.status, answer.node) == (200, 'fr')
    sent, kept = (node.run(['sha256sum', path]).out.split()[0] for node, path in (
        (client, '/tmp/carisma/body'),
        (trusting['fr'], answer.headers['x-body'])))
    assert sent == kept
    answers = client.curl.fetch(
        [trusting.url('en', '/fr/1k')] * 30, parallel=30)
    for answer in answers:
        served(answer, 'fr', '1k')
    assert front.stats()['handoffs_trusted'] == 35
    front.knob('handoff_trust_ms', 0)
    served(ask(trusting), 'fr', '1k')
    stats = front.stats()
    assert (stats['handoffs_trusted'], stats['handoffs_accepted']) == (35, 37)
    assert stats['records_bad'] == trusting['fr'].stats()['records_bad'] == 0
    no_flows(trusting)


def test_refused(trusting: Cluster) -> None:
    """What is refused goes elsewhere, as ever."""
    front = trusting['en']
    rule(front, '/fr/', 'fr', 'de')
    trusting['fr'].nginx.stop()
    served(ask(trusting), 'de', '1k')
    rule(front, '/fr/', 'fr')
    served(ask(trusting), 'en', '1k')
    rule(front, '/fr/', 'fr', otherwise='unavailable')
    assert ask(trusting).status == 503
    stats = front.stats()
    assert (stats['handoffs_trusted'], stats['handoffs_rejected']) == (3, 3)
    trusting['fr'].nginx.start()
    no_flows(trusting)


@pytest.mark.long
def test_silent_for_a_while(trusting: Cluster) -> None:
    """What was given to a node is its own: another is not asked meanwhile."""
    rule(trusting['en'], '/fr/', 'fr', 'de')
    before = times_served(trusting, '/fr/128k')
    trusting['fr'].link.cut()
    sock = trusting.client.connect(trusting['en'].vip)
    sock.send(request('/fr/128k'))
    wait_for(lambda: trusting['en'].stats()['handoffs_trusted'] == 1,
             'it is given to the node')
    trusting['fr'].link.heal()
    served(sock.response(), 'fr', '128k')
    sock.close()
    assert sorted(times_served(trusting, '/fr/128k')) == sorted([*before, 'fr'])
    no_flows(trusting)


@pytest.mark.long
def test_dead(trusting: Cluster) -> None:
    """What was given to a node that is gone is in doubt: its client is told
    so, in time. Who comes when the node is known to be down is served."""
    front = trusting['en']
    front.knob('peer_timeout_ms', int(patient(3000)))
    rule(front, '/fr/', 'fr', 'de')
    trusting['fr'].link.cut()
    sock = trusting.client.connect(front.vip)
    sock.send(request('/fr/1k'))
    with pytest.raises(SocketError, match='ConnectionResetError'):
        sock.response()
    assert front.stats()['handoffs_trusted'] == 1
    wait_for(lambda: not trusting.joined(front), 'the peer is known down', 30)
    served(ask(trusting), 'de', '1k')
    trusting['fr'].link.heal()
    wait_for(lambda: trusting.joined(front), 'the peer is back', 30)
    # It has not been heard of since.
    served(ask(trusting), 'fr', '1k')
    assert front.stats()['handoffs_trusted'] == 1
    no_flows(trusting)


def test_what_it_has_missed(fresh: Cluster) -> None:
    """A node is given a request again, which it had taken, and whose connection is over: it says
    both."""
    client, front, back = fresh.client, fresh['en'], fresh['fr']
    front.knob('handoff_trust_ms', 0)
    own = wide(back.address)

    def joined(node: Node) -> Speaker:
        node.ctl('node', 'add', 'aa', client.address, '--remote',
                 '--forward', fresh.spec.forward)
        found = Speaker(client, node, 'aa', fresh.spec.key).join()
        wait_for(lambda: fresh.joined(node), 'it is up')
        return found

    def pass_on(said: bytes) -> bytes:
        # The receiver's own address is the other node's, if it is one's own.
        mine = said[32:48] == wide(client.address)
        behind.send(behind.tagged(said[:32] + (own if mine else said[32:48]) + said[48:]))
        return behind.hear()
    ahead, behind = joined(front), joined(back)
    front.ctl('rule', 'add', front.service, '--path', '/aa/', '--node', 'aa')
    sock = client.connect(front.vip)
    sock.send(request('/aa/1k'))
    asked = ahead.hear()
    assert pass_on(asked)[1] == ACCEPT
    ahead.send(ahead.tagged(reply(ACCEPT, asked, front.vip)))
    data = ahead.hear()
    assert pass_on(data)[1] == TAKEN
    end = back.popen(['sh', '-c', f'sleep 0.5; ss -K "sport = :80 and dport = :{sock.port}"'])
    heard = [TAKEN]
    # It remembers that for a second.
    while heard[-1] in (TAKEN, CLOSED) and heard.count(CLOSED) < 2:
        heard.append(pass_on(data)[1])
    assert heard.count(CLOSED) == 2, heard
    assert end.wait(30) == 0
    ahead.send(ahead.tagged(reply(CLOSED, data, front.vip, bytes(4))))
    no_flows(fresh)
    for peer in (ahead, behind):
        peer.close()


@pytest.mark.long
def test_before_there_is_a_socket(trusting: Cluster) -> None:
    """The back end's TCP does not hear of the connection at first: the request
    waits there, and is not sent again."""
    front, back = trusting['en'], trusting['fr']
    front.ctl('service', 'set', front.service, '--migrate', 'replay')
    back.nft('table inet t { chain c { type filter hook input priority 0; '
             'tcp dport 80 tcp flags & (syn | ack) == syn counter drop; }; }')
    before = back.stats()
    sock = trusting.client.connect(front.vip)
    sock.send(request('/fr/1k'))
    wait_for(lambda: 'packets 0 ' not in back.run(['nft', 'list', 'ruleset']).out,
             'a SYN was dropped')
    assert back.stats()['handoffs_in'] == before['handoffs_in']
    back.nft('')
    served(sock.response(), 'fr', '1k')
    sock.close()
    after = back.stats()
    assert after['handoffs_in'] == before['handoffs_in'] + 1
    # REQ and DATA.
    assert after['records_received'] == before['records_received'] + 2
    assert front.stats()['handoffs_trusted'] == 1
    no_flows(trusting)
