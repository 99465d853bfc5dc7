# SPDX-License-Identifier: GPL-2.0
"""What else is on a node: packet filters that keep states, NAT, VLANs,
tunnels, reverse path filters, and options that other software asks for.

Each goes together with handoffs, or the connections that it touches are left
alone; the test says which.
"""

import contextlib
import re
from typing import Any, Callable, Iterator, List, Set, Tuple

import pytest

from checks import gone, no_flows, request, served, sha256, some_long, unbroken
from conftest import Lab
from harness.address import alone
from harness.cluster import Rule
from harness.guest import Guest
from harness.inside.documents import document
from harness.load import Load
from harness.paths import INSIDE
from harness.pcap import ACK, SYN
from harness.running import Cluster, wait_for
from harness.servers import Server
from harness.wire import Peer, Wire
from segments.place import answered

Serve = Callable[[], None]
Listen = Callable[[str], None]

CLOSE = '-H "Connection: close"'
PORT = 8080
PLACES = {8080: ('en', 'fr'), 8081: ('fr', 'en')}

# What an administrator writes who trusts nothing but what he knows.
STATEFUL = '''
table inet stateful {
    chain in {
        type filter hook input priority 0; policy drop;
        ct state established,related accept
        tcp dport { 80, 7480 } ct state new accept
        iif lo accept
    }
    chain on { type filter hook forward priority 0; policy drop; }
    chain out {
        type filter hook output priority 0; policy drop;
        ct state established,related accept
        tcp dport 7480 ct state new accept
        oif lo accept
    }
}
'''
NAT = '''
table inet translating {
    chain pre {
        type nat hook prerouting priority -100;
        tcp dport 8000 dnat %s to %s
    }
    chain post {
        type nat hook postrouting priority 100;
        oif eth0 masquerade
    }
}
'''

# Before BTCP's own hook. Without a program the packets are dropped.
QUEUE = '''
table inet asking {
    chain c {
        type filter hook prerouting priority -400;
        tcp dport 80 queue num 0
    }
}
'''

# Whatever leaves goes to a neighbour, too, before it has left.
COPY = '''
table %s copying {
    chain c {
        type filter hook postrouting priority mangle;
        dup to %s device "eth0"
    }
}
'''


def exchange(cluster: Cluster, paths: List[str], lossy: bool = False) -> None:
    """Fetch documents from en, each on a connection of its own and all on
    one, and upload to fr; nothing that the client sees is odd."""
    with cluster.client.capture() as capture:
        fetch(cluster, paths)
    for connection in capture.connections():
        unbroken(connection, lossy=lossy)


def fetch(cluster: Cluster, paths: List[str]) -> None:
    """The same, without a look at the wire."""
    client = cluster.client
    client.run('head -c 100000 /dev/urandom >/tmp/carisma/body')
    urls = [cluster.url('en', path) for path in paths]
    answers = client.curl.fetch(urls, options=CLOSE)
    answers += client.curl.fetch([cluster.url('en', '/fr/1k')] * 3)
    for answer, path in zip(answers, paths + ['/fr/1k'] * 3):
        _, language, name = path.split('/')
        served(answer, language, name)
    posted = client.curl.get(
        cluster.url('en', '/fr/upload/'),
        options=f'{CLOSE} --data-binary @/tmp/carisma/body')
    assert (posted.status, posted.node) == (200, 'fr')


def test_stateful_filters(site: Cluster, lab: Lab) -> None:
    """Filters of all nodes let pass what conntrack knows; a handed-off
    connection is known to both ends, from its SYN to its end. They are there
    first: of a control connection that is older than they are, conntrack knows
    nothing until the node that made it sends something."""
    for node in site.nodes:
        node.nft(STATEFUL)
    lab.enable(site)
    exchange(site, ['/en/1k', '/en/128k', '/fr/1k', '/fr/128k', '/de/1k'])
    no_flows(site)


def test_masquerading(cluster: Cluster) -> None:
    """A node translates what it sends and forwards for others. Neither what
    it forwards to a back end nor what it answers is changed by that."""
    for node in cluster.nodes:
        node.nft(NAT % (node.cluster.ip, node.service))
    exchange(cluster, ['/en/1k', '/fr/1k', '/fr/128k', '/de/1k'])


def test_translated_to_the_service(cluster: Cluster) -> None:
    """What arrives at another port and is led to the service by NAT is left
    alone: it is served where it arrives."""
    node = cluster['en']
    node.nft(NAT % (node.cluster.ip, node.service))
    before = node.stats()
    for language in ('en', 'fr'):
        answer = cluster.client.curl.get(
            f'http://{node.at(8000)}/{language}/1k')
        served(answer, 'en', '1k')
    after = node.stats()
    assert after['flows_created'] == before['flows_created']
    assert after['connections_withheld'] == before['connections_withheld']


@pytest.mark.long
def test_queue_to_a_program(cluster: Cluster) -> None:
    """A program looks at each packet before BTCP gets it, which then is what the
    program's system call goes on with, and no softirq."""
    programs = []
    for node in cluster.nodes:
        program = node.popen(['python3', '-S', f'{INSIDE}/nfqueue.py', '0'])
        assert program.readline() == b'ready\n'
        programs.append(program)
        node.nft(QUEUE)
    # What waits for the program long enough is sent again.
    exchange(cluster, ['/en/1k', '/fr/1k', '/fr/128k'], lossy=True)
    for node, program in zip(cluster.nodes, programs):
        node.nft('')
        program.terminate()


def in_pieces(cluster: Cluster, path: str, node: str) -> None:
    """A request whose head comes in two pieces is answered by this node."""
    sock = cluster.client.connect(cluster['en'].vip)
    raw = request(path)
    sock.send(raw[:9], delay=0.3)
    sock.send(raw[9:])
    served(sock.response(), node, path.rpartition('/')[2])
    sock.close()


def test_copies(cluster: Cluster) -> None:
    """What a node sends is copied to another one, and the copy passes LOCAL_OUT
    before the call returns that sent the packet: that of BTCP's own
    acknowledgements as well."""
    table = {4: 'ip', 6: 'ip6'}[cluster.spec.family]
    for name in ('en', 'fr'):
        cluster[name].nft(COPY % (table, cluster['de'].address))
    in_pieces(cluster, '/en/1k', 'en')
    in_pieces(cluster, '/fr/1k', 'fr')
    fetch(cluster, ['/en/1k', '/fr/1k', '/fr/128k'])
    no_flows(cluster)


@pytest.mark.ipv6(long=True)
@pytest.mark.parametrize('mode', some_long(('rare', 'frequent'), 'rare'))
def test_node_itself(fresh: Cluster, mode: str) -> None:
    """A client on the front end is served there, and at once."""
    front = fresh['en']
    front.ctl('service', 'set', front.service, '--mode', mode)
    begun = ('flows_created', 'cookies_sent')
    before = front.stats()
    for language in ('en', 'fr'):
        answer = front.curl.get(fresh.url('en', f'/{language}/1k'), limit=4)
        served(answer, 'en', '1k')
    after = front.stats()
    assert [after[name] for name in begun] == [before[name] for name in begun]
    served(fresh.client.curl.get(fresh.url('en', '/fr/1k')), 'fr', '1k')


@pytest.mark.named
@pytest.mark.ipv6(long=True)
@pytest.mark.parametrize('mode', some_long(('rare', 'frequent'), 'frequent'))
def test_node_that_is_asked_for_itself(fresh: Cluster, mode: str) -> None:
    """A client on the node that is to serve it: that does, or refuses at once where its
    IP would take nothing of what seems to be its own."""
    front, back = fresh['en'], fresh['fr']
    front.ctl('service', 'set', front.service, '--mode', mode)
    answer = back.curl.get(fresh.url('en', '/fr/1k'), limit=10)
    stats = front.stats()
    assert stats['handoffs_started'] == 1 and not stats['handoffs_timed_out'], stats
    refused = fresh.spec.family == 4
    served(answer, 'en' if refused else 'fr', '1k')
    assert stats['handoffs_rejected'] == refused, stats
    no_flows(fresh)


# The eth0 of a host becomes a bridge, with what was eth0 as its port.
BRIDGE = '''
set -e
ip addr flush dev lo scope global
ip addr flush dev eth0
ip link set eth0 down name port
ip link add eth0 address %s type bridge forward_delay 0 mcast_snooping 0
ip link set port master eth0 up
%s
sysctl -qw net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1
'''


@pytest.fixture
def bridging(bare: Cluster) -> Iterator[Cluster]:
    """A cluster on a kernel that shows IP's rules what bridges carry."""
    kernel = bare['en'].kernel
    kernel.guest.run(['modprobe', 'br_netfilter'])
    kernel.expect('Bridge firewalling registered')
    yield bare
    kernel.guest.run(['modprobe', '-r', 'br_netfilter'])


def moved_in(cluster: Cluster) -> None:
    """Requests are answered by whom they are for, whatever way they go."""
    for migrate in ('adopt', 'replay'):
        for node in cluster.nodes:
            node.ctl('service', 'set', node.service, '--migrate', migrate)
        in_pieces(cluster, '/en/1k', 'en')
        in_pieces(cluster, '/fr/1k', 'fr')
    fetch(cluster, ['/en/1k', '/fr/1k', '/fr/128k'])
    in_fragments(cluster)
    no_flows(cluster)


def in_fragments(cluster: Cluster) -> None:
    """So is one that comes in fragments of IP."""
    wire = Wire(cluster)
    try:
        peer = wire.peer('en').open()
        peer.send('PA', request('/fr/1k'), pieces=24)
        answered(peer, ('fr', '1k'))
        peer.quit()
    finally:
        wire.stop()


@pytest.mark.long
@pytest.mark.ipv6
def test_bridge_for_others(bridging: Cluster, lab: Lab) -> None:
    """What the modules see first is carried by a bridge for others: the lab's
    switch is one on their kernel."""
    bridging.start_servers()
    lab.enable(bridging)
    moved_in(bridging)


@pytest.mark.ipv6(long=True)
def test_bridge_of_the_node(bridging: Cluster, lab: Lab) -> None:
    """All that hosts receive comes by bridges of theirs."""
    for host in bridging.hosts.values():
        host.run(BRIDGE % (host.host.mac, '\n'.join(bridging.setup(host.host))))
    bridging.start_servers()
    lab.enable(bridging)
    moved_in(bridging)


@pytest.mark.family(4)
@pytest.mark.parametrize('mode', some_long((0, 1, 2), 1))
def test_reverse_path_filter(cluster: Cluster, mode: int) -> None:
    """Nodes on one link, whatever the filter; the strict one as well."""
    for node in cluster.nodes:
        for device in ('all', 'eth0'):
            node.sysctl(f'net.ipv4.conf.{device}.rp_filter', str(mode))
    exchange(cluster, ['/en/1k', '/fr/1k', '/fr/128k'])


def join(cluster: Cluster, addresses: List[str]) -> None:
    """Configure the nodes with other addresses among themselves."""
    cluster.load()
    for node in cluster.nodes:
        lines = '\n'.join(' '.join(words) for words in node.configuration())
        for other, address in zip(cluster.spec.nodes, addresses):
            lines = re.sub(rf'\b{re.escape(other.address)}(?= )', address,
                           lines)
        node.batch([[line] for line in lines.splitlines()])
    for node in cluster.nodes:
        wait_for(lambda: cluster.joined(node), 'all are joined')
    cluster.ready = True


def test_vlan(bare: Cluster, lab: Lab) -> None:
    """The nodes speak to each other in a VLAN of theirs."""
    addresses = [bare.spec.at(number, 5) for number in (1, 2, 3)]
    for node, address in zip(bare.nodes, addresses):
        node.run('set -e; ip link add link eth0 name eth0.5 type vlan id 5; '
                 f'ip addr add {address}/{bare.spec.prefix} dev eth0.5 nodad; '
                 'ip link set eth0.5 up')
    bare.start_servers()
    if not lab.plain:
        join(bare, addresses)
    exchange(bare, ['/en/1k', '/fr/1k', '/fr/128k'])
    came = int(bare['fr'].run(
        'cat /sys/class/net/eth0.5/statistics/rx_packets').out)
    assert came > bare['en'].stats()['packets_forwarded'] > 0


TRACEFS = '/sys/kernel/tracing'
RECEIVED = f'{TRACEFS}/events/net/napi_gro_receive_entry'


@pytest.fixture
def sums(bare: Cluster) -> Iterator[Guest]:
    """The kernel's trace of packets whose whole sum the device knows."""
    guest = bare['en'].kernel.guest
    guest.run(f'mountpoint -q {TRACEFS} || mount -t tracefs tracefs '
              f'{TRACEFS}; echo "ip_summed == 2" >{RECEIVED}/filter; '
              f'echo 1 >{RECEIVED}/enable; echo >{TRACEFS}/trace')
    yield guest
    guest.run(f'echo 0 >{RECEIVED}/enable; echo 0 >{RECEIVED}/filter')


@pytest.mark.long
def test_whole_sums(bare: Cluster, lab: Lab, sums: Guest) -> None:
    """Packets come with the sum over all of them (CHECKSUM_COMPLETE), as from
    many devices: here from tunnels that have checksums of their own, both from
    the client to the front end and on to the back end."""
    client, front, back = bare.client, bare['en'], bare['fr']
    for host in bare.hosts.values():
        host.offload(tx=False)      # or the sum is not looked at
    here, there = bare.spec.at(21), bare.spec.at(22)
    gre = {4: 'gre', 6: 'ip6gre'}[bare.spec.family]
    for node, end in ((front, here), (back, there)):
        node.run(f'ip addr add {alone(end)} dev eth0')
    for one, local, remote, name, whither in (
            (client, client.address, front.address, 'gre-fe', front.vip),
            (front, front.address, client.address, 'gre-cl', ''),
            (front, here, there, 'gre-be', back.address),
            (back, there, here, 'gre-fe', front.address)):
        one.run(f'set -e; ip link add {name} type {gre} local {local} '
                f'remote {remote} csum; ip link set {name} up')
        if whither:
            one.run(f'ip route replace {whither} dev {name} '
                    f'src {one.address}')
    bare.start_servers()
    lab.enable(bare)
    fetch(bare, ['/en/1k', '/en/128k', '/fr/1k', '/fr/128k'])
    sock = client.connect(front.vip)
    sock.send(request('/fr/1k'), chunk=9, delay=0.02)
    served(sock.response(), 'fr', '1k')
    sock.close()
    told = sums.run(['cat', f'{TRACEFS}/trace']).out
    for name in ('gre-cl', 'gre-fe'):
        assert f'dev={name} ' in told, f'no whole sums at {name}'
    for host in bare.hosts.values():
        assert not any(host.counter('TcpInCsumErrors').values()), host.name


@pytest.mark.long
def test_services_at_several_ports(cluster: Cluster) -> None:
    """Services of one address and of several, at once."""
    servers = [Server(cluster[name], 'epoll', port) for port in PLACES for name in ('en', 'fr')]
    with contextlib.ExitStack() as stack:
        for server in servers:
            stack.callback(server.stop)
        for port, places in PLACES.items():
            # At the second port the languages are exchanged.
            rules = [Rule(f'/{name}/', place) for name, place in zip(('en', 'fr'), places)]
            stack.enter_context(cluster.offering(port, rules))
        for server in servers:
            server.wait()
        loads = [Load(cluster.client, cluster['en'].at(port), ('/en/1k', '/fr/1k'),
                      threads=3, count=20) for port in PLACES]
        for load, places in zip(loads, PLACES.values()):
            answers = load.end()
            assert answers == {
                f'/{language}/1k 200 {sha256(node, "1k")}': 10
                for language, node in zip(('en', 'fr'), places)}
        served(cluster.client.curl.get(cluster.url('en', '/fr/1k')), 'fr',
               '1k')
    no_flows(cluster)


# Options of the SYN that a handoff cannot carry.

COOKIE = b'\x01\x02\x03\x04\x05\x06\x07\x08'
FAST_OPEN = {
    'cookie': (34, COOKIE),
    'request': (34, b''),
    'experiment': (254, b'\xf9\x89' + COOKIE),
    'unasked': ('NOP', None),
}
MP_CAPABLE = (30, b'\x01\x81')


def begin(wire: Wire, data: bytes, option: Any) -> Peer:
    """A connection whose SYN has an option, and maybe data."""
    peer = wire.peer('en', service=PORT)
    peer.greet(data=data, options=[option])
    return peer


def answer_to(peer: Peer) -> Tuple[Set[int], int]:
    """The options of the SYN-ACK, and how many bytes it acknowledges."""
    # What the server says at once may come before it, from another processor.
    answer = next(segment for segment in peer.heard() if segment.flags & SYN)
    assert answer.flags & ACK
    return set(answer.options.kinds), peer.acked - 1


@pytest.fixture
def serve(cluster: Cluster) -> Iterator[Callable[[], None]]:
    """Makes the second port a service, whose requests for fr are handed
    off."""
    with contextlib.ExitStack() as stack:
        offering = cluster.offering(PORT, [Rule('/fr/', 'fr')])
        yield lambda: stack.enter_context(offering)


@pytest.fixture
def listen(cluster: Cluster) -> Iterator[Listen]:
    """Starts a server of a make on en and fr."""
    servers: List[Server] = []

    def start(make: str) -> None:
        for name in ('en', 'fr'):
            servers.append(Server(cluster[name], make, PORT))
            servers[-1].wait()
    yield start
    for server in servers:
        server.stop()
    no_flows(cluster)


def finish(peer: Peer, ask: bytes) -> None:
    """Send the request, and have it answered by fr."""
    peer.next = 1
    peer.send('PA', ask)
    peer.until(lambda: peer.stream.fin is not None, 'the end of the answer')
    head, _, body = bytes(peer.stream.data).partition(b'\r\n\r\n')
    assert head.startswith(b'HTTP/1.1 200')
    assert body == document('fr', '1k')
    peer.send('FA', wait=0.3)
    assert not peer.reset() and not peer.wrong()


@pytest.mark.parametrize('kind', some_long(FAST_OPEN, 'request'))
def test_fast_open(cluster: Cluster, wire: Wire, serve: Serve,
                   listen: Listen, kind: str) -> None:
    """Fast Open is kept off at the SYN, whose data the client sends again,
    and the connection is handed off."""
    for name in ('en', 'fr'):
        # Servers offer it, and without a cookie.
        cluster[name].sysctl('net.ipv4.tcp_fastopen', str(0x203))
    listen('fastopen')
    ask = request('/fr/1k', Connection='close')
    peer = begin(wire, ask, FAST_OPEN[kind])
    kinds, taken = answer_to(peer)
    # This is how it would be without a service there.
    assert taken == len(ask) or kind == 'request' and 34 in kinds
    peer.quit()
    gone(cluster['en'], f'sport = :{PORT}')
    serve()
    before = cluster['en'].stats()['handoffs_accepted']
    peer = begin(wire, ask, FAST_OPEN[kind])
    kinds, taken = answer_to(peer)
    assert (kinds & {34, 254}, taken) == (set(), 0)
    finish(peer, ask)
    assert cluster['en'].stats()['handoffs_accepted'] == before + 1


@pytest.mark.long
def test_fast_open_again(cluster: Cluster, wire: Wire, serve: Serve,
                         listen: Listen) -> None:
    """The option is taken off each SYN, not just off the first."""
    for name in ('en', 'fr'):
        cluster[name].sysctl('net.ipv4.tcp_fastopen', str(0x203))
    listen('fastopen')
    serve()
    ask = request('/fr/1k', Connection='close')
    cluster['en'].nft('table inet t { chain c { type filter hook input '
                      f'priority 0; tcp dport {PORT} drop; }}; }}')
    peer = wire.peer('en', service=PORT)
    option = FAST_OPEN['cookie']
    peer.send('S', ask, seq=0, options=[option], wait=0.3)
    cluster['en'].nft('')
    peer.greet(data=ask, options=[option])
    assert answer_to(peer)[1] == 0
    finish(peer, ask)


def test_multipath(cluster: Cluster, wire: Wire, serve: Serve,
                   listen: Listen) -> None:
    """Multipath TCP is kept off a service's connections; its listeners are
    left alone, and serve plain TCP."""
    listen('go-multipath')
    peer = begin(wire, b'', MP_CAPABLE)
    assert 30 in answer_to(peer)[0], 'it is Multipath TCP without a service'
    peer.quit()
    gone(cluster['en'], f'sport = :{PORT}')
    serve()
    peer = begin(wire, b'', MP_CAPABLE)
    assert 30 not in answer_to(peer)[0]
    peer.quit()
