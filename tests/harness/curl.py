# SPDX-License-Identifier: GPL-2.0
"""Requests by an unmodified curl, and what curl says about them."""

import itertools
import json
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Dict, List, Sequence, Union

from .paths import WORK

if TYPE_CHECKING:
    from .node import Node

RUN = itertools.count()
MARK = '\x1e'                   # after each record; JSON never holds it


@dataclass(frozen=True)
class Response:
    """One request and its answer, by curl's own account."""

    url: str
    status: int
    node: str                   # that answered, by its own word
    size: int
    sha256: str
    time: float                 # seconds
    port: int                   # the client's
    connected: bool             # a new connection was made for it
    headers: Dict[str, str]
    error: str


class Curl:
    """curl on a host of the cluster."""

    def __init__(self, host: 'Node') -> None:
        self._host = host

    def get(self, url: str, **options) -> Response:
        """One request."""
        return self.fetch([url], **options)[0]

    def fetch(self, urls: Sequence[str], parallel: int = 0,
              options: Union[str, Sequence[str]] = (),
              limit: float = 60, each: Sequence[Sequence[str]] = ()
              ) -> List[Response]:
        """Requests by one curl, one after the other or `parallel` at once.

        One after the other they share a connection as far as the server
        lets them; at once each has its own. `each` has lines of curl's
        configuration that are for one URL; `options` that are not for all of
        a run (curl's manual says which) are for the first one only then.
        """
        more = [options] if isinstance(options, str) else list(options)
        if parallel:
            more.append('--parallel --parallel-immediate '
                        f'--parallel-max {parallel}')
        folder = f'{WORK}/curl.{self._host.name}.{next(RUN)}'
        config: List[str] = []
        for number, url in enumerate(urls):
            if each and number:
                config.append('next')
            config += [f'url = "{url}"', f'output = "body.{number}"',
                       f'write-out = "%{{json}}%{{header_json}}{MARK}"']
            if each:
                config += each[number]
        guest = self._host.kernel.guest
        told = guest.run(['curl', '--silent', *shlex.split(' '.join(more)), '--config', '-'],
                         cwd=folder, netns=self._host.netns, check=False,
                         input='\n'.join(config) + '\n', timeout=limit)
        found = self._parse(told.out, urls, guest.digest(folder))
        if len(found) != len(urls):
            raise RuntimeError(
                f'curl told of {len(found)} requests of {len(urls)}: {told}')
        return [found[number] for number in range(len(urls))]

    @staticmethod
    def _parse(out: str, urls: Sequence[str], hashes: Dict[str, str]) -> Dict[int, Response]:
        found: Dict[int, Response] = {}
        decoder = json.JSONDecoder()
        for record in out.split(MARK)[:-1]:
            told, end = decoder.raw_decode(record.lstrip())
            headers, _ = decoder.raw_decode(record.lstrip()[end:].lstrip())
            name = told['filename_effective']
            number = int(name.rpartition('.')[2])
            flat = {name: values[-1] for name, values in headers.items()}
            found[number] = Response(
                url=urls[number], status=told['http_code'],
                node=flat.get('x-node', ''), size=told['size_download'],
                sha256=hashes.get(name, ''), time=told['time_total'],
                port=told['local_port'], connected=told['num_connects'] > 0,
                headers=flat, error=told.get('errormsg') or '')
        return found
