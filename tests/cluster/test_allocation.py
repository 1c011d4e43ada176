"""A run inside a SLURM job: it ends in order before the cluster sends SIGKILL."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.place import ClusterPlace, thorough
from tests.cluster.test_cluster_sweep import bits
from tests.support.waiting import DEADLINE_S, LONG_S, wait_for

pytestmark = pytest.mark.slurm

N = 40

BODY = """
def f(bars, params, stop):
    if params["a"] == 20 and not (HERE / "go").exists():
        mark("ready")
        if stop.wait():
            return None
    return {"sharpe": params["a"] / 7}
"""


def script(there: ClusterPlace, *options: str, how: str = "exec ", run_dir: str = "run") -> str:
    words = there.argv(
        "run", "--data", str(there.data), "--strategy", there.strategy(BODY), "--grid",
        f"a=0:{N - 1}", "--workers", "2", "--run-dir", str(there.root / run_dir), "--resume",
        *options,
    )  # fmt: skip
    settings = "".join(
        f"export {name}={shlex.quote(there.env[name])}\n"
        for name in ("PYTHONPATH", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "NUMBA_CACHE_DIR", "HOME",
                     "ALLSTOP_TEST")
    )  # fmt: skip
    # two lines: a shell makes an exec of an only one
    return f"{settings}cd {there.work}\ntrue\n{how}{shlex.join(words)}\ntrue\n"


def submit(there: ClusterPlace, text: str, *options: str) -> int:
    log = there.root / "job.log"
    return there.lab.submit(text, f"--output={log}", "--open-mode=append", *options)


def tell(there: ClusterPlace) -> str:
    log = there.root / "job.log"
    return log.read_text() if log.exists() else "no log"


def wait_ready(there: ClusterPlace) -> None:
    wait_for(lambda: list(there.root.glob("ready-*")), "at work", tell=lambda: tell(there))


def report(there: ClusterPlace) -> dict[str, Any]:
    path = there.root / "run" / "report.json"
    wait_for(path.exists, "a report", tell=lambda: tell(there))
    return json.loads(path.read_text())


def stopped_in_order(there: ClusterPlace) -> None:
    told = report(there)
    assert told["status"] == "stopped", told
    assert told["stop"]["survivors"] == []
    assert told["combos_done"] >= 20
    assert told["exit_code"] == 128 + 15
    wait_for(lambda: not there.alive(), "every process gone", tell=lambda: str(there.alive()))


def carried_on_as_if_nothing_were(there: ClusterPlace) -> None:
    there.mark("go").touch()
    said = there.command("resume", str(there.root / "run"))
    assert said.returncode == 0, said.stdout + said.stderr
    equals_local(there)


def equals_local(there: ClusterPlace) -> None:
    there.command(
        "run", "--data", str(there.data), "--strategy", there.strategy(BODY), "--grid",
        f"a=0:{N - 1}", "--run-dir", str(there.root / "local"),
    )  # fmt: skip
    assert bits(there.root / "run") == bits(there.root / "local")


@pytest.mark.parametrize("how", ["exec ", "srun "])
def test_scancel_stops_it_in_order(there: ClusterPlace, how: str) -> None:
    job = submit(there, script(there, "--grace", "8", "--terminate", "2", how=how))
    wait_ready(there)
    # srun forwards its output with a delay
    wait_for(
        lambda: "grace shortened from 8 to 6 s" in tell(there), "the note", tell=lambda: tell(there)
    )
    assert there.lab.run("scancel", str(job)).returncode == 0
    stopped_in_order(there)
    there.lab.wait_state(job, "CANCELLED")
    carried_on_as_if_nothing_were(there)


def test_a_plain_script_too(there: ClusterPlace) -> None:
    """The shell dies of SIGTERM; the front gets a SIGTERM of its own and stops in order."""
    job = submit(there, script(there, how=""))
    wait_ready(there)
    assert there.lab.run("scancel", str(job)).returncode == 0
    stopped_in_order(there)


def test_salloc(there: ClusterPlace) -> None:
    text = there.root / "in.sh"
    text.write_text(script(there))
    begun = there.start(["salloc", "--quiet", "--kill-command", "bash", str(text)])
    begun.wait_for(lambda: list(there.root.glob("ready-*")), "at work")
    (job,) = there.alive_jobs()
    assert there.lab.run("scancel", job).returncode == 0
    begun.end()
    stopped_in_order(there)


@pytest.mark.parametrize("why", ["requeue", pytest.param("preemption", marks=thorough)])
def test_it_resumes_after_a_requeue(there: ClusterPlace, why: str) -> None:
    job = submit(there, script(there), "--partition=low", "--exclusive", "--nodelist=n4")
    wait_ready(there)
    ready = len(list(there.root.glob("ready-*")))
    there.mark("go").touch()  # for the second attempt, which may begin before we look
    if why == "requeue":
        assert there.lab.run("scontrol", "requeue", str(job)).returncode == 0
    else:
        there.lab.submit("true", "--exclusive", "--nodelist=n4", "--output=/dev/null")
    stopped = wait_for(lambda: report(there), "the first attempt's report")
    assert stopped["status"] == "stopped"
    assert stopped["combos_done"] >= 20
    wait_for(
        lambda: there.lab.states(job) == ["COMPLETED"], "completed", timeout_s=DEADLINE_S,
        tell=lambda: tell(there),
    )  # fmt: skip
    told = report(there)
    assert told["status"] == "completed", tell(there)
    assert told["resumed"] == 1
    assert len(list(there.root.glob("ready-*"))) == ready
    equals_local(there)


def test_submitted_through_a_run_it_is_stopped_with_it(there: ClusterPlace, tmp_path: Path) -> None:
    """Two runs of ours: one here, and one in its job, which has the first one's token."""
    text = there.root / "in.sh"
    text.write_text("#!/bin/bash\n" + script(there))
    outer = there.argv("run", "--run-dir", str(tmp_path / "outer"))
    begun = there.start([*outer, "--", "sbatch", f"--output={there.root}/job.log", str(text)])
    begun.wait_for(lambda: list(there.root.glob("ready-*")), "at work")
    begun.popen.terminate()
    assert begun.end() == 143
    there.assert_no_jobs()
    stopped_in_order(there)
    there.assert_nothing_outstanding()


@thorough
@pytest.mark.timeout(240)
def test_the_time_limit(there: ClusterPlace) -> None:
    """A minute is the shortest that there is; the controller looks every half minute."""
    job = submit(there, script(there), "--time=1")
    wait_ready(there)
    wait_for(
        lambda: there.lab.states(job) == ["TIMEOUT"], "the time limit", timeout_s=LONG_S,
        tell=lambda: tell(there),
    )  # fmt: skip
    stopped_in_order(there)
    carried_on_as_if_nothing_were(there)
