# SPDX-License-Identifier: GPL-2.0
"""The head of a request may come in any shape."""

import time

import pytest

from checks import KEPT_OUT, gone, kept, no_flows, request, served, some_long
from harness.inside.documents import document
from harness.running import Cluster, wait_for
from harness.sockets import Socket

BOTH = pytest.mark.parametrize('language', ('en', 'fr'))


@BOTH
@pytest.mark.parametrize('chunk', some_long((1, 7), 1))
def test_small_pieces(cluster: Cluster, language: str, chunk: int) -> None:
    """A head in pieces, down to a byte a segment."""
    sock = cluster.client.connect(cluster['en'].vip)
    sock.send(request(f'/{language}/1k'), chunk=chunk, delay=0.002)
    served(sock.response(), language, '1k')
    sock.close()


@BOTH
@pytest.mark.parametrize('cut', some_long((2, 6, 12, -5, -4, -3, -2, -1), 6, -1))
def test_two_segments(cluster: Cluster, language: str, cut: int) -> None:
    """A head whose second half comes later, cut at the awkward places."""
    raw = request(f'/{language}/1k')
    sock = cluster.client.connect(cluster['en'].vip)
    sock.send(raw[:cut], delay=0.1)
    sock.send(raw[cut:])
    served(sock.response(), language, '1k')
    sock.close()


@BOTH
def test_long_head(cluster: Cluster, language: str) -> None:
    """Several segments' worth of cookies."""
    sock = cluster.client.connect(cluster['en'].vip)
    sock.send(request(f'/{language}/1k', Cookie='c' * 6000))
    served(sock.response(), language, '1k')
    sock.close()


@BOTH
def test_body_with_the_head(cluster: Cluster, language: str) -> None:
    """A body that begins in the head's last segment."""
    body = b'0123456789' * 500
    sock = cluster.client.connect(cluster['en'].vip)
    sock.send(request(f'/{language}/upload/', 'POST', body))
    kept(sock.response(), cluster[language], body)
    sock.close()


@BOTH
def test_pieces_out_of_order(cluster: Cluster, language: str) -> None:
    """Pieces that overtake each other on the way."""
    cluster.client.link.netem(delay=0.02, jitter=0.02, directions=('from',))
    sock = cluster.client.connect(cluster['en'].vip)
    sock.send(request(f'/{language}/1k'), chunk=5, delay=0.002)
    served(sock.response(), language, '1k')
    sock.close()


@BOTH
def test_pieces_sent_again(cluster: Cluster, language: str) -> None:
    """A client that hears no acknowledgement sends pieces again, put
    together anew: they overlap what came first."""
    raw = request(f'/{language}/1k')
    sock = cluster.client.connect(cluster['en'].vip)
    cluster.client.nft('table inet t { chain c { '
                       'type filter hook input priority 0; '
                       'tcp sport 80 drop; }; }')
    sock.send(raw[:10], delay=0.3)
    sock.send(raw[10:20], delay=0.3)
    sock.send(raw[20:-2], delay=0.8)
    cluster.client.nft('')
    sock.send(raw[-2:])
    served(sock.response(), language, '1k')
    sock.close()


@BOTH
def test_handshake_ends_with_the_head(cluster: Cluster, language: str
                                      ) -> None:
    """The handshake's last ACK is lost; the first data stands in for it."""
    client = cluster.client
    client.nft('table inet t { chain c { type filter hook output priority 0; '
               'tcp dport 80 tcp flags == ack meta length < 80 drop; }; }')
    sock = client.connect(cluster['en'].vip)
    sock.send(request(f'/{language}/1k'))
    client.nft('')
    served(sock.response(), language, '1k')
    sock.close()


@BOTH
def test_silence_before_the_head(cluster: Cluster, language: str) -> None:
    """Browsers connect before they have anything to ask."""
    sock = cluster.client.connect(cluster['en'].vip)
    cluster.client.run('sleep 1')
    assert cluster['en'].stats()['withheld'] == 1
    sock.send(request(f'/{language}/1k'))
    served(sock.response(), language, '1k')
    sock.close()


@BOTH
def test_half_closed_by_the_client(cluster: Cluster, language: str) -> None:
    """A client may say that this was its last request. The answer is short:
    nginx stops in the middle of one that does not fit its socket's buffer
    when it sees the FIN, with us or without."""
    for pause in (0, 0.2):
        sock = cluster.client.connect(cluster['en'].vip)
        sock.send(request(f'/{language}/1k'), delay=pause)
        sock.shutdown()
        served(sock.response(), language, '1k')
        assert sock.receive().size == 0
        sock.close()


@BOTH
@pytest.mark.long
def test_server_hears_later(fresh: Cluster, language: str) -> None:
    """What the front end has acknowledged, the client does not send again:
    the server gets it even if all is kept from its TCP for a while."""
    node, raw = fresh[language], request(f'/{language}/1k')
    sock = fresh.client.connect(fresh['en'].vip)
    sock.send(raw[:10], delay=0.3)
    node.nft(KEPT_OUT)
    sock.send(raw[10:], delay=0.5)
    node.nft('')
    served(sock.response(), language, '1k')
    sock.close()
    if fresh.spec.mode == 'always' and language != 'en':
        # The front end repeats it to the back end.
        assert fresh['en'].stats()['packets_forwarded'] > 1
    else:
        assert node.stats()['held_repeated'] > 0
    no_flows(fresh)


@pytest.mark.control
def test_server_that_waits_hears_once(fresh: Cluster) -> None:
    """What TCP has at last it is not given again, while the server waits for more."""
    node = fresh['fr']
    raw = request('/fr/upload/', 'POST', bytes(500))
    sock = fresh.client.connect(fresh['en'].vip)
    node.nft(KEPT_OUT)
    sock.send(raw[:-1], delay=0.5)
    node.nft('')
    time.sleep(0.5)
    repeated = node.stats()['held_repeated']
    assert repeated > 0
    time.sleep(1)
    assert node.stats()['held_repeated'] == repeated
    sock.send(raw[-1:])
    assert sock.response().node == 'fr'
    sock.close()
    no_flows(fresh)


def test_absolute_target(cluster: Cluster) -> None:
    """The path of an absolute target counts."""
    sock = cluster.client.connect(cluster['en'].vip)
    sock.send(request('http://www.example/fr/1k'))
    served(sock.response(), 'fr', '1k')
    sock.close()


def test_no_http(fresh: Cluster) -> None:
    """What is not a request is left to the server that it came to."""
    for raw, answer in (
            (b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03', b'400 Bad'),
            (b'hello\r\n\r\n', b'400 Bad'),
            (b'GET /fr/index.html\r\n\r\n', document('en', 'index.html'))):
        sock = fresh.client.connect(fresh['en'].vip)
        sock.send(raw)
        sock.shutdown()
        assert answer in (sock.receive().data or b'')
        sock.close()
    assert fresh['fr'].stats()['handoffs_in'] == 0


@BOTH
def test_16k_of_cookies(cluster: Cluster, language: str) -> None:
    """As much as servers take if they are told to."""
    sock = cluster.client.connect(cluster['en'].vip)
    sock.send(request(f'/{language}/1k', **{
        f'X-{number}': 'x' * 4096 for number in range(4)}))
    served(sock.response(), language, '1k')
    sock.close()


def answered(sock: Socket, status: int) -> None:
    """That is the status, and the connection ends in order, not by RST."""
    answer = sock.response()
    assert (answer.status, answer.node, answer.size) == (status, '', 0)
    assert sock.receive().size == 0
    sock.close()


@pytest.mark.parametrize('more', some_long((0, 1 << 18), 1 << 18))
def test_too_long_a_head(fresh: Cluster, more: int) -> None:
    """Beyond the limit it is answered 431, even to a client that goes on
    sending; nothing of it is left."""
    front = fresh['en']
    sock = fresh.client.connect(front.vip)
    sock.send(request('/fr/1k', **{
        f'X-{number}': 'x' * 7000 for number in range(5)}) + b'x' * more)
    answered(sock, 431)
    stats = front.stats()
    assert (stats['heads_too_long'], stats['connections_answered']) == (1, 1)
    gone(front, 'sport = :80')
    assert front.stats()['withheld'] == 0
    served(fresh.client.curl.get(fresh.url('en', '/fr/1k')), 'fr', '1k')


def test_head_that_stops(fresh: Cluster) -> None:
    """A head that is not whole in time is answered 408."""
    front = fresh['en']
    front.knob('head_timeout_ms', 1000)
    raw = request('/fr/1k')
    sock = fresh.client.connect(front.vip)
    sock.send(raw[:9], delay=0.1)
    sock.send(raw[9:20])
    answered(sock, 408)
    stats = front.stats()
    assert (stats['heads_timed_out'], stats['heads_absent']) == (1, 0)


def test_head_that_never_comes(fresh: Cluster) -> None:
    """A connection without a byte is left to the local server; in frequent
    mode it is as good as new."""
    front = fresh['en']
    front.knob('head_timeout_ms', 1000)
    sock = fresh.client.connect(front.vip)
    wait_for(lambda: front.stats()['heads_absent'] == 1, 'it is too late')
    sock.send(request('/fr/1k'))
    served(sock.response(), 'en' if fresh.spec.mode == 'rare' else 'fr', '1k')
    sock.close()
    assert front.stats()['connections_answered'] == 0


@pytest.mark.long
def test_unload_while_answers_linger(fresh: Cluster) -> None:
    """The modules go although clients have not closed yet; the answer
    is whole all the same."""
    front = fresh['en']
    sock = fresh.client.connect(front.vip)
    sock.send(request('/fr/1k', **{
        f'X-{number}': 'x' * 7000 for number in range(5)}))
    wait_for(lambda: front.stats()['connections_answered'] == 1,
             'it is answered')
    fresh.unload()
    answered(sock, 431)


def test_too_many_flows(fresh: Cluster) -> None:
    """Beyond the limit, connections are served as if nothing were there."""
    front = fresh['en']
    front.knob('flows_max', 1)
    idle = fresh.client.connect(front.vip)
    served(fresh.client.curl.get(fresh.url('en', '/fr/1k')), 'en', '1k')
    assert front.stats()['flows_refused_limit'] == 1
    idle.send(request('/fr/1k'))
    served(idle.response(), 'fr', '1k')
    idle.close()
