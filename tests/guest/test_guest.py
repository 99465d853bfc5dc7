# SPDX-License-Identifier: GPL-2.0
"""The guests themselves: what the rest of the tests relies on."""

import threading
import time

import pytest

from harness.guest import Guest
from harness.process import CommandFailed, CommandTimeout, GuestCrash, GuestError


@pytest.fixture(scope='module')
def guest(pytestconfig):
    """A guest that the tests of this file share."""
    with Guest('self', pytestconfig.getoption('kernel')) as booted:
        yield booted


def test_output_and_status_come_back(guest):
    """Both streams, the status, and the input."""
    assert guest.run('cat; echo no >&2; exit 3', input='yes', check=False) == (3, 'yes', 'no\n')
    with pytest.raises(CommandFailed, match='returned 3'):
        guest.run('exit 3')
    with pytest.raises(GuestError, match='FileNotFoundError'):
        guest.run(['/nonexistent'])


def test_big_output_is_whole(guest):
    """More than any buffer on the way holds."""
    assert len(guest.run('head -c 3000000 /dev/zero').out) == 3000000


def test_commands_run_side_by_side(guest):
    """A second command ends while the first one waits."""
    slow = guest.popen('sleep 60')
    results = []
    threads = [threading.Thread(target=lambda n=n: results.append(guest.run(f'echo {n}').out))
               for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ['0\n', '1\n', '2\n', '3\n']
    assert slow.poll() is None
    assert slow.terminate() == -15


def test_a_conversation(guest):
    """A command that stays, and is spoken with."""
    process = guest.popen(['cat'], stdin=True)
    for word in (b'one\n', b'two\n'):
        process.write(word)
        assert process.readline() == word
    process.write(b'', close=True)
    assert process.wait(10) == 0
    assert process.readline() == b''


def test_what_takes_too_long_is_killed(guest):
    """With all that it has started."""
    with pytest.raises(CommandTimeout):
        guest.run('sleep 4711 & sleep 4711', timeout=0.5)
    assert guest.run('pgrep -xf "sleep 4711"', check=False).rc == 1


def test_files_come_and_go(guest):
    """Of any bytes, and of more than one message."""
    data = bytes(range(256)) * 1000
    guest.put('/tmp/some/file', data, mode=0o755)
    assert guest.get('/tmp/some/file') == data
    assert guest.run('stat -c %a /tmp/some/file').out == '755\n'


def test_kernel_messages_have_their_level(guest):
    """And come once."""
    guest.kmsg()
    guest.run('echo "<4>a warning" >/dev/kmsg')
    assert [(record.level, record.text) for record in guest.kmsg()] == [(4, 'a warning')]
    assert guest.kmsg() == []


def test_the_modules_load_and_unload(guest):
    """In their order, without a word but the two about the taint."""
    guest.kmsg()
    guest.run('modprobe nf_defrag_ipv6')
    guest.run(['insmod', f'{guest.modules}/carisma_btcp.ko'])
    guest.run(['insmod', f'{guest.modules}/carisma_utcp.ko'])
    guest.run('rmmod carisma_utcp')
    guest.run('rmmod carisma_btcp')
    loud = [record.text for record in guest.kmsg() if record.level < 6]
    assert all('taint' in text for text in loud), loud


def test_a_panic_ends_every_wait(pytestconfig):
    """At once, with the kernel's last words."""
    with Guest('panic', pytestconfig.getoption('kernel')) as doomed:
        waiting = doomed.popen('sleep 600')
        begin = time.monotonic()
        doomed.popen('echo c >/proc/sysrq-trigger')
        with pytest.raises(GuestCrash, match='(?s)Kernel panic.*sysrq'):
            waiting.wait(600)
        assert time.monotonic() - begin < 60
        with pytest.raises(GuestCrash):
            doomed.run('true')
