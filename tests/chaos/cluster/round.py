"""One round with a cluster: a run that submits jobs is struck; no job may be left."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from supervisor.system import process
from supervisor.system.process import Identity
from tests.chaos import engine
from tests.chaos.cluster.scenario import WAYS, Scenario
from tests.chaos.cluster.site import Site
from tests.cluster.place import ClusterPlace
from tests.support.cli import ROOT, Started
from tests.support.processes import main_children, present
from tests.support.waiting import LONG_S, let_pass, until, wait_for

_MOMENT_S = 20.0  # for a moment that may never come


class Round(engine.Round):
    """Plays one scenario in a directory of its own."""

    def __init__(self, scenario: Scenario, root: Path, site: Site) -> None:
        super().__init__(scenario.seed, str(scenario))
        self._scenario = scenario
        self._site = site
        self._there = ClusterPlace(root, site.lab)
        self._stop: subprocess.Popen[bytes] | None = None
        self.outcome.traits = {
            "moment": scenario.moment,
            "containment": scenario.containment,
            "place": "over SSH" if scenario.remote else "here",
        }

    def carry_out(self) -> None:
        """Begin, strike during the fault, see the end, check."""
        there, drawn = self._there, self._scenario
        self._site.lab.wait_state(there.bystander, "RUNNING")
        begun = self._begin()
        self._await_moment(begun)
        let_pass(drawn.after_s)
        begun.look_below()
        with self._site.fault(drawn.fault):
            self.note(f"fault: {drawn.fault}")
            self._strike(begun)
            let_pass(drawn.fault_s if drawn.fault != "none" else 0.0)
        struck_at = time.monotonic()
        self._see_end(begun)
        self.outcome.counts["jobs were submitted"] += len(there.jobs())
        self.outcome.end_s = time.monotonic() - struck_at
        self._check(begun)

    def tell(self) -> str:
        """Describe the ledger, what the command said, events and logs."""
        return self._there.tell()

    def clear(self) -> None:
        """Leave nothing behind on either side."""
        self._site.reset()
        self._there.clear()
        if self._stop is not None:
            self._stop.wait()
        # what a sweep that was stopped keeps on the cluster, for a resume that never comes
        with contextlib.suppress(OSError, ValueError):
            run_id = json.loads((self._there.root / "run" / "run.json").read_text())["run_id"]
            shutil.rmtree(Path.home() / ".allstop" / "runs" / run_id)

    def _begin(self) -> Started:
        drawn, there = self._scenario, self._there
        if drawn.remote:
            return self._begin_sweep()
        script = "touch $HERE/begun; " + " ".join(WAYS[way] for way in drawn.ways)
        if drawn.stays:
            script += " touch $HERE/ready; sleep 600"
        argv = there.shell_argv(script, "--containment", drawn.containment)
        return there.start(argv, start_new_session=True)

    def _begin_sweep(self) -> Started:
        """Start a sweep whose shards do nothing but wait for their end."""
        there = self._there
        there.env["ALLSTOP_SSH_CONFIG"] = str(self._site.sshd.ssh_config)
        del there.env["SLURM_CONF"]
        strategy = there.strategy("def f(bars, params, stop):\n    return stop.wait() and None\n")
        argv = there.argv(
            "run", "--data", str(there.data), "--strategy", strategy, "--grid", "a=0:9",
            "--run-dir", str(there.root / "run"), "--containment", self._scenario.containment,
            "--cluster", "ssh:proxy", "--tasks", "2", "--python", sys.executable,
            "--job", f"setup=export PYTHONPATH={ROOT}",
        )  # fmt: skip
        return there.start(argv, start_new_session=True)

    def _await_moment(self, begun: Started) -> None:
        moment, there = self._scenario.moment, self._there
        if moment == "clock":
            return
        look: dict[str, Callable[[], object]] = {
            "sbatch": lambda: (
                "submit_intended" in there.ledger
                if self._scenario.remote
                else _programs(begun, "sbatch")
            ),
            "jobs": there.alive_jobs,
            "command over": lambda: "waiting for cluster jobs" in begun.err,
        }
        # an sbatch lives for some ms only
        every_s = 0.0 if moment == "sbatch" else 0.02
        until(lambda: look[moment]() or begun.over, _MOMENT_S, every_s)

    def _strike(self, begun: Started) -> None:
        target = self._scenario.target
        if begun.over:
            self.note(f"it was over before: {target}")
            return
        self.note(target)
        self.outcome.deeds += [target, f"fault: {self._scenario.fault}"]
        wardens = [i for pid in main_children(begun.front) if (i := Identity.of(pid))]
        if target == "group":
            os.killpg(begun.front, signal.SIGKILL)
        if target in ("warden", "both"):
            for warden in wardens:
                warden.send(signal.SIGKILL)
            if target == "warden" and not _needed(begun, wardens):
                begun.popen.terminate()
        if target in ("front", "both"):
            begun.popen.kill()
        if target in ("shim", "sbatch"):
            for program in _programs(begun, target):
                program.send(signal.SIGKILL)
            begun.popen.terminate()
        if target.startswith("sigint"):
            begun.popen.send_signal(signal.SIGINT)
        if target == "sigint twice":
            let_pass(0.3)
            begun.popen.send_signal(signal.SIGINT)
        if target.startswith("stop"):  # it works while the fault lasts, and after
            self._stop = subprocess.Popen(
                self._there.argv("stop", "--all", *target.split()[1:]), cwd=self._there.work,
                env=self._there.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip

    def _see_end(self, begun: Started) -> None:
        """The front's end, and one ``reap`` if it did not end in order."""
        code = begun.end(LONG_S)
        if self._stop is not None:
            self._stop.wait(LONG_S)
        self.note(f"ended with {code}")
        if code in (128 + signal.SIGKILL, 3) or self._there.outstanding:
            self.outcome.counts["times reap was called"] += 1
            said = self._there.command("reap")
            assert said.returncode == 0, f"reap: {said.stdout}{said.stderr}"

    def _check(self, begun: Started) -> None:
        there, lab = self._there, self._site.lab
        self._assert_no_jobs()
        # what the controller was asked before, it has done when this job has run
        sentinel = lab.submit("true", "--output=/dev/null")
        lab.wait_state(sentinel, "COMPLETED")
        self._assert_no_jobs()
        if (begun.run_dir / "run.json").exists():
            report = begun.wait_report()
            lost = [one for one in report["jobs"] if not one["verified"]]
            # the report names the jobs that were given up; that they are gone was seen above
            assert not lost or report["exit_code"] == 3, f"not verified: {lost}"
            self.check_report(begun.run_dir)
        wait_for(lambda: not there.outstanding, "nothing outstanding")
        # a shell that dies of SIGTERM may leave its child on the node: the cluster's own doing
        begun.seen = {one for one in begun.seen | set(there.alive()) if not _in_job(one)}
        wait_for(
            lambda: not present(begun.seen), "every process gone",
            tell=lambda: "\n".join(present(begun.seen)),
        )  # fmt: skip

    def _assert_no_jobs(self) -> None:
        there = self._there
        if self._scenario.fault != "controller dead":
            there.assert_no_jobs()
        else:  # it may have forgotten the bystander, which is as young as the run
            assert not there.alive_jobs(), there.alive_jobs()


def _needed(begun: Started, wardens: list[Identity]) -> bool:
    """Whether the run had one of these wardens: one killed before that is replaced."""
    with contextlib.suppress(AssertionError):  # it has ended
        return begun.warden in {who.pid for who in wardens}
    return True


def _programs(begun: Started, name: str) -> list[Identity]:
    """Processes below the run that submit: the shim's Python or the real ``sbatch``."""
    found = []
    for pid in process.descendants(begun.front):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            shim = any(word.endswith(b"/shim.py") for word in words)
            real = words[0].endswith(b"/sbatch") or words[0] == b"sbatch"
            if (shim if name == "shim" else real) and (identity := Identity.of(pid)):
                found.append(identity)
    return found


def _in_job(identity: Identity) -> bool:
    with contextlib.suppress(OSError):
        environment = Path(f"/proc/{identity.pid}/environ").read_bytes().split(b"\0")
        return any(entry.startswith(b"SLURM_JOB_ID=") for entry in environment)
    return False
