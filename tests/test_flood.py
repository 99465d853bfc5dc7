# SPDX-License-Identifier: GPL-2.0
"""A flood of SYNs that alone takes at least half of an always-mode front end's
processor: those who mean it are served, and nothing is kept of the others."""

import dataclasses
import time
from typing import Iterator, List

import pytest

from checks import STRANGERS, all_right, no_flows
from conftest import Lab
from harness.flood import flooded_at
from harness.kernel import Kernel
from harness.load import Load
from harness.namespaces import SWITCH
from harness.patience import patient
from harness.running import Cluster

REQUESTS = 200
UNHARMED = 0.95
SHARE = 0.5             # of a processor, at least
PROTOCOLS = {4: 'ip', 6: 'ipv6'}        # as tc calls them
AIM, MOST = 0.65, 0.8
TRIES = 6
MEASURED = 4            # seconds
# The switch makes as many of each SYN, as that takes less of the first processor than to
# send it; a front end that keeps nothing of one cannot tell.
COPIES = 16
# What a SYN would leave behind would be no smaller than this (a request_sock has more).
LEFT = 100


@pytest.fixture
def flat(lab: Lab) -> Iterator[Cluster]:
    """A site whose front end takes what comes for it on the guest's second processor
    alone, and loses what answers strangers."""
    site = lab.site(dataclasses.replace(lab.spec, forward='direct', mode='always'))
    lab.enable(site)
    front = site['en']
    queue = '/sys/class/net/eth0/queues/rx-0/rps_cpus'
    strangers = STRANGERS[site.spec.family]
    front.run(f'echo 2 >{queue} && ip link add strangers up type dummy && '
              f'ip route add {strangers} dev strangers')
    at_switch = f'ip netns exec {SWITCH} tc'
    copies = 'action mirred egress mirror dev p-en ' * (COPIES - 1)
    site.kernels[0].guest.run(
        f'set -e; {at_switch} qdisc add dev p-client clsact; {at_switch} filter add dev p-client '
        f'ingress protocol {PROTOCOLS[site.spec.family]} flower src_ip {strangers} {copies}')
    # The queue of a processor holds what comes while the host does not let it run.
    site.kernels[0].guest.run('sysctl -qw net.core.netdev_max_backlog=10000')
    yield site
    site.kernels[0].guest.run('sysctl -qw net.core.netdev_max_backlog=1000')
    site.kernels[0].guest.run(f'{at_switch} qdisc del dev p-client clsact')
    front.run(f'echo 0 >{queue}; ip link del strangers')


def times(kernel: Kernel) -> List[int]:
    """What the second processor has done so far, in ticks."""
    told = kernel.guest.run(['grep', '^cpu1 ', '/proc/stat']).out
    return [int(field) for field in told.split()[1:]]


def share(kernel: Kernel) -> float:
    """The part of its time that it spends on packets."""
    before = times(kernel)
    time.sleep(patient(MEASURED))
    spent = [after - then for after, then in zip(times(kernel), before)]
    return spent[6] / sum(spent)


def slab(kernel: Kernel) -> int:
    """Bytes in the kernel's slabs."""
    told = kernel.guest.run('grep ^Slab: /proc/meminfo').out
    return int(told.split()[1]) * 1024


def test_half_of_the_processor(flat: Cluster) -> None:
    """By the front end's own account, with nothing else to do: at first as fast as
    can be, and then at a rate that leaves it something."""
    kernel, front = flat.kernels[0], flat['en']
    alone, rate = share(kernel), 0
    for _ in range(TRIES):
        with flooded_at(flat.client, front, rate) as flood:
            taken = share(kernel) - alone
        print(f'{flood.rate:.0f}/s take {taken:.0%}')
        if SHARE <= taken <= MOST:
            break
        rate = int(flood.rate * AIM / max(taken, 0.1))
    assert SHARE <= taken <= MOST
    Load(flat.client, front.service, ['/fr/1k'], threads=4, count=40).end(60)
    no_flows(flat, timeout=30)
    before, answered = slab(kernel), front.stats()['cookies_sent']
    name = 'TcpExtTCPSynRetrans'
    repeated = flat.client.counter(name)[name]
    with flooded_at(flat.client, front, rate) as flood:
        told = Load(flat.client, front.service, ['/fr/1k'], threads=4,
                    count=REQUESTS).end(patient(120))
        flows = front.flows()
    print(f'{flood.rate:.0f}/s, {flood.sent} in all: {told}')
    answered = front.stats()['cookies_sent'] - answered
    print(f'{answered} were answered')
    assert answered > flood.sent * COPIES // 2 > 20_000, answered
    # Unharmed is who did not even have to repeat his SYN.
    repeated = flat.client.counter(name)[name] - repeated
    right = all_right(told, '/fr/1k', 'fr')['fr']
    assert right == REQUESTS, told
    assert right - repeated >= UNHARMED * REQUESTS, repeated
    strangers = [flow for flow in flows
                 if not flow['client'].startswith(flat.client.address)]
    assert not strangers, strangers
    no_flows(flat, timeout=30)
    assert slab(kernel) - before < LEFT * answered
