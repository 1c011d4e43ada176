"""A supervised command, seen from its front: what it inherits, and what it leaves behind."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from supervisor.front.link import WardenLink
from supervisor.front.run import Front
from supervisor.front.work import Run, Work
from supervisor.ipc import messages
from supervisor.lifecycle import checks
from supervisor.records import registry, rundir
from supervisor.records.claim import Claim
from supervisor.records.command import (
    CommandPlan,
    Streams,
    check_command,
    own_environment,
    parse_environment,
)
from supervisor.records.environment_snapshot import write_run_file
from supervisor.records.plan import StopTimes
from supervisor.system import process
from supervisor.system.environment import working_directory


@dataclass(frozen=True, slots=True)
class PreparedCommand:
    """A command that was checked, its run directory made and ``run.json`` written."""

    plan: CommandPlan
    run_dir: Path
    claim: Claim
    finished: int = 0
    notes: tuple[str, ...] = ()


def prepare_command(
    command: list[str], times: StopTimes, run_dir: Path | None, containment: str
) -> PreparedCommand:
    """Check the request and make the run directory.

    Whether the program exists is seen when it is started: an earlier check could be outdated by
    then.

    Raises
    ------
    ConfigError
        If the request cannot be met; nothing is left behind.
    """
    plan = CommandPlan(
        rundir.new_run_id(),
        check_command(command),
        times,
        checks.check_containment(containment),
    )
    working_directory()  # the command inherits it: a deleted one is refused before anything is made
    registry.check()
    made = rundir.create(run_dir or rundir.DEFAULT_ROOT / plan.run_id, (rundir.LOG_DIR,))
    return PreparedCommand(plan, made, write_run_file(made, plan.to_json()))


def command_front(
    prepared: PreparedCommand, link: WardenLink, streams: Streams, *, detach: bool = False
) -> Front:
    """Make the front of a command.

    Parameters
    ----------
    prepared : PreparedCommand
        What to run.
    link : WardenLink
        A warden without a run; the front owns it from now on.
    streams : Streams
        What the command reads and writes.
    detach : bool
        Let the cluster jobs that it submits outlive the run.
    """
    return Front(
        prepared,
        link,
        lambda run: Command(run, prepared, streams, detach=detach),
        keep_warden=False,
    )


class Command(Work):
    """A program and all that it starts; it has no combinations to count.

    Parameters
    ----------
    run : Run
        The run it is the work of.
    prepared : PreparedCommand
        What to run.
    streams : Streams
        What it reads and writes.
    detach : bool
        Let its cluster jobs outlive the run.
    """

    def __init__(
        self, run: Run, prepared: PreparedCommand, streams: Streams, *, detach: bool
    ) -> None:
        self._run = run
        self._plan = prepared.plan
        self._streams = streams
        self._status: int | None = None
        self.detach = detach

    @property
    def command_status(self) -> int | None:
        """Exit status, or minus the signal that killed it; None: not seen."""
        return self._status

    def status_line(self) -> str:
        """Time, processes and memory."""
        progress = self._run.progress()
        n = len(self._living())
        return (
            f"{progress.status}: {progress.elapsed_s:.1f} s, {n} process{'es' * (n != 1)}, "
            f"{progress.ram_bytes / 2**20:,.0f} MB"
        )

    def _living(self) -> list[int]:
        """Pids of the run's processes, the warden left out."""
        if not self._run.link.born:
            return []
        below = process.descendants(self._run.link.pid)
        return [pid for pid in below if process.state_letter(pid) not in (None, "Z", "X")]

    def hand_over(self) -> None:
        """Send the warden everything that the command inherits."""
        environment = os.memfd_create("allstop-environment", os.MFD_CLOEXEC)
        inherited = own_environment()
        marks = self._expect_jobs(parse_environment(inherited))
        with os.fdopen(environment, "wb") as file:
            file.write(inherited + b"".join(b"%s=%s\0" % mark for mark in marks.items()))
            file.flush()
            self._run.link.send(
                messages.StartCommand(str(self._run.run_dir), self._streams.given),
                [self._run.flag.fileno(), environment, *self._streams.given],
            )
        self._streams.let_go()

    def _expect_jobs(self, environment: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        """Prepare for cluster jobs that the command submits; return the variables it needs.

        Variables that the user has set are not changed: some clusters accept only certain
        wckeys. Then only the shim tells which jobs are the run's.
        """
        from slurm.controller.presence import cluster_within_reach

        plain = {os.fsdecode(name): os.fsdecode(value) for name, value in environment.items()}
        if not cluster_within_reach(plain):
            return {}
        from slurm.records.tokens import token_variables
        from slurm.shim import install
        from slurm.watch import jobs_of_run

        self.jobs = jobs_of_run(
            self._plan.run_id, self._run.run_dir, self._run.nudge, self._run.link.scribe.line
        )
        marks = token_variables(self.jobs.token)
        wanted = {name: value for name, value in marks.items() if name not in plain}
        folder = install(self._run.run_dir, self.jobs.token)
        wanted["PATH"] = f"{folder}:{plain.get('PATH', os.defpath)}"
        return {os.fsencode(name): os.fsencode(value) for name, value in wanted.items()}

    def hear(self, message: messages.Message) -> None:
        """Take in how the command ended, and what it left behind."""
        if isinstance(message, messages.CommandEnded):
            self._status = message.status
        elif isinstance(message, messages.Remark):
            self._run.notes.note(message.text)
        elif isinstance(message, messages.LeftBehind):
            for name in message.processes:
                self._run.notes.note(f"left behind by the command: {name}")

    def show_where(self) -> None:
        """Show every process of the command's."""
        for pid in self._living():
            state = process.state_letter(pid) or "gone"
            with contextlib.suppress(OSError):
                self._run.display.say(f"pid {pid} ({process.command_name(pid)}), state {state}")
