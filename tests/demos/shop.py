# SPDX-License-Identifier: GPL-2.0
"""The e-commerce site.

Each node has the same small shop, which keeps a customer's basket in its own
memory and sets a cookie to its node's name. Customers come to another node with
each request, as round-robin DNS would have it. With the modules all requests of
a session go to the node where it began, and the basket is whole in the end;
without them each node has a part of it.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Dict, List, Tuple

from harness.cluster import SITE, Rule
from harness.curl import Response
from harness.paths import INSIDE
from harness.namespaces import NamespaceCluster
from harness.servers import Make, Server

from .exchange import Exchange, Wires
from .report import Row, Total, step, table, totals
from .site import Site, client, connection, nodes

NAMES = ('s1', 's2', 's3')
HOST = 'shop.example'
SHOP = Make(f'python3 -S {INSIDE}/shop.py {{node}} {{port}}')
BASKETS: Dict[str, Tuple[str, ...]] = {
    'anna': ('apples', 'bread', 'cheese', 'dates'),
    'bruno': ('eggs', 'figs', 'grapes', 'honey'),
    'clara': ('ice', 'jam', 'kale', 'lemons'),
}


@dataclass(frozen=True)
class Visit:
    """A customer comes to a node and puts a thing into the basket, or looks at
    what is there."""

    customer: str
    front: str
    path: str
    thing: str = ''

    @property
    def looks(self) -> bool:
        """Whether it is to see what is in the basket."""
        return self.path == '/basket' and not self.thing

    def __str__(self) -> str:
        verb = f'POST {self.path} {self.thing}' if self.thing else (
            f'GET  {self.path}')
        return f'{self.customer:<6} {verb}'


def visits() -> List[Visit]:
    """Each customer enters at another node, and goes round."""
    found = []
    for begin, (customer, things) in enumerate(BASKETS.items()):
        walk = [('/', ''), *(('/basket', thing) for thing in things),
                ('/basket', '')]
        found += [Visit(customer, NAMES[(begin + turn) % len(NAMES)], *what)
                  for turn, what in enumerate(walk)]
    return found


def wanted(visit: Visit) -> str:
    """The hash of the answer."""
    if visit.looks:
        text = ''.join(f'{thing}\n' for thing in BASKETS[visit.customer])
    elif visit.thing:
        text = 'It is in your basket.\n'
    else:
        text = 'Welcome to our shop.\n'
    return hashlib.sha256(text.encode()).hexdigest()


class Shop(Site):
    """Three nodes, and customers with sessions."""

    title = 'A shop on three nodes, with sessions that stay where they began'
    picture = '''
    buyer ----- switch ---+--- {s1}   shop.py
                          +--- {s2}   shop.py
                          +--- {s3}   shop.py
'''
    servers = 'start the shop on each node'
    spec = replace(
        SITE, nodes=nodes(*NAMES), clients=(client('buyer'),), mode='frequent',
        rules=(Rule('/basket', NAMES[0], others=NAMES[1:], cookie='node'),))

    def __init__(self, cluster: NamespaceCluster) -> None:
        super().__init__(cluster)
        self.visits = visits()
        self.lone: List[Response] = []

    def serve(self) -> None:
        shops = [Server(node, 'shop', self.spec.port, SHOP)
                 for node in self.cluster.nodes]
        for shop in shops:
            shop.wait()

    def shop(self) -> List[Response]:
        """Do all visits; each customer has a curl, which keeps the cookies."""
        found: List[Response] = []
        for customer in BASKETS:
            mine = [visit for visit in self.visits
                    if visit.customer == customer]
            found += self.cluster.client.curl.fetch(
                [f'http://{HOST}{visit.path}' for visit in mine],
                each=[self.options(visit) for visit in mine])
        return found

    def options(self, visit: Visit) -> List[str]:
        """What curl is told for a visit."""
        found = [f'connect-to = "{HOST}:80:{self.cluster[visit.front].vip}:80"',
                 'cookie = ""', *connection()]
        if visit.thing:
            found.append(f'data = "{visit.thing}"')
        return found

    def compare(self) -> None:
        with step('ask the shop without the modules'):
            self.lone = self.shop()

    def play(self) -> None:
        with Wires(self.cluster) as wires, step(
                f'{len(self.visits)} requests by curl'):
            answers = self.shop()
        self.exchanges = [
            Exchange(visit.front, answer, answer.node, wires)
            for visit, answer in zip(self.visits, answers)]

    def rows(self) -> List[Row]:
        """What the table shows."""
        homes: Dict[str, str] = {}
        return [(str(visit), exchange, exchange.faults(
                    homes.setdefault(visit.customer, visit.front),
                    wanted(visit)))
                for visit, exchange in zip(self.visits, self.exchanges)]

    def baskets(self) -> int:
        """Print what is in them at the end; how many were whole without the
        modules."""
        whole = 0
        for visit, exchange, alone in zip(
                self.visits, self.exchanges, self.lone):
            if not visit.looks:
                continue
            count = len(BASKETS[visit.customer])
            print(f'{"":>10}  things in the basket of {visit.customer}: ' +
                  ', '.join(f'{answer.headers.get("x-total-count")} of {count} '
                            f'at {answer.node}{when}' for answer, when in (
                                (exchange.answer, ''),
                                (alone, ' without the modules'))))
            whole += alone.sha256 == wanted(visit)
        return whole

    def report(self) -> bool:
        rows = self.rows()
        table(rows)
        print()
        counts: List[Total] = [
            ('baskets that were whole without the modules', self.baskets(), 0),
            ('wrong answers without the modules but for these baskets',
             sum(answer.sha256 != wanted(visit) for visit, answer
                 in zip(self.visits, self.lone) if not visit.looks), 0)]
        return totals(counts + self.handoffs()) and not any(
            faults for _, _, faults in rows)
