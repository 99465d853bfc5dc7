# SPDX-License-Identifier: GPL-2.0
"""The modules can go at any moment, and come again."""

import time

import pytest

from checks import (
    all_right, hand_off, no_flows, request, served, sha256, some_long)
from conftest import Lab
from harness.load import Load
from harness.paths import CARISMACTL, WORK
from harness.process import CommandFailed, Process
from harness.running import MODULES, Cluster, wait_for
from harness.sockets import SocketError

# Connects, over and over, until it is told that this will do; then asks by each of the connections
# when it is told to.
CONNECT = '''
import hashlib, http.client, select, sys
address, port, path = sys.argv[1:]
connections = []
while not select.select([sys.stdin], [], [], 0)[0]:
    connections.append(http.client.HTTPConnection(address, int(port)))
    connections[-1].connect()
    if len(connections) == 1:
        print('connected', flush=True)
sys.stdin.readline()
print(len(connections), flush=True)
sys.stdin.readline()
for connection in connections:
    connection.request('GET', path)
    answer = connection.getresponse()
    print(answer.status, answer.headers['X-Node'], hashlib.sha256(answer.read()).hexdigest())
'''


def keep_asking(cluster: Cluster, path: str, count: int) -> Process:
    """Many requests one after the other, each with its own connection; a
    line tells what became of it."""
    client = cluster.client
    urls = f'{WORK}/urls'
    client.put(urls, count * (
        f'url = "{cluster.url("en", path)}"\noutput = "/dev/null"\n'))
    load = client.popen(
        'exec stdbuf -oL curl --silent -H "Connection: close" --write-out '
        "'%{http_code}/%header{x-node}/%{errormsg}\\n' " f'--config {urls}')
    load.wait_for('(?:200/.*\n){5}', 60)
    return load


@pytest.mark.long
def test_idle(fresh: Cluster) -> None:
    """Unload and load again, with servers running."""
    client = fresh.client
    for _ in range(3):
        fresh.unload()
        for language in ('en', 'fr'):
            served(client.curl.get(fresh.url('en', f'/{language}/1k')),
                   'en', '1k')
        fresh.load()
        assert not fresh['en'].ask('service', 'list')
        fresh.configure()
        for language in ('en', 'fr'):
            served(client.curl.get(fresh.url('en', f'/{language}/1k')),
                   language, '1k')
        no_flows(fresh)


@pytest.mark.long
def test_under_local_load(fresh: Cluster) -> None:
    """No local request fails while modules come and go."""
    load = keep_asking(fresh, '/en/1k', 300)
    rounds = 0
    while load.poll() is None:
        fresh.unload()
        fresh.load()
        fresh.configure()
        rounds += 1
    assert rounds > 0
    assert set(load.stdout.splitlines()) == {'200/en/'}, load.stdout
    assert load.stdout.count('\n') == 300


@pytest.mark.long
def test_under_mixed_load(fresh: Cluster) -> None:
    """Handed-off requests keep the modules in use until they are over; none
    fails when they go."""
    load = keep_asking(fresh, '/fr/1k', 200)
    rounds = 0
    while load.poll() is None:
        for node in fresh.nodes:
            node.ctl('drain')
        wait_for(lambda: unloaded(fresh), 'unloaded', 30)
        fresh.load()
        fresh.configure()
        rounds += 1
    lines = load.stdout.splitlines()
    assert rounds > 0
    assert set(lines) <= {'200/en/', '200/fr/'}, load.stdout
    assert len(lines) == 200


def unloaded(cluster: Cluster) -> bool:
    """Try to unload."""
    try:
        cluster.unload()
    except CommandFailed as problem:
        assert 'in use' in str(problem)
        return False
    return True


def test_withheld_connections_are_released(fresh: Cluster) -> None:
    """Clients that have not asked yet are served locally afterwards."""
    client = fresh.client
    socks = [client.connect(fresh['en'].vip) for _ in range(2 if fresh.spec.by_cookie else 4)]
    raw = request('/fr/1k')
    for sock in socks[:2]:
        sock.send(raw[:10], delay=0.1)
    fresh.unload()
    for number, sock in enumerate(socks):
        sock.send(raw[10:] if number < 2 else raw)
        served(sock.response(), 'en', '1k')
        sock.close()


@pytest.mark.parametrize('mode', some_long(('rare', 'frequent'), 'frequent'))
def test_held_bytes_are_not_lost(fresh: Cluster, mode: str) -> None:
    """Unloading waits until TCP has what the client will not send again."""
    node, raw = fresh['en'], request('/en/1k')
    node.ctl('service', 'set', node.service, '--mode', mode)
    sock = fresh.client.connect(node.vip)
    sock.send(raw[:40], delay=0.3)
    node.nft('table inet t { chain c { type filter hook input priority 0; '
             'tcp dport 80 meta length > 80 drop; }; }')
    process = node.kernel.guest.popen(['sh', '-c', 'rmmod carisma_utcp && rmmod carisma_btcp'])
    wait_for(lambda: node.kernel.loaded() == ['carisma_btcp'], 'one is gone')
    time.sleep(1)
    assert node.kernel.loaded() == ['carisma_btcp']
    node.nft('')
    wait_for(lambda: not node.kernel.loaded(), 'the other one is')
    process.wait()
    sock.send(raw[40:])
    served(sock.response(), 'en', '1k')
    sock.close()
    fresh.unload()


def load_again(cluster: Cluster, *names: str) -> None:
    """Load, and configure these nodes with rules about each other, by one
    command: a hundred rounds of a command for each step would take ten
    minutes. Nobody is to be answered 408 because the host is busy."""
    lines = [f'insmod {cluster.kernels[0].guest.modules}/{name}.ko'
             for name in MODULES]
    for name in names:
        lines += [f'ip netns exec {name} {CARISMACTL} batch - <<-END',
                  *(' '.join(words) for words in cluster[name].configuration()
                    if 'de' not in words), 'END',
                  f'ip netns exec {name} sh -c '
                  '"echo 60000 >/sys/kernel/carisma/net/head_timeout_ms"']
    cluster.kernels[0].guest.run('\n'.join(['set -e', *lines]), timeout=180)


@pytest.mark.parametrize('rounds', some_long((5, 100), 5))
def test_hundred_times(fresh: Cluster, rounds: int) -> None:
    """A few or a hundred times under fire: no local request is lost, what BTCP
    holds of a head, cut at each of its bytes, reaches the local server, and
    what is handed off is drained first."""
    front, client = fresh['en'], fresh.client
    fresh.drain()
    fresh.unload()
    load = Load(client, front.service, ['/en/1k'], threads=2)
    raw = request('/fr/1k')
    refused = 0
    begin = time.monotonic()
    for number in range(rounds):
        drains = number % 10 == 0
        load_again(fresh, 'en', *(['fr'] if drains else []))
        if drains:
            wait_for(lambda: front.ask('node', 'list')[1]['state'] == 'up',
                     'the control connection is up')
            handed_off = hand_off(fresh)
        held = []
        silent = [0] if drains and not fresh.spec.by_cookie else []
        for at in [1 + number % (len(raw) - 1), *silent]:
            held.append((client.connect(front.vip), at))
            if at:
                held[-1][0].send(raw[:at])
        wait_for(lambda: front.stats()['withheld'] == len(held), 'held')
        if drains:
            assert not unloaded(fresh)
            refused += 1
            front.ctl('drain', '--timeout', '0', check=False)
            handed_off.send(request('/fr/128k'))
            served(handed_off.response(), 'fr', '128k')
            handed_off.close()
        wait_for(lambda: unloaded(fresh), f'unloaded, round {number}', 30)
        for sock, at in held:
            sock.send(raw[at:])
            served(sock.response(), 'en', '1k')
            sock.close()
        print(f'round {number} over after {time.monotonic() - begin:.1f} s')
    answers = load.end()
    print(answers)
    assert all_right(answers, '/en/1k', 'en')['en'] > 2 * rounds
    assert refused == -(-rounds // 10)


@pytest.mark.long
def test_listener_is_copied_as_it_is_attached(fresh: Cluster) -> None:
    """TCP makes a child without the listener's lock: it may be about to copy a listener that is
    being attached. The child has nothing of ours when we are gone."""
    node, client = fresh['en'], fresh.client
    node.ctl('service', 'del', node.service)
    with fresh.kernels[0].delayed(inet_csk_clone_lock=200, carisma_helper_lhash2_buckets=50):
        clients = client.popen(
            ['python3', '-uSc', CONNECT, node.vip, fresh.spec.port, '/fr/1k'], stdin=True)
        assert clients.readline(30) == b'connected\n'
        # There is hardly a moment at which no child is being made.
        node.ctl(*node.offer()[0])
        clients.write(b'enough\n')
        count = int(clients.readline(30))
    assert count > 2
    assert 'tcp-ulp-carisma' in node.run('ss -tlnieH sport = :80').out
    fresh.drain()
    fresh.unload()
    clients.write(b'ask\n')
    assert clients.wait(60) == 0, clients.stderr
    assert clients.stdout.splitlines()[2:] == count * [f'200 en {sha256("en", "1k")}']


@pytest.mark.long
def test_gone_before_it_is_configured(fresh: Cluster) -> None:
    """UTCP may go while it is told the configuration, which takes a while for each service. No flow
    begins without it."""
    node = fresh['en']
    kernel = node.kernel
    kernel.unload('carisma_utcp')
    node.batch([['service', 'add', node.at(port)] for port in range(8001, 8021)])
    before = node.stats()['flows_created']
    for ms in (0, 5, 10, 20, 40, 80):
        kernel.guest.run(f'insmod {kernel.guest.modules}/carisma_utcp.ko; sleep {ms / 1000}; '
                         'rmmod carisma_utcp')
        served(fresh.client.curl.get(fresh.url('en', '/en/1k')), 'en', '1k')
        assert node.stats()['flows_created'] == before, f'after {ms} ms'


def test_in_use(fresh: Cluster) -> None:
    """An open handed-off connection is not lost: rmmod refuses."""
    sock = hand_off(fresh)
    with pytest.raises(CommandFailed, match='in use'):
        fresh.unload()
    for _ in range(2):
        sock.send(request('/fr/128k'))
        served(sock.response(), 'fr', '128k')
    # Local and new remote requests go on as well; what is handed over in band needs no UTCP, which
    # is gone, and leaves what is new to TCP.
    node = 'en' if fresh.spec.mode == 'always' else 'de'
    served(fresh.client.curl.get(fresh.url('en', f'/{node}/1k')), node, '1k')
    sock.close()
    no_flows(fresh)
    wait_for(lambda: unloaded(fresh), 'unloaded', 90)


def test_drain(fresh: Cluster) -> None:
    """Drained, a node hands nothing off, and waits for what was."""
    sock = hand_off(fresh)
    front = fresh['en']
    drain = front.popen([CARISMACTL, 'drain', '--timeout', '60'])
    wait_for(lambda: drain.poll() is None and fresh.client.curl.get(
        fresh.url('en', '/fr/1k')).node == 'en', 'en serves by itself')
    sock.send(request('/fr/1k'))
    served(sock.response(), 'fr', '1k')
    sock.close()
    assert drain.wait(60) == 0, drain.stderr
    front.ctl('resume')
    served(fresh.client.curl.get(fresh.url('en', '/fr/1k')), 'fr', '1k')


def test_drain_by_force(fresh: Cluster) -> None:
    """Forced, the handed-off connections end with a reset, at once, however many."""
    socks = [hand_off(fresh) for _ in range(100)]
    fresh['en'].ctl('drain', '--force')
    for sock in socks:
        with pytest.raises(SocketError, match='ConnectionResetError'):
            sock.receive(timeout=5)
    for node in fresh.nodes[1:]:
        node.ctl('drain', '--force')
    wait_for(lambda: unloaded(fresh), 'unloaded')


@pytest.mark.wary
@pytest.mark.control
@pytest.mark.parametrize('name, gauge', (('en', 'handoffs_asked'), ('fr', 'handed_off_in')))
def test_drain_while_a_node_is_asked(fresh: Cluster, name: str, gauge: str) -> None:
    """What is not handed off yet never is: a drain does not end before, nor waits for it."""
    fresh['fr'].link.netem(delay=0.7)
    sock = fresh.client.connect(fresh['en'].vip)
    sock.send(request('/fr/1k'))
    node = fresh[name]
    wait_for(lambda: node.stats()[gauge] == 1, 'the node is asked')
    assert not fresh['en'].stats()['handed_off_out']
    node.ctl('drain', '--force', '--timeout', '15')
    served(sock.response(), 'en', '1k')
    assert not node.stats()['handoffs_accepted'] and not node.stats()['handoffs_in']
    sock.close()
    fresh['fr'].link.heal()
    wait_for(lambda: unloaded(fresh), 'unloaded')


@pytest.mark.long
def test_namespace_goes_with_its_flows(bare: Cluster, lab: Lab) -> None:
    """A namespace may go while it has flows; the others keep theirs."""
    bare.start_servers()
    lab.enable(bare)
    hand_off(bare, 'fr')
    hand_off(bare, 'de')
    withheld = bare.client.connect(bare['en'].vip)
    withheld.send(b'GET /fr')
    bare['en'].kill()
    served(bare.client.curl.get(bare.url('fr', '/de/1k')), 'de', '1k')
    for node in bare.nodes:
        node.ctl('drain', '--force')
    wait_for(lambda: unloaded(bare), 'unloaded')
