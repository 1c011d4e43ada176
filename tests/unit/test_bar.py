"""The progress bar on a terminal of the usual width."""

from __future__ import annotations

import io

import pytest
from rich.console import Console, Group

from supervisor.cli.bar import Bar
from supervisor.front.progress import Progress
from supervisor.ipc.stopflag import Level
from supervisor.states import RunStatus


@pytest.mark.parametrize(
    ("status", "level", "shown"),
    [
        (RunStatus.RUNNING, None, "running"),
        (RunStatus.STOPPING, Level.STOP, "stopping; Ctrl+C again kills"),
        (RunStatus.STOPPING, Level.DRAIN, "draining: finishing current chunks"),
    ],
)
def test_on_80_columns_only_parameters_of_the_best_are_cut_off(
    status: RunStatus, level: Level | None, shown: str
) -> None:
    parameters = {f"parameter_{number}": number for number in range(9)}
    progress = Progress(
        status=status, done=1_234_567, total=9_876_543, failed=12, elapsed_s=100.0,
        ram_bytes=2**34, best=((parameters, -1.5)), stop_level=level,
    )  # fmt: skip
    bar = Bar(progress.total)
    try:
        bar.show(progress)
        screen = Console(file=io.StringIO(), width=80)
        screen.print(Group(*bar._bar.get_renderables()))
    finally:
        bar.end()
    first, second = screen.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert first.startswith(shown + " ")
    assert " 12.5 % 0:00:00 -:--:--" in first
    assert second.startswith("1,234,567/9,876,543  0/s  16,384 MB  12 failed  best -1.5 (parameter")
    assert second.endswith("…")
