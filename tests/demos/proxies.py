# SPDX-License-Identifier: GPL-2.0
"""The partitioned cluster of proxies.

Each node has a stock squid, which a browser may use as its proxy, and one rule
gives each document to one of them by a hash of its path. A client asks for
every document by way of every node. With the modules the origin server sends
each document once, to the one proxy that has it in its cache from then on;
without them it sends it to every proxy.
"""

import hashlib
import random
from collections import Counter
from dataclasses import dataclass, replace
from typing import Dict, List, Tuple

from harness.cluster import SITE, Host, Rule
from harness.curl import Response
from harness.nginx import Nginx
from harness.paths import WORK
from harness.namespaces import NamespaceCluster
from harness.servers import Make, Server

from .exchange import Exchange, Wires
from .report import Total, line, paint, size, step, totals
from .site import Site, client, connection, nodes

NAMES = ('p1', 'p2', 'p3')
ORIGIN = Host('origin', '10.0.0.200')
ORIGIN_NAME = 'www.example'
SIZE = 50_000

# As it is by itself, but that it leaves no files; the icons for lists of FTP
# servers, which take seconds under emulation, are not loaded.
SQUID = Make('squid -N -d 1 -f {folder}/configuration', '''
http_port {port}
http_access allow all
visible_hostname {node}
cache_mem 32 MB
pid_filename none
access_log none
cache_log /dev/null
netdb_filename none
mime_table /dev/null
pinger_enable off
''')

# A document's path, and the name of a node.
Key = Tuple[str, str]


@dataclass(frozen=True)
class Run:
    """All requests, done once."""

    answers: Dict[Key, Response]    # by the node that the client came to
    fetched: 'Counter[Key]'         # from the origin, by whom and how often

    def held(self) -> 'Counter[str]':
        """How many documents each proxy has fetched."""
        return Counter(name for _, name in self.fetched)


def answerer(answer: Response) -> str:
    """The proxy that answered, by its own word (RFC 9211)."""
    return answer.headers.get('cache-status', '').partition(';')[0]


def is_hit(answer: Response) -> bool:
    """Whether the answer came out of its cache."""
    return ';hit' in answer.headers.get('cache-status', '')


def documents() -> Dict[str, bytes]:
    """What the origin server has: bodies by their paths."""
    return {f'/wiki/{number}': random.Random(number).randbytes(SIZE)
            for number in range(1, 13)}


class Proxies(Site):
    """Three proxies, each with a third of the documents."""

    title = 'Three caching proxies that have each document once'
    picture = '''
    reader ---- switch ---+--- {p1}   squid
                |         +--- {p2}   squid
              origin      +--- {p3}   squid
'''
    servers = 'start nginx at the origin, squid on each node'
    spec = replace(
        SITE, nodes=nodes(*NAMES), clients=(client('reader'), ORIGIN),
        port=3128, mode='frequent',
        rules=(Rule('/', NAMES[0], others=NAMES[1:], pick='hash'),))

    def __init__(self, cluster: NamespaceCluster) -> None:
        super().__init__(cluster)
        self.bodies = documents()
        self.origin: Nginx = cluster[ORIGIN.name].nginx
        self.squids: List[Server] = []
        self.runs: List[Run] = []       # without the modules, and with them

    def serve(self) -> None:
        self.origin.listen = '80'
        self.origin.documents = f'{WORK}/origin'
        self.origin.start()
        for path, body in self.bodies.items():
            self.cluster.client.put(self.origin.documents + path, body)
        # Nobody asks again whether they have changed: they have not for long.
        self.cluster.client.run(
            f'find {self.origin.documents} -type f | '
            'xargs touch --date "30 days ago"')
        # The same file on all hosts.
        self.cluster.client.run(
            f'echo {ORIGIN.address} {ORIGIN_NAME} >>/etc/hosts')
        self.start()

    def start(self) -> None:
        """Start all proxies, with empty caches."""
        self.squids = [Server(node, 'squid', self.spec.port, SQUID)
                       for node in self.cluster.nodes]
        for squid in self.squids:
            squid.wait()

    def ask(self) -> None:
        """Ask for every document by way of every node, by another first one
        for each."""
        asked = [(path, NAMES[(number + turn) % len(NAMES)])
                 for turn in range(len(NAMES))
                 for number, path in enumerate(self.bodies)]
        before = self.asked_origin()
        answers = self.cluster.client.curl.fetch(
            [f'http://{ORIGIN_NAME}{path}' for path, _ in asked], limit=300,
            each=[[f'proxy = "http://{self.cluster[front].service}"',
                   *connection()] for _, front in asked])
        self.runs.append(Run(dict(zip(asked, answers)),
                             self.asked_origin() - before))

    def asked_origin(self) -> 'Counter[Key]':
        """How often which document was fetched by whom so far."""
        proxies = {node.address: node.name for node in self.cluster.nodes}
        return Counter((entry.request.split()[1], proxies[entry.client])
                       for entry in self.origin.log())

    def compare(self) -> None:
        with step('ask the proxies without the modules'):
            self.ask()
        with step('start squid anew, with empty caches'):
            for squid in self.squids:
                squid.stop()
            self.start()

    def play(self) -> None:
        count = len(self.bodies) * len(NAMES)
        with Wires(self.cluster) as wires, step(f'{count} requests by curl'):
            self.ask()
        self.exchanges = [
            Exchange(front, answer, answerer(answer), wires)
            for (_, front), answer in self.runs[-1].answers.items()]

    def visits(self) -> Dict[str, List[Exchange]]:
        """The exchanges for each document, in order."""
        found: Dict[str, List[Exchange]] = {path: [] for path in self.bodies}
        for (path, _), exchange in zip(self.runs[-1].answers, self.exchanges):
            found[path].append(exchange)
        return found

    def right(self, path: str) -> str:
        """The hash of a document."""
        return hashlib.sha256(self.bodies[path]).hexdigest()

    def faults(self, path: str, visits: List[Exchange], fetched: int
               ) -> List[str]:
        """What is wrong with the answers for a document."""
        found = [] if fetched == 1 else [f'fetched {fetched} times']
        for turn, visit in enumerate(visits):
            found += visit.faults(visits[0].node, self.right(path))
            if is_hit(visit.answer) != (turn > 0):
                found.append(f'at {visit.front}: '
                             f'{visit.answer.headers.get("cache-status")}')
        return found

    def table(self) -> bool:
        """Print a line for each document; True if all are right."""
        form = '{:<12}' + '{:<24}' * len(NAMES) + '{:>7} {:>12}'
        print(paint(form.format(
            'document', 'accepted -> answered', *['then'] * (len(NAMES) - 1),
            'fetched', 'through them'), 'bold'))
        good = True
        for path, visits in self.visits().items():
            fetched = sum(count for (what, _), count
                          in self.runs[-1].fetched.items() if what == path)
            through = sum(v.through_front for v in visits if v.remote)
            faults = self.faults(path, visits, fetched)
            good = good and not faults
            line(form.format(path, *[
                f'{v.accepted} -> {v.node or "?"} '
                f'{"hit" if is_hit(v.answer) else "miss":<4} '
                f'{v.answer.time * 1000:>4.0f} ms' for v in visits],
                f'{fetched} x', size(through)), faults, remote=True)
        return good

    def report(self) -> bool:
        good = self.table()
        print()
        alone, together = self.runs[0], self.runs[-1]
        for run, when in ((together, ''), (alone, ' without the modules')):
            held = run.held()
            print(f'{"":>10}  documents in the caches{when}: ' + ', '.join(
                f'{name} {held[name]}' for name in NAMES))
        count = len(self.bodies)
        wrong = sum(answer.sha256 != self.right(path)
                    for (path, _), answer in alone.answers.items())
        counts: List[Total] = [
            ('proxies that have some of the documents',
             len(together.held()), len(NAMES)),
            ('requests that the origin got: one for each document',
             sum(together.fetched.values()), count),
            ('that it got without the modules: one of each proxy for each',
             sum(alone.fetched.values()), count * len(NAMES)),
            ('wrong answers without the modules', wrong, 0)]
        return totals(counts + self.handoffs()) and good
