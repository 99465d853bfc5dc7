# SPDX-License-Identifier: GPL-2.0
"""Services go and come while connections are open."""

import pytest

from checks import no_flows, request, served, some_long
from harness.running import Cluster, wait_for

ONES = ('en', 'fr')                 # front end and back end


def forget(cluster: Cluster, *names: str) -> None:
    """Delete these nodes' services."""
    for name in names:
        node = cluster[name]
        node.batch([['service', 'del', service] for service in node.offered(cluster.spec.port)])


def restore(cluster: Cluster, *names: str) -> None:
    """Configure these nodes' services again."""
    for name in names:
        node = cluster[name]
        node.batch(node.offer())


@pytest.mark.parametrize('names', some_long((('en',), ('fr',), ONES), ('en',)))
def test_deleted_under_a_handoff(fresh: Cluster, names) -> None:
    """What was handed off goes on without the service, at either end; what
    comes then is the local server's; and the service works again."""
    front = fresh['en']
    held = fresh.client.connect(front.vip)
    held.send(request('/fr/20m'))
    leaver = fresh.client.connect(front.vip)
    leaver.send(request('/fr/1k'))
    served(leaver.response(), 'fr', '1k')
    wait_for(lambda: front.stats()['handoffs_accepted'] == 2, 'handed off')
    forget(fresh, *names)
    # Its end is noticed without a service as well.
    leaver.close()
    wait_for(lambda: all(len(flows) == 1 for flows in
                         fresh.live_flows().values()), 'one is left')
    other = fresh.client.connect(front.vip)
    other.send(request('/fr/1k'))
    served(other.response(), 'en', '1k')
    other.close()
    served(held.response(timeout=60), 'fr', '20m')
    held.send(request('/fr/128k'))
    served(held.response(), 'fr', '128k')
    restore(fresh, *names)
    other = fresh.client.connect(front.vip)
    other.send(request('/fr/1k'))
    served(other.response(), 'fr', '1k')
    other.close()
    held.send(request('/fr/1k'))
    served(held.response(), 'fr', '1k')
    held.close()
    no_flows(fresh)
    # What is not used any more is forgotten with the next change.
    for _ in range(3):
        forget(fresh, *names)
        restore(fresh, *names)


def test_deleted_under_a_head(fresh: Cluster) -> None:
    """The bytes of a head that is not whole are the local server's."""
    front = fresh['en']
    raw = request('/fr/1k')
    held = fresh.client.connect(front.vip)
    held.send(raw[:20])
    asking = [(held, raw[20:])]
    if not fresh.spec.by_cookie:
        asking.append((fresh.client.connect(front.vip), raw))
    wait_for(lambda: front.stats()['withheld'] == len(asking), 'they are withheld')
    forget(fresh, 'en')
    assert not front.flows()
    for sock, rest in asking:
        sock.send(rest)
        served(sock.response(), 'en', '1k')
        sock.close()
    restore(fresh, 'en')
