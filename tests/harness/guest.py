# SPDX-License-Identifier: GPL-2.0
"""A guest: one virtual machine on the stock or the debug kernel.

    with Guest('fe', nics=[nic]) as guest:
        rc, out, err = guest.run('ip addr')
        server = guest.popen(['nginx', '-g', 'daemon off;'])
        ...
        server.terminate()
        for record in guest.kmsg(): ...

This runs inside the Debian tree (`tools/chroot`), whose QEMU and virtiofsd it
uses. The guest's root is that tree itself, read-only, with the checkout at
/carisma and its build folder at /build; /etc, /var, /tmp, /run and /root can
be written to and are forgotten.

A panic or an oops in the guest makes every call raise `GuestCrash` at once,
with the end of the console's log in its text.
"""

import base64
import collections
import fcntl
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

from .machine import kernel_image, listens, modules_path, qemu, virtiofsd
from .paths import BUILD
from .process import (
    CommandFailed, CommandTimeout, GuestCrash, GuestError, Process)

CHUNK = 48 * 1024

Record = collections.namedtuple('Record', 'level sequence time text')

# What ends a guest. Warnings do not: they are in kmsg(), with their level.
CRASH = re.compile(
    r'Kernel panic|Oops: |kernel BUG at|BUG: unable to handle|general protection fault'
)

# How much longer than on the stock kernel things may take.
SLOWNESS = {'stock': 1, 'debug': 5}


def claim(stem):
    """A log with such a name that nobody else writes to, as long as it is open."""
    numbers = itertools.count(1)
    while True:
        log = open(f'{stem}-{next(numbers)}.log', 'ab')  # pylint: disable=consider-using-with
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return log
        except BlockingIOError:
            log.close()


class Guest:
    """One virtual machine.

    nics: network cards, each the value of QEMU's -netdev without its id, such as
    'dgram,local.type=unix,local.path=A,remote.type=unix,remote.path=B', or a
    pair of that and the card's MAC address. They are eth0, eth1 ... in order.

    icount: let the guest's clock count its instructions: slower, on one CPU, and
    what it measures is the same from run to run.

    arguments: more of QEMU's.
    """

    def __init__(self, name, kernel='stock', mem=None, smp=2, nics=(), icount=False,
                 arguments=()):
        self.name = name
        self.kernel = kernel
        self.mem = mem or {'stock': 1024, 'debug': 2048}[kernel]
        self.smp = 1 if icount else smp
        self.icount = icount
        self.modules = modules_path(kernel)
        self.crashed = False
        self.changed = threading.Condition()
        self.arguments = list(arguments)
        self.nics = [nic if isinstance(nic, tuple) else (nic, None) for nic in nics]
        self._idents = itertools.count(1)
        self._processes = {}
        self._send_lock = threading.Lock()
        self._kmsg_lock = threading.Lock()
        self._children = []
        self._threads = []
        self._port = None
        self._sockets = None
        self._crash_line = None
        logs = f'{BUILD}/guests'
        os.makedirs(logs, exist_ok=True)
        # Runs of tests beside each other have the same process numbers, each in its own tree.
        self._claim = claim(f'{logs}/{name}.{kernel}')
        self.console = self._claim.name

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def patience(self, timeout):
        """How long to wait, on this kernel, for what may take `timeout` seconds."""
        return None if timeout is None else timeout * SLOWNESS[self.kernel]

    # Life

    def start(self, timeout=120):
        """Boot, and return once commands can be run.

        Once in a long while QEMU is what fails while a guest boots, with multi-threaded TCG: an
        assertion of its own (seen: that of msix_table_mmio_write), or one processor runs into the
        breakpoint by which another keeps it from code that is being patched. No test has begun
        then: it is said, and the guest booted again.
        """
        for left in (2, 1, 0):
            try:
                return self._boot(timeout)
            except GuestCrash:
                if not left or not self._emulator_failed():
                    raise
                print(f'{self.name}: QEMU failed, see {self.console}*.failed; booting again',
                      file=sys.stderr)

    def _emulator_failed(self):
        """Whether it was QEMU that ended the boot. What was said is put aside."""
        for log, sign in ((f'{self.console}.qemu', 'Assertion `'),
                          (self.console, 'Oops: int3')):
            with open(log, encoding='utf-8', errors='replace') as file:
                failed = sign in file.read()
            if failed:
                os.replace(log, f'{log}.failed')
                return True
        return False

    def _boot(self, timeout):
        for thread in self._threads:
            thread.join()
        self._threads = []
        self._processes = {}
        self._crash_line = None
        self.crashed = False
        if not os.path.exists(kernel_image(self.kernel)):
            raise GuestError(f'there is no {self.kernel} kernel: {kernel_image(self.kernel)}')
        # Short, because the path of a socket may have 107 bytes.
        self._sockets = tempfile.mkdtemp(prefix='guest-', dir='/tmp')
        # The files exist before anyone waits for something in them.
        with open(self.console, 'wb'):
            pass
        try:
            self._spawn(virtiofsd(self._sockets))
            self._wait_for_socket('fs')
            self._spawn(qemu(self, self._sockets))
            self._wait_for_socket('agent')
            self._port = socket.socket(socket.AF_UNIX)
            self._port.connect(f'{self._sockets}/agent')
            boot = self._processes[0] = Process(self, 0, ['boot'])
            for task in (self._read_port, self._watch_console):
                self._threads.append(threading.Thread(target=task, daemon=True))
                self._threads[-1].start()
            with self.changed:
                if not self.changed.wait_for(
                        lambda: boot.poll() == 0 or self.crashed, self.patience(timeout)):
                    raise GuestError(f'{self.name} did not boot\n{self.console_tail()}')
            if self.crashed:
                raise self.crash()
        except BaseException:
            self._reap()
            raise
        return self

    def stop(self, timeout=10):
        """Power off. A guest that does not obey is killed."""
        if not self._children:
            return
        try:
            if not self.crashed:
                self._send('poweroff')
        except OSError:
            pass
        self._reap(timeout)

    def kill(self):
        """End the guest as if its power were cut."""
        self._reap()

    def _reap(self, timeout=0):
        """End QEMU, after a grace period, then virtiofsd."""
        for child in reversed(self._children):
            try:
                child.wait(timeout or 0.01)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            # virtiofsd ends with its only client; it needs no long wait.
            timeout = min(timeout, 1)
        self._children = []
        if self._port:
            self._port.close()
        if self._sockets:
            shutil.rmtree(self._sockets, ignore_errors=True)
        with self.changed:
            self.crashed = True
            self.changed.notify_all()

    def _spawn(self, argv):
        log = open(f'{self.console}.qemu', 'ab')  # pylint: disable=consider-using-with
        with log:
            self._children.append(subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                # A Ctrl-C is for the test, which then stops its guests.
                start_new_session=True))

    def _wait_for_socket(self, name):
        deadline = time.monotonic() + 10
        while not listens(f'{self._sockets}/{name}'):
            if time.monotonic() > deadline or self._children[-1].poll() is not None:
                with open(f'{self.console}.qemu', encoding='utf-8', errors='replace') as log:
                    raise GuestError(f'{self.name}: no socket {name}\n{log.read()}')
            time.sleep(0.01)

    # The console

    def console_tail(self, lines=60):
        """The end of the console's log."""
        with open(self.console, encoding='utf-8', errors='replace') as file:
            return ''.join(file.readlines()[-lines:])

    def crash(self):
        """The exception that says how the guest ended."""
        return GuestCrash(
            f'{self.name}: {self._crash_line or "the machine has ended"}\n{self.console_tail()}')

    def _watch_console(self):
        """Read the console for a crash, as long as the guest lives."""
        qemu = self._children[-1]
        with open(self.console, encoding='utf-8', errors='replace') as file:
            rest = ''
            while True:
                ended = qemu.poll() is not None
                *lines, rest = (rest + file.read()).split('\n')
                for line in lines:
                    if CRASH.search(line) and not self._crash_line:
                        self._crash_line = line.strip()
                        # Let the rest of the report come before anyone reads it.
                        threading.Timer(1, self._set_crashed).start()
                if ended:
                    self._set_crashed()
                    return
                time.sleep(0.1)

    def _set_crashed(self):
        with self.changed:
            self.crashed = True
            self.changed.notify_all()

    # Requests

    def run(self, command, timeout=60, input=b'', check=True, env=None, cwd='/root', netns=''):
        """Run a command (a list, or a line for the shell) and return (rc, out, err)."""
        process = self.popen(command, input=input, env=env, cwd=cwd, netns=netns)
        try:
            result = process.result(timeout)
        except CommandTimeout:
            process.kill()
            raise
        if check and result.rc != 0:
            raise CommandFailed(
                f'{self.name}: {command} returned {result.rc}\n{result.out}{result.err}')
        return result

    def popen(self, command, input=b'', env=None, cwd='/root', stdin=False, netns=''):
        """Begin a command (a list, or a line for the shell) and return its Process.

        With `stdin`, its standard input stays open for Process.write(). In the network
        namespace `netns` it sees the guest's own /sys.
        """
        argv = ['sh', '-c', command] if isinstance(command, str) else [str(a) for a in command]
        if isinstance(input, str):
            input = input.encode()
        return self._send('run', argv=argv, env=env or {}, cwd=cwd, open=stdin, netns=netns,
                          input=base64.b64encode(input).decode())

    def put(self, path, data, mode=None):
        """Write a file in the guest."""
        if isinstance(data, str):
            data = data.encode()
        extra = {} if mode is None else {'mode': mode}
        for begin in range(0, len(data) or 1, CHUNK):
            self.call('put', path=path, append=begin > 0, **extra,
                      data=base64.b64encode(data[begin:begin + CHUNK]).decode())

    def get(self, path):
        """Read a file of the guest's."""
        return self.call('get', path=path).stdout_bytes

    def digest(self, path):
        """The SHA-256 of each file in a folder of the guest's, by its name; the folder is
        removed."""
        lines = self.call('digest', path=path).stdout.splitlines()
        return {name: value for value, name in (line.split(' ', 1) for line in lines)}

    def kmsg(self):
        """The kernel's log records since the last call (at first, since the boot)."""
        with self._kmsg_lock:
            lines = self.call('kmsg').stdout.splitlines()
        records = []
        for line in lines:
            head, _, text = line.partition(';')
            priority, sequence, microseconds = head.split(',')[:3]
            records.append(Record(
                int(priority) & 7, int(sequence), int(microseconds) / 1e6, text))
        return records

    def call(self, operation, timeout=60, **fields):
        """Do a request, wait for its end, and return its Process."""
        process = self._send(operation, **fields)
        process.wait(timeout)
        return process

    def _send(self, operation, **fields):
        if self.crashed:
            raise self.crash()
        ident = next(self._idents)
        process = Process(self, ident, fields.get('argv') or [operation])
        self._processes[ident] = process
        line = json.dumps({'id': ident, 'op': operation, **fields}).encode() + b'\n'
        with self._send_lock:
            self._port.sendall(line)
        return process

    def _read_port(self):
        """Give the agent's answers to those who wait for them."""
        rest = b''
        while True:
            try:
                data = self._port.recv(1 << 20)
            except OSError:
                return
            if not data:
                return
            *lines, rest = (rest + data).split(b'\n')
            with self.changed:
                for line in lines:
                    message = json.loads(line)
                    process = self._processes[message['id']]
                    # pylint: disable-next=protected-access
                    if process._take(message):
                        del self._processes[message['id']]
                self.changed.notify_all()
