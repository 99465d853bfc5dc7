# SPDX-License-Identifier: GPL-2.0
"""Fixtures: kernels, clusters on them, and the watch over the kernel's log."""

import dataclasses
import os
import pathlib
import re
import shutil
import sys
from typing import Any, Iterator, List, Optional

import pytest

sys.path.insert(0, os.path.dirname(__file__))

from harness import capture, paths                      # noqa: E402
from harness.cluster import ClusterSpec, languages      # noqa: E402
from harness.guest import SLOWNESS, Guest               # noqa: E402
from harness.guests import GuestCluster                 # noqa: E402
from harness.kernel import Kernel                       # noqa: E402
from harness.namespaces import NamespaceCluster         # noqa: E402
from harness.patience import Patience, patient          # noqa: E402
from harness.running import Cluster                     # noqa: E402
from harness.wire import Wire                           # noqa: E402

FAILED = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """What to run the tests on."""
    parser.addoption(
        '--kernel', choices=('stock', 'debug'), default='stock',
        help='the kernel of the guests')
    parser.addoption(
        '--mode', choices=('rare', 'frequent', 'always'), default='rare',
        help='the mode of the services')
    parser.addoption(
        '--migrate', choices=('adopt', 'replay'), default='adopt',
        help="how connections enter a back end's TCP")
    parser.addoption(
        '--plain', action='store_true',
        help='load no modules: shows which tests notice that')
    parser.addoption(
        '--forward', choices=('nat', 'direct', 'tunnel', 'auto'), default='nat',
        help='how the nodes forward to each other')
    parser.addoption(
        '--family', type=int, choices=(4, 6), default=4,
        help='the version of IP that hosts and services have addresses of')


def pytest_configure(config: pytest.Config) -> None:
    """What the suites mark tests with."""
    for mark in (
            'family(number): a test of one version of IP alone',
            'ipv6(long): with IPv6 in a run of IPv4, too, which may take too long for each change',
            'named: about back ends that have not got the address of the service',
            'control: about handoffs by control connections, of which always mode has none',
            'stock: takes what the debug kernel is built without',
            'long: takes too long for each change (make test-long)',
            'wary: with nodes that are asked first, however lately they were heard of'):
        config.addinivalue_line('markers', mark)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What is marked so is a test with IPv6 in every run."""
    mark = metafunc.definition.get_closest_marker('ipv6')
    if mark:
        own = metafunc.config.getoption('--family')
        marks = [pytest.mark.long] if mark.kwargs.get('long') and own != 6 else []
        families = [own] if own == 6 else [own, pytest.param(6, marks=marks)]
        metafunc.parametrize('family', families, ids='IPv{}'.format, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config,
                                  items: List[pytest.Item]) -> None:
    """What is of one version of IP alone, or of other modes or ways, is no test of this one."""
    def is_other(item: pytest.Item) -> bool:
        if item.get_closest_marker('stock') and config.getoption('--kernel') == 'debug':
            return True
        if item.get_closest_marker('control') and config.getoption('--mode') == 'always':
            return True
        if item.get_closest_marker('named') and config.getoption('--forward') != 'nat':
            return True
        mark = item.get_closest_marker('family')
        return mark is not None and mark.args[0] != config.getoption('--family')
    others = [item for item in items if is_other(item)]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]


def pytest_ignore_collect(collection_path: pathlib.Path,
                          config: pytest.Config) -> Optional[bool]:
    """What only the debug kernel can do is no test of the stock kernel's."""
    if (collection_path.name == 'test_failslab.py'
            and config.getoption('--kernel') != 'debug'):
        return True
    return None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """Let fixtures know that their test failed."""
    report = yield
    if report.failed:
        item.stash[FAILED] = report.longreprtext
    return report


class Lab:
    """The guest that the namespace clusters run in, and what is watched."""

    def __init__(self, config: pytest.Config) -> None:
        self.flavour = config.getoption('--kernel')
        self.plain = config.getoption('--plain')
        self._options = {name: config.getoption(f'--{name}')
                         for name in ('mode', 'migrate', 'forward')}
        self.spec = self.of_family(config.getoption('--family'))
        self.clusters: List[Cluster] = []       # of the current test
        self._kernel: Optional[Kernel] = None
        self._site: Optional[Cluster] = None    # with servers, to use again
        self.once = False                       # but not its modules
        self.wary = False                       # the current test is

    def of_family(self, family: int, **changes: Any) -> ClusterSpec:
        """What the run is about, with addresses of that family."""
        return dataclasses.replace(languages(family), **{**self._options, **changes})

    @property
    def kernel(self) -> Kernel:
        """The guest's kernel, booted when it is first wanted."""
        if self._kernel is None:
            self._kernel = Kernel(Guest('lab', self.flavour).start())
            if self.flavour == 'debug':
                self._kernel.forget_leaks()
            self._kernel.messages()     # of the boot: no test caused them
        return self._kernel

    def kernels(self) -> List[Kernel]:
        """Every kernel that the current test runs on."""
        found = [self._kernel] if self._kernel else []
        for cluster in self.clusters:
            found += [host.kernel for host in cluster.hosts.values()
                      if not host.dead and host.kernel not in found]
        return found

    def bare(self, spec: Optional[ClusterSpec] = None) -> Cluster:
        """A new cluster in the guest, without servers or modules."""
        self._end_site()
        cluster = NamespaceCluster(spec or self.spec, self.kernel)
        self.clusters.append(cluster)
        cluster.start()
        return cluster

    def empty(self) -> Kernel:
        """The guest's kernel, with no cluster in it."""
        self._end_site()
        return self.kernel

    def site(self, spec: Optional[ClusterSpec] = None) -> Cluster:
        """A cluster in the guest, with servers but no modules; what other
        tests used and left in good order will do."""
        if self._site is None or self._site.spec != (spec or self.spec):
            self._site = self.bare(spec)
            self._site.start_servers()
        else:
            self.clusters.append(self._site)
        return self._site

    def _end_site(self) -> None:
        if self._site is not None:
            self._site.end()
            self._site.stop()
            self._site = None

    def _leaks(self) -> List[str]:
        if self._kernel and self.flavour == 'debug':
            return self._kernel.leaks()
        return []

    def close(self) -> List[str]:
        """End everything in good order; what the kernel said to that, and
        what it has lost, with the modules loaded and after them."""
        try:
            said = self._leaks()
            self._end_site()
            said += self._leaks()
            return said + (self._kernel.messages() if self._kernel else [])
        finally:
            self.discard()

    def guests(self) -> GuestCluster:
        """A cluster of guests, without servers or modules."""
        cluster = GuestCluster(self.spec, self.flavour)
        self.clusters.append(cluster)
        cluster.start()
        for kernel in self.kernels():
            kernel.messages()
        return cluster

    def enable(self, cluster: Cluster) -> None:
        """Load and configure CARISMA, unless that is done or the run is to
        do without."""
        if not self.plain and not cluster.ready:
            cluster.load()
            cluster.configure()
            # A back end that is merely slow is not to be given up, nor is a
            # test that has yet to send the rest of a head.
            for node in cluster.nodes:
                node.knobs(handoff_timeout_ms=int(patient(3000)),
                           head_timeout_ms=int(patient(10_000)),
                           handoff_trust_ms=0 if self.wary and self.once else 50)

    def dismiss(self, again: bool) -> None:
        """End the clusters in good order, but keep what can be used
        again."""
        for cluster in self.clusters:
            cluster.tidy()
            if cluster is not self._site:
                cluster.end()
                cluster.stop()
        if not again:
            self._end_site()
        elif self._site and (self.once or self._site.ready
                             and self._site.live_flows()):
            self._site.end()
        self.once = False
        self.clusters.clear()

    def discard(self) -> None:
        """Throw everything away: its state is not to be trusted."""
        for kernel in self.kernels():
            kernel.guest.kill()
        self.clusters.clear()
        self._site = None
        self.once = False
        self._kernel = None


@pytest.fixture(scope='session')
def session_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """The guest of the whole run."""
    Patience.factor = SLOWNESS[request.config.getoption('--kernel')]
    lab = Lab(request.config)
    yield lab
    said = lab.close()
    assert not said, '\n'.join(said)


@pytest.fixture(scope='module')
def family(request: pytest.FixtureRequest) -> int:
    """The version of IP of the test's hosts and services: the run's, unless the
    test says otherwise."""
    return getattr(request, 'param', request.config.getoption('--family'))


@pytest.fixture(autouse=True)
def lab(session_lab: Lab, family: int, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """The lab for one test. A kernel that says what it should not say
    fails the test. No other test uses the hosts of one that failed; nor the
    guest, if they could not be put away in good order."""
    said: List[str] = []
    capture.KEPT.clear()
    spec, session_lab.spec = session_lab.spec, session_lab.of_family(family)
    session_lab.wary = request.node.get_closest_marker('wary') is not None
    yield session_lab
    session_lab.spec = spec
    failed = request.node.stash.get(FAILED, '')
    if failed:
        diagnose(session_lab, request.node.name, failed)
    try:
        session_lab.dismiss(again=not failed)
        for kernel in session_lab.kernels():
            said += kernel.messages()
    except Exception:
        session_lab.discard()
        raise
    if said:
        session_lab.discard()
        pytest.fail('the kernel said:\n' + '\n'.join(said), pytrace=False)


@pytest.fixture
def bare(lab: Lab) -> Cluster:
    """Hosts with nothing on them, for tests that change more than a link."""
    return lab.bare()


@pytest.fixture
def cluster(lab: Lab) -> Cluster:
    """The site, ready, maybe not for the first time."""
    site = lab.site()
    lab.enable(site)
    return site


@pytest.fixture
def site(lab: Lab) -> Cluster:
    """Hosts with servers, no modules loaded."""
    site = lab.site()
    site.end()
    lab.once = True
    return site


@pytest.fixture
def wire(cluster: Cluster) -> Iterator[Wire]:
    """A client of exact segments."""
    found = Wire(cluster)
    yield found
    found.stop()


@pytest.fixture
def fresh(site: Cluster, lab: Lab) -> Cluster:
    """The site, with the modules loaded for this test alone."""
    lab.enable(site)
    return site


DIAGNOSIS = '''
for what in "ip -s link" "ip addr" "ss -taneipm" "nstat -as" \
    "{ctl} flows" "{ctl} stats" "{ctl} node list" "{ctl} service list"; do
    echo "== $what"
    timeout 5 $what 2>&1
done
echo "== error log"
cat {folder}/error.log 2>&1
'''


def diagnose(lab: Lab, name: str, failure: str) -> None:
    """Keep what can tell why a test failed."""
    folder = os.path.join(
        paths.RESULTS, re.sub(r'[^\w.-]+', '-', name).strip('-'))
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    with open(f'{folder}/failure', 'w') as out:
        out.write(failure)
    for cluster in lab.clusters:
        for host in cluster.hosts.values():
            with open(f'{folder}/{host.name}', 'w') as out:
                try:
                    out.write(host.run(DIAGNOSIS.format(
                        ctl=paths.CARISMACTL, folder=host.nginx.folder),
                        check=False)[1])
                except Exception as problem:    # the host may be dead
                    out.write(f'{type(problem).__name__}: {problem}\n')
    for copy, content in capture.KEPT.items():
        with open(f'{folder}/{copy}', 'wb') as out:
            out.write(content)
    for kernel in lab.kernels():
        shutil.copy(kernel.guest.console,
                    f'{folder}/console.{kernel.guest.name}')
    print(f'what was left is in {folder}')
