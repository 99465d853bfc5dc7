# SPDX-License-Identifier: GPL-2.0
"""Commands that run in guests, and what may go wrong with either."""

import base64
import collections
import re
import signal

Result = collections.namedtuple('Result', 'rc out err')


class GuestError(Exception):
    """The harness could not do what it was asked."""


class GuestCrash(GuestError):
    """The guest's kernel crashed, or the machine ended."""


class CommandFailed(GuestError):
    """A command ended with a status that is not 0."""


class CommandTimeout(GuestError):
    """A command did not end in time. It was killed."""


class Process:
    """A command that runs in a guest."""

    def __init__(self, guest, ident, argv):
        self.guest = guest
        self.argv = argv
        self._ident = ident
        self._parts = {'out': bytearray(), 'err': bytearray()}
        self._read = 0          # How much of the output readline() has given out.
        self._rc = None
        self._error = None

    @property
    def stdout(self):
        """What the command has written so far, as text."""
        return self._parts['out'].decode(errors='replace')

    @property
    def stderr(self):
        """What the command has written to standard error so far, as text."""
        return self._parts['err'].decode(errors='replace')

    @property
    def stdout_bytes(self):
        """What the command has written so far."""
        return bytes(self._parts['out'])

    def poll(self):
        """The status, or None while the command runs."""
        self._raise_error()
        return self._rc

    def wait(self, timeout=None):
        """Wait until the command has ended, and return its status."""
        guest = self.guest
        with guest.changed:
            if not guest.changed.wait_for(self._ended, guest.patience(timeout)):
                raise CommandTimeout(
                    f'{guest.name}: {self.argv} did not end within {timeout} s\n'
                    f'{self.stdout}{self.stderr}')
        self._raise_error()
        if self._rc is None:
            raise guest.crash()
        return self._rc

    def result(self, timeout=None):
        """Wait for the end, and return (rc, out, err)."""
        return Result(self.wait(timeout), self.stdout, self.stderr)

    def wait_for(self, pattern, timeout=10):
        """Wait until what the command wrote matches `pattern`; return the match."""
        guest = self.guest

        def found():
            return re.search(pattern, self.stdout + self.stderr)

        with guest.changed:
            guest.changed.wait_for(lambda: found() or self._ended(), guest.patience(timeout))
        if guest.crashed:
            raise guest.crash()
        match = found()
        if not match:
            raise CommandTimeout(
                f'{guest.name}: {self.argv} did not say {pattern!r}, but\n'
                f'{self.stdout}{self.stderr}')
        return match

    def write(self, data, close=False):
        """Write to a command that was begun with `stdin=True`."""
        self.guest.call('write', target=self._ident, close=close,
                        data=base64.b64encode(data).decode())

    def readline(self, timeout=10):
        """The next line that the command writes, as bytes; b'' at its end."""
        guest = self.guest
        out = self._parts['out']

        def end():
            return out.find(b'\n', self._read) + 1

        with guest.changed:
            done = guest.changed.wait_for(
                lambda: end() or self._ended(), guest.patience(timeout))
        if guest.crashed and not end():
            raise guest.crash()
        if not done:
            raise CommandTimeout(f'{guest.name}: {self.argv} wrote no line within {timeout} s')
        begin, self._read = self._read, end() or len(out)
        return bytes(out[begin:self._read])

    def signal(self, number):
        """Send a signal to the command and to all that it started."""
        self.guest.call('kill', target=self._ident, signal=int(number))

    def terminate(self, timeout=10):
        """End the command, and return its status."""
        if self.poll() is None:
            self.signal(signal.SIGTERM)
            try:
                self.wait(timeout)
            except CommandTimeout:
                self.kill()
        return self._rc

    def kill(self, timeout=10):
        """End the command the hard way, and return its status."""
        if self.poll() is None:
            self.signal(signal.SIGKILL)
            self.wait(timeout)
        return self._rc

    def _ended(self):
        """Whether nothing more will come."""
        return self._rc is not None or self._error is not None or self.guest.crashed

    def _raise_error(self):
        if self._error:
            raise GuestError(f'{self.guest.name}: {self.argv}: {self._error}')

    def _take(self, message):
        """Take in one answer of the agent's."""
        for kind, data in self._parts.items():
            if kind in message:
                data += base64.b64decode(message[kind])
        self._error = message.get('error', self._error)
        self._rc = message.get('rc', self._rc)
        return self._error is not None or self._rc is not None
