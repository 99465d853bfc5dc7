#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Run commands in a guest for the harness.

The harness speaks to this program over a virtio-serial port, in lines of JSON.
A request has an `id`, which stands in every answer to it; many may be under way
at once. Bytes travel in base64.

    {"id": 1, "op": "run", "argv": [...], "env": {...}, "cwd": "...", "input": "...",
     "netns": "..."}
        -> {"id": 1, "out": "..."}, {"id": 1, "err": "..."} ..., {"id": 1, "rc": 0}
    {"id": 7, "op": "write", "target": 1, "data": "...", "close": false}
    {"id": 2, "op": "kill", "target": 1, "signal": 15}      -> {"id": 2, "rc": 0}
    {"id": 3, "op": "put", "path": "...", "data": "...", "append": false, "mode": 420}
    {"id": 4, "op": "get", "path": "..."}                   -> out ..., rc
    {"id": 8, "op": "digest", "path": "..."}                -> out ..., rc
    {"id": 5, "op": "kmsg"}                                 -> out ..., rc
    {"id": 6, "op": "poweroff"}

A command runs in the network namespace `netns`, if that is not "", and in the folder
`cwd`, which is made if it is not there. Its standard input is `input` and then what
`write` sends, until `close`; a run without "open": true has the `input` alone.

An answer with `error` says why a request could not be done; it ends it.
"""

import base64
import contextlib
import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

CHUNK = 48 * 1024

port = None
port_lock = threading.Lock()
running = {}
kmsg = None


def answer(ident, **fields):
    """Send one line to the harness."""
    line = json.dumps({'id': ident, **fields}).encode() + b'\n'
    with port_lock:
        while line:
            line = line[os.write(port, line):]


def send_bytes(ident, kind, data):
    """Send a piece of output."""
    answer(ident, **{kind: base64.b64encode(data).decode()})


def pump(ident, kind, stream):
    """Pass on what a command writes, as it writes it."""
    while True:
        data = os.read(stream.fileno(), CHUNK)
        if not data:
            break
        send_bytes(ident, kind, data)
    stream.close()


def feed(stream, data, close):
    """Write to a command's input. It may end before it has read all."""
    try:
        stream.write(data)
        stream.flush()
    except BrokenPipeError:
        close = True
    if close:
        try:
            stream.close()
        except BrokenPipeError:
            pass


def op_run(request):
    """Begin a command. It runs beside everything else."""
    ident = request['id']
    data = base64.b64decode(request.get('input', ''))
    stay_open = request.get('open', False)
    with network(request['netns']):
        process = start(request, data or stay_open)
    running[ident] = process
    threading.Thread(target=attend, args=(process, ident, data, stay_open), daemon=True).start()


@contextlib.contextmanager
def network(name):
    """Be in another network namespace; this thread only, of which children inherit it."""
    if not name:
        yield
        return
    with open(f'/run/netns/{name}', 'rb') as there, open('/proc/thread-self/ns/net', 'rb') as here:
        os.setns(there.fileno(), os.CLONE_NEWNET)
        try:
            yield
        finally:
            os.setns(here.fileno(), os.CLONE_NEWNET)


def start(request, has_input):
    """Start a command."""
    cwd = request.get('cwd', '/root')
    os.makedirs(cwd, exist_ok=True)
    return subprocess.Popen(
        request['argv'],
        stdin=subprocess.PIPE if has_input else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **request.get('env', {})},
        cwd=cwd,
        # A group of its own, so that it can be killed with its children.
        start_new_session=True,
    )


def attend(process, ident, data, stay_open):
    """Pass a command's input and output on, until it ends."""
    threads = [
        threading.Thread(target=pump, args=(ident, 'out', process.stdout)),
        threading.Thread(target=pump, args=(ident, 'err', process.stderr)),
    ]
    if data:
        # Beside the output, or a command that echoes would stop both.
        threads.append(threading.Thread(
            target=feed, args=(process.stdin, data, not stay_open)))
    for thread in threads:
        thread.daemon = True
        thread.start()
    status = process.wait()
    # A child left in the background may hold the pipes open: what the command
    # itself wrote is there by now, or very soon.
    for thread in threads:
        thread.join(timeout=1)
    del running[ident]
    answer(ident, rc=status)


def op_write(request):
    """Write to the input of a command that was begun with "open"."""
    process = running.get(request['target'])
    if process is None:
        raise BrokenPipeError('the command has ended')
    feed(process.stdin, base64.b64decode(request['data']), request.get('close', False))
    answer(request['id'], rc=0)


def op_kill(request):
    """Send a signal to a command and to what it started."""
    process = running.get(request['target'])
    if process is not None:
        try:
            os.killpg(process.pid, request.get('signal', signal.SIGTERM))
        except ProcessLookupError:
            pass
    answer(request['id'], rc=0)


def op_put(request):
    """Write a file, or the next piece of it."""
    path = request['path']
    os.makedirs(os.path.dirname(path) or '/', exist_ok=True)
    with open(path, 'ab' if request.get('append') else 'wb') as file:
        file.write(base64.b64decode(request['data']))
    if 'mode' in request:
        os.chmod(path, request['mode'])
    answer(request['id'], rc=0)


def op_get(request):
    """Read a file."""
    with open(request['path'], 'rb') as file:
        while True:
            data = file.read(CHUNK)
            if not data:
                break
            send_bytes(request['id'], 'out', data)
    answer(request['id'], rc=0)


def op_digest(request):
    """Send the SHA-256 and the name of each file in a folder, one a line, and remove it all."""
    for entry in list(os.scandir(request['path'])):
        with open(entry.path, 'rb') as file:
            digest = hashlib.file_digest(file, 'sha256').hexdigest()
        send_bytes(request['id'], 'out', f'{digest} {entry.name}\n'.encode())
        os.remove(entry.path)
    os.rmdir(request['path'])
    answer(request['id'], rc=0)


def op_kmsg(request):
    """Send the kernel's log records since the last time, one a line."""
    while True:
        try:
            record = os.read(kmsg, 8192)
        except BlockingIOError:
            break
        except OSError as error:
            if error.errno != errno.EPIPE:
                raise
            # Records were overwritten before they were read: say so, loudly.
            record = b'0,0,0,-;the kernel log overflowed, records are lost\n'
        # Lines after the first hold the record's device, indented.
        send_bytes(request['id'], 'out', record.split(b'\n', 1)[0] + b'\n')
    answer(request['id'], rc=0)


def op_poweroff(request):
    """End the machine, at once: nothing of it is kept."""
    answer(request['id'], rc=0)
    os.execv('/usr/bin/busybox', ['busybox', 'poweroff', '-f'])


def serve(request):
    """Do one request, and answer it whatever happens."""
    try:
        globals()['op_' + request['op']](request)
    except Exception as error:  # pylint: disable=broad-except
        answer(request['id'], error=f'{type(error).__name__}: {error}')


def main():
    """Read requests until the port is closed."""
    global port, kmsg  # pylint: disable=global-statement
    port = os.open(sys.argv[1], os.O_RDWR)
    kmsg = os.open('/dev/kmsg', os.O_RDONLY | os.O_NONBLOCK)
    # The harness waits for this, and init may still be at work.
    while not os.path.exists(sys.argv[2]):
        time.sleep(0.02)
    answer(0, rc=0)
    rest = b''
    while True:
        data = os.read(port, 1 << 20)
        if not data:
            # The harness is not connected (any more).
            time.sleep(0.1)
            continue
        *lines, rest = (rest + data).split(b'\n')
        for line in lines:
            request = json.loads(line)
            if request['op'] in ('run', 'put', 'write'):
                # A command must have begun before it is written to, and the
                # pieces of a file must keep their order.
                serve(request)
            else:
                threading.Thread(target=serve, args=(request,), daemon=True).start()


if __name__ == '__main__':
    main()
