# SPDX-License-Identifier: GPL-2.0
"""An unmodified nginx on a node, with the node's own documents."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, List

from .paths import WORK
from .patience import patient

if TYPE_CHECKING:
    from .node import Node

# `/upload/` accepts a body, keeps it in a file and says in which. nginx waits for
# others for a minute by itself, which is not long enough everywhere.
CONFIGURATION = '''
daemon on;
pid {folder}/pid;
error_log {folder}/error.log notice;
worker_processes 2;
user root;
events {{ worker_connections 1024; }}
http {{
    types {{ text/html html; }}
    default_type application/octet-stream;
    log_format who '$remote_addr:$remote_port $server_addr:$server_port '
                   '$status $body_bytes_sent $connection_requests '
                   '"$request"';
    access_log {folder}/access.log who;
    sendfile on;
    keepalive_timeout {keepalive};
    client_header_timeout {patience}s;
    client_body_timeout {patience}s;
    send_timeout {patience}s;
    proxy_read_timeout {patience}s;
    keepalive_requests 10000;
    client_max_body_size 64m;
    client_body_temp_path {folder}/bodies;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    add_header X-Node {node} always;
    server {{
        listen {listen};
        location / {{
            root {documents};
            rewrite ^/[a-z][a-z]/(.*)$ /$1 break;
        }}
        location ~ ^/[a-z][a-z]/upload/ {{
            client_body_in_file_only on;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_ignore_client_abort on;
            proxy_pass http://unix:{folder}/sink;
            add_header X-Node {node} always;
            add_header X-Body $request_body_file always;
        }}
    }}
    server {{
        listen unix:{folder}/sink;
        access_log off;
        location / {{ return 200; }}
    }}
}}
'''

LINE = re.compile(r'(\S+):(\d+) (\S+):(\d+) (\d+) (\d+) (\d+) "(.*)"')


@dataclass(frozen=True)
class LogLine:
    """One line of the access log."""

    client: str
    port: int
    server: str
    status: int
    size: int
    count: int                  # of requests on this connection so far
    request: str


class Nginx:
    """nginx on one node."""

    def __init__(self, node: 'Node', port: int) -> None:
        self._node = node
        self._port = port
        self.listen = f'[::]:{port}' if node.cluster.family == 6 else str(port)
        self.keepalive = f'{patient(65):.0f}s'
        self.folder = f'{WORK}/nginx.{node.name}'
        self.documents = f'{WORK}/documents/{node.name}'

    def listen_for_both(self) -> None:
        """Listen for both families, with one socket, when it is started."""
        self.listen = f'[::]:{self._port} ipv6only=off'

    def start(self) -> None:
        """Start; it listens when this returns."""
        text = CONFIGURATION.format(
            folder=self.folder, documents=self.documents,
            node=self._node.name, listen=self.listen,
            keepalive=self.keepalive, patience=int(patient(60)))
        self._node.run(
            f'rm -rf {self.folder} && mkdir -p {self.folder} && '
            f'cat >{self.folder}/nginx.conf && '
            f'nginx -e stderr -c {self.folder}/nginx.conf',
            input=text)

    def stop(self, quick: bool = True) -> None:
        """Stop, in the middle of requests if `quick`."""
        self._node.run(
            f'pid=$(cat {self.folder}/pid) || exit 0; '
            f'kill -{"TERM" if quick else "QUIT"} $pid; '
            'while kill -0 $pid 2>/dev/null; do sleep 0.05; done')

    def freeze(self) -> None:
        """Read and write nothing any more."""
        self._node.run(f'kill -STOP $(pgrep -P $(cat {self.folder}/pid))')

    def thaw(self) -> None:
        """Go on after that."""
        self._node.run(f'kill -CONT $(pgrep -P $(cat {self.folder}/pid))')

    def crash(self) -> None:
        """End at once; what clients sent and nobody read is lost."""
        self._node.run(f'pid=$(cat {self.folder}/pid); '
                       'kill -KILL $pid $(pgrep -P $pid)')

    def log(self) -> List[LogLine]:
        """The access log."""
        out = self._node.run(['cat', f'{self.folder}/access.log']).out
        found = []
        for line in out.splitlines():
            match = LINE.fullmatch(line)
            if not match:
                raise ValueError(f'odd line in the access log: {line}')
            client, port, server, _, status, size, count, request = (
                match.groups())
            found.append(LogLine(client, int(port), server, int(status),
                                 int(size), int(count), request))
        return found
