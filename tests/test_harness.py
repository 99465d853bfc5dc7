# SPDX-License-Identifier: GPL-2.0
"""The harness itself: what the other suites rely on, without CARISMA."""

from dataclasses import replace
from typing import Callable, Dict, List

import pytest

from checks import served, unbroken
from conftest import Lab
from harness.capture import Capture
from harness.namespaces import NamespaceCluster
from harness.pcap import FIN, RST, Checksum, Segment, ones_sum
from harness.running import Cluster
from harness.sockets import SocketError
from harness.trace import Connection, connections

Segments = List[Segment]


def fetch(site: Cluster, name: str = '128k') -> Connection:
    """A local request and the connection that carried it."""
    with site.client.capture() as capture:
        answer = site.client.curl.get(site.url('en', f'/en/{name}'))
    served(answer, 'en', name)
    return capture.connection(answer.port)


def longest(segments: Segments, source) -> int:
    """The index of the longest segment of one side."""
    return max((i for i, s in enumerate(segments) if s.source == source),
               key=lambda i: segments[i].length)


def altered(index: int, **fields) -> Callable[[Segments], Segments]:
    """Change some fields of a segment."""
    return lambda segments: [
        replace(s, **fields) if i == index else s
        for i, s in enumerate(segments)]


def breakages(found: Connection) -> Dict[str, Callable[[Segments], Segments]]:
    """Ways to break a connection, by what should be said of each."""
    segments = found.segments
    at = longest(segments, found.server)
    data = segments[at]
    last_ts = segments[-1].options.ts[0]
    return {
        'bytes missing': lambda all: [
            s for s in all if s.seq != data.seq or not s.length],
        'retransmission differs': lambda all: [
            *all[:at + 1], replace(data, payload=b'?' * data.length),
            *all[at + 1:]],
        'RST': lambda all: [*all, replace(data, flags=RST, length=0)],
        'FIN moved': lambda all: [
            *all, replace(data, flags=FIN, seq=data.seq + 1, length=0,
                          payload=b'')],
        'sent 2 SYNs': lambda all: [all[0], *all],
        'began twice': lambda all: [
            all[0], replace(all[0], seq=all[0].seq ^ 1), *all[1:]],
        'timestamp before': altered(at, options=replace(
            data.options, ts=(data.options.ts[0] - 5000,
                              data.options.ts[1]))),
        'echoes what was never sent': altered(at, options=replace(
            data.options, ts=(data.options.ts[0], last_ts + 9999))),
        'no timestamp': altered(at, options=replace(data.options, ts=None)),
        'to come': altered(at, ack=data.ack + 1000),
        'SACK of': altered(at, options=replace(
            data.options, sack=((data.ack + 10, data.ack + 20),))),
        'checksum bad': altered(at, checksum=Checksum.BAD),
    }


def test_faults_are_seen(site: Cluster) -> None:
    """A sound connection passes; each way to break it is named."""
    found = fetch(site)
    unbroken(found)
    for text, change in breakages(found).items():
        faults = Connection(found.client, found.server,
                            change(found.segments)).faults()
        assert any(text in fault for fault in faults), (text, faults)


def test_reset_of_a_late_segment(site: Cluster) -> None:
    """A client that has closed resets what TIME_WAIT says to a late segment;
    without anything sent again, nothing was late."""
    found = fetch(site, '1k')
    segments = found.segments
    again = segments[longest(segments, found.server)]
    reset = replace(found.of_client()[-1], flags=RST, length=0, payload=b'')
    for more, unexplained in (([again, reset], False), ([reset], True)):
        faults = Connection(found.client, found.server,
                            segments + more).faults()
        assert (f'RST: {reset}' in faults) == unexplained, faults


def test_response_is_put_together(site: Cluster) -> None:
    """The reader's stream is what nginx sent."""
    found = fetch(site, '1k')
    assert found.response().endswith(
        site['en'].get(f'{site["en"].nginx.documents}/1k'))
    assert found.response_bytes() == len(found.response())


def test_headers_at_the_switch(site: NamespaceCluster) -> None:
    """One capture has what passed on each wire; without bodies, a gap is seen
    as well."""
    with Capture(site.switch, device='any', bytes_each=128) as capture:
        answer = site.client.curl.get(site.url('en', '/en/128k'))
    served(answer, 'en', '128k')
    ports = site.ports()
    seen = {name: connections(s for s in capture.segments if s.device == port)
            for name, port in ports.items()}
    assert not seen['fr'] and not seen['de']
    for name in ('client', 'en'):
        found, = seen[name]
        unbroken(found)
        assert found.response_bytes() > 128 << 10
        with pytest.raises(ValueError, match='not captured'):
            found.response()
        lost = found.segments[longest(found.segments, found.server)]
        faults = Connection(found.client, found.server, [
            s for s in found.segments if s.seq != lost.seq]).faults()
        assert any('bytes missing' in fault for fault in faults), faults


def test_checksums_are_computed(bare: Cluster) -> None:
    """Without offload the captured checksums are whole and valid."""
    for host in bare.hosts.values():
        host.offload(tx=False)
    bare.start_servers()
    found = fetch(bare, '1k')
    assert {s.checksum for s in found.segments} == {Checksum.VALID}
    assert {s.ip_checksum for s in found.segments} == {Checksum.VALID}


@pytest.mark.parametrize('data, wanted', (
    (b'', 0), (b'\x01', 0x100), (b'\xff\xff\x00\x01', 1),
    (bytes.fromhex('0001f203f4f5f6f7'), 0xddf2)))
def test_ones_sum(data: bytes, wanted: int) -> None:
    """The sum of RFC 1071."""
    assert ones_sum(data) == wanted


@pytest.mark.long
def test_links(site: Cluster) -> None:
    """A link can be cut, unplugged, slowed, made lossy, and mended."""
    client, link = site.client, site['en'].link
    url = site.url('en', '/en/1k')
    for break_, mend in ((link.cut, link.heal), (link.down, link.up)):
        break_()
        assert client.curl.get(
            url, options='--connect-timeout 0.5').status == 0
        mend()
        served(client.curl.get(url), 'en', '1k')
    link.netem(delay=0.2, directions=('to',))
    assert client.curl.get(url).time > 0.4
    link.heal()
    link.netem(loss=0.1)
    with client.capture() as capture:
        answer = client.curl.get(site.url('en', '/en/128k'))
    served(answer, 'en', '128k')
    unbroken(capture.connection(answer.port), lossy=True)


def test_death_is_silent(bare: Cluster) -> None:
    """A killed node sends nothing, neither FIN nor RST."""
    bare.start_servers()
    sock = bare.client.connect(bare['en'].vip)
    with bare.client.capture() as capture:
        bare['en'].kill()
        sock.send(b'GET /en/1k HTTP/1.1\r\n')
        with pytest.raises(SocketError, match='TimeoutError'):
            sock.receive(timeout=1)
    found, = capture.connections()
    assert not found.of_server()


def test_kernel_messages_are_seen(lab: Lab) -> None:
    """Warnings and reports are caught, `info` and the taints are not."""
    kernel = lab.kernel
    for level, text in (
            (6, 'all is well'),
            (4, 'x: loading out-of-tree module taints kernel.'),
            (5, 'x: module verification failed: signature and/or '
                'required key missing - tainting kernel'),
            (5, 'something is odd'),
            (6, 'BUG: KASAN: use-after-free in x')):
        kernel.guest.run(['sh', '-c', f'echo "<{level}>{text}" >/dev/kmsg'])
    assert kernel.messages() == [
        '<5> something is odd', '<6> BUG: KASAN: use-after-free in x']
    assert not kernel.messages()
