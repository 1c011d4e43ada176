"""Runs in odd surroundings: mounts, limits, locales, descriptors. Cells of docs/faults.md."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.report_page import history
from tests.support.cli import Place

QUICK = "def f(bars, params, stop):\n    return row(params)\n"

ROOT = pytest.mark.skipif(os.getuid() != 0, reason="needs root to mount")

INSTALLED_ELSEWHERE = pytest.mark.skipif(
    Path(sys.prefix).is_relative_to("/tmp"), reason="what runs here is installed below /tmp"
)


def in_mounts(script: str) -> list[str]:
    """What is mounted by a script, for one command alone."""
    return ["unshare", "--mount", "--propagation", "private", *in_shell(script)]


def in_shell(script: str) -> list[str]:
    return ["sh", "-ec", f'{script}; exec "$@"', "sh"]


@pytest.mark.parametrize(
    "prefix",
    [
        pytest.param(
            in_mounts("mount --bind /tmp /tmp; mount -o remount,bind,noexec /tmp"),
            id="noexec /tmp", marks=[ROOT, INSTALLED_ELSEWHERE],
        ),
        pytest.param(
            in_mounts("mount -t tmpfs -o mode=000,size=4k none /dev/shm"),
            id="no /dev/shm", marks=ROOT,
        ),
        pytest.param(
            in_mounts("mount -t proc -o hidepid=2 proc /proc"), id="hidepid /proc", marks=ROOT
        ),
        pytest.param(["unshare", "--uts", "--ipc"], id="other namespaces", marks=ROOT),
        pytest.param(in_shell("ulimit -s 512"), id="small stack"),
        pytest.param(in_shell("ulimit -s unlimited 2>/dev/null || true"), id="endless stack"),
        pytest.param(in_shell("ulimit -v 16000000"), id="address space"),
        pytest.param(in_shell("export LC_ALL=C PYTHONUTF8=0"), id="locale C"),
        pytest.param(in_shell("export LC_ALL=de_DE.nowhere"), id="unknown locale"),
        pytest.param(in_shell("exec 0<&-"), id="closed stdin"),
        pytest.param(in_shell("exec 1>&-"), id="closed stdout"),
        pytest.param(in_shell("exec 2>&-"), id="closed stderr"),
        pytest.param(in_shell("exec 0<&- 1>&- 2>&-"), id="closed streams"),
        pytest.param(
            in_shell(" ".join(f"exec {fd}</dev/null;" for fd in range(3, 10)) + " true"),
            id="inherited descriptors",
        ),
        pytest.param(in_shell("umask 0777"), id="umask of nothing"),
    ],
)  # fmt: skip
def test_a_sweep_is_as_any_other(place: Place, prefix: list[str]) -> None:
    if (
        prefix[0] == "unshare"
        and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip(f"cannot be had here: {shlex.join(prefix)}")
    run = place.start([*prefix, *place.run_argv(QUICK, n=20)])
    assert run.end() == 0, run.tell()
    assert len(run.results()) == 20
    assert "Traceback" not in run.err
    run.assert_gone()


def test_a_clock_that_is_set_back_gives_no_time_before_the_start(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text(
        '{"event": "warden.run_started", "at": 100.0, "ram_baseline_bytes": 1, '
        '"containment": "none"}\n'
        '{"event": "front.memory_sampled", "at": 1.0, "ram_bytes": 5}\n'
    )
    assert history.read(tmp_path).at_s == [0.0, 0.0]


@ROOT
@INSTALLED_ELSEWHERE
def test_libraries_on_a_noexec_mount_are_no_want_of_memory(tmp_path: Path) -> None:
    """Its loader says "failed to map segment" of both."""
    library = tmp_path / "x.so"
    library.touch()
    code = (
        "import sys; from supervisor.system.limits import explain; "
        "print(explain(ImportError(sys.argv[1] + ': failed to map segment from shared object')))"
    )
    mounted = in_mounts("mount --bind /tmp /tmp; mount -o remount,bind,noexec /tmp")
    done = subprocess.run(
        [*mounted, sys.executable, "-c", code, str(library)], text=True, capture_output=True
    )
    if done.returncode:
        pytest.skip(f"cannot be had here: {done.stderr}")
    assert done.stdout.startswith(f"{library} lies on a file system that is mounted noexec")
