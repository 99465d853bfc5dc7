# SPDX-License-Identifier: GPL-2.0
"""The systems that are compared: how each is set up at the front end.

All front ends have the same address, 10.0.0.11:80, and but for IPVS, which
cannot, all choose by the path. HAProxy and nginx are as their manuals advise where speed is
wanted: one worker for the one processor, responses spliced, connections to the
server kept, no log.
"""

import abc
import time
from typing import Any, Dict, Mapping

from rig import Rig

FOLDER = '/tmp/bench'

HTTP = '''
user root;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
worker_processes 1;
worker_rlimit_nofile 32768;
events {{ worker_connections 8192; multi_accept on; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 120s;
    keepalive_requests 1000000;
    open_file_cache max=100 inactive=600s;
{rest}
}}
'''

SERVER = '''
    server {
        listen 80 backlog=4096;
        root /tmp/bench/documents;
        rewrite ^/[a-z]+/(.*)$ /$1 break;
    }
'''

PROXY = '''
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_buffer_size 16k;
    proxy_buffers 16 64k;
    proxy_busy_buffers_size 256k;
    proxy_max_temp_file_size 0;
    upstream be { server 10.0.0.2:80; keepalive 64; keepalive_requests 1000000; }
    server {
        listen 10.0.0.11:80 backlog=4096;
        location / { return 404; }
        location /be/ { proxy_pass http://be; }
    }
'''

HAPROXY = '''
global
    nbthread 1
    maxconn 4096
    pidfile /tmp/bench/haproxy.pid
defaults
    mode http
    option splice-auto
    option http-keep-alive
    http-reuse always
    timeout connect 60s
    timeout client 120s
    timeout server 120s
    timeout http-keep-alive 120s
frontend fe
    bind 10.0.0.11:80 backlog 4096
    use_backend be if { path_beg /be/ }
backend be
    server be 10.0.0.2:80 pool-max-conn -1 pool-purge-delay 1h
'''


def start_nginx(host, rest: str) -> None:
    """Start nginx on a host; it listens when this returns."""
    folder = f'{FOLDER}/{host.name}'
    host.run(f'mkdir -p {folder} && cat >{folder}/nginx.conf && '
             f'nginx -e stderr -c {folder}/nginx.conf',
             input=HTTP.format(folder=folder, rest=rest))


def stop_pid(host, file: str) -> None:
    """End the process whose number is in a file."""
    host.run(f'pid=$(cat {file}); kill $pid; '
             'while kill -0 $pid 2>/dev/null; do sleep 0.05; done')


def make_documents(host, sizes: Dict[str, int]) -> None:
    """Write the documents, by name and size, on a host."""
    folder = f'{FOLDER}/documents'
    host.run('\n'.join([f'mkdir -p {folder}'] + [
        f'head -c {size} /dev/urandom >{folder}/{name}'
        for name, size in sizes.items()]))


class System(abc.ABC):
    """What is at the front end in a run."""

    path = '/be/'               # what clients ask for
    address = '10.0.0.11:80'    # and where
    at_a_time = 4               # how many of them

    def __init__(self, rig: Rig, changes: Mapping[str, Any]) -> None:
        self.rig = rig
        rig.describe(changes)

    @abc.abstractmethod
    def start(self) -> None:
        """Set it up; it serves when this returns."""

    @abc.abstractmethod
    def stop(self) -> None:
        """Leave nothing of it."""


class Server(System):
    """The server itself at the front end, with nothing before it."""

    path = '/fe/'

    def start(self) -> None:
        start_nginx(self.rig.front, SERVER)

    def stop(self) -> None:
        stop_pid(self.rig.front, f'{FOLDER}/fe/nginx.pid')


class Carisma(System):
    """Both modules, and the server that they need at the front end."""

    def start(self) -> None:
        # The front end's clock is slow, and a back end takes no cookie that seems to be minutes
        # old: by 160 s none was taken.
        self.rig.front.run(f'date -s @{time.time():.3f}')
        start_nginx(self.rig.front, SERVER)
        self.rig.load()
        self.rig.configure()

    def stop(self) -> None:
        self.rig.end()
        stop_pid(self.rig.front, f'{FOLDER}/fe/nginx.pid')


class CarismaLocal(Carisma):
    """The same, asked for what the front end itself serves."""

    path = '/fe/'


class Router(System):
    """No front end at all, but a router between client and back end. What it
    forwards belongs to no service."""

    address = '10.0.0.2:80'
    # Whether packets meet on the way would make a greater difference than what is
    # looked for.
    at_a_time = 1

    def start(self) -> None:
        self.rig.front.run('sysctl -qw net.ipv4.ip_forward=1 '
                           'net.ipv4.conf.all.send_redirects=0 '
                           'net.ipv4.conf.eth0.send_redirects=0')
        self.rig.client.run('ip route add 10.0.0.2/32 via 10.0.0.1')
        self.rig.back.run('ip route add 10.0.0.100/32 via 10.0.0.1')

    def stop(self) -> None:
        self.rig.client.run('ip route del 10.0.0.2/32')
        self.rig.back.run('ip route del 10.0.0.100/32')
        self.rig.front.run('sysctl -qw net.ipv4.ip_forward=0')


class CarismaRouter(Router):
    """The same router, with both modules and services of its own."""

    def start(self) -> None:
        start_nginx(self.rig.front, SERVER)
        self.rig.load()
        self.rig.configure()
        super().start()

    def stop(self) -> None:
        super().stop()
        self.rig.end()
        stop_pid(self.rig.front, f'{FOLDER}/fe/nginx.pid')


class Haproxy(System):
    """HAProxy."""

    def start(self) -> None:
        self.rig.front.run(
            f'mkdir -p {FOLDER} && cat >{FOLDER}/haproxy.cfg && '
            f'haproxy -D -f {FOLDER}/haproxy.cfg', input=HAPROXY)

    def stop(self) -> None:
        stop_pid(self.rig.front, f'{FOLDER}/haproxy.pid')


class Nginx(System):
    """nginx as a proxy."""

    def start(self) -> None:
        start_nginx(self.rig.front, PROXY)

    def stop(self) -> None:
        stop_pid(self.rig.front, f'{FOLDER}/fe/nginx.pid')


class Redirect(System):
    """What comes for the service's address goes on to the back end as it is, by tc and below
    IP: the least that a front end costs which a packet passes at all."""

    def start(self) -> None:
        fe, be = self.rig.front.host.mac, self.rig.back.host.mac
        self.rig.front.run(
            'tc qdisc add dev eth0 clsact && '
            'tc filter add dev eth0 ingress protocol ip prio 1 u32 match ip dst 10.0.0.11/32 '
            f'action skbmod set smac {fe} dmac {be} pipe '
            'action mirred egress redirect dev eth0')

    def stop(self) -> None:
        self.rig.front.run('tc qdisc del dev eth0 clsact')


class Ipvs(System):
    """IPVS with direct routing, which sees every packet of the client's, and none of its
    content."""

    def start(self) -> None:
        self.rig.front.run('modprobe -a ip_vs ip_vs_rr && '
                           'ipvsadm -A -t 10.0.0.11:80 -s rr && '
                           'ipvsadm -a -t 10.0.0.11:80 -r 10.0.0.2:80 -g')

    def stop(self) -> None:
        self.rig.front.run('ipvsadm -C && rmmod ip_vs_rr ip_vs')
