"""Each strength of containment against what it is there for, and against what it cannot do."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import site
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import supervisor
from supervisor.containment import cgroup
from supervisor.containment.leftovers import clear_leftovers
from supervisor.containment.unavailable import UnavailableError
from supervisor.ipc import messages
from supervisor.market.example import example_bars
from supervisor.records import rundir
from supervisor.records.claim import claim_directory
from supervisor.records.events import read_events
from supervisor.system import durable, memory, process
from supervisor.system.process import Identity
from tests.support.cli import Place, Started
from tests.support.inside import see_idle
from tests.support.processes import carriers, kill, main_children
from tests.support.waiting import wait_for

STRENGTHS = ["pid-namespace", "cgroup", "subreaper"]
TIMES = ["--grace", "0.3", "--terminate", "0.2"]
DONE = 20

DAEMONS = """
import subprocess

def daemonise(program):
    '''Leave a process behind that has nothing in common with us and ignores what it can.'''
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_IGN)
            if program:
                mark("daemon")
                os.execvp("sleep", ["sleep", "1000"])
            mark("daemon")
            while True:
                time.sleep(1000)
        os._exit(0)
    os.wait()

def f(bars, params, stop):
    if params["a"] < DONE:
        return row(params)
    daemonise(program=False)
    daemonise(program=True)
    mark("ready")
    stop.wait()
"""
N_DAEMONS = 4
"""Two of each worker's."""

IDLE = """
def f(bars, params, stop):
    if params["a"] < DONE:
        return row(params)
    mark("ready")
    stop.wait()
"""


@pytest.fixture(params=STRENGTHS)
def strength(request: pytest.FixtureRequest, place: Place) -> str:
    """Every strength that this machine offers; which it does not, the product says itself."""
    require(request.param)
    return str(request.param)


def require(strength: str) -> None:
    """Skip a test where the kernel forbids what it needs, in the kernel's words."""
    if strength == "cgroup":
        try:
            cgroup.available()
        except UnavailableError as error:
            pytest.skip(f"no cgroup here: {error.why}")
    if strength == "pid-namespace":
        for options in (["--pid", "--fork", "--mount-proc"], ["-U", "-p", "-f", "--mount-proc"]):
            done = subprocess.run(["unshare", *options, "true"], capture_output=True, text=True)
            if done.returncode == 0:
                return
        pytest.skip(f"no PID namespace here: {done.stderr.strip()}")


def daemons(run: Started) -> list[Identity]:
    """The daemons of a run, once all have said that they are ready."""
    run.wait_marks("daemon", N_DAEMONS)
    run.wait_marks("ready", 2)
    session = os.getsid(run.warden)  # which the workers share
    below = process.descendants(run.warden)
    found = [who for pid in below if os.getsid(pid) != session and (who := Identity.of(pid))]
    assert len(found) == N_DAEMONS, [(pid, process.command_name(pid)) for pid in below]
    return found


def kill_both(run: Started) -> None:
    """Kill -9 front and warden; neither can react to the other's death."""
    warden = Identity.of(run.warden)
    assert warden is not None
    for pid in (run.front, warden.pid):
        os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: process.state_letter(warden.pid) == "T", "a stopped warden")
    os.kill(warden.pid, signal.SIGKILL)
    os.kill(run.front, signal.SIGKILL)
    run.popen.wait()
    wait_for(lambda: not warden.alive, "the warden's end")


def run_id(run: Started) -> str:
    return str(json.loads((run.run_dir / "run.json").read_text())["run_id"])


def cgroups_of_runs() -> list[Path]:
    return list(cgroup.own_cgroup().glob("allstop-*"))


# -- front and warden killed together ---------------------------------------


def test_kill_9_of_front_and_warden_leaves_nothing_in_a_pid_namespace(place: Place) -> None:
    require("pid-namespace")
    run = place.sweep(DAEMONS, *TIMES, "--containment", "pid-namespace", DONE=DONE)
    daemons(run)
    run.look_below()
    kill_both(run)
    run.assert_gone()


def test_kill_9_of_front_and_warden_leaves_a_cgroup_that_can_be_cleared(place: Place) -> None:
    require("cgroup")
    run = place.sweep(DAEMONS, *TIMES, "--containment", "cgroup", DONE=DONE)
    left = daemons(run)
    run.look_below()
    (path,) = [p for p in cgroups_of_runs() if p.name.endswith(run_id(run))]
    kill_both(run)
    assert all(daemon.alive for daemon in left)
    cleared = clear_leftovers(run.run_dir)
    assert set(left) <= set(cleared)
    assert not path.exists()
    run.assert_gone()
    assert clear_leftovers(run.run_dir) == []  # there is nothing more to do


def test_kill_9_of_front_and_warden_does_not_reach_a_subreapers_daemons(place: Place) -> None:
    """What the other two strengths are for; and how these are found all the same."""
    run = place.sweep(DAEMONS, *TIMES, "--containment", "subreaper", DONE=DONE)
    left = daemons(run)
    run.look_below()
    kill_both(run)
    wait_for(lambda: set(place.alive()) == set(left), "the workers' end", tell=run.tell)
    assert all(daemon.alive for daemon in left)
    assert set(carriers(run_id(run))) == set(left)
    kill(left)
    run.assert_gone()
    assert carriers(run_id(run)) == []


def test_a_killed_warden_leaves_nothing_once_the_front_says_so(place: Place, strength: str) -> None:
    """By the kernel in a PID namespace; elsewhere the front finds what is left and ends it."""
    run = place.sweep(DAEMONS, *TIMES, "--containment", strength, DONE=DONE)
    daemons(run)
    run.look_below()
    os.kill(run.warden, signal.SIGKILL)
    assert run.end() == 1, run.tell()
    assert run.report["status"] == "failed"
    assert "died with status -9" in run.report["reason"]
    assert not place.alive()  # already
    run.assert_gone()
    if strength == "cgroup":
        assert not [p for p in cgroups_of_runs() if p.name.endswith(run.report["run_id"])]


# -- an ordinary stop --------------------------------------------------------


def test_a_stop_kills_daemons_that_ignore_every_signal(place: Place, strength: str) -> None:
    run = place.sweep(DAEMONS, *TIMES, "--containment", strength, DONE=DONE)
    daemons(run)
    run.look_below()
    assert run.stop() == 143, run.tell()
    run.assert_gone()
    report = run.report
    assert report["containment"] == strength
    assert report["stop"]["survivors"] == []
    (killed,) = [rung for rung in report["stop"]["rungs"] if rung["name"] == "kill"]
    assert killed["acted_on"] >= N_DAEMONS
    if strength == "cgroup":
        assert not [p for p in cgroups_of_runs() if p.name.endswith(report["run_id"])]


def test_a_stop_before_the_work_has_begun_leaves_nothing_either(
    place: Place, strength: str
) -> None:
    """The warden compiles a kernel then and hears nothing: the front kills it, cgroup and all."""
    place.env["ALLSTOP_CACHE_DIR"] = str(place.root / "empty")
    argv = place.argv(
        "run", "--data", str(place.data), "--strategy", "donchian_breakout",
        "--grid", "entry=2:9", "--grid", "exit=2:9", "--run-dir", str(place.root / "run"),
        "--containment", strength, "--json", *TIMES,
    )  # fmt: skip
    run = place.start(argv)
    maps = Path(f"/proc/{run.warden}/maps")
    run.wait_for(lambda: "libllvmlite" in maps.read_text(), "the compiler")
    assert run.stop() == 143, run.tell()
    assert "warden.run_started" not in run.events
    run.assert_gone()
    report = run.report
    assert (report["status"], report["stop"]["survivors"]) == ("stopped", [])
    assert not [p for p in cgroups_of_runs() if p.name.endswith(report["run_id"])]


def test_a_fork_bomb_is_killed(place: Place, strength: str) -> None:
    body = """
    def f(bars, params, stop):
        if params["a"] < DONE:
            return row(params)
        if first("bomb"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            until = time.monotonic() + 20
            mark("ready")
            for _ in range(3):
                os.fork()
            while time.monotonic() < until:  # eight that are replaced as soon as they end
                if os.fork():
                    os._exit(0)
            os._exit(0)
        mark("ready")
        stop.wait()
    """
    run = place.sweep(body, *TIMES, "--containment", strength, DONE=DONE)
    run.wait_marks("ready", 1)
    assert run.stop() == 143, run.tell()
    assert run.report["stop"]["survivors"] == []
    assert run.report["stop"]["elapsed_s"] < 18  # they would end by themselves later
    run.assert_gone()


def test_when_the_front_is_killed_results_and_report_are_written(
    place: Place, strength: str
) -> None:
    # grace for the workers, which have rows to write
    times = ["--grace", "3", "--terminate", "0.2"]
    run = place.sweep(DAEMONS, *times, "--containment", strength, DONE=DONE)
    daemons(run)
    run.look_below()
    run.kill_front()
    report = run.wait_report()
    run.assert_gone()
    assert report["status"] == "stopped"
    assert report["containment"] == strength
    run.assert_nothing_lost(DONE)
    assert list((place.root / "state" / "allstop" / "runs").iterdir()) == []
    assert list((place.root / "runtime" / "allstop").iterdir()) == []
    if strength == "cgroup":
        assert not [p for p in cgroups_of_runs() if p.name.endswith(report["run_id"])]


# -- what is said about it ---------------------------------------------------


def test_pids_are_those_of_outside(place: Place, strength: str) -> None:
    run = place.sweep(IDLE, *TIMES, "--containment", strength, json=False, DONE=DONE)
    run.wait_marks("ready", 2)
    workers = sorted(process.children(run.warden))
    assert [process.command_name(pid)[:9] for pid in workers] == ["allstop-w"] * 2
    assert main_children(run.front) == [run.warden]  # the starter is gone and reaped
    said = json.loads(place.command("status", "--json").stdout)
    assert sorted(said["workers"]) == workers
    facts = [json.loads(line) for line in run.events.splitlines()]
    started = [fact["pid"] for fact in facts if fact["event"] == "warden.worker_started"]
    assert sorted(started) == workers
    os.kill(workers[0], signal.SIGKILL)
    run.wait_for(lambda: "worker_reaped" in run.events, "a lost worker")
    assert f"(pid {workers[0]}) died of SIGKILL" in run.wait_for(
        lambda: "error_noted" in run.events and run.events, "its death told"
    )
    run.wait_marks("ready", 2)
    run.wait_for(lambda: len(process.children(run.warden)) == 2, "another worker")
    workers = sorted(process.children(run.warden))
    run.wait_for(  # SIGUSR1 would end one that does not listen for it yet
        lambda: len(list(run.run_dir.glob("journal/*"))) >= 3, "the other worker's start"
    )
    run.signal(signal.SIGQUIT)
    assert run.end() == 131, run.tell()
    for pid in workers:
        assert f"worker pid {pid} " in run.err, run.tell()
    run.assert_gone()


def test_inside_a_pid_namespace_proc_shows_the_namespace(place: Place) -> None:
    require("pid-namespace")
    body = """
    def f(bars, params, stop):
        shown = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
        alike = str(Path("/proc/self").readlink()) == str(os.getpid())
        return {"sharpe": float(len(shown)), "first": float(min(shown)), "alike": float(alike)}
    """
    run = place.sweep(body, "--containment", "pid-namespace", n=1, workers=1)
    assert run.end() == 0, run.tell()
    (found,) = run.results()
    assert (found["first"], found["alike"]) == (1.0, 1.0)
    assert found["sharpe"] <= 3
    run.assert_gone()


def test_auto_takes_the_strongest_and_doctor_names_it(place: Place) -> None:
    require("pid-namespace")
    run = place.sweep(IDLE, n=DONE, DONE=DONE)
    assert run.end() == 0, run.tell()
    assert run.report["containment"] == "pid-namespace"
    findings = json.loads(place.command("doctor", "--json").stdout)
    (said,) = [finding for finding in findings if finding["name"] == "containment"]
    assert "runs use: pid-namespace" in said["what"]


def test_a_spec_file_may_name_the_strength(place: Place) -> None:
    (place.root / "spec.toml").write_text(
        f'strategy = "{place.strategy(IDLE, DONE=DONE)}"\ndata = "{place.data}"\n'
        f'containment = "subreaper"\nworkers = 1\n[grid]\na = "0:{DONE - 1}"\n'
    )
    done = place.command("run", str(place.root / "spec.toml"), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["containment"] == "subreaper"


# -- where it is forbidden ---------------------------------------------------


@pytest.fixture
def without_namespaces(place: Place) -> Iterator[list[str]]:
    """A command that runs another where no further PID namespace can be made."""
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
    command = [
        "unshare", "-Ur", "sh", "-c", forbid, "sh",
        "setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin",
    ]  # fmt: skip
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no user namespace to try it in: {getattr(error, 'stderr', error)}")
    yield command


def test_where_it_is_forbidden_a_forced_strength_is_refused_in_one_line(
    place: Place, without_namespaces: list[str]
) -> None:
    argv = place.run_argv(IDLE, "--containment", "pid-namespace", n=DONE, json=False, DONE=DONE)
    run = place.start([*without_namespaces, *argv])
    assert run.end() == 2, run.tell()
    (line,) = [line for line in run.err.splitlines() if line.startswith("allstop:")]
    assert "containment pid-namespace: no PID namespace" in line
    assert "max_user_namespaces" in line
    assert "--containment" in line
    assert "Traceback" not in run.err
    assert not run.run_dir.exists()
    run.assert_gone()


def test_where_it_is_forbidden_auto_takes_the_next(
    place: Place, without_namespaces: list[str]
) -> None:
    run = place.start([*without_namespaces, *place.run_argv(IDLE, n=DONE, DONE=DONE)])
    assert run.end() == 0, run.tell()
    assert (strength := run.report["containment"]) in ("cgroup", "subreaper")
    run.assert_gone()
    facts = [fact.fields for fact in read_events(run.run_dir) if "passed_over" in fact.name]
    assert [fact["strength"] for fact in facts] == STRENGTHS[: STRENGTHS.index(strength)]
    assert "no more of them are allowed" in facts[0]["why"]
    assert "max_user_namespaces" in facts[0]["fix"]
    for command in ("report", "status"):
        said = place.command(command, str(run.run_dir)).stdout
        (line,) = [line.strip() for line in said.splitlines() if "containment" in line]
        assert line.startswith(f"containment: {strength}; not available: pid-namespace (no PID na")


def test_who_has_the_strongest_is_not_told_of_any_other(place: Place) -> None:
    require("pid-namespace")
    run = place.sweep(IDLE, n=DONE, DONE=DONE)
    assert run.end() == 0, run.tell()
    assert "passed_over" not in run.events
    assert "containment" not in place.command("report", str(run.run_dir)).stdout


@pytest.fixture
def with_masked_proc(place: Place) -> Iterator[list[str]]:
    """A command that runs another where a part of ``/proc`` is hidden, as containers do.

    Namespaces can be made there, but none gets a ``/proc`` that would show what is hidden.
    """
    mask = 'mount -t tmpfs none /proc/fs; exec "$@"'
    command = [
        "unshare", "-Urm", "sh", "-c", mask, "sh",
        "setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin",
    ]  # fmt: skip
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no user namespace to try it in: {getattr(error, 'stderr', error)}")
    yield command


def test_where_proc_is_masked_auto_takes_the_next_and_reaps_the_attempt(
    place: Place, with_masked_proc: list[str]
) -> None:
    run = place.start([*with_masked_proc, *place.run_argv(IDLE, *TIMES, DONE=DONE)])
    run.wait_marks("ready", 2)
    assert main_children(run.front) == [run.warden]  # and no zombie beside it
    assert run.stop() == 143, run.tell()
    assert run.report["containment"] in ("cgroup", "subreaper")
    run.assert_gone()


def test_where_proc_is_masked_a_forced_namespace_is_refused(
    place: Place, with_masked_proc: list[str]
) -> None:
    argv = place.run_argv(IDLE, "--containment", "pid-namespace", n=DONE, json=False, DONE=DONE)
    run = place.start([*with_masked_proc, *argv])
    assert run.end() == 2, run.tell()
    assert "/proc cannot be mounted in a namespace" in run.err
    run.assert_gone()


def test_an_unknown_strength_is_refused(place: Place) -> None:
    run = place.sweep(IDLE, "--containment", "bucket", json=False, DONE=DONE)
    assert run.end() == 2
    assert "--containment must be one of auto, pid-namespace" in run.err
    assert "not 'bucket'" in run.err
    assert not run.run_dir.exists()


def test_a_warm_warden_of_another_strength_is_not_taken(here: Path) -> None:
    from supervisor.front.link import keep_warden, take_warden

    first = take_warden(containment="subreaper")
    pid = first.pid
    keep_warden(first)
    again = take_warden(containment="subreaper")
    assert again.pid == pid
    keep_warden(again)
    other = take_warden(containment="auto")
    assert other.pid != pid
    assert process.state_letter(pid) is None
    other.close()


def test_a_warden_that_is_closed_before_it_was_born_is_gone(here: Path) -> None:
    from supervisor.front.launch import Launch
    from supervisor.front.link import WardenLink

    before = set(process.children(os.getpid()))
    for _ in range(5):
        link = WardenLink(Launch())
        link.close()
        assert set(process.children(os.getpid())) == before


@pytest.mark.parametrize("strength", ["auto", "subreaper"])
def test_a_warden_at_rest_is_small_and_finishes_the_run_of_a_dead_front(
    here: Path, strength: str
) -> None:
    from supervisor.front.launch import Launch
    from supervisor.front.link import WardenLink

    run = supervisor.sweep(lambda *_: {"x": 1.0}, {"a": [1, 2]}, example_bars(9), run_dir="run")
    assert (run.wait() and run.results().num_rows) == 2
    for name in (rundir.REPORT_FILE, rundir.RESULTS_FILE):
        (here / "run" / name).unlink()
    link = WardenLink(Launch(containment=strength))
    see_idle(link)
    link.send(messages.Rest("run"))
    program = Path(f"/proc/{link.pid}/cmdline")
    wait_for(lambda: b"rest.py" in program.read_bytes(), "a warden at rest")
    wait_for(lambda: process.command_name(link.pid) == "allstop-warden", "its name")
    assert memory.rss_bytes(link.pid) < 20 * 2**20
    link.send(messages.DumpStacks())  # late words, and what a shutdown sends to everybody
    os.kill(link.pid, signal.SIGTERM)
    assert link.usable
    with claim_directory(here / "run"):  # for which who finishes has to wait
        link.sock.close()  # as our death would
        wait_for(lambda: b"supervisor.lifecycle.finish" in program.read_bytes(), "who finishes")
        known = Path(f"/proc/{link.pid}/status").read_text()
        ignored = int(known.partition("\nSigIgn:")[2].split()[0], 16)
        assert not ignored >> (signal.SIGTERM - 1) & 1, "all that it starts would ignore SIGTERM"
    wait_for((here / "run" / rundir.REPORT_FILE).exists, "the report")
    link.close()
    assert durable.read_json(here / "run" / rundir.REPORT_FILE)["status"] == "completed"
    assert (here / "run" / rundir.RESULTS_FILE).exists()


@pytest.mark.parametrize("strength", ["auto", "subreaper"])
def test_a_starter_that_is_killed_leaves_no_process(here: Path, strength: str) -> None:
    """Whatever instant it is killed at: before the fork, or with a child just made."""
    from supervisor.errors import WardenLostError
    from supervisor.front.launch import Launch
    from supervisor.front.link import WardenLink

    before = set(process.children(os.getpid()))
    for instant_s in (0.0, 0.01, 0.02, 0.03, 0.04, 0.06):
        link = WardenLink(Launch(containment=strength))
        time.sleep(instant_s)  # not to wait for anything: one of the instants there are
        link._process.kill()
        with contextlib.suppress(WardenLostError):  # unless it had a successor already
            assert process.state_letter(link.pid) is not None
        link.close()
        assert set(process.children(os.getpid())) == before


# -- as an ordinary user -----------------------------------------------------


def user_python() -> str | None:
    """An interpreter like ours that an ordinary user may run."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for path in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        if Path(path).exists():
            done = subprocess.run(
                [*AS_NOBODY, "sh", "-c", '"$1" -c "import ctypes, sqlite3"', "sh", path],
                capture_output=True, cwd="/",
            )  # fmt: skip
            if done.returncode == 0:
                return path
    return None


AS_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


@pytest.fixture
def as_user(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What it takes to run ``allstop`` as an ordinary user, in a place of that user's."""
    require("pid-namespace")
    if os.getuid() != 0:
        yield {"prefix": [], "python": sys.executable, "root": place.root}
        return
    python = user_python()
    if python is None:
        pytest.skip("no interpreter of this version that an ordinary user may run")
    if subprocess.run([*AS_NOBODY, "test", "-r", supervisor.__file__], cwd="/").returncode:
        pytest.skip(f"{Path(supervisor.__file__).parent} lies where only root may read")
    root = Path("/tmp") / f"allstop-user-{place.token}"
    root.mkdir()
    os.chown(root, 65534, 65534)
    try:
        yield {"prefix": AS_NOBODY, "python": python, "root": root}
    finally:
        shutil.rmtree(root)


def test_an_ordinary_user_gets_a_pid_namespace_too(place: Place, as_user: dict[str, Any]) -> None:
    root: Path = as_user["root"]
    place.env |= {
        "HOME": str(root),
        "XDG_STATE_HOME": str(root / "state"),
        "XDG_RUNTIME_DIR": str(root / "none"),
        "NUMBA_CACHE_DIR": str(root / "numba"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join(
            [place.env["PYTHONPATH"], *site.getsitepackages()] if as_user["prefix"] else
            [place.env["PYTHONPATH"]]
        ),
    }  # fmt: skip
    strategy = place.strategy(DAEMONS, DONE=DONE).partition(":")[0]
    there = root / "strategy.py"
    if there != Path(strategy):
        shutil.copy(strategy, there)
        shutil.copy(place.data, root / "bars.csv")
    place.work = root
    argv = [
        *as_user["prefix"], as_user["python"], "-P", "-m", "supervisor", "run",
        "--data", str(root / "bars.csv"), "--strategy", f"{there}:f", "--grid", "a=0:99",
        "--workers", "2", "--run-dir", str(root / "run"), "--containment", "pid-namespace",
        "--json", *TIMES,
    ]  # fmt: skip
    run = place.start(argv)
    where = root / "run"
    run.wait_for(lambda: len(list(root.glob("ready-*"))) == 2, "two workers' marks")
    run.look()
    facts = read_events(where)
    warden = next(f.fields["warden"] for f in facts if f.name == "front.run_requested")
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{warden}/status").read_text().splitlines()
        if ":\t" in line
    )
    assert int(status["CapEff"], 16) == 0  # a run may do what its user may
    assert status["Uid"].split()[0] == str(where.stat().st_uid)
    run.wait_for(  # a worker makes its mark before its last daemon
        lambda: len(place.working()) == 2 + 2 + N_DAEMONS, "every daemon"
    )
    os.kill(warden, signal.SIGKILL)
    assert run.end() == 1, run.tell_end()
    run.assert_gone()
    report = json.loads((where / "report.json").read_text())
    assert report["containment"] == "pid-namespace"
    assert 0 < report["combos_done"] <= DONE


def test_a_warden_keeps_no_descriptor_that_comes_too_late(here: Path) -> None:
    """What is meant for a run that has ended is not for the next one either."""
    from supervisor.front.link import take_warden

    link = take_warden()
    try:
        see_idle(link)
    finally:
        link.close()
