# SPDX-License-Identifier: GPL-2.0
"""Judge the TCP connections of a capture.

`Connection.faults()` says in words whatever a client could notice of a
handoff: a second SYN, a gap or an overlap that differs, a number that leaps,
a timestamp that goes back or echoes what was never sent, a wrong checksum.
"""

import itertools
from collections import defaultdict
from typing import Dict, Iterable, List, Optional

from .pcap import ACK, FIN, RST, SYN, Checksum, Endpoint, Segment

MODULO = 1 << 32


def distance(later: int, earlier: int) -> int:
    """later - earlier, as signed 32-bit serial numbers."""
    return (later - earlier + (MODULO >> 1)) % MODULO - (MODULO >> 1)


class Stream:
    """One direction of a connection, put together from its segments."""

    def __init__(self, isn: int) -> None:
        self.isn = isn
        self.data = bytearray()
        self.cut = 0                    # bytes of `data` that were not captured
        self.sent = 0                   # bytes, retransmissions counted
        self.end = 0                    # highest offset seen, without FIN
        self.fin: Optional[int] = None  # offset of the FIN
        self.faults: List[str] = []
        self._waiting: Dict[int, Segment] = {}

    def offset(self, number: int) -> int:
        """The offset in the stream that a sequence number stands for."""
        return distance(number, self.isn) - 1

    def add(self, segment: Segment) -> None:
        """Take the next segment of this direction."""
        at = self.offset(segment.seq) + bool(segment.flags & SYN)
        self.sent += segment.length
        if segment.length:
            self.end = max(self.end, at + segment.length)
        if segment.flags & FIN:
            end = at + segment.length
            if self.fin not in (None, end):
                self.faults.append(f'FIN moved from {self.fin} to {end}')
            self.fin = end
        if segment.length:
            self._waiting.setdefault(at, segment)
            if self._waiting[at].length < segment.length:
                self._waiting[at] = segment
            self._join()

    def _join(self) -> None:
        progress = True
        while progress:
            progress = False
            for at in sorted(self._waiting):
                if at > len(self.data):
                    break
                self._append(at, self._waiting.pop(at))
                progress = True
                break

    def _append(self, at: int, segment: Segment) -> None:
        have = len(self.data) - at
        if at < 0:
            self.faults.append(f'data before the first byte: {segment}')
            return
        old = bytes(self.data[at:at + segment.length])
        payload = segment.payload
        if not self.cut and old[:len(payload)] != payload[:len(old)]:
            self.faults.append(f'retransmission differs: {segment}')
        new = payload[have:]
        cut = max(0, segment.length - have) - len(new)
        self.data += new + bytes(cut)
        self.cut += cut

    @property
    def missing(self) -> int:
        """Bytes of the stream that the capture does not hold."""
        end = self.end if self.fin is None else max(self.end, self.fin)
        return end - len(self.data)


class Connection:
    """One TCP connection in a capture, seen from the client's side."""

    def __init__(self, client: Endpoint, server: Endpoint,
                 segments: List[Segment]) -> None:
        self.client = client
        self.server = server
        self.segments = segments

    def of_client(self) -> List[Segment]:
        """What the client sent."""
        return [s for s in self.segments if s.source == self.client]

    def of_server(self) -> List[Segment]:
        """What was sent to the client."""
        return [s for s in self.segments if s.source == self.server]

    def response_bytes(self) -> int:
        """Payload on its way to the client, retransmissions counted."""
        return sum(s.length for s in self.of_server())

    def stream(self, segments: List[Segment]) -> Stream:
        """One direction put together."""
        isns = [s.seq for s in segments if s.flags & SYN]
        result = Stream(isns[0] if isns else segments[0].seq - 1)
        for segment in segments:
            if not segment.flags & RST:
                result.add(segment)
        return result

    def response(self) -> bytes:
        """All the bytes that the client got."""
        stream = self.stream(self.of_server())
        if stream.cut:
            raise ValueError(f'{stream.cut} bytes were not captured')
        return bytes(stream.data)

    def faults(self, lossy: bool = False, reset: bool = False) -> List[str]:
        """What is wrong with the connection; nothing, if it is unbroken.

        On a `lossy` link handshake segments may come twice. A connection
        that ends with RST on purpose is a `reset` one.
        """
        found = self._handshake(lossy)
        if found:
            return found
        if not reset:
            found += [f'RST: {s}' for s in self._resets(lossy)]
        for side in (self.of_client(), self.of_server()):
            stream = self.stream(side)
            found += stream.faults
            if stream.missing > 0:
                found.append(f'{stream.missing} bytes missing from '
                             f'{side[0].source}')
        found += self._checksums()
        found += self._numbers()
        if not lossy:
            found += self._timestamps()
        return found

    def answers_wrong(self) -> List[str]:
        """What is wrong with what the server says of the client's numbers and
        of its own clock, whatever the client did."""
        return self._numbers() + self._timestamps()

    def _handshake(self, lossy: bool) -> List[str]:
        found = []
        for side, wanted in ((self.of_client(), SYN),
                             (self.of_server(), SYN | ACK)):
            syns = [s for s in side if s.flags & SYN]
            who = side[0].source if side else 'one side'
            if not syns:
                return [f'no SYN of {who}']
            if any(s.flags & (SYN | ACK) != wanted for s in syns):
                found.append(f'a wrong kind of SYN of {who}')
            if len({s.seq for s in syns}) > 1:
                found.append(f'{who} began twice: ' +
                             '; '.join(map(str, syns)))
            elif len(syns) > 1 and not lossy:
                found.append(f'{who} sent {len(syns)} SYNs')
        return found

    def _resets(self, lossy: bool) -> List[Segment]:
        """The RSTs that nothing explains.

        TIME_WAIT answers a late segment, and a client that had closed answers
        that with RST. In good weather it must have cause: an acknowledgement
        was so late that the server sent again what had arrived. After bad
        weather a server that had closed without TIME_WAIT may reset, too, what
        comes late, and nobody has to say what was late.
        """
        server = self.stream(self.of_server())
        late = server.sent > server.end
        found = []
        closed = set()
        for s in self.segments:
            if s.flags & FIN:
                closed.add(s.source)
            mine = s.source == self.client
            expected = (
                late and mine and len(closed) == 2
                or lossy and (mine and s.source in closed or len(closed) == 2))
            if s.flags & RST and not expected:
                found.append(s)
        return found

    def _checksums(self) -> List[str]:
        return [f'checksum {s.checksum.value}: {s}' for s in self.segments
                if s.checksum is Checksum.BAD
                or s.ip_checksum is Checksum.BAD]

    def _numbers(self) -> List[str]:
        """Go through the capture in order, as the client met it."""
        found = []
        client_isn = self.of_client()[0].seq
        client_next = client_isn
        client_ts = {0}
        ts = any(s.options.ts for s in self.of_server() if s.flags & SYN)
        for s in self.segments:
            if s.source == self.client:
                if distance(s.seq + s.span, client_next) > 0:
                    client_next = s.seq + s.span
                if s.options.ts:
                    client_ts.add(s.options.ts[0])
                continue
            if s.flags & RST:
                continue
            if ts and not s.options.ts:
                found.append(f'no timestamp: {s}')
            elif s.options.ts and s.options.ts[1] not in client_ts:
                found.append(f'echoes what was never sent: {s}')
            if distance(s.ack, client_next) > 0:
                found.append(f'acknowledges {client_next} to come: {s}')
            for left, right in s.options.sack:
                if distance(right, client_next) > 0 or distance(
                        left, client_isn) < 0 or distance(right, left) <= 0:
                    found.append(f'SACK of what was never sent: {s}')
        return found

    def _timestamps(self) -> List[str]:
        """What is sent later must not have an earlier timestamp.

        Segments may overtake each other on the way to the capture. But what
        acknowledges more was sent later, and so was, if nothing had to be
        sent again, what stands later in the stream.
        """
        client_isn = self.of_client()[0].seq
        server_isn = self.of_server()[0].seq
        first = {}              # the first transmission of each data segment
        stamped = [s for s in self.of_server()
                   if s.options.ts and not s.flags & RST]
        for s in stamped:
            if s.length:
                first.setdefault(s.seq, s)
        if any(s.options.sack for s in self.of_client()):
            first.clear()
        found = []
        for order, segments in (
                (lambda s: distance(s.ack, client_isn), stamped),
                (lambda s: distance(s.seq, server_isn), first.values())):
            newest: Optional[int] = None        # of all groups before
            for _, group in itertools.groupby(
                    sorted(segments, key=order), order):
                values = []
                for s in group:
                    values.append(s.options.ts[0])
                    if newest is not None and distance(
                            values[-1], newest) < 0:
                        found.append(f'timestamp before {newest}: {s}')
                if newest is not None:
                    values.append(newest)
                newest = max(values, key=lambda v: distance(v, values[0]))
        return found

    def __str__(self) -> str:
        return '\n'.join(map(str, self.segments))


def connections(segments: Iterable[Segment], port: int = 80
                ) -> List[Connection]:
    """The connections to servers at `port`, in the order of their SYNs."""
    by_pair: Dict[tuple, List[Segment]] = defaultdict(list)
    for segment in segments:
        if segment.destination[1] == port:
            by_pair[segment.source, segment.destination].append(segment)
        elif segment.source[1] == port:
            by_pair[segment.destination, segment.source].append(segment)
    return [Connection(client, server, found)
            for (client, server), found in by_pair.items()]
