"""A cluster for each process that runs tests, an sshd and a proxy for each test.

What is not installed leaves the tests out and says so; what is installed and does
not start fails them, with the end of the daemon's log.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.daemon import new_directory
from tests.cluster.install import SLURM, SSH, why_not
from tests.cluster.lab import Lab, environment
from tests.cluster.place import ClusterPlace
from tests.cluster.proxy import Proxy
from tests.cluster.sshd import Sshd, why_no_login


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """A cluster of four nodes. A test may do to it what it likes: it is reset afterwards."""
    _need(SLURM)
    cluster = Lab(new_directory())
    cluster.up()
    yield cluster
    cluster.down()


@pytest.fixture(autouse=True)
def reset(request: pytest.FixtureRequest) -> Iterator[None]:
    """The cluster, if a test has used it, whole and empty for the next one."""
    cluster = request.getfixturevalue("lab") if "lab" in request.fixturenames else None
    yield
    if cluster is not None:
        cluster.reset()


@pytest.fixture
def sshd(request: pytest.FixtureRequest) -> Iterator[Sshd]:
    """An sshd; its sessions speak to the cluster, where the test has asked for one."""
    _need(SSH, why_no_login())
    env = {}
    if "lab" in request.fixturenames:
        env["SLURM_CONF"] = str(request.getfixturevalue("lab").slurm_conf)
    server = Sshd(new_directory(), env)
    server.up()
    yield server
    server.down()


@pytest.fixture
def proxy(sshd: Sshd) -> Iterator[Proxy]:
    """The way to the sshd on which things go wrong: ``ssh -F {ssh_config} proxy``."""
    with Proxy(sshd.port) as between:
        sshd.trust("proxy", between.port)
        yield between


@pytest.fixture
def there(lab: Lab, tmp_path: Path, no_leaks: None) -> Iterator[ClusterPlace]:
    """Somewhere to start runs that have jobs; fails if a process outlives the test."""
    root = tmp_path / "there"
    root.mkdir()
    here = ClusterPlace(root, lab)
    yield here
    lab.revive()
    here.wait_sent_for()
    left = here.clear()
    assert not left, f"processes left behind: {left}"


def _need(programs: dict[str, str], otherwise: str = "") -> None:
    if lacking := why_not(programs) or otherwise:
        pytest.skip(lacking)


@pytest.fixture
def here(
    lab: Lab, own_state: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_leaks: None
) -> Path:
    """A directory of the test's own, and an environment in which all that it starts finds the lab.

    The home directory is in it too: leases are kept there.
    """
    for name in os.environ.keys() - environment(lab.slurm_conf).keys():
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_CONF", str(lab.slurm_conf))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path
