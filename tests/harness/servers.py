# SPDX-License-Identifier: GPL-2.0
"""Servers of many makes, as their users run them, on a port of a node."""

import subprocess
from dataclasses import dataclass
from typing import Dict, Optional

from .node import Node
from .paths import BUILD, CHECKOUT, INSIDE, WORK
from .process import Process
from .running import wait_for

NGINX = '''
daemon off;
pid {folder}/pid;
worker_processes 4;
user root;
events {{ }}
http {{
    access_log off;
    server {{ listen {listen} reuseport; root {files}; }}
}}
'''
APACHE = '''
ServerRoot {folder}
DefaultRuntimeDir {folder}
PidFile {folder}/pid
ErrorLog {folder}/error.log
ServerName www.example
Listen {port}
LoadModule mpm_{model}_module /usr/lib/apache2/modules/mod_mpm_{model}.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
AcceptFilter http {filter}
StartServers 2
User www-data
Group www-data
DocumentRoot {files}
<Directory />
    Options FollowSymLinks
    Require all granted
</Directory>
'''


@dataclass(frozen=True)
class Make:
    """How a server is started, and the file that configures it, if any."""

    command: str
    configuration: str = ''


def small(kind: str) -> Make:
    """One of the servers of `inside/server.py`."""
    return Make('env FAMILY={family} CLIENT={client} python3 -S '
                f'{INSIDE}/server.py {kind} {{port}} {{files}}')


def apache(model: str, accept_filter: str = 'none') -> Make:
    """Apache with one of its ways to divide the work; its own choice of a
    filter, `data`, is TCP_DEFER_ACCEPT."""
    return Make('apache2 -DFOREGROUND -f {folder}/configuration',
                APACHE.replace('{model}', model).replace(
                    '{filter}', accept_filter))


def caddy(multipath: int) -> Make:
    """Caddy, whose runtime listens with Multipath TCP or does not."""
    return Make(f'env GODEBUG=multipathtcp={multipath} HOME={{folder}} '
                'caddy file-server --listen :{port} --root {files}')


MAKES: Dict[str, Make] = {
    'nginx-reuseport': Make('nginx -e stderr -c {folder}/configuration',
                            NGINX),
    'apache-prefork': apache('prefork'),
    'apache-event': apache('event'),
    'apache-filter': apache('event', 'data'),
    'python': Make('python3 -m http.server {port} --bind {any} --directory {files}'),
    'node': Make(f'node {INSIDE}/server.js {{any}} {{port}} {{files}}'),
    'node-cluster': Make(f'node {INSIDE}/server.js {{any}} {{port}} {{files}} 2'),
    'go': caddy(0),
    'go-multipath': caddy(1),
    'io_uring': Make(f'{BUILD}/uring {{port}} {{files}} {{family}}'),
    **{kind: small(kind) for kind in (
        'blocking', 'epoll', 'group', 'selected', 'selected-ebpf', 'dual',
        'defer', 'fastopen', 'bound', 'ktls', 'signed', 'signed-ao')},
}


def compile_uring() -> None:
    """Make the server that is written in C."""
    subprocess.run(
        ['gcc', '-O2', '-Wall', '-Werror', '-o', f'{BUILD}/uring',
         f'{CHECKOUT}/tests/harness/inside/uring.c', '-luring'], check=True)


class Server:
    """A server of one of these makes, or of another, on a node; `/LANGUAGE/NAME` is the node's own
    document of that name, whatever the language."""

    def __init__(self, node: Node, make: str, port: int,
                 what: Optional[Make] = None) -> None:
        self._node = node
        self._port = port
        what = what or MAKES[make]
        family = node.cluster.family
        names = {'port': port, 'node': node.name, 'folder': f'{WORK}/{make}.{node.name}',
                 'files': f'{WORK}/files.{node.name}', 'family': family,
                 'listen': f'[::]:{port}' if family == 6 else port,
                 'any': '::' if family == 6 else '0.0.0.0',
                 'client': node.cluster.clients[0].address}
        node.run('set -e; mkdir -p {folder} {files}; '
                 'for name in en fr de; do '
                 f'ln -sfn {WORK}/documents/{node.name} {{files}}/$name; done'
                 .format(**names))
        if what.configuration:
            node.put('{folder}/configuration'.format(**names),
                     what.configuration.format(**names))
        self.process: Process = node.popen(
            'exec ' + what.command.format(**names))

    def wait(self) -> None:
        """It listens when this returns."""
        def listens() -> bool:
            assert self.process.poll() is None, self.process.stderr
            return bool(self.listeners())
        # To ask takes a processor as long as a good part of its start does.
        wait_for(listens, 'the server listens', 60, pause=0.3)

    def listeners(self) -> str:
        """Its listeners, as ss shows them."""
        return self._node.run(f'ss -tlnieH sport = :{self._port}').out

    def stop(self) -> None:
        """End it, and all that it started."""
        self.process.kill()
