from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.support.cli import POLITE, Place, Started, bars_csv

FINE = """
def f(bars, params, stop):
    return row(params)
"""


def complaint(place: Place, *arguments: str, late: bool = False) -> str:
    """Run a command that must fail for its input; return the one line it says.

    ``late``: only a worker could find out; the run was announced by then.
    """
    before = sorted(path for path in place.root.rglob("*"))
    said = place.command(*arguments)
    assert said.returncode == 2, (said.returncode, said.stdout, said.stderr)
    said_last = said.stderr.splitlines()[-1]
    assert said_last.startswith("allstop: "), said.stderr
    assert said.stderr.count("allstop: ") == 1, said.stderr
    assert late or said.stderr.count("\n") == 1, said.stderr
    assert "Traceback" not in said.stderr
    assert place.alive() == []
    # bars that were written a while ago may be kept, for the next run; Python keeps its bytecode
    ours = {"state", "runtime", "numba", "cache", "__pycache__"}
    after = [p for p in place.root.rglob("*") if not ours & {*p.relative_to(place.root).parts}]
    assert sorted(after) == [p for p in before if p in after], "something was left behind"
    for entry in (place.root / "state").rglob("*"):
        assert entry.is_dir(), f"left in the registry: {entry}"
    for entry in (place.root / "runtime").rglob("*"):
        assert entry.is_dir(), f"left beside the sockets: {entry}"
    if "--json" in arguments:
        plain = json.loads(said.stdout.splitlines()[-1])
        assert plain["exit_code"] == 2
    else:
        assert said.stdout == ""
    return said_last.removeprefix("allstop: ")


def swept(place: Place, *changes: str, body: str = FINE) -> list[str]:
    """A sweep that would do, but for the changes (the last option given counts)."""
    return [
        "run", "--data", str(place.data), "--strategy", place.strategy(body), "--grid", "a=0:9",
        *changes,
    ]  # fmt: skip


def csv_line(place: Place, line: int, text: str) -> None:
    lines = bars_csv().splitlines()
    lines[line - 1] = text
    place.data.write_text("\n".join(lines) + "\n")


def test_a_missing_file(place: Place) -> None:
    assert "missing.csv" in complaint(place, *swept(place, "--data", "missing.csv"))


@pytest.mark.parametrize("text", ["", "\n", "time,open,high,low,close,volume\n"])
def test_an_empty_file(place: Place, text: str) -> None:
    place.data.write_text(text)
    assert "bars.csv" in complaint(place, *swept(place))


@pytest.mark.parametrize(
    ("line", "text", "word"),
    [
        (5, "2024-01-01 03:00:00,1.1,1.2,1.0,hello,10", "hello"),
        (5, "2024-01-01 03:00:00,1.1,1.2,1.0,NaN,10", "row 5"),
        (5, "2024-01-01 03:00:00,1.1,1.2,1.0,,10", "row 5"),
        (5, "2024-01-01 03:00:00,1.1,1.2,-1.0,1.15,10", "row 5"),
        (5, "2024-01-01 01:00:00,1.1,1.2,1.0,1.15,10", "row 5"),
        (5, "not a time,1.1,1.2,1.0,1.15,10", "not a time"),
        (5, "2024-01-01 03:00:00,1.1", "row 5"),
        (1, "a,b,c,d,e,f", "time"),
        (1, "time,q,r,s,t,u", "close"),
    ],
    ids=[
        "text",
        "nan",
        "nothing",
        "negative",
        "unsorted",
        "no time",
        "short",
        "no time column",
        "no columns",
    ],
)
def test_bad_data_names_the_file_and_the_row(place: Place, line: int, text: str, word: str) -> None:
    csv_line(place, line, text)
    said = complaint(place, *swept(place))
    assert "bars.csv" in said
    assert word in said
    if line == 5:
        assert "row 5" in said


def test_a_file_that_only_claims_to_be_parquet(place: Place) -> None:
    fake = place.root / "bars.parquet"
    fake.write_text("no")
    assert "bars.parquet" in complaint(place, *swept(place, "--data", str(fake)))


def test_an_unknown_strategy(place: Place) -> None:
    said = complaint(
        place, "run", "--data", str(place.data), "--strategy", "sma_corss", "--grid", "fast=1,2"
    )
    assert "sma_corss" in said
    assert "sma_cross" in said


def test_an_unknown_parameter_and_a_missing_one(place: Place) -> None:
    fixed = ["run", "--data", str(place.data), "--strategy", "sma_cross"]
    said = complaint(place, *fixed, "--grid", "fats=1,2", "--grid", "slow=5,6")
    assert "fats" in said
    assert "fast" in said
    assert "slow" in complaint(place, *fixed, "--grid", "fast=1,2")


def test_a_grid_without_a_combination_that_makes_sense(place: Place) -> None:
    fixed = ["run", "--data", str(place.data), "--strategy", "sma_cross"]
    said = complaint(place, *fixed, "--grid", "fast=9,10", "--grid", "slow=5,9")
    assert "fast" in said
    assert "slow" in said


@pytest.mark.parametrize(
    ("grid", "word"),
    [
        (["a=5:1"], "empty"),
        (["a"], "name=start:stop:step"),
        (["a=1,2", "a=3"], "twice"),
        ([f"{name}=1:1000000" for name in "abc"], "1,000,000"),
        (["a=1:1000000000000000000"], "1,000,000,000,000,000,000"),
        (["a=nan"], "finite"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_bad_grid(place: Place, grid: list[str], word: str) -> None:
    options = [part for axis in grid for part in ("--grid", axis)]
    said = complaint(
        place, "run", "--data", str(place.data), "--strategy", place.strategy(FINE), *options
    )
    assert word in said


@pytest.mark.parametrize(
    "options",
    [
        ["--workers", "0"], ["--workers", "many"], ["--fee", "2"], ["--grace", "-1"],
        ["--device", "tpu"], ["--no-such-option"], ["--strategy", "missing.py:f"],
        ["--strategy", "no_such_module:f"], ["no-such-spec.toml"], ["--workers"],
        ["--run-dir", ""], ["--tasks=0"], ["--job", "cpu=8"], ["--slurm=yes"], ["--resume"],
    ],
    ids=lambda options: " ".join(options)[:30],
)  # fmt: skip
def test_a_bad_option_is_named(place: Place, options: list[str]) -> None:
    said = complaint(place, *swept(place, *options), late="no_such_module:f" in options)
    assert options[0].lstrip("-").split("-")[0].split("=")[0] in said


@pytest.mark.parametrize(
    "arguments", [["runn"], ["run", "a.toml", "b.toml"], ["resume"], ["run", "--strat", "x"]]
)
def test_what_no_command_takes_names_where_the_known_ones_are(
    place: Place, arguments: list[str]
) -> None:
    known = " ".join(word for word in arguments[:1] if word != "runn")
    assert complaint(place, *arguments).endswith(f"see allstop {known} --help".replace("  ", " "))


def test_an_unknown_key_of_a_section_is_told_the_keys_of_that_section(place: Place) -> None:
    spec = place.root / "spec.toml"
    spec.write_text('strategy = "sma_cross"\ngrid.fast = [1]\n[slurm]\ntaks = 3\n')
    said = complaint(place, "run", str(spec))
    assert f"spec {spec}: unknown key 'slurm.taks'; the keys of [slurm] are: cluster, tasks" in said
    assert "strategy" not in said


@pytest.mark.parametrize(
    ("options", "word"),
    [(["--grace", "-1"], "grace"), (["--workers", "x"], "workers"), (["--nope"], "nope")],
)
def test_a_bad_option_of_a_resume_is_named(place: Place, options: list[str], word: str) -> None:
    assert word in complaint(place, "resume", "no-such-run", *options)
    assert "no-such-run" in complaint(place, "resume", "no-such-run")
    assert "too long" in complaint(place, "resume", 256 * "a")


@pytest.mark.parametrize(
    ("body", "as_json"), [("def g(): pass", []), ("1 / 0", ["--json"]), ("def f(:", [])]
)
def test_a_strategy_file_that_cannot_be_used(place: Place, body: str, as_json: list[str]) -> None:
    said = complaint(place, *swept(place, *as_json, body=body), late=True)
    assert "strategy" in said


def test_an_unwritable_run_directory(place: Place) -> None:
    for path in ("/proc/run", str(place.data), str(place.data / "run"), "/dev/null"):
        said = complaint(place, *swept(place, "--run-dir", path))
        assert path in said


def test_a_run_directory_that_holds_a_run_is_left_alone(place: Place) -> None:
    run_dir = place.root / "run"
    run_dir.mkdir()
    (run_dir / "run.json").write_text("{}")
    assert "already holds a run" in complaint(place, *swept(place, "--run-dir", str(run_dir)))
    assert (run_dir / "run.json").read_text() == "{}"


def test_a_working_directory_that_was_deleted(place: Place) -> None:
    gone = place.root / "gone"
    gone.mkdir()
    argv = place.argv(*swept(place))
    done = subprocess.run(
        ["sh", "-c", 'cd "$1" && rmdir "$1" && shift && exec "$@"', "sh", str(gone), *argv],
        env=place.env, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr == "allstop: the working directory was deleted: change to another one\n"
    assert place.alive() == []


def test_what_else_lies_in_a_run_directory_is_left_alone(place: Place) -> None:
    run_dir = place.root / "run"
    run_dir.mkdir()
    (run_dir / "mine.txt").write_text("keep")
    complaint(place, *swept(place, "--run-dir", str(run_dir), body="1 / 0"), late=True)
    assert [path.name for path in run_dir.iterdir()] == ["mine.txt"]


def test_options_without_a_strategy_and_a_strategy_without_a_grid(place: Place) -> None:
    assert "strategy" in complaint(place, "run", "--grid", "a=1,2")
    assert "grid" in complaint(place, "run", "--strategy", place.strategy(FINE))


def test_a_state_directory_that_cannot_be_made(place: Place) -> None:
    place.env["XDG_STATE_HOME"] = "/dev/null"
    assert "/dev/null" in complaint(place, *swept(place))
    for command in ("stop", "status"):
        assert "/dev/null" in complaint(place, command)


def test_a_bad_spec_names_its_key(place: Place) -> None:
    spec = place.root / "spec.toml"
    spec.write_text('strategy = "sma_cross"\nworker = 3\n[grid]\nfast = [1]\n')
    said = complaint(place, "run", str(spec))
    assert "'worker'" in said
    assert "workers" in said


# --- a full disk ---------------------------------------------------------------------------------

ON_A_SMALL_DISK = 'mount -t tmpfs -o size=1m none "$1" && shift && exec "$@"'
FILLS = """
def f(bars, params, stop):
    return row(params) | {f"m{i}": 1.0 for i in range(200)}
"""


@pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("unshare") is None, reason="needs root to mount a small disk"
)
def test_a_full_disk_fails_the_run_and_keeps_what_it_had(place: Place) -> None:
    """A tmpfs of 1 MB in a mount namespace of its own; the run's directory lies on it."""
    disk = place.root / "disk"
    disk.mkdir()
    probe = subprocess.run(["unshare", "--mount", "true"], capture_output=True)
    if probe.returncode != 0:
        pytest.skip("no mount namespace here")
    argv = [
        *place.argv(*swept(place, "--grid", "b=0:9999", "--run-dir", str(disk / "run"), "--json",
                           "--workers", "2", body=FILLS)),
    ]  # fmt: skip
    # the disk is looked at from inside its mount namespace
    copy = f'"$@"; code=$?; cp -r "{disk}/run" "{place.root}/copy"; exit $code'
    run = place.start(
        ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o size=1m none "{disk}" && {copy}',
         "sh", *argv]
    )  # fmt: skip
    assert run.end() == 1, run.tell()
    assert "Traceback" not in run.err
    report = json.loads(run.out.splitlines()[-1])
    assert report["status"] == "failed"
    assert "disk full" in report["reason"]
    run.assert_gone()
    copied = Started(place, run.popen)
    from tests.support.cli import kept_in

    kept = kept_in(place.root / "copy")
    assert len(kept) > 50, copied.tell()
    assert max(kept.values()) == 1
    assert report["combos_done"] == len(kept), "what is in the journals is not lost"


@pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("unshare") is None, reason="needs root to mount a small disk"
)
def test_a_disk_that_is_full_from_the_start_is_one_clear_line(place: Place) -> None:
    disk = place.root / "disk"
    disk.mkdir()
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0:
        pytest.skip("no mount namespace here")
    argv = place.argv(*swept(place, "--run-dir", str(disk / "run")))
    fill = f'mount -t tmpfs -o size=64k none "{disk}"; head -c 1m /dev/zero > "{disk}/full"'
    run = place.start(
        ["unshare", "--mount", "sh", "-c", f'({fill}) 2> "{place.root}/dd"; exec "$@"', "sh", *argv]
    )
    assert run.end() in (1, 2), run.tell()
    assert run.err.splitlines()[-1].startswith("allstop: "), run.tell()
    assert run.err.count("allstop: ") == 1, run.tell()
    assert "Traceback" not in run.err
    assert "No space left" in run.err or "disk full" in run.err
    run.assert_gone()


def test_a_limit_on_file_sizes_fails_the_run_and_keeps_what_it_had(place: Place) -> None:
    body = """
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    def f(bars, params, stop):
        return row(params) | {f"m{i}": 1.0 for i in range(50)}
    """
    run = place.sweep(body, n=10_000)
    assert run.end() == 1, run.tell()
    assert "Traceback" not in run.err
    assert run.report["status"] == "failed"
    assert "file-size limit" in run.report["reason"]
    run.assert_gone()
    run.assert_nothing_lost(8)


def test_the_line_is_the_same_without_a_terminal_and_in_json(place: Place) -> None:
    said = complaint(place, *swept(place, "--workers", "0", "--json"))
    assert "workers" in said


def test_an_example_needs_nothing_but_its_name(place: Place) -> None:
    """The other side: help is not an error."""
    for arguments in (["--help"], ["run", "--help"], ["stop", "--help"], []):
        done = place.command(*arguments)
        assert done.returncode == 0, done.stderr
        assert "Usage" in done.stdout
        assert done.stderr == ""
    assert sys.version_info >= (3, 11)


@pytest.mark.parametrize(
    "change",
    [
        {"workers": 10**9}, {"workers_asked": 10**9}, {"workers_asked": "q"},
        {"fallback_workers": 10**9}, {"vram_limit_bytes": "8G"}, {"vram_limit_bytes": 10**400},
        {"fee": "x"},
    ],
)  # fmt: skip
def test_a_number_in_run_json_that_is_none_is_a_usage_error(
    place: Place, change: dict[str, Any]
) -> None:
    run = place.sweep(POLITE, DONE=3)
    run.wait_marks("ready", 1)
    assert run.stop() == 128 + signal.SIGTERM, run.tell()
    file = run.run_dir / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    done = place.command("resume", str(run.run_dir))
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "run.json" in done.stderr
