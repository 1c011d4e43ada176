from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.cli import Place
from tests.support.dispositions import as_from_a_terminal
from tests.support.leaks import FAILED, nothing_left_behind

# the machine is shared: how long an example takes says nothing about the code
# CI tries the same examples every time: what it says depends on the change alone
settings.register_profile(
    "allstop", deadline=None, print_blob=True, derandomize=os.environ.get("CI") == "true"
)
settings.load_profile("allstop")

as_from_a_terminal()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Twice as many workers as cores: most tests wait for processes, not for a core."""
    return 2 * len(os.sched_getaffinity(0))


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Give an xdist worker a short temporary directory: paths of unix sockets are limited."""
    if hasattr(config, "workerinput"):
        basetemp = Path(config.option.basetemp)
        config.option.basetemp = basetemp.with_name(basetemp.name.removeprefix("popen-gw"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


@pytest.fixture
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    with nothing_left_behind(lambda: request.node.stash.get(FAILED, False)):
        yield
        request.node.funcargs.clear()  # what other fixtures have returned


@pytest.fixture
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """State and runtime directories of the test's own, for code that runs in this process."""
    for variable, name in (
        ("XDG_STATE_HOME", "state"),
        ("XDG_RUNTIME_DIR", "runtime"),
        ("XDG_CACHE_HOME", "cache"),
    ):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / name))
    return tmp_path


@pytest.fixture
def place(tmp_path: Path, no_leaks: None) -> Iterator[Place]:
    """Somewhere to start runs; fails if a process outlives the test."""
    root = tmp_path / "place"
    root.mkdir()
    here = Place(root)
    yield here
    here.wait_sent_for()
    left = here.clear()
    assert not left, f"processes left behind: {left}"
