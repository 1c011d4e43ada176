from __future__ import annotations

import gc
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.front import link as link_module
from supervisor.front.link import keep_warden, release_wardens, take_warden
from supervisor.market.bars import load_bars
from supervisor.system.process import descendants
from tests.support.cli import Place, bars_csv
from tests.support.leaks import FAILED, nothing_left_behind, only_new_garbage, open_descriptors
from tests.support.processes import COOKIE
from tests.support.waiting import wait_for


@pytest.fixture
def here(own_state: Path, no_leaks: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place for sweeps inside this very process; fails on what they leave behind."""
    (own_state / "here").mkdir()
    monkeypatch.chdir(own_state / "here")
    yield own_state / "here"
    release_wardens()


@pytest.fixture(scope="module")
def warm(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[pytest.MonkeyPatch]:
    """An environment for a whole module's wardens, which are kept warm from test to test."""
    csv = tmp_path_factory.mktemp("csv") / "bars.csv"
    csv.write_text(bars_csv())
    load_bars(csv)  # pyarrow opens a pipe of its own, once
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME"):
            patch.setenv(variable, str(tmp_path_factory.mktemp(variable.lower())))
        patch.setenv(COOKIE, secrets.token_hex(8))
        with nothing_left_behind(lambda: request.session.testsfailed > 0):
            yield patch
            release_wardens()


@pytest.fixture
def inside(
    warm: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Place]:
    """A place for sweeps of this very process; fails if a run's process outlives the test."""
    root = tmp_path / "place"
    root.mkdir()
    here = Place(root)
    here.token = os.environ[COOKIE]
    keep_warden(take_warden())
    descriptors = set(open_descriptors())
    with only_new_garbage():
        yield here
        here.end_inside()
        gc.collect()
    wardens = [link.pid for link in link_module._spare]
    kept = {*wardens, *(link.scribe.pid for link in link_module._spare)}
    wait_for(
        lambda: not set(descendants(os.getpid())) - kept,
        "every process gone",
        tell=lambda: str(descendants(os.getpid())),
    )
    if len(wardens) == 1 and not request.node.stash.get(FAILED, False):
        wait_for(
            lambda: len(open_descriptors()) <= len(descriptors),
            "no descriptor left open",
            tell=lambda: str(open_descriptors()),
        )
