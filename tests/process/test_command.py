from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from supervisor.containment import cgroup
from supervisor.containment.unavailable import UnavailableError
from supervisor.system import process
from tests.support.cli import Place, Started, code_of
from tests.support.waiting import DEADLINE_S, wait_for

QUICK = ["--grace", "0.3", "--terminate", "0.2"]
DEAF_TREE = 'trap "" INT TERM; (setsid sleep 1000 &) ; echo ready; sleep 1000'
STAYS = "echo ready; sleep 1000"

GRACEFUL = """
import sys, time
try:
    print("ready", flush=True)
    time.sleep(1000)
except KeyboardInterrupt:
    print("cleaned up", flush=True)
    sys.exit(5)
"""


def argv(place: Place, *command: str, options: list[str] | None = None) -> list[str]:
    own = ["run", "--run-dir", str(place.root / "run"), *(options or [])]
    return place.argv(*own, "--", *command)


def carry_out(
    place: Place, *command: str, options: list[str] | None = None, **more: Any
) -> subprocess.CompletedProcess[bytes]:
    given: dict[str, Any] = {"stdin": subprocess.DEVNULL} if "input" not in more else {}
    given |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
    return subprocess.run(
        argv(place, *command, options=options), cwd=place.work, env=place.env,
        timeout=2 * DEADLINE_S, **given,
    )  # fmt: skip


def begin(place: Place, *command: str, options: list[str] | None = None) -> Started:
    """Start a command that says "ready", and see it say so."""
    run = place.start(argv(place, *command, options=options))
    run.wait_for(lambda: "ready" in run.out, "the command's word")
    run.look()
    return run


def sleeps(run: Started, n: int) -> None:
    """Wait for as many sleeps below the command: it says "ready" before the last one is there."""

    def found() -> bool:
        below = process.descendants(run.warden)
        asleep = [pid for pid in below if process.command_name(pid) == "sleep"]
        return len(asleep) == n and {process.state_letter(pid) for pid in asleep} == {"S"}

    run.wait_for(found, f"{n} sleeps")
    run.look()


def report_of(place: Place) -> dict[str, Any]:
    return json.loads((place.root / "run" / "report.json").read_text())


def needs(containment: str) -> None:
    if containment == "cgroup":
        try:
            cgroup.available()
        except UnavailableError as error:
            pytest.skip(f"no cgroup here: {error}")


# -- its end ---------------------------------------------------------------


def test_a_command_that_goes_well_is_not_talked_over(place: Place) -> None:
    done = carry_out(place, "sh", "-c", "echo out; echo err >&2")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"out\n", b"err\n")
    report = report_of(place)
    assert report["status"] == "completed"
    assert report["command_status"] == 0
    assert report["errors"] == []
    assert report["stop"] is None
    assert report["memory"]["ram_baseline_bytes"] > 0
    assert json.loads((place.root / "run" / "run.json").read_text())["command"][0] == "sh"
    assert {path.name for path in (place.root / "run").iterdir()} <= {
        "run.json", "report.json", "events.jsonl", "logs", ".lock",
        "bin", "ledger",  # where SLURM is installed
    }  # fmt: skip
    assert list((place.root / "state" / "allstop" / "runs").iterdir()) == []


@pytest.mark.parametrize(
    ("script", "status", "why"),
    [
        ("exit 7", 7, "exited with status 7"),
        ("kill -SEGV $$", -signal.SIGSEGV, "died of SIGSEGV"),
        ("exit 130", 130, "exited with status 130"),
    ],
)
def test_a_command_that_fails(place: Place, script: str, status: int, why: str) -> None:
    done = carry_out(place, "sh", "-c", script)
    assert done.returncode == 1
    assert done.stderr.decode() == f"allstop: failed: sh {why}\n"
    report = report_of(place)
    assert report["status"] == "failed"
    assert report["reason"] == f"sh {why}"
    assert report["command_status"] == status


def test_json_comes_last_on_stdout(place: Place) -> None:
    done = carry_out(place, "echo", "first", options=["--json"])
    first, last = done.stdout.decode().splitlines()
    assert first == "first"
    assert json.loads(last) == report_of(place)


# -- what cannot be --------------------------------------------------------


def test_not_found(place: Place) -> None:
    refused(place, ["no-such-program"], "command no-such-program was not found on the PATH")


def test_not_there(place: Place) -> None:
    refused(place, ["./no such"], "command './no such' does not exist")


def test_not_executable(place: Place) -> None:
    (place.work / "plain").write_text("#!/bin/sh\n")
    refused(place, ["./plain"], "command ./plain cannot be executed: Permission denied")


def test_its_interpreter_is_missing(place: Place) -> None:
    script = place.work / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    refused(place, ["./script"], "cannot be executed: the interpreter it names does not exist")


def test_nothing_behind_the_dashes(place: Place) -> None:
    refused(place, [], "which command?")


@pytest.mark.parametrize(
    "options",
    [
        ["--data", "x.csv"], ["--strategy", "sma_cross"], ["--grid", "a=1"], ["--workers", "0"],
        ["--fee", "0"], ["--device", "cpu"], ["--resume"], ["sweep.toml"],
    ],
    ids=lambda options: options[0],
)  # fmt: skip
def test_options_of_a_sweep_are_refused(place: Place, options: list[str]) -> None:
    refused(place, ["touch", "began"], "is for sweeps only", options=options)
    assert not (place.work / "began").exists()


def refused(place: Place, command: list[str], why: str, options: list[str] | None = None) -> None:
    done = carry_out(place, *command, options=options)
    assert done.returncode == 2
    assert done.stdout == b""
    (line,) = done.stderr.decode().splitlines()
    assert why in line
    assert not (place.root / "run").exists()
    assert not place.alive()
    assert list((place.root / "state" / "allstop" / "runs").glob("*")) == []


def test_an_error_is_json_only_when_we_are_asked_for_it(place: Place) -> None:
    assert carry_out(place, "no-such-program", "--json").stdout == b""
    asked = carry_out(place, "no-such-program", options=["--json"])
    assert json.loads(asked.stdout)["exit_code"] == 2


def test_it_cannot_be_resumed_but_is_reported(place: Place) -> None:
    carry_out(place, "sh", "-c", "exit 7")
    again = place.command("resume", str(place.root / "run"))
    assert again.returncode == 2
    assert "cannot be resumed" in again.stderr
    assert again.stderr.count("\n") == 1
    shown = place.command("report", str(place.root / "run"))
    assert shown.returncode == 0, shown.stderr
    assert "sh -c 'exit 7'" in shown.stdout
    assert json.loads(place.command("report", str(place.root / "run"), "--json").stdout)
    page = place.command("report", str(place.root / "run"), "--html")
    assert page.returncode == 2
    assert page.stderr.count("\n") == 1


# -- it notices nothing ----------------------------------------------------

TELL = "import json, os, sys; print(json.dumps(sys.argv[1:]))"


def test_its_arguments_are_verbatim(place: Place) -> None:
    arguments = [
        "-x", "--", "--json", "--help", "-h", "--containment", "nonsense", "--strategy=x", "a b",
        "'\"$HOME`", "", "żółć 🛑", "--", "\n",
    ]  # fmt: skip
    done = carry_out(place, sys.executable, "-c", TELL, *arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == arguments
    assert json.loads((place.root / "run" / "run.json").read_text())["command"][3:] == arguments


def test_arguments_that_are_not_text(place: Place) -> None:
    done = carry_out(place, "printf", "%s", os.fsdecode(b"\xff\xfe"))
    assert done.stdout == b"\xff\xfe"
    assert place.command("report", str(place.root / "run")).returncode == 0


def test_its_environment_and_directory_are_the_callers(place: Place) -> None:
    place.env |= {"OPENBLAS_NUM_THREADS": "7", "ODD": "a=b\n c", "LANG": "C"}
    place.env.pop("LC_ALL", None)
    done = carry_out(place, "env", "-0")
    found = dict(entry.split("=", 1) for entry in os.fsdecode(done.stdout).split("\0") if entry)
    run_id = found.pop("ALLSTOP_RUN_ID")
    assert run_id == report_of(place)["run_id"]
    assert found == place.env
    (place.root / "run").rename(place.root / "first")
    assert carry_out(place, "pwd", "-P").stdout == os.fsencode(place.work.resolve()) + b"\n"


def test_it_gets_three_descriptors_and_no_signal_ignored(place: Place) -> None:
    look = (
        "import os; print(sorted(map(int, os.listdir('/proc/self/fd')))[:-1]);"
        "print(open('/proc/self/status').read())"
    )
    # straight from exec: Python would ignore SIGPIPE itself
    done = carry_out(place, "sh", "-c", "grep -E 'Sig(Ign|Blk)' /proc/self/status")
    masks = [int(line.split()[1], 16) for line in done.stdout.splitlines()]
    # 32 and 33 are the C library's own: our parent may have left them ignored
    assert [mask & ~(0b11 << 31) for mask in masks] == [0, 0]
    (place.root / "run").rename(place.root / "first")
    done = carry_out(place, sys.executable, "-c", look)
    assert done.stdout.startswith(b"[0, 1, 2]\n"), done.stdout


def test_bytes_go_through_as_they_are(place: Place) -> None:
    everything = bytes(range(256)) * 4096
    done = carry_out(place, "cat", input=everything)
    assert done.returncode == 0
    assert done.stdout == everything


def test_much_output(place: Place) -> None:
    done = carry_out(place, "head", "-c", "50000000", "/dev/zero")
    assert done.returncode == 0
    assert len(done.stdout) == 50_000_000


@pytest.mark.parametrize(
    ("redirections", "still_open"), [("<&- >&- 2>&-", []), (">&-", [0, 2]), ("<&-", [1, 2])]
)
def test_streams_that_are_closed_stay_closed(
    place: Place, redirections: str, still_open: list[int]
) -> None:
    found = place.root / "found"
    look = (
        "import os, pathlib;"
        "found = [fd for fd in range(3) if os.path.exists(f'/proc/self/fd/{fd}')];"
        f"pathlib.Path({str(found)!r}).write_text(str(found))"
    )
    shell = ["sh", "-c", f'"$@" {redirections}', "sh"]
    run = place.start([*shell, *argv(place, sys.executable, "-c", look)])
    assert run.end() == 0, run.tell()
    assert found.read_text() == str(still_open)
    assert report_of(place)["status"] == "completed"


def test_a_reader_that_goes(place: Place) -> None:
    run = place.start(["sh", "-c", '"$@" | head -c 4', "sh", *argv(place, "yes")])
    assert run.end() == 0
    assert run.out == "y\ny\n"
    wait_for((place.root / "run" / "report.json").exists, "the report")
    assert report_of(place)["command_status"] == -signal.SIGPIPE
    run.assert_gone()


def test_only_the_command_holds_its_streams_open(place: Place) -> None:
    """Who talks to it through pipes sees what it closes when it closes it."""
    command = argv(place, "sh", "-c", "echo out; exec <&- >&-; sleep 1000")
    popen = subprocess.Popen(
        command, cwd=place.work, env=place.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    place.started.append(Started(place, popen))
    assert popen.stdout is not None
    assert popen.stdin is not None
    try:
        assert read_to_the_end(popen.stdout.fileno()) == b"out\n"
        with pytest.raises(BrokenPipeError):
            os.write(popen.stdin.fileno(), b"x")
        assert popen.poll() is None
        popen.send_signal(signal.SIGTERM)
        assert popen.wait(DEADLINE_S) == -signal.SIGTERM
    finally:
        popen.stdout.close()
        popen.stdin.close()


def read_to_the_end(pipe: int) -> bytes:
    said = b""
    while True:
        ready, _, _ = select.select([pipe], [], [], DEADLINE_S)
        assert ready, "another process holds the pipe open"
        more = os.read(pipe, 4096)
        if not more:
            return said
        said += more


# -- the stop --------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_to_the_pid_is_ctrl_c_to_the_command(
    place: Place, number: signal.Signals, code: int
) -> None:
    run = begin(place, sys.executable, "-c", GRACEFUL, options=["--grace", "60"])
    run.signal(number)
    assert run.end() == code, run.tell()
    run.assert_gone()
    assert run.out.splitlines() == ["ready", "cleaned up"]
    report = run.report
    assert report["status"] == "stopped"
    assert report["command_status"] == 5
    assert report["stop"]["requested_by"] == number.name
    assert [(r["name"], r["acted_on"]) for r in report["stop"]["rungs"]] == [
        ("flag", 1), ("verify", 0),
    ]  # fmt: skip
    assert f"stopped: {number.name}" in run.err


@pytest.mark.parametrize("containment", ["pid-namespace", "cgroup", "subreaper"])
def test_a_deaf_tree_is_killed(place: Place, containment: str) -> None:
    needs(containment)
    run = begin(place, "sh", "-c", DEAF_TREE, options=[*QUICK, "--containment", containment])
    run.wait_for(lambda: len(run.look()) >= 5, "front, warden, sh, two sleeps")
    run.signal(signal.SIGINT)
    assert run.end() == 130, run.tell()
    run.assert_gone()
    report = run.report
    assert report["containment"] == containment
    assert [r["name"] for r in report["stop"]["rungs"]] == ["flag", "terminate", "kill", "verify"]
    assert report["stop"]["survivors"] == []
    assert report["errors"] == []


def test_a_second_signal_kills(place: Place) -> None:
    run = begin(place, "sh", "-c", DEAF_TREE, options=["--grace", "60"])
    run.signal(signal.SIGINT)
    run.wait_for(lambda: '"flagged"' in run.events, "the first one heard")
    run.signal(signal.SIGINT)
    assert run.end() == 130, run.tell()
    run.assert_gone()
    assert run.report["stop"]["level"] == "kill"
    assert run.report["command_status"] == -signal.SIGKILL


def test_a_suspended_command_hears_ctrl_c(place: Place) -> None:
    run = begin(place, sys.executable, "-c", GRACEFUL, options=["--grace", "60"])
    (pid,) = process.descendants(run.warden)
    os.kill(pid, signal.SIGSTOP)
    run.wait_for(lambda: process.state_letter(pid) == "T", "the command suspended")
    run.signal(signal.SIGINT)
    assert run.end() == 130, run.tell()
    assert "cleaned up" in run.out


@pytest.mark.parametrize("containment", ["auto", "subreaper"])
@pytest.mark.parametrize("instant_s", [0.0, 0.005, 0.01, 0.02, 0.05])
def test_a_signal_at_any_instant(place: Place, instant_s: float, containment: str) -> None:
    options = [*QUICK, "--containment", containment]
    run = place.start(argv(place, "sh", "-c", DEAF_TREE, options=options))
    assert run.warden
    run.look()
    time.sleep(instant_s)  # no synchronisation: any instant will do
    run.signal(signal.SIGINT)
    assert run.end() == 130, run.tell()
    assert "Traceback" not in run.err
    run.assert_gone()


@pytest.mark.parametrize("command", [["sh", "-c", STAYS], ["sh", "-c", DEAF_TREE]])
def test_the_front_is_killed(place: Place, command: list[str]) -> None:
    run = begin(place, *command, options=QUICK)
    run.kill_front()
    report = run.wait_report()
    run.assert_gone()
    assert report["status"] == "stopped"
    assert report["reason"] == "the front died"
    assert report["command_status"] < 0
    assert report["combos_total"] == 0


def test_the_warden_is_killed(place: Place) -> None:
    run = begin(place, "sh", "-c", DEAF_TREE)
    os.kill(run.warden, signal.SIGKILL)
    assert run.end() == 1, run.tell()
    run.assert_gone()
    assert run.report["status"] == "failed"


@pytest.mark.parametrize(("how", "level"), [([], "stop"), (["--now"], "kill")])
def test_stop_from_elsewhere(place: Place, how: list[str], level: str) -> None:
    run = begin(place, "sh", "-c", STAYS)
    stop = place.command("stop", *how, "--json")
    assert stop.returncode == 0, stop.stderr
    assert run.end() == 143, run.tell()
    run.assert_gone()
    assert run.report["stop"]["requested_by"] == "stop command"
    assert run.report["stop"]["level"] == level


def test_a_drain_lets_it_end_by_itself(place: Place) -> None:
    gate = place.root / "gate"
    wait = f"echo ready; while [ ! -e {gate} ]; do sleep 0.01; done; echo done"
    run = begin(place, "sh", "-c", wait)
    drain = place.start(place.argv("stop", "--drain", "--json"))
    wait_for(lambda: '"draining"' in run.events, "the drain")
    assert run.popen.poll() is None
    gate.touch()
    assert drain.end() == 0
    assert run.end() == 0, run.tell()
    assert run.report["status"] == "completed"
    assert run.report["stop"]["level"] == "drain"


def test_front_and_warden_are_killed_then_reap(place: Place) -> None:
    run = begin(place, "sh", "-c", DEAF_TREE, options=["--containment", "subreaper"])
    warden = process.Identity.of(run.warden)
    assert warden is not None
    os.kill(run.front, signal.SIGSTOP)  # so that neither sees the other go
    os.kill(warden.pid, signal.SIGKILL)
    run.kill_front()
    wait_for(lambda: not warden.alive, "the warden's end")
    reap = place.command("reap")
    assert reap.returncode == 0, reap.stderr
    assert "killed" in reap.stdout
    assert "resume" not in reap.stdout
    run.assert_gone()
    assert run.report["status"] == "failed"
    assert run.report["combos_total"] == 0


# -- what it leaves behind -------------------------------------------------


@pytest.mark.parametrize("containment", ["pid-namespace", "cgroup", "subreaper"])
@pytest.mark.parametrize("deaf", ["", 'trap "" TERM HUP INT; '], ids=["mortal", "deaf"])
def test_daemons_left_behind_are_ended(place: Place, containment: str, deaf: str) -> None:
    needs(containment)
    # not left before it is what it is to be: it is named by its program
    until = "until read name < /proc/$!/comm && [ $name = sleep ]; do :; done"
    script = f"{deaf}(setsid sleep 1000 </dev/null >/dev/null 2>&1 & {until}); exit 0"
    done = carry_out(place, "sh", "-c", script, options=[*QUICK, "--containment", containment])
    assert done.returncode == 0
    assert not place.alive()
    report = report_of(place)
    assert report["status"] == "completed"
    assert report["containment"] == containment
    (note,) = report["errors"]
    assert note.startswith("left behind by the command: pid ")
    assert note.endswith("(sleep)")
    assert note in done.stderr.decode()


def test_what_ends_within_the_grace_is_let_end(place: Place) -> None:
    """The tail of a pipeline has its output still to write."""
    script = "(sleep 0.1; echo late) & exit 0"
    done = carry_out(place, "sh", "-c", script, options=["--grace", "60"])
    assert done.returncode == 0
    assert done.stdout == b"late\n"
    assert done.stderr == b""


def test_ctrl_c_while_daemons_are_ended(place: Place) -> None:
    script = f'trap "" TERM; (setsid sh -c "{STAYS}" &); exit 0'
    run = begin(place, "sh", "-c", script, options=["--grace", "60"])
    run.wait_for(lambda: '"flagged"' in run.events, "the command's end")
    run.signal(signal.SIGINT)
    run.wait_for(lambda: '"front.stop_requested"' in run.events, "the first one heard")
    run.signal(signal.SIGINT)
    assert run.end() == 0, run.tell()  # the command itself had ended well
    run.assert_gone()
    assert run.report["stop"]["level"] == "kill"


# -- how it stands ---------------------------------------------------------


def test_status_and_sigusr1(place: Place) -> None:
    run = begin(place, "sh", "-c", STAYS)
    sleeps(run, 1)
    facts = json.loads(place.command("status", "--json").stdout)
    assert facts["status"] == "running"
    assert facts["command"] == ["sh", "-c", STAYS]
    assert facts["elapsed_s"] > 0
    assert set(facts["workers"]) <= set(process.descendants(run.warden))
    assert len(facts["workers"]) == 2  # sh and sleep
    said = place.command("status").stdout
    assert f"processes: {facts['workers'][0]}" in said
    run.signal(signal.SIGUSR1)
    run.wait_for(lambda: "running: " in run.err, "a status line")
    assert "2 processes, " in run.err
    assert run.stop() == 143
    assert json.loads(place.command("status", str(run.run_dir), "--json").stdout)["status"] == (
        "stopped"
    )


def test_sigquit_names_its_processes_then_kills(place: Place) -> None:
    run = begin(place, "sh", "-c", DEAF_TREE, options=["--grace", "60"])
    sleeps(run, 2)
    run.signal(signal.SIGQUIT)
    assert run.end() == 131, run.tell()
    assert run.err.count("(sleep), state S") == 2
    run.assert_gone()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_command_that_a_signal_ended_by_itself(place: Place, number: signal.Signals) -> None:
    """A shell sees what it would see without us; the run failed all the same."""
    done = carry_out(place, "sh", "-c", f"kill -{number:d} $$")
    assert done.returncode == -number
    assert report_of(place)["exit_code"] == 1


# -- on a terminal ---------------------------------------------------------


@pytest.fixture
def terminal(place: Place) -> Iterator[Any]:
    opened: list[pexpect.spawn] = []

    def open_one(*command: str, options: list[str] | None = None) -> pexpect.spawn:
        words = argv(place, *command, options=options)
        child = pexpect.spawn(
            words[0], words[1:], cwd=str(place.work), env=place.env, timeout=DEADLINE_S,
            encoding="utf-8", codec_errors="replace", echo=False,
        )  # fmt: skip
        opened.append(child)
        return child

    yield open_one
    for child in opened:
        child.close(force=True)


def test_ctrl_c_on_a_terminal_kills_a_deaf_tree(place: Place, terminal: Any) -> None:
    child = terminal("sh", "-c", DEAF_TREE, options=QUICK)
    child.expect("ready")
    child.send("\x03")
    child.expect("stopped: SIGINT")
    child.expect("everything gone after")
    child.expect(pexpect.EOF)
    wait_for(lambda: not child.isalive(), "its end")
    child.close()
    assert code_of(child) == 130
    wait_for(lambda: not place.alive(), "everything gone")


def test_it_reads_and_writes_the_terminal(place: Place, terminal: Any) -> None:
    child = terminal("sh", "-c", 'test -t 0 && test -t 1 && read line && echo "got $line"')
    child.sendline("hello")
    child.expect("got hello")
    child.expect(pexpect.EOF)
    wait_for(lambda: not child.isalive(), "its end")  # before close, which would send SIGHUP
    child.close()
    assert child.exitstatus == 0
    assert Path(place.root / "run" / "report.json").exists()
