"""The front of a supervised command: hands over what it inherits, and watches it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from supervisor.front.link import WardenLink
from supervisor.front.run import Front, Progress
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
from supervisor.records.report import Report
from supervisor.system import process


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
    """Check what is asked for and make the run directory.

    Whether there is such a program is seen when it is started: a look before
    would only say what was.

    Raises
    ------
    ConfigError
        If it cannot be done as asked; nothing is left behind.
    """
    plan = CommandPlan(
        rundir.new_run_id(),
        check_command(command),
        times,
        checks.check_containment(containment),
    )
    registry.check()
    made = rundir.create(run_dir or rundir.DEFAULT_ROOT / plan.run_id, (rundir.LOG_DIR,))
    return PreparedCommand(plan, made, write_run_file(made, plan.to_json()))


class CommandFront(Front):
    """Carries one command's run from its plan to its report.

    Parameters
    ----------
    prepared : PreparedCommand
        What to run.
    link : WardenLink
        A warden without a run; this object owns it from now on.
    streams : Streams
        What the command reads and writes.
    detach : bool
        Let the cluster jobs outlive the run that it submits.
    """

    def __init__(
        self,
        prepared: PreparedCommand,
        link: WardenLink,
        streams: Streams,
        *,
        detach: bool = False,
    ) -> None:
        super().__init__(prepared, link, keep_warden=False, detach=detach)
        self._streams = streams
        self._command_status: int | None = None

    def progress(self) -> Progress:
        """Time and memory; there is nothing to count."""
        return Progress(
            status=self._status,
            done=0,
            total=0,
            failed=0,
            elapsed_s=time.monotonic() - self._began,
            ram_bytes=self._sampler.last,
            best=None,
            stop_level=self.flag.level,
        )

    def status_line(self) -> str:
        """Time, processes and memory."""
        elapsed_s = time.monotonic() - self._began
        n = len(self._living())
        return (
            f"{self._status}: {elapsed_s:.1f} s, {n} process{'es' * (n != 1)}, "
            f"{self._sampler.last / 2**20:,.0f} MB"
        )

    def _living(self) -> list[int]:
        """Pids of the run's processes, the warden left out."""
        if not self._link.born:
            return []
        below = process.descendants(self._link.pid)
        return [pid for pid in below if process.state_letter(pid) not in (None, "Z", "X")]

    def _hand_over(self) -> None:
        environment = os.memfd_create("allstop-environment", os.MFD_CLOEXEC)
        inherited = own_environment()
        marks = self._expect_jobs(parse_environment(inherited))
        with os.fdopen(environment, "wb") as file:
            file.write(inherited + b"".join(b"%s=%s\0" % mark for mark in marks.items()))
            file.flush()
            self._link.send(
                messages.StartCommand(str(self.run_dir), self._streams.given),
                [self.flag.fileno(), environment, *self._streams.given],
            )
        self._streams.let_go()

    def _expect_jobs(self, environment: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        """Be ready for cluster jobs that the command submits; return the variables for it.

        What its user has set is left alone: on some clusters only certain wckeys are
        let through. Then the shim alone tells which jobs are the run's.
        """
        from slurm.presence import cluster_within_reach

        plain = {os.fsdecode(name): os.fsdecode(value) for name, value in environment.items()}
        if not cluster_within_reach(plain):
            return {}
        from slurm.shim import install
        from slurm.tokens import token_variables
        from slurm.watch import jobs_of_run

        self._jobs = jobs_of_run(self._plan.run_id, self.run_dir, self.nudge)
        marks = token_variables(self._jobs.token)
        wanted = {name: value for name, value in marks.items() if name not in plain}
        folder = install(self.run_dir, self._jobs.token)
        wanted["PATH"] = f"{folder}:{plain.get('PATH', os.defpath)}"
        return {os.fsencode(name): os.fsencode(value) for name, value in wanted.items()}

    def _on_message(self, message: messages.Message | None) -> None:
        if isinstance(message, messages.CommandEnded):
            self._command_status = message.status
        elif isinstance(message, messages.LeftBehind):
            for name in message.processes:
                self._note_error(f"left behind by the command: {name}")
        else:
            super()._on_message(message)

    def _show_where(self) -> None:
        for pid in self._living():
            state = process.state_letter(pid) or "gone"
            with contextlib.suppress(OSError):
                self._say(f"pid {pid} ({process.command_name(pid)}), state {state}")

    def _complete(self, report: Report) -> None:
        report.command_status = self._command_status
