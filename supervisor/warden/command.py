"""A command's workforce: one program, which is started, interrupted as by a terminal, reaped.

The warden gives work to none of the processes that it forks, but ends all of them:
containment reaches them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from supervisor.errors import ProtocolError
from supervisor.ipc import messages
from supervisor.records.command import CommandPlan, parse_environment, shown
from supervisor.system import process
from supervisor.system.environment import RUN_ID
from supervisor.system.inherited_signals import was_ignored
from supervisor.system.process import describe_exit
from supervisor.warden.escalation import State
from supervisor.warden.workforce import Run

_MAX_PIDS = 1000
_MAX_NAMED = 50
_CANNOT_EXECUTE = 127

_OURS = (
    signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT,
    signal.SIGPIPE, signal.SIGXFSZ,
)  # fmt: skip
"""Signals that the warden or Python handles or ignores; exec keeps them ignored."""


@dataclass
class Inheritance:
    """Descriptors that come with :class:`~supervisor.ipc.messages.StartCommand`.

    Attributes
    ----------
    flag : int
        The stop flag.
    environment : int
        The caller's environment, see :func:`supervisor.records.command.own_environment`.
    streams : dict of int to int
        The caller's standard streams: number, and the descriptor that it was received as.
    """

    flag: int
    environment: int
    streams: dict[int, int]

    @classmethod
    def of(cls, message: messages.StartCommand, fds: list[int]) -> Inheritance:
        """Name the descriptors in the order they travel in."""
        sound = set(message.streams) <= {0, 1, 2}
        if not sound or len(fds) != 2 + len(message.streams):
            for fd in fds:
                os.close(fd)
            raise ProtocolError(f"StartCommand came with {len(fds)} descriptors")
        return cls(fds[0], fds[1], dict(zip(message.streams, fds[2:], strict=True)))

    def take_streams(self) -> None:
        """In the child: use the caller's standard streams."""
        for number in (0, 1, 2):
            if number in self.streams:
                os.dup2(self.streams[number], number)
            else:
                os.close(number)  # it was closed for the caller too

    def close(self) -> None:
        """Close all but the flag; harmless when repeated.

        The other end of a pipe must see EOF when the command has closed it.
        """
        for fd in (self.environment, *self.streams.values()):
            if fd >= 0:
                os.close(fd)
        self.environment, self.streams = -1, {}


class Command:
    """The program of one run (see :class:`supervisor.warden.workforce.Workforce`).

    Parameters
    ----------
    run : Run
        The run it belongs to.
    plan : CommandPlan
        What to start.
    inheritance : Inheritance
        Descriptors from the caller; this object owns them from now on.
    """

    report_due = None

    def __init__(self, run: Run, plan: CommandPlan, inheritance: Inheritance) -> None:
        self._run = run
        self._plan = plan
        self._inheritance = inheritance
        self._environment: dict[bytes, bytes] = {}
        self._pid = 0
        self._verdict = -1
        self._began = time.monotonic()
        self._succeeded = False

    def prepare(self) -> None:
        """Read the environment of the program."""
        fd = self._inheritance.environment
        block = os.pread(fd, os.fstat(fd).st_size, 0)
        mark = {RUN_ID.encode(): self._plan.run_id.encode()}
        self._environment = parse_environment(block) | mark

    def start(self) -> None:
        """Fork, and let the child execute the program; a failed exec is reported later.

        The exec is not waited for: it may hang on a file system that does not answer.
        """
        self._began = time.monotonic()
        verdict, tell = os.pipe()
        warden_pid = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            os.close(verdict)
            os.close(tell)
            self._run.fail(f"no process could be forked: {error.strerror}")
            return
        if pid == 0:
            self._become_program(warden_pid, tell)
        self._pid = pid
        os.close(tell)
        self._inheritance.close()
        self._verdict = verdict
        self._run.watch(verdict, self._on_exec)
        outside = self._run.containment.outside(pid)
        self._run.events.emit("command_started", pid=outside, command=list(self._plan.command))

    def _become_program(self, warden_pid: int, tell: int) -> None:
        """In the child: drop what belongs to the warden, then execute the program."""
        code = errno.EIO
        try:
            signal.set_wakeup_fd(-1)
            self._run.containment.prepare_worker(warden_pid)
            os.setsid()
            for number in _OURS:
                if not was_ignored(number):  # as by nohup
                    signal.signal(number, signal.SIG_DFL)
            if self._run.flag.is_set():
                # the stop came before this process could be signalled: its group did not exist,
                # or SIGINT was still ignored. Every later stop sets the flag first, then signals
                os.kill(os.getpid(), signal.SIGINT)
            self._inheritance.take_streams()
            os.execvpe(self._plan.command[0], self._plan.command, self._environment)
        except OSError as error:
            code = error.errno or code
        finally:
            with contextlib.suppress(OSError):
                os.write(tell, str(code).encode())
            os._exit(_CANNOT_EXECUTE)

    def _on_exec(self) -> None:
        """The exec succeeded (it has closed the pipe), or the child reports why it failed."""
        verdict, self._verdict = self._verdict, -1
        said = os.read(verdict, 16)
        self._run.forget(verdict)
        os.close(verdict)
        if said:
            self._run.fail(why_not(self._plan.command[0], int(said)), usage=True)

    # -- what the run asks -------------------------------------------------

    @property
    def size(self) -> int:
        """One while the program itself is alive."""
        return int(self._pid > 0)

    @property
    def exhausted(self) -> bool:
        """Whether the program ended by itself, with status 0."""
        return self._succeeded

    @property
    def idle(self) -> bool:
        """Whether the program has ended: a drain lets it end by itself."""
        return self._pid == 0

    def report(self, *, force: bool = False) -> None:
        """Nothing is counted."""

    def ask_to_end(self) -> int:
        """Send SIGINT to the program's process group, as a terminal does on Ctrl+C.

        SIGCONT follows, so that suspended processes can act on it.
        """
        if self._pid == 0:
            return 0
        reached = 0
        for number in (signal.SIGINT, signal.SIGCONT):
            # an unreaped child: neither its pid nor its group's can have been reused
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, number)
                reached = 1
        return reached

    def outlived(self) -> None:
        """Name the processes that outlived the program, before they get SIGTERM."""
        if self._pid:
            return
        containment = self._run.containment
        names = [
            messages.clip(f"pid {containment.outside(pid)} ({process.command_name(pid)})", 200)
            for pid in containment.living()[:_MAX_NAMED]
        ]
        if names:
            self._run.events.emit("left_behind", processes=names)
            self._run.post(messages.LeftBehind(names))

    def reaped(self, pid: int, status: int) -> None:
        """Note the end of the program; adopted orphans need no action."""
        if pid != self._pid:
            return
        self._pid = 0
        if self._verdict >= 0:
            self._on_exec()  # SIGCHLD may arrive before the reason
        code = os.waitstatus_to_exitcode(status)
        self._run.events.emit("command_ended", status=code)
        self._run.post(messages.CommandEnded(code))
        if self._run.state not in (State.RUNNING, State.DRAINING):
            return  # on request
        if code == 0:
            self._succeeded = True
            self._run.check_done()
        else:
            self._run.fail(f"{self._plan.name} {describe_exit(code)}")

    def status(self) -> messages.Status:
        """Running time, and the pids of all processes."""
        containment = self._run.containment
        return messages.Status(
            run_id="",
            status="",
            done=0,
            total=0,
            workers=[containment.outside(pid) for pid in containment.living()[:_MAX_PIDS]],
            elapsed_s=round(time.monotonic() - self._began, 3),
        )

    def dump(self) -> None:
        """Nothing: any program cannot be asked for its stack."""

    def close(self) -> None:
        """Close the descriptors that the program has not inherited."""
        self._inheritance.close()


def why_not(program: str, code: int) -> str:
    """Describe why a program could not be started."""
    name = shown((program,))
    if code != errno.ENOENT:
        return f"command {name} cannot be executed: {os.strerror(code)}"
    if "/" not in program:
        return f"command {name} was not found on the PATH"
    if Path(program).exists():
        return f"command {name} cannot be executed: the interpreter it names does not exist"
    return f"command {name} does not exist"
