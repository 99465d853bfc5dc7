#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Small servers of files, each with another way to listen and to accept.

    server.py KIND PORT FOLDER

`blocking` has threads that wait in accept(), `epoll` one that waits for all;
`group` and `selected` are processes with listeners of their own in a group of
SO_REUSEPORT, which a classic BPF program chooses from in the latter, or an
extended one in `selected-ebpf`; `dual` listens with IPv6 for IPv4 as well, while the others
listen with what FAMILY says;
`defer` wants no connection before its data (TCP_DEFER_ACCEPT), `fastopen`
offers Fast Open, `bound` takes only what eth0 brings (SO_BINDTODEVICE); `signed` and
`signed-ao` have connections signed (TCP_MD5SIG and TCP_AO_ADD_KEY) with the address that CLIENT
names; `ktls` has the kernel encrypt what it answers.

    server.py ask-signed KIND ADDRESS:PORT PATH [PIECE]

asks a server of connections signed in that way, with a request in pieces of so many bytes,
and prints status and hash.

    server.py ask-ktls ADDRESS:PORT PATH

asks such a server and prints the hash of the body.
"""

import ctypes
import hashlib
import os
import select
import socket
import struct
import sys
import threading
import time
from typing import Dict

SO_ATTACH_REUSEPORT_CBPF = 51
SO_ATTACH_REUSEPORT_EBPF = 52
TCP_MD5SIG = 14
TCP_ULP = 31
TCP_AO_ADD_KEY = 38
SOL_TLS = 282
TLS_TX, TLS_RX = 1, 2
PROCESSES = 3

# A random number modulo the number of listeners.
PROGRAM = ((0x20, 0, 0, 0xfffff000 + 56), (0x94, 0, 0, PROCESSES),
           (0x16, 0, 0, 0))
# The number of a listener, whatever comes: r0 = 1; exit. To load a program of
# type 1 is command 5 of bpf(), which is system call 321 of x86-64.
EXTENDED = struct.pack('<BBhiBBhi', 0xb7, 0, 0, 1, 0x95, 0, 0, 0)
SYS_BPF, BPF_PROG_LOAD, SOCKET_FILTER = 321, 5, 1
# struct tls12_crypto_info_aes_gcm_128: TLS 1.2, the cipher, IV, key, salt,
# and number of the first record. Everyone may know this key.
CRYPTO = struct.pack('=HH8s16s4s8s', 0x0303, 51, b'initvect', b'k' * 16,
                     b'salt', bytes(8))


def extended() -> int:
    """A loaded program."""
    code = ctypes.create_string_buffer(EXTENDED)
    licence = ctypes.create_string_buffer(b'GPL')
    order = ctypes.create_string_buffer(struct.pack(
        '=IIQQ', SOCKET_FILTER, len(EXTENDED) // 8,
        ctypes.addressof(code), ctypes.addressof(licence)).ljust(128, b'\0'))
    found = ctypes.CDLL(None, use_errno=True).syscall(
        SYS_BPF, BPF_PROG_LOAD, order, len(order) - 1)
    if found < 0:
        raise OSError(ctypes.get_errno(), 'bpf')
    return found


def sign(sock: socket.socket, kind: str, peer: str) -> None:
    """Sign, and want signed, what goes to and comes from that address, by MD5
    (RFC 2385) or AO (RFC 5925)."""
    key = b'known'
    prefix = 128 if ':' in peer else 32
    address = struct.pack(
        '=HHI16s', socket.AF_INET6, 0, 0, socket.inet_pton(socket.AF_INET6, peer)
    ) if ':' in peer else struct.pack('=HH4s', socket.AF_INET, 0, socket.inet_aton(peer))
    option, value = TCP_MD5SIG, struct.pack(
        '=128sBBHi80s', address, 0, 0, len(key), 0, key)
    if kind == 'signed-ao':
        ident, size = 100, 12
        option, value = TCP_AO_ADD_KEY, struct.pack(
            '=128s64siIHBBBBBB80s', address, b'hmac(sha1)', 0, 0, 0, prefix,
            ident, ident, size, 0, len(key), key)
    sock.setsockopt(socket.IPPROTO_TCP, option, value)


def listener(port: int, kind: str) -> socket.socket:
    """A listener as this kind has it."""
    six = kind == 'dual' or os.environ['FAMILY'] == '6'
    sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if six:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, kind != 'dual')
    if kind.startswith('signed'):
        sign(sock, kind, os.environ['CLIENT'])
    if kind in ('group', 'selected', 'selected-ebpf'):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if kind == 'defer':
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
    if kind == 'fastopen':
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
    if kind == 'bound':
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'eth0')
    sock.bind(('', port))
    sock.listen(64)
    if kind == 'selected':
        code = b''.join(struct.pack('HBBI', *line) for line in PROGRAM)
        held = ctypes.create_string_buffer(code)
        sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF,
                        struct.pack('HxxxxxxP', len(PROGRAM),
                                    ctypes.addressof(held)))
    if kind == 'selected-ebpf':
        sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF,
                        extended())
    return sock


def encrypt(sock: socket.socket, direction: int) -> None:
    """Have the kernel encrypt or decrypt from here on."""
    sock.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b'tls')
    sock.setsockopt(SOL_TLS, direction, CRYPTO)


def answers(head: bytes, folder: str) -> bytes:
    """The answer to a request."""
    with open(folder + head.split()[1].decode(), 'rb') as file:
        body = file.read()
    return (f'HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n'
            ).encode() + body


def is_last(head: bytes) -> bool:
    """Whether the client wants no more than this."""
    return b'\r\nConnection: close\r\n' in head


def serve(sock: socket.socket, folder: str, kind: str) -> None:
    """One connection to its end."""
    head = b''
    try:
        with sock:
            while True:
                data = sock.recv(8192)
                if not data:
                    return
                head += data
                if head.endswith(b'\r\n\r\n'):
                    if kind == 'ktls':
                        encrypt(sock, TLS_TX)
                    sock.sendall(answers(head, folder))
                    if is_last(head):
                        return
                    head = b''
    except (ConnectionResetError, BrokenPipeError):
        pass


def accept(sock: socket.socket, folder: str, kind: str) -> None:
    """Serve one connection after the other."""
    while True:
        serve(sock.accept()[0], folder, kind)


def blocking(port: int, folder: str, kind: str) -> None:
    """Threads that wait in accept()."""
    sock = listener(port, kind)
    for _ in range(15):
        threading.Thread(
            target=accept, args=(sock, folder, kind), daemon=True).start()
    accept(sock, folder, kind)


def group(port: int, folder: str, kind: str) -> None:
    """Processes with a listener each."""
    for _ in range(PROCESSES - 1):
        if not os.fork():
            break
    blocking(port, folder, kind)


def poll(port: int, folder: str, kind: str) -> None:
    """One thread for all, which never waits but in epoll_wait()."""
    sock = listener(port, kind)
    sock.setblocking(False)
    waiting = select.epoll()
    waiting.register(sock, select.EPOLLIN | select.EPOLLET)
    held: Dict[int, socket.socket] = {}
    heads: Dict[int, bytes] = {}
    while True:
        for number, _ in waiting.poll():
            if number != sock.fileno():
                if not readable(held[number], heads, folder):
                    held.pop(number).close()
                continue
            while True:     # the edge is not shown again
                try:
                    new = sock.accept()[0]
                except BlockingIOError:
                    break
                held[new.fileno()] = new
                heads[new.fileno()] = b''
                waiting.register(new, select.EPOLLIN)


def readable(sock: socket.socket, heads: Dict[int, bytes], folder: str
             ) -> bool:
    """Read what came and answer it; False if that was all."""
    number = sock.fileno()
    try:
        data = sock.recv(8192)
        heads[number] += data
        if not heads[number].endswith(b'\r\n\r\n'):
            return bool(data)
        head, heads[number] = heads[number], b''
        sock.sendall(answers(head, folder))
        return not is_last(head)
    except ConnectionError:
        return False


def ask_ktls(address: str, path: str) -> None:
    """Ask in the clear, and read the encrypted answer."""
    host, _, port = address.rpartition(':')
    with socket.create_connection((host.strip('[]'), int(port)), 20) as sock:
        sock.sendall(f'GET {path} HTTP/1.1\r\nHost: www.example\r\n'
                     'Connection: close\r\n\r\n'.encode())
        encrypt(sock, TLS_RX)
        data = b''
        try:
            while more := sock.recv(1 << 16):
                data += more
        except OSError:     # the end has no alert of TLS before it
            pass
    head, _, body = data.partition(b'\r\n\r\n')
    print(f'{path} {head.split()[1].decode()} '
          f'{hashlib.sha256(body).hexdigest()}')


def ask_signed(kind: str, address: str, path: str, piece: str = '65536'
               ) -> None:
    """Ask on a connection that is signed."""
    host, _, port = address.rpartition(':')
    host = host.strip('[]')
    ask = (f'GET {path} HTTP/1.1\r\nHost: www.example\r\n'
           'Connection: close\r\n\r\n').encode()
    with socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET) as sock:
        sign(sock, kind, host)
        sock.settimeout(20)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect((host, int(port)))
        for at in range(0, len(ask), int(piece)):
            sock.sendall(ask[at:at + int(piece)])
            time.sleep(0.1)
        data = b''
        while more := sock.recv(1 << 16):
            data += more
    head, _, body = data.partition(b'\r\n\r\n')
    print(f'{path} {head.split()[1].decode()} '
          f'{hashlib.sha256(body).hexdigest()}')


KINDS = {'group': group, 'selected': group, 'selected-ebpf': group,
         'epoll': poll}


def main() -> None:
    """Do what the command line says."""
    asking = {'ask-ktls': ask_ktls, 'ask-signed': ask_signed}
    if sys.argv[1] in asking:
        asking[sys.argv[1]](*sys.argv[2:])
        return
    kind, port, folder = sys.argv[1:]
    KINDS.get(kind, blocking)(int(port), folder, kind)


if __name__ == '__main__':
    main()
