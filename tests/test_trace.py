# SPDX-License-Identifier: GPL-2.0
"""The tracepoints: which steps of a connection they tell, in which order."""

import re
from typing import Dict, Iterator, List, NamedTuple

import pytest

from checks import served
from harness.guest import Guest
from harness.node import Node
from harness.running import Cluster, wait_for

TRACEFS = '/sys/kernel/tracing'
EVENTS = f'{TRACEFS}/events/carisma'
LINE = re.compile(r' (?P<event>\w+): (?P<fields>netns=.*)$')


class Event(NamedTuple):
    """A line of the trace."""

    name: str
    fields: Dict[str, str]

    def step(self) -> str:
        """What happened, in a word or two."""
        more = self.fields.get('outcome') or self.fields.get('kind')
        return f'{self.name} {more}' if more else self.name


class Trace:
    """The kernel's trace of our events."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest

    def switch(self, on: bool) -> None:
        """Switch all of them on or off; what was told is forgotten."""
        self.guest.run(f'set -e; echo {int(on)} >{EVENTS}/enable; echo >{TRACEFS}/trace')

    def of(self, node: Node, port: int) -> List[Event]:
        """What a node told of the connections of a client's port."""
        netns = node.run(['stat', '-Lc', '%i', '/proc/self/ns/net']).out.strip()
        events = []
        for line in self.guest.run(['cat', f'{TRACEFS}/trace']).out.splitlines():
            if match := LINE.search(line):
                event = Event(match['event'], dict(
                    word.split('=', 1) for word in match['fields'].split()))
                if (event.fields['netns'] == netns
                        and event.fields.get('client', '').endswith(f':{port}')):
                    events.append(event)
        return events


@pytest.fixture
def trace(fresh: Cluster) -> Iterator[Trace]:
    """All of our events, switched on."""
    guest = fresh['en'].kernel.guest
    guest.run(f'mountpoint -q {TRACEFS} || mount -t tracefs tracefs {TRACEFS}')
    found = Trace(guest)
    found.switch(True)
    yield found
    guest.run(f'! test -e {EVENTS} || echo 0 >{EVENTS}/enable')


def steps(events: List[Event]) -> List[str]:
    """What happened."""
    return [event.step() for event in events]


@pytest.mark.long
def test_local(fresh: Cluster, trace: Trace) -> None:
    """A request that is served where it arrived."""
    answer, = fresh.client.curl.fetch([fresh.url('en', '/en/1k')])
    served(answer, 'en', '1k')
    events = trace.of(fresh['en'], answer.port)
    assert steps(events) == ['flow_begin', 'head_decided requests_local', 'flow_end']
    assert events[0].fields['role'] == 'front-end'
    assert events[0].fields['client'] == f'{fresh.client.address}:{answer.port}'
    assert events[0].fields['local'] == fresh['en'].service


def enters(cluster: Cluster) -> List[str]:
    """The steps by which a connection enters a back end's TCP."""
    ways = {'adopt': ['adopt'], 'replay': ['syn', 'ack']}[cluster.spec.migrate]
    return [f'replay_step {it}' for it in [*ways, 'offer']]


def test_handed_off(fresh: Cluster, trace: Trace) -> None:
    """Every step of a handoff, at both ends; those of records under one number."""
    answer, = fresh.client.curl.fetch([fresh.url('en', '/fr/1k')])
    served(answer, 'fr', '1k')
    in_band = fresh.spec.mode == 'always'
    # The last step of either.
    last = ('flow_closed', 'flow_closed' if in_band else 'record_sent closed')
    nodes = [fresh[name] for name in ('en', 'fr')]
    for node, step in zip(nodes, last):
        wait_for(lambda: step in steps(trace.of(node, answer.port)), f'{node.name} knows its end')
    # That the flow ends may be told, too, or not.
    front, back = ([event for event in trace.of(node, answer.port) if event.name != 'flow_end']
                   for node in nodes)
    for events, role in ((front, 'front-end'), (back, 'back-end')):
        assert [event.fields['role'] for event in events
                if event.name == 'flow_handed_off'] == [role]
    assert {event.fields['node'] for event in front[1:]} == {'fr'}
    assert {event.fields['node'] for event in back} == {'en'}
    if in_band:
        assert steps(front) == ['flow_begin', 'head_decided requests_remote',
                                'flow_handed_off', 'flow_closed']
        assert steps(back) == ['flow_begin', *enters(fresh), 'flow_handed_off', 'flow_closed']
    else:
        tell_of_records(front, back, enters(fresh))


def tell_of_records(front: List[Event], back: List[Event], entered: List[str]) -> None:
    """The steps of a handoff by control connections."""
    assert steps(front) == [
        'flow_begin', 'head_decided requests_remote', 'record_sent req',
        'record_received accept', 'record_sent data', 'record_received taken',
        'flow_handed_off', 'record_received closed', 'flow_closed']
    assert steps(back) == [
        'record_received req', 'flow_begin', *entered, 'record_sent accept',
        'record_received data', 'record_sent taken', 'flow_handed_off', 'flow_closed',
        'record_sent closed']
    assert len({event.fields['id'] for event in front[2:] + back}) == 1
    sent, = [event for event in front if event.step() == 'record_sent data']
    received, = [event for event in back if event.step() == 'record_received data']
    assert sent.fields == {**received.fields, 'netns': sent.fields['netns'], 'node': 'fr'}


@pytest.mark.long
@pytest.mark.control
def test_refused(fresh: Cluster, trace: Trace) -> None:
    """A refusal says why, and so does what it leads to."""
    fresh['fr'].ctl('drain')
    answer, = fresh.client.curl.fetch([fresh.url('en', '/fr/1k')])
    assert answer.status == 200
    events = trace.of(fresh['en'], answer.port)
    assert steps(events) == [
        'flow_begin', 'head_decided requests_remote', 'record_sent req',
        'record_received reject', 'flow_end']
    assert events[3].fields['reason'] == 'draining'
    assert steps(trace.of(fresh['fr'], answer.port)) == [
        'record_received req', 'record_sent reject']


@pytest.mark.long
@pytest.mark.control
def test_reset(fresh: Cluster, trace: Trace) -> None:
    """Connections that are ended by force, and peers that come and go."""
    sock = fresh.client.connect(fresh['en'].vip)
    sock.send(b'GET /fr/1k HTTP/1.1\r\nHost: x\r\n\r\n')
    sock.some(1)
    port = sock.port
    fresh['en'].ctl('drain', '--force')
    wait_for(lambda: 'flow_reset' in steps(trace.of(fresh['fr'], port)), 'reset at fr')
    front = steps(trace.of(fresh['en'], port))
    # That the back end says so, too, comes when it may.
    assert [step for step in front if step != 'record_received closed'][-3:] == [
        'record_sent abort', 'flow_reset', 'flow_end']
    assert fresh.kernels[0] is fresh['en'].kernel
    told = trace.guest.run(['cat', f'{TRACEFS}/trace']).out
    assert ' peer_down: ' not in told
    fresh['fr'].kernel.unload('carisma_utcp')
    told = trace.guest.run(['cat', f'{TRACEFS}/trace']).out
    assert re.search(r' peer_down: netns=\d+ node=fr epoch=0', told)
    fresh['fr'].kernel.load('carisma_utcp')
    wait_for(lambda: re.search(r' peer_up: netns=\d+ node=fr epoch=[1-9]', trace.guest.run(
        ['cat', f'{TRACEFS}/trace']).out), 'fr is up')


def test_unloading_while_on(fresh: Cluster, trace: Trace) -> None:
    """The modules go while all are on, also while somebody reads; and come
    again, switched off."""
    reader = trace.guest.popen(['cat', f'{TRACEFS}/trace_pipe'])
    for _ in range(3):
        answer, = fresh.client.curl.fetch([fresh.url('en', '/en/1k')])
        served(answer, 'en', '1k')
        fresh.unload()
        assert trace.guest.run(['test', '-e', EVENTS], check=False).rc != 0
        fresh.load()
        assert trace.guest.run(['cat', f'{EVENTS}/enable']).out == '0\n'
        trace.switch(True)
    reader.kill()
