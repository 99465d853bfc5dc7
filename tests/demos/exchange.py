# SPDX-License-Identifier: GPL-2.0
"""A request, its answer, and what the wires of a cluster say about them."""

from typing import Any, Dict, List

from harness.capture import Capture
from harness.curl import Response
from harness.namespaces import NamespaceCluster
from harness.pcap import SYN
from harness.trace import Connection, connections


class Wires:
    """The site's traffic on the wires of all nodes and of the client, for a
    block."""

    def __init__(self, cluster: NamespaceCluster) -> None:
        self._cluster = cluster
        self._found: Dict[str, List[Connection]] = {}
        # One tcpdump at the switch, where all wires end: under emulation it is
        # starting one for each that takes long. The bodies are compared by
        # their hashes, so the headers are enough.
        self._capture = Capture(
            cluster.switch, f'tcp port {cluster.spec.port}', device='any',
            bytes_each=128)

    def __enter__(self) -> 'Wires':
        self._capture.start()
        return self

    def __exit__(self, *why: Any) -> None:
        self._capture.__exit__(*why)
        if why[0] is not None:
            return
        ports = self._cluster.ports()
        for host in (*self._cluster.nodes, self._cluster.client):
            self._found[host.name] = connections(
                (segment for segment in self._capture.segments
                 if segment.device == ports[host.name]), self._cluster.spec.port)

    def of(self, front: str, port: int) -> Dict[str, List[Connection]]:
        """What was seen by each host of the connection from that port of the
        client to a node."""
        vip = self._cluster[front].vip
        return {name: [one for one in found
                       if one.client[1] == port and one.server[0] == vip]
                for name, found in self._found.items()}

    @property
    def client(self) -> str:
        """What the host is called that asks."""
        return self._cluster.client.name


class Exchange:
    """A request that came to `front`, and its answer, which `node` gave by
    its own word."""

    def __init__(self, front: str, answer: Response, node: str, wires: Wires
                 ) -> None:
        self.front = front
        self.answer = answer
        self.node = node
        seen = wires.of(front, answer.port)
        self.seen, = seen.pop(wires.client)
        # Who answered the handshake, and whose wire the response took.
        self.accepted = '?'
        self.crossed: Dict[str, int] = {}
        for name, found in seen.items():
            for connection in found:
                self.crossed[name] = (self.crossed.get(name, 0) +
                                      connection.response_bytes())
                if any(s.flags & SYN for s in connection.of_server()):
                    self.accepted = name

    @property
    def remote(self) -> bool:
        """Whether it took a handoff."""
        return self.front != self.node

    @property
    def through_front(self) -> int:
        """Response bytes on the wire of the node that accepted."""
        return self.crossed.get(self.accepted, 0)

    def faults(self, back: str, sha256: str) -> List[str]:
        """What is not as it should be, if `back` was to answer with a body of
        that hash."""
        answer = self.answer
        found = [answer.error] if answer.error else []
        if answer.status != 200:
            found.append(f'status {answer.status}')
        if self.accepted != self.front:
            found.append(f'accepted by {self.accepted}')
        if self.node != back:
            found.append(f'answered by {self.node or "nobody"}')
        elif answer.sha256 != sha256:
            found.append('the body is another')
        if back != self.front and self.through_front:
            found.append(f'{self.through_front} bytes crossed {self.front}')
        if self.crossed.get(back, 0) < answer.size:
            found.append(f'the body did not come from {back}')
        broken = self.seen.faults()
        if broken:
            found.append(f'the client saw: {broken[0]}')
        return found
