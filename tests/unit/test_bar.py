"""The progress bar on a terminal of the usual width."""

from __future__ import annotations

import io

import pytest
from rich.console import Console, Group

from supervisor.cli.bar import Bar
from supervisor.front.progress import Progress
from supervisor.ipc.stopflag import Level
from supervisor.states import RunStatus


def test_a_name_is_neither_markup_nor_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    """``:smile:`` would become a face, ``[red]`` a colour, an escape sequence a cleared screen."""
    progress = Progress(
        status=RunStatus.RUNNING, done=1, total=2, failed=0, elapsed_s=1.0, ram_bytes=0,
        best=({"[red]:smile:\x1b[2J": 1}, 1.0), stop_level=None,
    )  # fmt: skip
    bar = Bar(2)
    screen = Console(file=io.StringIO(), width=120)
    monkeypatch.setattr(bar, "_console", screen)
    try:
        bar.say("note: [bold]a\\[/bold] :smile: \x1b[2J\u202e")
        bar.show(progress)
        screen.print(Group(*bar._bar.get_renderables()))
    finally:
        bar.end()
    said = screen.file.getvalue()  # type: ignore[attr-defined]
    assert said.startswith(r"note: [bold]a\[/bold] :smile: \x1b[2J\u202e")
    assert "best 1 ([red]:smile:\\x1b[2J=1)" in said


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
