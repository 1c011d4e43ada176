"""The Python API: a sweep as a context manager, usable from any thread.

Nothing about the caller's process is changed: no signal handler, no subreaper
flag, no global state. The run's front is a thread; leaving the ``with`` block,
by its end or by an exception, stops what is still running.
"""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

from supervisor.errors import (
    AllstopError,
    ConfigError,
    DiskSilentError,
    InternalError,
    RunFailedError,
    brief,
)
from supervisor.front.link import WardenLink, keep_warden, take_warden
from supervisor.front.progress import Progress
from supervisor.front.sweep import sweep_front
from supervisor.ipc.stopflag import Level
from supervisor.lifecycle import options
from supervisor.lifecycle.checks import check_path
from supervisor.lifecycle.options import Use
from supervisor.lifecycle.prepare import Axes, Changes, Order, Prepared, prepare
from supervisor.records import rundir
from supervisor.records.report import Report
from supervisor.records.verdict import Cause
from supervisor.rows.fresh_rows import FreshRows
from supervisor.rows.journal import JournalTail
from supervisor.rows.results import read
from supervisor.states import RunStatus

_MIRROR_EVERY_S = 0.02
_LOOK_EVERY_S = 0.05


class EventLike(Protocol):
    """What is mirrored: anything with ``is_set``, such as a ``multiprocess.Event``."""

    def is_set(self) -> bool:
        """Whether a stop is wanted."""
        ...


def sweep(
    strategy: str | Callable[..., Any],
    grid: Axes,
    data: Any = None,
    *,
    columns: str | Iterable[str] | Mapping[str, str] | None = None,
    symbol: str | None = None,
    bars_per_year: float | None = None,
    year_days: int | None = None,
    workers: int | None = None,
    fee: float = 0.0005,
    seed: int | None = None,
    sort: str | None = None,
    ascending: bool = False,
    min_trades: int = 0,
    device: str = "auto",
    vram_limit: str | int | None = None,
    grace_s: float = 2.0,
    terminate_s: float = 1.0,
    verify_s: float = 10.0,
    run_dir: str | Path | None = None,
    stop_event: EventLike | None = None,
    containment: str = "auto",
) -> Run:
    """Start a sweep and return it at once; use it as a context manager.

    Parameters
    ----------
    strategy : str or callable
        A built-in's name, ``module:function``, ``path.py:function``, or a
        callable ``f(bars, params, stop) -> dict of floats``, which may be a closure
        or a notebook function.
    grid : mapping of str to values, or list of mappings
        Values of each parameter, every combination of which is computed, the last one varying
        fastest; or points, each a mapping of parameter to value, all with the same parameters.
        Values are numbers, texts, bools, None, dates, times, decimals, tuples or, for a
        callable, objects of any immutable type such as an enum's members. The function gets
        what was given; results have texts for objects, and one type for each parameter.
    data : path, DataFrame, Series, pyarrow.Table, mapping of arrays or Bars, optional
        OHLCV bars; the embedded example when left out.
    columns, symbol : optional
        Which columns and which instrument of the data, see :func:`supervisor.load_bars`.
    bars_per_year : float, optional
        What the Sharpe ratio is annualised with; counted from the data when left out.
    year_days : int, optional
        Trading days in a year, such as 252 or 365, times the bars that the data has in one.
    workers : int, optional
        Worker processes; one per usable core, or per GPU, when left out.
    fee : float
        Fee per fill, as a fraction of the traded value.
    seed : int, optional
        What the random numbers of a callable are derived from, together with the combination:
        of ``stop.rng``, ``random``, ``np.random`` and, where they are loaded, PyTorch and Numba.
        The same seed gives the same rows. Drawn when left out; ``run.json`` and the report
        have it.
    sort : str, optional
        Metric by which combinations are ranked in progress, reports and pages; ``sharpe``, or
        the first, when left out.
    ascending : bool
        The lowest value is the best, not the highest.
    min_trades : int
        Combinations with fewer trades are not ranked.
    device : str
        Where a built-in strategy computes: ``cpu``; ``cuda``, ``cuda:0,1`` or ``cuda:GPU-…``,
        with CuPy on every visible GPU or on these; ``torch``, ``torch:cpu``, ``torch:cuda:0``,
        with PyTorch; ``auto``, on a GPU if that is expected to be faster, otherwise on the CPU.
        With ``cuda…`` each worker of a callable has one GPU, the only one that it sees.
    vram_limit : str or int, optional
        Memory of each GPU that the run may use: ``"8G"``, or bytes. Without effect on the CPU.
    grace_s, terminate_s, verify_s : float
        Timers of the escalation, in s: flag to SIGTERM, SIGTERM to SIGKILL,
        SIGKILL to giving up.
    run_dir : path, optional
        Directory of the run; ``runs/<run_id>`` when left out.
    stop_event : object with ``is_set``, optional
        An event of the caller's that stops the run too. It is polled from a
        thread of this process and never handed to a worker: one that hangs in
        ``is_set`` (cpython#126434) does no harm.
    containment : str
        How the run's processes are held together: ``pid-namespace``, ``cgroup``,
        ``subreaper``, or ``auto`` for the strongest that works here.

    Raises
    ------
    ConfigError
        If an argument cannot be used; nothing has been started then.

    Examples
    --------
    >>> with sweep("sma_cross", {"fast": [5, 10], "slow": [20, 50]}) as run:  # doctest: +SKIP
    ...     for row in run.rows():
    ...         print(row["sharpe"])
    """
    given = options.from_python(
        Use.PYTHON,
        strategy=strategy,
        grid=grid,
        data=data,
        columns=columns,
        symbol=symbol,
        bars_per_year=bars_per_year,
        year_days=year_days,
        workers=workers,
        fee=fee,
        seed=seed,
        sort=sort,
        ascending=ascending,
        min_trades=min_trades,
        device=device,
        vram_limit=vram_limit,
        grace_s=grace_s,
        terminate_s=terminate_s,
        verify_s=verify_s,
        run_dir=run_dir,
        containment=containment,
    )
    _check_event(stop_event)
    order = Order.of(given)
    # the first warden of a process loads its libraries while the data is read
    link = take_warden(strategy if isinstance(strategy, str) else "", containment, device)
    try:
        prepared = prepare(order)
    except BaseException:
        keep_warden(link)
        raise
    return Run(prepared, link, stop_event)


def resume(
    run: str | Path,
    *,
    workers: int | None = None,
    sort: str | None = None,
    ascending: bool = False,
    min_trades: int | None = None,
    device: str | None = None,
    vram_limit: str | int | None = None,
    grace_s: float | None = None,
    terminate_s: float | None = None,
    verify_s: float | None = None,
    containment: str | None = None,
    retry_failed: bool = False,
    changed_code: bool = False,
    stop_event: EventLike | None = None,
) -> Run:
    """Resume a run, whatever ended it, and return it at once; only what is missing is computed.

    The run keeps its id, directory and journals; its results are those of a run
    that was never interrupted, bit for bit. :meth:`Run.rows` gives the rows of
    earlier attempts too. A run that is complete ends at once.

    Parameters
    ----------
    run : str or path
        The run's id or its directory.
    workers, sort, ascending, min_trades, device, vram_limit
        As in :func:`sweep`; as before when left out. Rows of ``cpu`` and ``cuda`` are equal bit
        for bit, so either computes what is missing of the other; those of ``torch`` are not,
        and are never mixed with them.
    grace_s, terminate_s, verify_s, containment
        As in :func:`sweep`; as before when left out.
    retry_failed : bool
        Compute failed combinations again.
    changed_code : bool
        Accept a strategy file that was edited since the run began.
    stop_event : object with ``is_set``, optional
        As in :func:`sweep`.

    Raises
    ------
    ConfigError
        If the run still runs, or its data or code is gone or has changed.
    """
    from supervisor.lifecycle.resuming import prepare as prepare_again

    given = options.from_python(
        Use.RESUME,
        workers=workers,
        sort=sort,
        ascending=ascending,
        min_trades=min_trades,
        device=device,
        vram_limit=vram_limit,
        grace_s=grace_s,
        terminate_s=terminate_s,
        verify_s=verify_s,
        containment=containment,
        retry_failed=retry_failed,
        changed_code=changed_code,
    )
    _check_event(stop_event)
    prepared = prepare_again(str(check_path(run, "run")), Changes.of(given))
    plan = prepared.plan
    link = take_warden(plan.strategy, plan.containment, plan.device)
    return Run(prepared, link, stop_event)


def _check_event(event: object) -> None:
    if event is not None and not callable(getattr(event, "is_set", None)):
        raise ConfigError(
            f"stop_event must have a method is_set, as a threading.Event has, not {brief(event)}",
            key="stop_event",
        )


class Run:
    """A running or finished sweep. All methods may be called from any thread.

    Attributes
    ----------
    run_id : str
        Its id.
    run_dir : Path
        Its directory.
    """

    def __init__(
        self, prepared: Prepared, link: WardenLink, stop_event: EventLike | None = None
    ) -> None:
        self.run_id = prepared.plan.run_id
        self.run_dir = prepared.run_dir
        self._plan = prepared.plan
        self._front = sweep_front(prepared, link)
        self._crash: BaseException | None = None
        self._over = False
        self._end_told: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._carry_out, name=f"allstop-{self.run_id}", daemon=True
        )
        with self._stopping_if_interrupted():
            self._thread.start()
            if stop_event is not None:
                threading.Thread(
                    target=self._mirror, args=(stop_event,), name="allstop-mirror", daemon=True
                ).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.running:
            self.stop()

    # -- ending it ---------------------------------------------------------

    def stop(self) -> Report:
        """Stop at the workers' next poll, escalate as configured; return when verified."""
        return self._end(Level.STOP)

    def drain(self) -> Report:
        """Finish the chunks that workers compute now, start no more; return when verified."""
        return self._end(Level.DRAIN)

    def kill(self) -> Report:
        """SIGKILL everything now; return when verified."""
        return self._end(Level.KILL)

    def wait(self, timeout: float | None = None) -> Report | None:
        """Wait for the end; None if ``timeout`` seconds were not enough.

        An interruption (Ctrl+C, or whatever a signal handler raises) stops the run first.
        """
        with self._stopping_if_interrupted():
            over = self._see_over(timeout)
        return self.report if over else None

    @contextlib.contextmanager
    def _stopping_if_interrupted(self) -> Iterator[None]:
        """Stop the run if what is done inside is interrupted: nothing else would.

        Returns once that is verified. Interrupted again, it kills instead.
        """
        try:
            yield
        except GeneratorExit:
            raise  # a loop over rows() was left: the run goes on
        except BaseException as interruption:
            if self.running:
                self._stop_for(interruption)
            raise

    def _stop_for(self, interruption: BaseException) -> None:
        name = type(interruption).__name__
        for level in (Level.STOP, Level.KILL):
            # another Ctrl+C: the first one is raised
            with contextlib.suppress(BaseException):
                self._front.request(level, f"interrupted by {name}", "python")
                self._see_over()
                break

    def _end(self, level: Level) -> Report:
        if self.running:
            self._front.request(level)
        self._see_over()
        return self.report

    # -- looking at it -----------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether the run has not ended yet."""
        return not self._see_over(0.0)

    def _see_over(self, timeout: float | None = None) -> bool:
        """Wait for the end of the run, at most ``timeout`` seconds.

        Ctrl+C may come at any instant: ``Thread.is_alive`` and ``join`` take a
        living thread for a dead one when they are interrupted (bpo-45274), and what
        is built on ``Condition`` may be left locked.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while not self._over:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            with contextlib.suppress(queue.Empty):
                self._end_told.get(timeout=min(left, _LOOK_EVERY_S))
                self._end_told.put(None)  # for the next thread that waits
        return True

    @property
    def progress(self) -> Progress:
        """The current progress of the run."""
        return self._front.progress()

    @property
    def report(self) -> Report:
        """The run's report.

        Raises
        ------
        ConfigError
            If the run could not start because of something that the user can fix.
        RunFailedError
            If the run is not over, or its front broke.
        """
        if self.running:
            raise RunFailedError("the run is not over: call wait() or stop() first")
        if self._front.report is None:
            raise InternalError(f"the run's front broke: {self._crash!r}") from self._crash
        return self._front.report

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield finished combinations as they come: parameters, then metrics.

        Names and types are those of :meth:`results`: a metric that is called like a parameter,
        or ``error``, is ``result_NAME``, and ``trades`` is a whole number.
        The order is that of finishing, not of the grid. A combination that
        failed has the key ``error`` instead of metrics. A loop that is left by ``break``
        leaves the run running; an interruption while it waits (Ctrl+C) stops the run.

        Raises
        ------
        ConfigError, RunFailedError
            After the last row, if the run failed as a whole.
        """
        tail = JournalTail(self.run_dir / rundir.JOURNAL_DIR, self._plan.run_ids)
        fresh = FreshRows(self._plan.space)
        news: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._front.listeners.append(news)
        try:
            with self._stopping_if_interrupted():
                while True:
                    over = not self.running  # asked first: what is written before is read below
                    for frame in tail.poll():
                        yield from fresh.of(frame)
                    if over:
                        break
                    with contextlib.suppress(queue.Empty):
                        news.get(timeout=_LOOK_EVERY_S)
        finally:
            self._front.listeners.remove(news)
        raise_if_failed(self.report)

    def results(self) -> Any:
        """Return the finished combinations in grid order as a ``pyarrow.Table``.

        Waits for the end of the run. An interruption while it waits (Ctrl+C) stops the run.
        """
        with self._stopping_if_interrupted():
            self._see_over()
        raise_if_failed(self.report)
        if self._front.left_to:
            raise DiskSilentError(self._front.left_to, run_dir=str(self.run_dir))
        return read(self.run_dir / rundir.RESULTS_FILE)

    # -- threads -----------------------------------------------------------

    def _carry_out(self) -> None:
        try:
            self._front.run()
        except BaseException as error:  # noqa: BLE001 - raised again by `report`
            self._crash = error
        finally:
            self._over = True
            self._end_told.put(None)

    def _mirror(self, event: EventLike) -> None:
        while self.running:
            if event.is_set():
                self._front.request(Level.STOP, "the caller's event was set", "stop_event")
                return
            self._see_over(_MIRROR_EVERY_S)


def raise_if_failed(report: Report) -> None:
    """Raise the error of a failed run; a run whose combinations all failed still has its rows."""
    if report.status is not RunStatus.FAILED or report.cause == Cause.ALL_FAILED:
        return
    error: AllstopError
    if report.usage:
        error = ConfigError(report.reason)
    else:
        error = RunFailedError(report.reason, run_dir=report.run_dir)
    raise error
