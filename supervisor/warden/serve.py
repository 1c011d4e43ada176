"""The warden's process, once it is contained: see :mod:`supervisor.warden.__main__`."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from supervisor.containment import Containment
from supervisor.containment.cookie import Cookie
from supervisor.errors import AllstopError, ConfigError, ProtocolError
from supervisor.ipc import messages
from supervisor.ipc.stopflag import StopFlag
from supervisor.records import registry, rundir
from supervisor.records.command import AnyPlan, CommandPlan
from supervisor.records.plan import Plan
from supervisor.records.scribe_line import ScribeLine
from supervisor.system import private
from supervisor.system.host import NAMESPACE
from supervisor.warden.lines import Descriptors, Front
from supervisor.warden.refusal import record_refusal
from supervisor.warden.run import RunInHand
from supervisor.warden.workforce import Run, Workforce


@dataclass(frozen=True)
class Hold:
    """How a run's processes are reached: containment, and the cookie in their environment.

    ``outside`` is the PID namespace of the front, in which the pids of records count.
    """

    containment: Containment
    cookie: Cookie
    outside: str


def serve(front: Front, signals: socket.socket, likely: list[str], hold: Hold) -> None:
    """Serve one front, run after run, until it is gone.

    ``likely``: strategy and device that will probably be asked for first; what they need is
    loaded early. Empty: nothing is.
    """
    if likely:
        from workers.registry import preload

        preload(*likely)
    # loaded modules stay: the collector need not visit them again, nor write to pages that
    # workers share; so the collection after each run takes no time
    gc.freeze()
    gc.enable()
    front.post(messages.WardenReady(hold.containment.outside(os.getpid())))
    last_run = _serve_runs(front, signals, hold)
    if last_run is not None and _is_unfinished(last_run):
        _finish_alone(last_run, hold.outside, front.scribe)


def _serve_runs(front: Front, signals: socket.socket, hold: Hold) -> Path | None:
    """Perform one run after the other until the front is gone.

    Returns
    -------
    Path or None
        Directory of the last run, if that has ended in order.
    """
    waiting = select.poll()
    waiting.register(front.sock, select.POLLIN)
    waiting.register(front.pidfd, select.POLLIN)
    last_run: Path | None = None
    while True:
        patience = front.outbox.patience(None)
        ready = {fd for fd, _ in waiting.poll(None if patience is None else 1000 * patience)}
        if not ready:
            continue
        if front.sock.fileno() not in ready:
            return last_run
        try:
            message, fds = messages.receive(front.sock)
        except ProtocolError as error:
            front.post(messages.RunRefused(str(error), usage=False))
            continue
        if message is None:
            return last_run
        if isinstance(message, messages.Order):
            front_there = _run(message, fds, front, signals, hold)
            last_run = None if front_there is None else Path(message.run_dir)
            if front_there is False:
                return last_run
        elif isinstance(message, messages.Rest):
            _rest(front, message.run_dir)
        else:
            for fd in fds:  # a late message, for a run that has ended
                os.close(fd)


def _is_unfinished(run_dir: Path) -> bool:
    """Whether the run is still registered: then the front may have died before its report."""
    with contextlib.suppress(AllstopError, OSError, KeyError, TypeError, AttributeError):
        return registry.find(rundir.read_run_file(run_dir)["run_id"]) is not None
    return False


def _run(
    message: messages.Order, fds: list[int], front: Front, signals: socket.socket, hold: Hold
) -> bool | None:
    """Perform one run; return whether the front is still alive, None if the run broke."""
    run_dir = Path(message.run_dir)
    try:
        plain = rundir.read_run_file(run_dir)
        plan, flag, hire = _workforce(message, fds, plain)
        _log_to(run_dir)
        hold.cookie.show(plan.run_id)
        run = RunInHand(plan.run_id, plan.times, run_dir, flag, front, hold.containment, hire)
        front_there = run.perform(signals)
    except (AllstopError, OSError) as error:
        _refuse(front, run_dir, str(error), usage=isinstance(error, ConfigError))
        return None
    except Exception as error:  # noqa: BLE001 - a bug of ours: reported to the front
        import traceback

        traceback.print_exc()
        what = f"{type(error).__name__}: {error} (see {rundir.LOG_DIR}/warden.log)"
        _refuse(front, run_dir, what, usage=False)
        return None
    finally:
        hold.cookie.hide()
        gc.collect()
    return front_there


def _refuse(front: Front, run_dir: Path, error: str, *, usage: bool) -> None:
    """Record that a run could not start or broke, then tell the front."""
    refusal = messages.RunRefused(messages.clip(error), usage=usage)
    record_refusal(run_dir, refusal, front.scribe)
    front.post(refusal)


def _workforce(
    message: messages.Order, fds: list[int], plain: dict[str, Any]
) -> tuple[AnyPlan, StopFlag, Callable[[Run], Workforce]]:
    """Choose the workforce of an order; only the modules it needs are loaded."""
    if isinstance(message, messages.StartCommand):
        from supervisor.warden.command import Command, Inheritance

        inheritance = Inheritance.of(message, fds)
        command = CommandPlan.from_json(plain)
        flag = StopFlag.from_fd(inheritance.flag)
        return command, flag, lambda run: Command(run, command, inheritance)
    if isinstance(message, messages.StartGuard):
        from supervisor.warden.guard import Guard

        (fd,) = fds
        return Plan.from_json(plain), StopFlag.from_fd(fd), lambda _run: Guard()
    from supervisor.warden.sweep import Sweep

    descriptors = Descriptors.of(message, fds)
    plan = Plan.from_json(plain)
    retry = message.retry_failed
    flag = StopFlag.from_fd(descriptors.flag)
    return plan, flag, lambda run: Sweep(run, plan, descriptors, retry_failed=retry)


def _rest(front: Front, run_dir: str) -> None:
    """Become a small program that ends quickly (see ``rest.py``); returns if that fails."""
    rest = Path(__file__).with_name("rest.py")
    lines = [front.sock.fileno(), front.pidfd]
    if front.scribe:
        front.scribe.hang_up()
        lines.append(front.scribe.fileno())
    arguments = [sys.executable, "-I", "-S", str(rest), run_dir, *map(str, lines)]
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a terminal's signals are ignored already
    for fd in lines:
        os.set_inheritable(fd, True)
    with contextlib.suppress(OSError):
        os.execv(sys.executable, arguments)
    for fd in lines:
        os.set_inheritable(fd, False)


def _finish_alone(run_dir: Path, outside: str, scribe: ScribeLine | None) -> NoReturn:
    """Become a fresh program that writes results and report.

    The exec keeps this process, so the program is no descendant that containment would
    kill with the warden.
    """
    program = [sys.executable, "-P", "-m", "supervisor.lifecycle.finish", str(run_dir)]
    if scribe:
        scribe.hang_up()
        os.set_inheritable(scribe.fileno(), True)
        program.append(str(scribe.fileno()))  # it reads the facts when all are written
    os.execve(sys.executable, program, os.environ | {NAMESPACE: outside})


def _log_to(run_dir: Path) -> None:
    path = run_dir / rundir.LOG_DIR / "warden.log"
    log = private.open_regular(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def _signals_as_bytes() -> socket.socket:
    """Make SIGCHLD and SIGTERM readable on a socket, so that the one wait covers them."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # the front handles the terminal's signals
    return reader


def work(
    front: Front,
    likely: list[str],
    containment: Containment,
    cookie: Cookie,
    outside: str,
) -> None:
    """Be the warden of a front, until it is gone."""
    faulthandler.enable()
    hold = Hold(containment, cookie, outside)
    serve(front, _signals_as_bytes(), likely, hold)
