# SPDX-License-Identifier: GPL-2.0
"""ICMP errors about connections that are handed off: paths that do not carry
what a handshake's MSS lets pass, and errors of every shape.

    far            router                  the cluster's switch
    10.9.0.100     10.9.0.1  10.0.0.50          |
       |               |        |               |
       +--- MTU 1200 --+        +---------------+

What the router cannot pass on it tells the sender of, which is the front end's
virtual address.
"""

import random
import struct
import time
from ipaddress import ip_address
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

import pytest
from scapy.layers.inet import IP, TCP, UDP, IPOption
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from checks import no_flows, request, served, some_long, unbroken
from harness.address import alone
from harness.capture import Capture
from harness.cluster import Host
from harness.inside.documents import document
from harness.namespaces import SWITCH, NamespaceNode
from harness.paths import INSIDE
from harness.patience import patient
from harness.pcap import ones_sum
from harness.process import CommandFailed
from harness.running import Cluster, wait_for
from harness.wire import Peer, Wire, cut

# Those of IPv6 are in test_icmpv6.py.
IPV4 = pytest.mark.family(4)
MTU = 1400
CLOSE = '-H "Connection: close"'

PLUG = '''
set -e
ip netns add far
ip netns add router
ip -n {switch} link add p-router type veth peer name north netns router
ip -n {switch} link set p-router master br0 up
ip -n router link set north up
ip -n router link add south mtu {mtu} type veth peer name eth0 netns far
ip -n router link set south up
ip netns exec router sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
ip -n far link set lo up
ip -n far link set eth0 up
ip -n router addr add {north}/{prefix} dev north nodad
ip -n router addr add {south}/{prefix} dev south nodad
ip -n far addr add {far}/{prefix} dev eth0 nodad
ip -n far route add default via {south}
'''
UNPLUG = '''
for name in far router; do
    ip netns pids $name | xargs -r kill -9
    ip netns del $name
done
'''


@pytest.fixture
def far(cluster: Cluster) -> Iterator[NamespaceNode]:
    """A client behind a router whose link to it is narrow."""
    kernel, spec = cluster.client.kernel, cluster.spec
    host = NamespaceNode(spec, Host('far', spec.at(100, 9)), kernel)
    kernel.guest.run(PLUG.format(
        switch=SWITCH, mtu=MTU, prefix=spec.prefix, north=spec.at(50),
        south=spec.at(1, 9), far=host.address))
    route = f'{spec.at(0, 9)}/{spec.prefix}'
    for node in cluster.nodes:
        node.run(f'ip route add {route} via {spec.at(50)}')
        # TCP is not to find out by itself.
        node.sysctl('net.ipv4.tcp_mtu_probing', '0')
    yield host
    host.tidy()
    host.stop()
    for node in cluster.nodes:
        # What is known of the path goes with the route.
        node.run(f'ip route del {route}')
    kernel.guest.run(UNPLUG)


def mtu(node: Any, address: str) -> int:
    """What a node knows of the path to an address; 0 if that is nothing."""
    words = node.run(['ip', 'route', 'get', address]).out.split()
    return int(words[words.index('mtu') + 1]) if 'mtu' in words else 0


class Counts:
    """What is counted at the nodes from here on."""

    def __init__(self, cluster: Cluster) -> None:
        self._nodes = cluster.nodes
        self._began = self._all()

    def _all(self) -> Dict[str, Dict[str, int]]:
        return {node.name: {**node.stats(), **node.counter(
            'TcpExtOutOfWindowIcmps', 'IcmpInErrors', 'IcmpInCsumErrors',
            'Icmp6InErrors', 'Icmp6InCsumErrors')}
            for node in self._nodes}

    def __call__(self, node: str, *names: str) -> List[int]:
        """How much came to each of these at a node."""
        now = self._all()[node]
        return [now[name] - self._began[node][name] for name in names]


# A path to the client that is narrow.

# Errors are taken only if conntrack knows what they are about.
RELATED = '''
table inet judging {
    chain in {
        type filter hook input priority 0;
        icmp type destination-unreachable ct state related accept
        icmpv6 type { packet-too-big, destination-unreachable } ct state related accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
        meta l4proto { icmp, ipv6-icmp } drop
        ct state invalid drop
    }
    chain out { type filter hook output priority 0; ct state invalid drop; }
}
'''


@pytest.mark.parametrize(
    'how', some_long(('plain', 'no-timestamps', 'no-tso', 'related'), 'plain'))
def test_narrow_to_the_client(cluster: Cluster, far: NamespaceNode, how: str
                              ) -> None:
    """A long answer of another node's arrives at a client to which the path
    is narrow, and that node knows then how narrow."""
    counts = Counts(cluster)
    if how == 'no-timestamps':
        far.sysctl('net.ipv4.tcp_timestamps', '0')
    for node in cluster.nodes:
        node.nft(RELATED if how == 'related' else '')
        node.offload(tso=how != 'no-tso')
    try:
        with far.capture() as capture:
            answer = far.curl.get(cluster.url('en', '/fr/2m'), options=CLOSE,
                                  limit=30)
    finally:
        for node in cluster.nodes:
            node.offload(tso=True)
    served(answer, 'fr', '2m')
    unbroken(capture.connection(answer.port))
    assert mtu(cluster['fr'], far.address) == MTU
    relayed, = counts('en', 'icmp_relayed')
    translated, late = counts('fr', 'icmp_translated', 'TcpExtOutOfWindowIcmps')
    # The first of a burst is enough: the others may come when the client has
    # acknowledged what was sent anew.
    assert translated == relayed > late


@pytest.mark.long
def test_narrow_for_a_later_answer(cluster: Cluster, far: NamespaceNode) -> None:
    """The same, when answers were short at first."""
    paths = ['/fr/1k', '/fr/empty', '/fr/1k', '/fr/2m', '/fr/1k']
    answers = far.curl.fetch([cluster.url('en', path) for path in paths], limit=20)
    for path, answer in zip(paths, answers):
        served(answer, 'fr', path.rpartition('/')[2])
    assert [answer.connected for answer in answers] == [True] + [False] * 4


@pytest.mark.long
def test_narrow_to_a_client_served_here(cluster: Cluster, far: NamespaceNode) -> None:
    """What this node serves is TCP's own affair."""
    counts = Counts(cluster)
    answer = far.curl.get(cluster.url('en', '/en/2m'), options=CLOSE, limit=20)
    served(answer, 'en', '2m')
    assert mtu(cluster['en'], far.address) == MTU
    assert counts('en', 'icmp_relayed', 'icmp_translated') == [0, 0]


# A path from the front end to the back end that is narrow.


@pytest.fixture
def narrow(cluster: Cluster) -> Iterator[None]:
    """What en sends to fr has to be small."""
    front, back = cluster['en'], cluster['fr']
    front.run(f'ip route add {alone(back.address)} dev eth0 mtu {MTU}')
    yield
    front.run(f'ip route del {alone(back.address)} dev eth0 mtu {MTU}')
    cluster.client.forget_paths()


@pytest.mark.parametrize('how', some_long(('plain', 'no-tso'), 'plain'))
def test_narrow_to_the_back_end(cluster: Cluster, narrow: None, how: str) -> None:
    """What a client sends is too big for the way from the front end to the back
    end: the client is told, in words that it understands. What fits into a tunnel
    it is told in the handshake."""
    client, counts = cluster.client, Counts(cluster)
    client.run('head -c 2000000 /dev/urandom >/tmp/carisma/body')
    client.offload(tso=how != 'no-tso')
    try:
        with client.capture() as capture:
            posted = client.curl.get(
                cluster.url('en', '/fr/upload/'), limit=20,
                options=f'{CLOSE} --data-binary @/tmp/carisma/body')
    finally:
        client.offload(tso=True)
    assert (posted.error, posted.status, posted.node) == ('', 200, 'fr')
    kept = cluster['fr'].run(['sha256sum', posted.headers['x-body']]).out.split()[0]
    assert kept == client.run(['sha256sum', '/tmp/carisma/body']).out.split()[0]
    unbroken(capture.connection(posted.port))
    told = cluster.spec.forward != 'tunnel'
    assert mtu(client, cluster['en'].vip) == MTU * told
    assert (counts('en', 'packets_dropped_too_big')[0] > 0) == told


# Errors of every shape, about a connection whose client acknowledges nothing.

ROUTER = '10.0.0.90'
EXTENSION = bytes.fromhex('2000 dfff 0008 0101 1234 5678')


class Shape(NamedTuple):
    """What is to be told, and how."""

    kind: Tuple[int, int] = (3, 4)
    quoted: int = 1500          # bytes of the TCP segment
    inner: bytes = b''          # options of the quoted header
    outer: bytes = b''          # options of the router's own
    extended: bool = False      # by an extension (RFC 4884)
    words: Optional[int] = None     # what it says of the quote's length
    at: int = 0                 # bytes after the first that is not acknowledged
    told: str = ''              # who else is told
    pieces: int = 0             # in fragments of so many bytes
    good: bool = True           # the checksum
    protocol: Any = None


GOOD = {
    'eight bytes': Shape(quoted=8),
    'ports, numbers, no checksum': Shape(quoted=16),
    'a header': Shape(quoted=32),
    'all': Shape(),
    'options in the quote': Shape(inner=b'\x94\4\0\0'),
    'options before it': Shape(outer=b'\x94\4\0\0', quoted=8),
    'an extension': Shape(quoted=200, extended=True),
    'an extension, as of old': Shape(quoted=200, extended=True, words=0),
    'fragments': Shape(pieces=200),
    'net unreachable': Shape(kind=(3, 0)),
    'host unreachable': Shape(kind=(3, 1), quoted=8),
    'port unreachable': Shape(kind=(3, 3)),
    'prohibited': Shape(kind=(3, 13)),
    'no more hops': Shape(kind=(11, 0), quoted=8),
    'no more time': Shape(kind=(11, 1)),
    'a bad option': Shape(kind=(12, 0)),
}
# What the back end's own TCP, or its IP, does not believe.
DOUBTFUL = {
    'not sent yet': (Shape(at=1 << 20), 'TcpExtOutOfWindowIcmps'),
    'long acknowledged': (Shape(at=-5, quoted=8), 'TcpExtOutOfWindowIcmps'),
    'a wrong checksum': (Shape(good=False), 'IcmpInCsumErrors'),
}
MALFORMED = {
    'seven bytes': Shape(quoted=7),
    'ports alone': Shape(quoted=4),
    'an extension that begins too soon': Shape(words=6),
    'told another': Shape(told='10.0.0.1'),
}
# Not of ours.
OTHER = {
    'no ports': Shape(quoted=3),
    'a source quench': Shape(kind=(4, 0)),
    'a redirect': Shape(kind=(5, 1)),
    'an echo': Shape(kind=(8, 0)),
    'an unknown kind': Shape(kind=(99, 0)),
    'about UDP': Shape(protocol=UDP),
}


class Told:
    """A connection, handed off to fr, and what routers say of it."""

    ROUTER = ROUTER

    def __init__(self, cluster: Cluster, wire: Wire) -> None:
        self.cluster = cluster
        self.address = wire.address
        self.peer: Peer = wire.peer('en').open()
        self.peer.send('PA', request('/fr/128k', Connection='close'), wait=1)
        assert len(self.peer.stream.data) > 5000, 'as much as a window'
        self.identity = random.randrange(1 << 16)

    def segment(self, shape: Shape, delta: int) -> Packet:
        """What is told of, with a number greater by `delta`."""
        seq = self.peer.stream.isn + 1 + shape.at + delta
        if shape.protocol:
            return shape.protocol(sport=80, dport=self.peer.port) / bytes(1000)
        # What follows the ports and the number is the same in all.
        return TCP(sport=80, dport=self.peer.port, seq=seq % (1 << 32),
                   ack=self.peer.isn + 1, flags='A') / bytes(1000)

    def packet(self, shape: Shape, source: str, delta: int = 0, mtu: int = 0,
               ttl: int = 60) -> Packet:
        """An error of that shape, as though `source` had sent the segment,
        with a number greater by `delta`."""
        quote = bytes(IP(src=source, dst=self.address, flags='DF', id=7, ttl=9,
                         options=IPOption(shape.inner) if shape.inner else [])
                      / self.segment(shape, delta))
        head = 20 + len(shape.inner)
        quote = quote[:head + shape.quoted]
        words = 0
        if shape.extended:
            words = len(quote) // 4
            quote += EXTENSION
        words = words if shape.words is None else shape.words
        message = bytearray(struct.pack('!BBHBBH', *shape.kind, 0, 0, words, mtu) + quote)
        check = ones_sum(bytes(message)) ^ 0xffff
        struct.pack_into('!H', message, 2, check if shape.good else check ^ 0x0100)
        return IP(bytes(IP(src=ROUTER, dst=shape.told or source, ttl=ttl, proto=1,
                           id=self.identity, options=IPOption(shape.outer)
                           if shape.outer else []) / Raw(bytes(message))))

    def tell(self, shape: Shape, node: str = 'en', mtu: int = 0) -> None:
        """Have an error come to a node."""
        packet = self.packet(shape, self.cluster['en'].vip, mtu=mtu)
        parts = cut(packet, shape.pieces) if shape.pieces else [packet]
        source, target = self.cluster.client.host.mac, self.cluster[node].host.mac
        self.peer.post([bytes(Ether(src=source, dst=target) / part) for part in parts],
                       wait=0.3, quiet=0.3)

    @property
    def known(self) -> str:
        """The address by which fr's TCP knows the service."""
        unchanged = self.cluster.spec.unchanged
        return self.cluster['en'].vip if unchanged else self.cluster['fr'].address

    def came(self, capture: Capture) -> List[bytes]:
        """The router's packets that came to fr, without the header of a tunnel."""
        spec, router = self.cluster.spec, ip_address(self.ROUTER).packed
        header, at = (20, 12) if spec.family == 4 else (40, 8)
        tunnel = header if spec.forward == 'tunnel' else 0
        packets = [packet[tunnel:] for packet in capture.packets()]
        return [it for it in packets if it[at:at + len(router)] == router]

    def finish(self) -> None:
        """Whatever was said, the answer arrives."""
        peer = self.peer
        # The next repetition may be long in coming: nobody waits for it.
        deadline = time.monotonic() + patient(20)
        while peer.stream.fin is None:
            assert time.monotonic() < deadline, f'no end\n{peer}'
            peer.send('A')
        _, _, body = bytes(peer.stream.data).partition(b'\r\n\r\n')
        assert body == document('fr', '128k')
        peer.send('FA', wait=0.3)
        # What is sent anew is cut anew, so that later timestamps stand before
        # earlier ones in the stream.
        wrong = [it for it in peer.wrong() if not it.startswith('timestamp')]
        assert not peer.reset() and not wrong, wrong


@pytest.fixture
def told(cluster: Cluster) -> Iterator[Told]:
    """A connection, and who speaks of it."""
    wire = Wire(cluster)
    yield Told(cluster, wire)
    wire.stop()
    for node in cluster.nodes:
        node.forget_paths()
    no_flows(cluster)


@IPV4
def test_errors_are_relayed(cluster: Cluster, told: Told) -> None:
    """Each comes to the back end as though that had sent the segment, in the
    client's numbers, and is heeded by its TCP."""
    counts, size = Counts(cluster), 1400
    wanted = []
    with cluster['fr'].capture('icmp or proto 4') as capture:
        for name, shape in GOOD.items():
            size -= 20
            told.tell(shape, mtu=size if shape.kind == (3, 4) else 0)
            wanted.append(told.packet(
                shape, told.known, mtu=size if shape.kind == (3, 4) else 0, ttl=59))
            if shape.kind == (3, 4):
                assert mtu(cluster['fr'], told.address) == size, name
            else:
                size += 20
    came = [IP(packet) for packet in told.came(capture)]
    assert len(came) == len(wanted) == len(GOOD)
    for name, found, right in zip(GOOD, came, wanted):
        if GOOD[name].pieces:
            # It was put together again, which is not to be seen but in this.
            right.flags = found.flags
            del right.chksum
        assert bytes(found) == bytes(IP(bytes(right))), name
    assert counts('en', 'icmp_relayed', 'icmp_dropped_malformed') == [len(GOOD), 0]
    assert counts('fr', 'icmp_translated', 'TcpExtOutOfWindowIcmps',
                  'IcmpInErrors') == [len(GOOD), 0, 0]
    told.finish()


@IPV4
def test_errors_that_are_not_believed(cluster: Cluster, told: Told) -> None:
    """What the back end's TCP, or IP, would not believe of anybody it does not
    believe of these."""
    # What is acknowledged is no more under way.
    told.peer.send('A', wait=0.3)
    for name, (shape, counter) in DOUBTFUL.items():
        counts = Counts(cluster)
        told.tell(shape, mtu=1000)
        assert counts('en', 'icmp_relayed') == [1], name
        assert counts('fr', 'icmp_translated', counter) == [1, 1], name
        assert mtu(cluster['fr'], told.address) == 0, name
    told.finish()


@IPV4
def test_malformed_errors_are_dropped(cluster: Cluster, told: Told) -> None:
    """What cannot be meant is counted, wherever it comes."""
    for name, shape in MALFORMED.items():
        for node in ('en', 'fr'):
            counts = Counts(cluster)
            told.tell(shape, node, mtu=1000)
            assert counts(node, 'icmp_dropped_malformed', 'icmp_relayed',
                          'icmp_translated') == [1, 0, 0], (name, node)
    told.finish()


@IPV4
@pytest.mark.long
def test_others_are_left_alone(cluster: Cluster, told: Told) -> None:
    """What is no error about a segment of a flow's is for IP here."""
    counts = Counts(cluster)
    for shape in OTHER.values():
        told.tell(shape, mtu=1000)
    told.peer.port += 1
    told.tell(Shape(), mtu=1000)
    told.peer.port -= 1
    for node in ('en', 'fr'):
        assert counts(node, 'icmp_relayed', 'icmp_translated',
                      'icmp_dropped_malformed') == [0, 0, 0]
    told.finish()


@IPV4
def test_errors_that_come_to_the_back_end(cluster: Cluster, told: Told) -> None:
    """A back end to which an error comes that was for the front end knows what
    it is about."""
    counts = Counts(cluster)
    told.tell(Shape(quoted=8), 'fr', mtu=1300)
    assert mtu(cluster['fr'], told.address) == 1300
    told.tell(Shape(inner=b'\x94\4\0\0'), 'fr', mtu=1200)
    assert mtu(cluster['fr'], told.address) == 1200
    assert counts('fr', 'icmp_translated', 'TcpExtOutOfWindowIcmps') == [2, 0]
    assert counts('en', 'icmp_relayed') == [0]
    told.finish()


@pytest.mark.long
def test_errors_of_the_back_end_itself(cluster: Cluster, far: NamespaceNode) -> None:
    """What a back end's own IP has to say of a segment that it translated is
    for its own TCP, and leaves it not."""
    back = cluster['fr']
    sock = far.connect(cluster['en'].vip)
    sock.send(request('/fr/1k'))
    served(sock.response(), 'fr', '1k')
    counts = Counts(cluster)
    # Nobody answers there.
    back.run(f'ip route add {alone(far.address)} via {cluster.spec.at(51)}')
    try:
        with cluster['en'].capture("'icmp or icmp6 and ip6[40] < 128'") as capture:
            sock.send(request('/fr/128k'))
            wait_for(lambda: counts('fr', 'icmp_translated')[0], 'an error', 20)
        assert not capture.packets()
        assert counts('fr', 'TcpExtOutOfWindowIcmps', 'IcmpInErrors') == [0, 0]
        assert counts('en', 'icmp_relayed') == [0]
    finally:
        back.run(f'ip route del {alone(far.address)} via {cluster.spec.at(51)}')
    served(sock.response(timeout=60), 'fr', '128k')


@pytest.mark.long
def test_unload_under_errors(fresh: Cluster) -> None:
    """The modules go and come while errors about connections and about none
    arrive everywhere."""
    seconds, ports = int(patient(20)), '20000-29999'
    # Nothing at the client answers to what comes of it.
    fresh.client.nft('table inet t { chain c { type filter hook input priority 0; '
                     f'tcp dport {ports} drop; }}; }}')
    targets = [f'{address}/{host.mac}' for host in fresh.spec.nodes
               for address in (host.vip, host.address)]
    load = fresh.client.popen(
        ['python3', '-S', f'{INSIDE}/fuzz_packets.py', fresh.client.address,
         ports, '1', str(seconds), *targets])
    rounds = 0
    while load.poll() is None:
        fresh.drain()
        try:
            fresh.unload()
        except CommandFailed as problem:
            # Something was handed off since.
            assert 'in use' in str(problem)
            continue
        fresh.load()
        fresh.configure()
        rounds += 1
    assert rounds > 0
    assert '"errors"' in load.stdout, load.stdout
