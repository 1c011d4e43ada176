"""The progress bar on a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from rich.text import Text

from supervisor.front.progress import Progress
from supervisor.ipc.stopflag import Level
from supervisor.states import RunStatus
from supervisor.system.printable import printable

_ASKED = {
    Level.DRAIN: "draining: finishing current chunks",
    Level.STOP: "stopping; Ctrl+C again kills",
    Level.KILL: "killing",
}


class Bar:
    """Progress, elapsed and remaining time; on a second line, the run's figures.

    Two lines, so that on 80 columns at most the parameters of the best row are cut off.

    Parameters
    ----------
    total : int
        Combinations of the grid.
    """

    def __init__(self, total: int) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._rate = _Rate()
        self._bar = _WithFacts(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>5.1f} %"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            auto_refresh=False,
            transient=True,
        )
        self._task = self._bar.add_task("preparing", total=total)
        self._bar.start()

    def show(self, progress: Progress) -> None:
        """Show the current progress."""
        asked = progress.stop_level if progress.status is RunStatus.STOPPING else None
        self._bar.facts = self._facts(progress)
        self._bar.update(
            self._task,
            completed=progress.done,
            description=_ASKED[asked] if asked else str(progress.status),
            refresh=True,
        )

    def say(self, line: str) -> None:
        """Show a line above the bar."""
        self._console.print(Text(printable(line)), soft_wrap=True)

    def end(self) -> None:
        """Remove the bar."""
        self._bar.stop()

    def _facts(self, progress: Progress) -> str:
        rate = self._rate.update(progress)
        facts = [f"{progress.done:,}/{progress.total:,}", f"{rate:,.0f}/s"]
        facts.append(f"{progress.ram_bytes / 2**20:,.0f} MB")
        if progress.failed:
            facts.append(f"{progress.failed} failed")
        if progress.best is not None:
            params = " ".join(f"{name}={value}" for name, value in progress.best[0].items())
            facts.append(f"best {progress.best[1]:.3g} ({params})")
        return "  ".join(facts)


class _WithFacts(ProgressBar):
    """A bar with a line of figures below it."""

    facts = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield Text(printable(self.facts), no_wrap=True, overflow="ellipsis")


class _Rate:
    """Combinations per second, smoothed over a few seconds."""

    _SMOOTHING_S = 3.0

    def __init__(self) -> None:
        self._at: float | None = None
        self._done = 0
        self._rate = 0.0

    def update(self, progress: Progress) -> float:
        now = time.monotonic()
        if self._at is None:
            self._at, self._done = now, progress.done
            return 0.0
        passed = now - self._at
        if passed > 0:
            fresh = max(0, progress.done - self._done) / passed
            weight = min(1.0, passed / self._SMOOTHING_S) if self._rate else 1.0
            self._rate += weight * (fresh - self._rate)
            self._at, self._done = now, progress.done
        return self._rate
