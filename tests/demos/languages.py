# SPDX-License-Identifier: GPL-2.0
"""The multi-language web site.

Each node has a stock nginx that serves one language. A client asks every node
for pages in every language; a node hands off what another should serve, and
that one answers the client directly.
"""

import itertools
from dataclasses import dataclass
from typing import List

from checks import sha256
from harness.cluster import SITE
from harness.namespaces import NamespaceCluster

from .exchange import Exchange, Wires
from .report import step, table, totals
from .site import Site, connection

DOCUMENTS = ('index.html', '128k')
BIG = (('en', 'en', '20m'), ('en', 'fr', '20m'))


@dataclass(frozen=True)
class Request:
    """What is asked of which node, and who should answer."""

    front: str
    back: str
    document: str

    @property
    def url(self) -> str:
        """As the user types it."""
        return f'http://{self.front}.example/{self.back}/{self.document}'


def requests() -> List[Request]:
    """Every node is asked for every language."""
    names = [node.name for node in SITE.nodes]
    asked = [Request(front, back, document) for front, back, document in
             itertools.product(names, names, DOCUMENTS)]
    return asked + [Request(*big) for big in BIG]


class Languages(Site):
    """Three nodes, three languages."""

    title = 'A multi-language web site on three nodes'
    picture = '''
    client ---- switch ---+--- {en}   nginx, English
                          +--- {fr}   nginx, French
                          +--- {de}   nginx, German
'''
    servers = 'write the documents, start nginx on each node'
    spec = SITE

    def __init__(self, cluster: NamespaceCluster) -> None:
        super().__init__(cluster)
        self.asked = requests()

    def serve(self) -> None:
        self.cluster.start_servers()

    def where(self, request: Request) -> str:
        """Lead curl to the node, as DNS would."""
        name, vip = request.front, self.cluster[request.front].vip
        return f'connect-to = "{name}.example:80:{vip}:80"'

    def play(self) -> None:
        with Wires(self.cluster) as wires, step(
                f'{len(self.asked)} requests by curl'):
            answers = self.cluster.client.curl.fetch(
                [request.url for request in self.asked],
                each=[[self.where(request), *connection()]
                      for request in self.asked])
        self.exchanges = [
            Exchange(request.front, answer, answer.node, wires)
            for request, answer in zip(self.asked, answers)]

    def report(self) -> bool:
        rows = [(request.url, exchange, exchange.faults(
                    request.back, sha256(request.back, request.document)))
                for request, exchange in zip(self.asked, self.exchanges)]
        table(rows)
        print()
        return totals(self.handoffs()) and not any(
            faults for _, _, faults in rows)
