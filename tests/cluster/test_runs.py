"""Programs that submit jobs, supervised: what they submit ends with them, and is seen to."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest

from tests.cluster.jobs import asked
from tests.cluster.place import ClusterPlace, job, thorough, verified
from tests.support.cli import Started
from tests.support.frozen import frozen_disk
from tests.support.waiting import DEADLINE_S, wait_for

pytestmark = pytest.mark.slurm

LONG = job("sleep 600", to="long")
STAY = "touch $HERE/ready; exec sleep 600"

EVERY_WAY = f"""
printf '#!/bin/sh\\nsleep 600\\n' > $HERE/job.sh
printf '#!/bin/sh\\nsbatch -o/dev/null --wrap "sleep 600" > $IDS/nested\\nsleep 600\\n' > $HERE/n.sh
sbatch -o /dev/null $HERE/job.sh one two > $IDS/script
sbatch -o /dev/null < $HERE/job.sh > $IDS/stdin
{job("sleep 600", to="wrap")}
{job("sleep 600", "--parsable", to="parsable")}
{job("sleep 600", "--array=0-2", to="array")}
/usr/bin/sbatch -o /dev/null $HERE/job.sh > $IDS/absolute
SBATCH_WCKEY=theirs {job("sleep 600", to="own_wckey")}
sbatch -o /dev/null $HERE/n.sh > $IDS/nesting
{job("sleep 600", "--begin=now+1hour", to="pending")}
sbatch -o /dev/null --wait --wrap "sleep 600" > $IDS/wait 2> $HERE/wait-err &
sbatch --partition=nowhere $HERE/job.sh; echo "refused with $?" > $HERE/refused
until [ -s $IDS/nested ]; do sleep 0.1; done
{STAY}
"""


def started(there: ClusterPlace, script: str, *options: str) -> Started:
    """Start a command and wait until it says that it is ready."""
    begun = there.shell(script, *options)
    begun.wait_for(there.mark("ready").exists, "the command ready")
    return begun


def in_job_phase(begun: Started) -> None:
    """Wait until only cluster jobs are left."""
    begun.wait_for(lambda: "waiting for cluster jobs" in begun.err, "the wait for jobs")


def test_whatever_way_a_job_is_submitted_a_stop_cancels_it(there: ClusterPlace) -> None:
    begun = started(there, EVERY_WAY)
    wait_for(lambda: "wait" in there.ids, "the id of sbatch --wait", tell=begun.tell)
    ids = there.ids
    assert len(set(ids.values())) == 11
    assert there.mark("refused").read_text() == "refused with 1\n"
    listed = {j["id"]: j["state"] for j in there.facts("jobs", str(begun.run_dir))["jobs"]}
    assert set(listed) == set(ids.values())
    begun.signal(signal.SIGINT)
    assert begun.end() == 128 + signal.SIGINT, begun.tell()
    there.assert_no_jobs()
    assert set(verified(begun.report)) == set(ids.values())
    assert set(verified(begun.report).values()) == {"cancelled"}
    assert begun.report["status"] == "stopped"
    there.assert_nothing_outstanding()
    begun.assert_gone()


def test_a_command_that_ends_before_its_jobs_is_waited_for(there: ClusterPlace) -> None:
    begun = there.shell(job("until [ -e $HERE/go ]; do sleep 0.1; done", to="a"), "--json")
    in_job_phase(begun)
    there.wait_jobs(1)
    assert there.facts("status", str(begun.run_dir))["status"] == "running"
    (known,) = there.facts("jobs", str(begun.run_dir))["jobs"]
    assert (known["id"], known["state"]) == (there.ids["a"], "running")
    begun.wait_for(lambda: "1 running" in begun.err, "the front has seen it run")
    there.mark("go").touch()
    assert begun.end() == 0, begun.tell()
    assert verified(begun.report) == {there.ids["a"]: "completed"}
    assert begun.report["status"] == "completed"
    assert begun.err.count("1 running") == 1
    there.assert_nothing_outstanding()


def test_a_job_that_fails_fails_the_run(there: ClusterPlace) -> None:
    # what had failed before the command ended was its own business
    late = "until [ -e $HERE/go ]; do sleep 0.1; done; exit 3"
    begun = there.shell(job("true", to="good") + job(late, to="bad"))
    in_job_phase(begun)
    there.mark("go").touch()
    assert begun.end() == 1, begun.tell()
    assert verified(begun.report) == {there.ids["good"]: "completed", there.ids["bad"]: "failed"}
    assert begun.report["reason"] == f"job {there.ids['bad']} failed"
    assert there.ids["bad"] in begun.err


@pytest.mark.parametrize(("option", "level"), [((), "stop"), (("--now",), "kill")])
def test_stop_while_the_command_runs(
    there: ClusterPlace, option: tuple[str, ...], level: str
) -> None:
    begun = started(there, LONG + "touch $HERE/ready; trap 'exit 0' TERM; sleep 600 & wait")
    there.wait_jobs(1)
    said = there.command("stop", str(begun.run_dir), *option)
    assert said.returncode == 0, said.stdout + said.stderr
    there.assert_no_jobs()
    assert begun.end() == 128 + signal.SIGTERM, (begun.report, begun.events, said.stdout)
    assert verified(begun.report) == {there.ids["long"]: "cancelled"}
    assert begun.report["stop"]["level"] == level
    there.assert_nothing_outstanding()


def test_jobs_are_cancelled_while_the_disk_of_the_run_is_frozen(there: ClusterPlace) -> None:
    """Their ledger lies on it: the cancel goes out before it is noted."""
    with frozen_disk(there.root / "run", there.root / "image") as disk:
        begun = started(there, LONG + STAY)
        there.wait_jobs(1)
        disk.freeze()
        begun.signal(signal.SIGINT)
        assert begun.end() == 128 + signal.SIGINT, begun.tell_end()
        there.assert_no_jobs()  # with the disk still frozen
        assert "does not answer" in begun.err
        disk.thaw()
        report = begun.wait_report()
        assert verified(report) == {there.ids["long"]: "cancelled"}
        assert (report["status"], report["exit_code"]) == ("stopped", 130)
        begun.assert_gone()
        there.assert_nothing_outstanding()


def test_drain_lets_the_command_and_its_jobs_end(there: ClusterPlace) -> None:
    wait = "until [ -e $HERE/go ]; do sleep 0.1; done"
    begun = started(there, f"{job(wait, to='a')} touch $HERE/ready; {wait}")
    there.wait_jobs(1)
    drain = there.argv("stop", str(begun.run_dir), "--drain")
    stop = subprocess.Popen(drain, env=there.env, cwd=there.work, stdout=subprocess.PIPE)
    begun.wait_for(lambda: "stop_requested" in begun.events, "the drain heard")
    there.mark("go").touch()
    said, _ = stop.communicate(timeout=DEADLINE_S)
    assert stop.returncode == 0, said
    assert begun.end() == 0, begun.tell()
    assert verified(begun.report) == {there.ids["a"]: "completed"}
    there.assert_nothing_outstanding()


def test_stop_while_only_jobs_are_left(there: ClusterPlace) -> None:
    begun = there.shell(LONG + job("sleep 600", "--hold", to="held"))
    in_job_phase(begun)
    said = there.command("stop", str(begun.run_dir))
    assert said.returncode == 0, said.stdout + said.stderr
    there.assert_no_jobs()
    assert begun.end() == 128 + signal.SIGTERM, (begun.report, begun.events, said.stdout)
    assert set(verified(begun.report).values()) == {"cancelled"}
    assert begun.report["stop"]["requested_by"] == "stop command"


def test_ctrl_c_while_a_job_is_completing(there: ClusterPlace) -> None:
    begun = there.shell(job("sleep 600", "--nodelist=n2", to="long"))
    in_job_phase(begun)
    there.wait_jobs(1)
    there.lab.slurmd["n2"].freeze()  # so that it completes for as long as we like
    there.lab.run("scancel", there.ids["long"])
    there.wait_jobs(1, "COMPLETING")
    begun.signal(signal.SIGINT)
    begun.wait_for(lambda: "cancelling" in begun.err, "the cancel under way")
    there.lab.slurmd["n2"].thaw()
    assert begun.end() == 128 + signal.SIGINT, begun.tell()
    there.assert_no_jobs()
    assert verified(begun.report) == {there.ids["long"]: "cancelled"}


@pytest.mark.parametrize("heir", ["reap", "run"])
def test_a_second_ctrl_c_leaves_the_rest_to_who_comes_next(there: ClusterPlace, heir: str) -> None:
    begun = there.shell(LONG)
    in_job_phase(begun)
    there.wait_jobs(1)
    there.lab.slurmctld.freeze()
    begun.signal(signal.SIGINT)
    begun.wait_for(lambda: "cancelling" in begun.err, "the cancel under way")
    begun.signal(signal.SIGINT)
    assert begun.end(20) == 3, begun.tell()
    assert "Traceback" not in begun.err
    assert there.ids["long"] in begun.err
    assert [j["verified"] for j in begun.report["jobs"]] == [False]
    assert there.outstanding
    there.lab.slurmctld.thaw()
    if heir == "reap":
        said = there.command("reap")
        assert said.returncode == 0, said.stdout + said.stderr
    else:
        said = there.command("run", "--run-dir", str(there.root / "next"), "--", "true")
        assert said.returncode == 0, said.stdout + said.stderr
    # the run that was given up has started a reap, too, which may be first with the jobs and
    # not be done with the rest
    wait_for(lambda: not there.outstanding, "no outstanding jobs")
    there.assert_no_jobs()
    wait_for(lambda: not there.alive(), "the end of those that were sent for")
    there.assert_nothing_outstanding()


def test_stop_cancels_the_jobs_of_a_front_that_hangs(there: ClusterPlace) -> None:
    begun = there.shell(LONG, "--grace", "0.2", "--terminate", "0.2", "--verify", "0.5")
    in_job_phase(begun)
    there.wait_jobs(1)
    begun.signal(signal.SIGSTOP)
    said = there.command("stop", "--json")
    (stopped,) = json.loads(said.stdout)["stopped"]
    assert said.returncode == 0, said.stdout + said.stderr
    assert any("cluster jobs" in line for line in stopped["escalated"])
    there.assert_no_jobs()  # already
    assert not there.outstanding
    begun.signal(signal.SIGCONT)
    assert begun.end() != 0
    assert there.ids["long"] in [job["id"] for job in begun.report["jobs"]]
    there.assert_nothing_outstanding()


def test_detached_jobs_live_on_until_they_are_cancelled(there: ClusterPlace) -> None:
    begun = there.shell(LONG, "--detach")
    assert begun.end() == 0, begun.tell()
    there.wait_jobs(1)
    there.assert_nothing_outstanding()
    assert there.command("reap").stdout == "nothing to clean up\n"
    there.wait_jobs(1)
    assert begun.report["status"] == "completed"
    assert [j["id"] for j in begun.report["jobs"]] == [there.ids["long"]]
    said = there.command("jobs", str(begun.run_dir), "--cancel")
    assert said.returncode == 0, said.stdout + said.stderr
    there.assert_no_jobs()
    assert "cancelled" in said.stdout


def test_without_slurm_on_the_path_nothing_changes(there: ClusterPlace) -> None:
    tools = there.root / "tools"
    tools.mkdir()
    for name in ("sh", "env"):
        (tools / name).symlink_to(f"/bin/{name}")
    there.env["PATH"] = str(tools)
    run_dir = there.root / "run"
    assert (
        there.command("run", "--run-dir", str(run_dir), "--", "sh", "-c", "env >&2").returncode == 0
    )
    assert not (run_dir / "ledger").exists()
    assert not (run_dir / "bin").exists()
    assert not there.outstanding


def test_the_environment_of_the_command_is_else_its_own(there: ClusterPlace) -> None:
    there.env["SBATCH_WCKEY"] = "mine"
    said = there.command("run", "--run-dir", str(there.root / "run"), "--", "env", "-0")
    got = dict(entry.partition("=")[::2] for entry in said.stdout.split("\0") if entry)
    assert got["SBATCH_WCKEY"] == "mine"
    assert got["SALLOC_WCKEY"] == got["SLURM_WCKEY"]
    assert got["PATH"] == f"{there.root}/run/bin:{there.env['PATH']}"
    added = {"SALLOC_WCKEY", "SLURM_WCKEY", "ALLSTOP_RUN_ID", "SBATCH_WCKEY", "PATH"}
    assert {k: v for k, v in got.items() if k not in added} == {
        k: v for k, v in there.env.items() if k not in added
    }


@pytest.mark.parametrize("heir", ["reap", "the run's own reap"])
def test_a_controller_that_is_gone_delays_a_stop_briefly(there: ClusterPlace, heir: str) -> None:
    there.lab.slurmctld.freeze()
    begun = there.shell("true")
    assert begun.end(40) == 0, begun.tell()
    there.lab.slurmctld.thaw()
    there.lab.wait_ready()
    if heir == "reap":
        assert there.command("reap").returncode == 0
    wait_for(lambda: not there.outstanding, "no outstanding jobs")
    wait_for(lambda: not there.alive(), "the end of those that were sent for")
    there.assert_nothing_outstanding()


def test_without_a_configured_cluster_no_job_is_outstanding(there: ClusterPlace) -> None:
    tools = there.root / "tools"
    tools.mkdir()
    for name in ("sbatch", "squeue"):
        fake = tools / name
        said = "Could not establish a configuration source"
        fake.write_text(f"#!/bin/sh\necho '{name}: fatal: {said}' >&2; exit 1\n")
        fake.chmod(0o700)
    there.env["PATH"] = f"{tools}:{there.env['PATH']}"
    begun = there.shell("true")
    assert begun.end() == 0, begun.tell()
    assert begun.report["errors"] == []
    there.assert_nothing_outstanding()


NOTHING_COMES_OF_IT = f"""
sbatch --version; sbatch --help > /dev/null; sbatch --usage > /dev/null
sbatch --test-only --wrap true
{job("true", "--quiet", to="quiet")}
"""


def test_calls_that_submit_no_job_are_not_waited_for(there: ClusterPlace) -> None:
    begun = there.shell(NOTHING_COMES_OF_IT)
    assert begun.end() == 0, begun.tell()
    assert list(verified(begun.report).values()) == ["completed"]
    there.assert_nothing_outstanding()


def test_a_submission_that_was_cut_off_is_found(there: ClusterPlace) -> None:
    """The controller hangs, and the submitting process is killed; its call takes effect later."""
    begun = there.shell(
        f"until [ -e $HERE/frozen ]; do sleep 0.1; done; {job('sleep 600')[:-1]} &\n"
        "shim=$!; until [ -e $HERE/go ]; do sleep 0.1; done; kill -9 $shim"
    )  # fmt: skip
    there.lab.slurmctld.freeze()
    there.mark("frozen").touch()
    begun.wait_for(lambda: asked(there.lab, "sbatch"), "the call with the controller")
    assert "submit_intended" in (begun.run_dir / "ledger").read_text()
    there.mark("go").touch()
    begun.wait_for(lambda: "front.finishing" in begun.events, "the command's end")
    begun.signal(signal.SIGINT)
    begun.wait_for(lambda: "front.stop_requested" in begun.events, "the stop heard")
    there.lab.slurmctld.thaw()
    assert begun.end() == 128 + signal.SIGINT, begun.tell()
    there.assert_no_jobs()
    assert list(verified(begun.report).values()) == ["cancelled"]
    there.assert_nothing_outstanding()


@pytest.mark.parametrize("who", ["front", "warden", "both", "group"])
def test_killed_processes_leave_no_jobs(there: ClusterPlace, who: str) -> None:
    begun = there.start(
        there.shell_argv(LONG + job("sleep 600", "--array=0-3", to="array") + STAY),
        start_new_session=True,
    )
    begun.wait_for(there.mark("ready").exists, "the command ready")
    there.wait_jobs(2)
    begun.look_below()
    if who == "group":
        os.killpg(begun.front, signal.SIGKILL)
    if who in ("warden", "both"):
        os.kill(begun.warden, signal.SIGKILL)
    if who in ("front", "both"):
        begun.popen.kill()
    begun.end()
    if who == "both":
        assert there.command("reap").returncode == 0
    wait_for(lambda: not there.alive_jobs(), "the jobs gone", tell=begun.tell)
    report = begun.wait_report()
    assert set(verified(report)) == set(there.ids.values())
    there.assert_no_jobs()
    wait_for(lambda: not there.outstanding, "no outstanding jobs")
    begun.assert_gone()


def test_the_warden_killed_while_only_jobs_are_left(there: ClusterPlace) -> None:
    """Without a warden the jobs would be orphaned if the front died, too: so the run ends."""
    begun = there.shell(LONG)
    in_job_phase(begun)
    os.kill(begun.warden, signal.SIGKILL)
    assert begun.end() == 1, begun.tell()
    there.assert_no_jobs()
    assert verified(begun.report) == {there.ids["long"]: "cancelled"}
    assert begun.report["status"] == "failed"
    assert "warden" in begun.report["reason"]
    there.assert_nothing_outstanding()


@pytest.mark.parametrize(
    "fault", ["frozen", *(pytest.param(fault, marks=thorough) for fault in ("killed", "munge"))]
)
def test_a_controller_that_is_away_in_the_middle_of_a_stop(there: ClusterPlace, fault: str) -> None:
    begun = there.shell(LONG + job("sleep 600", "--hold", to="held"))
    in_job_phase(begun)
    there.wait_jobs(1)
    lab = there.lab
    if fault == "frozen":
        lab.slurmctld.freeze()
    else:
        (lab.slurmctld if fault == "killed" else lab.munged).kill()
    begun.signal(signal.SIGINT)
    begun.wait_for(lambda: "cancelling" in begun.err, "the cancel under way")
    calls = there.root / "run" / "ledger"
    wait_for(lambda: b"cancel_wanted" in calls.read_bytes(), "the wish written down")
    # until a first call has failed, or the controller would have answered by far
    outlast(begun, 10.0)
    if fault == "frozen":
        lab.slurmctld.thaw()
    else:
        (lab.slurmctld if fault == "killed" else lab.munged).start()
    assert begun.end() == 128 + signal.SIGINT, begun.tell()
    there.assert_no_jobs()
    # one that was killed may have forgotten the jobs that it was given last
    assert set(verified(begun.report).values()) <= {"cancelled", "gone"}
    there.assert_nothing_outstanding()


def outlast(begun: Started, seconds: float) -> None:
    """The outage lasts so long; a run that ends meanwhile has not seen its jobs gone."""
    with pytest.raises(subprocess.TimeoutExpired):
        begun.popen.wait(seconds)
