"""``doctor``: bounded, uncrashable, and right about clashes, which are staged for real."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.doctor import (
    ask,
    cluster,
    disk,
    examine,
    gpu,
    kernel,
    names,
    software,
    text,
)
from supervisor.doctor.finding import Finding, Status
from supervisor.errors import UnsupportedPlatformError
from supervisor.system.install import advice

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 90


def doctor(cwd: Path, *path: Path, python: Path | str = sys.executable) -> dict[str, Any]:
    """Run ``python -m supervisor doctor --json`` in a directory; return findings by name."""
    ended = subprocess.run(
        [str(python), "-m", "supervisor", "doctor", "--json"],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT]))},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    findings = json.loads(ended.stdout)
    problem = any(finding["status"] == "problem" for finding in findings)
    assert ended.returncode == int(problem), ended.stdout + ended.stderr
    assert ended.stderr == ""
    return {finding["name"]: finding for finding in findings}


def fake_distribution(
    site: Path, name: str, version: str, *, record: list[str] | None, top: str | None = None
) -> None:
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if record is not None:
        (info / "RECORD").write_text("".join(f"{path},,\n" for path in record))
    if top is not None:
        (info / "top_level.txt").write_text(top + "\n")


# --- the examination ---------------------------------------------------------------------------


def test_every_check_answers_by_its_name() -> None:
    findings = examine.examine(deadline_s=PATIENCE_S)
    names = [finding.name for finding in findings]
    # without a GPU, or where a fact does not apply, some of these have nothing to say
    may_be_quiet = {name for name, _ in gpu.CHECKS if name != "CUDA"} | {"GPU packages"}
    assert names == [name for name, _ in examine.CHECKS if name in names]
    assert {name for name, _ in examine.CHECKS} - set(names) <= may_be_quiet
    for finding in findings:
        assert "could not be checked" not in finding.what
        assert "\n" not in finding.what + finding.fix
        assert finding.status is not Status.PROBLEM or finding.fix


def test_a_check_that_raises_is_a_finding() -> None:
    def broken() -> Finding:
        raise RuntimeError("two\nlines")

    def fine() -> Finding:
        return Finding("fine", Status.OK, "is fine")

    first, second = examine.examine([("broken", broken), ("fine", fine)])
    assert first.status is Status.PROBLEM
    assert first.what == "could not be checked: two lines"
    assert second.status is Status.OK


def test_a_check_whose_package_is_missing_says_how_to_install_it() -> None:
    def needs_more() -> Finding:
        raise ModuleNotFoundError("No module named 'psutil._psutil'", name="psutil._psutil")

    (finding,) = examine.examine([("machine", needs_more)])
    assert finding.status is Status.PROBLEM
    assert finding.what == "could not be checked: psutil is not installed"
    assert finding.fix == advice()


def test_a_check_that_hangs_is_given_up() -> None:
    let_go = threading.Event()

    def hangs() -> Finding:
        let_go.wait()
        return Finding("hangs", Status.OK, "late")

    def fine() -> Finding:
        return Finding("fine", Status.OK, "is fine")

    late, fine_ = examine.examine([("hangs", hangs), ("fine", fine)], deadline_s=2.0)
    let_go.set()
    assert (late.name, late.status) == ("hangs", Status.WARNING)
    assert fine_.status is Status.OK


def test_a_program_that_hangs_is_given_up() -> None:
    code, said = ask.output_of(sys.executable, "-c", "while True: pass", timeout_s=0.2)
    assert code == -1
    assert "no answer" in said


def test_a_program_that_is_not_there_is_said() -> None:
    assert ask.output_of("/no/such/program") == (-1, "No such file or directory")


# --- single checks -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "status"),
    [
        ("always [madvise] never", Status.OK),
        ("[always] madvise never", Status.OK),
        ("always madvise [never]", Status.WARNING),
        (None, Status.WARNING),
    ],
)
def test_huge_pages(tmp_path: Path, setting: str | None, status: Status) -> None:
    path = tmp_path / "enabled"
    if setting is not None:
        path.write_text(setting + "\n")
    finding = kernel.huge_pages(path)
    assert finding.status is status
    assert bool(finding.fix) == (setting is not None and status is Status.WARNING)


def test_an_unknown_architecture_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> bool:
        raise UnsupportedPlatformError("futex(2) has no known number on z80")

    monkeypatch.setattr("supervisor.ipc.futex.wait", unknown)
    assert kernel.futex_check().status is Status.PROBLEM


@pytest.mark.parametrize("check", [kernel.pidfd, kernel.memfd])
def test_a_refused_system_call_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, check: Callable[[], Finding]
) -> None:
    def refused(*_: Any) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "pidfd_open", refused)
    monkeypatch.setattr(os, "memfd_create", refused)
    finding = check()
    assert finding.status is Status.PROBLEM
    assert "Operation not permitted" in finding.what
    assert finding.fix


def test_the_subreaper_is_tried_and_leaves_no_process() -> None:
    assert kernel.subreaper().status is Status.OK
    works, said = ask.try_out("pid_namespace")
    assert works or said  # a container may forbid it: then the reason is told


def test_a_foreign_runtime_dir(own_state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert disk.runtime_dir().status is Status.OK
    (own_state / "runtime" / "allstop").rmdir()
    (own_state / "elsewhere").mkdir()
    (own_state / "runtime" / "allstop").symlink_to(own_state / "elsewhere")
    finding = disk.runtime_dir()
    assert finding.status is Status.PROBLEM
    assert "XDG_RUNTIME_DIR" in finding.fix


def test_a_runtime_dir_too_long_for_sockets_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    finding = disk.runtime_dir()
    assert finding.status is Status.PROBLEM
    assert "shorter" in finding.fix


def test_the_state_dir_must_be_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert disk.registry_dir().status is Status.PROBLEM


def test_the_kernel_cache_must_be_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLSTOP_CACHE_DIR", str(tmp_path / "new"))
    assert disk.kernel_cache().status is Status.OK
    monkeypatch.setenv("ALLSTOP_CACHE_DIR", "/proc/nowhere")
    finding = disk.kernel_cache()
    assert finding.status is Status.WARNING
    assert "ALLSTOP_CACHE_DIR" in finding.fix


def test_kernels_are_warm_once_each_has_machine_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, cache = tmp_path / "kernels", tmp_path / "cache" / "kernels"
    home.mkdir()
    cache.mkdir(parents=True)
    source = home / "entries.py"
    source.write_text('one = Kernel("sweep", "one")\ntwo = Kernel("curves", "two")\n')
    monkeypatch.setattr(disk, "_kernels_home", lambda: home)
    monkeypatch.setenv("ALLSTOP_CACHE_DIR", str(tmp_path / "cache"))
    finding = disk.kernels()
    assert finding.status is Status.INFO
    assert finding.what.startswith("0 of 2 compiled")
    for name in ("sweep.one", "curves.two"):
        (cache / f"{name}-0123-4567.o").touch()
    assert disk.kernels().what == "2 of 2 compiled and cached"
    later = source.stat().st_mtime + 60
    os.utime(source, (later, later))
    assert disk.kernels().what.startswith("0 of 2 compiled")


def test_our_kernels_are_known() -> None:
    assert "of 0 compiled" not in disk.kernels().what


def fake_program(folder: Path, name: str, says: str, code: int = 0) -> None:
    (folder / name).write_text(f"#!/bin/sh\necho '{says}'\nexit {code}\n")
    (folder / name).chmod(0o755)


def test_slurm_is_found_by_its_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}")
    assert cluster.slurm().status is Status.INFO
    fake_program(tmp_path, "sbatch", "slurm 24.05.1")
    assert cluster.slurm().status is Status.WARNING
    for name in ("squeue", "scancel", "scontrol"):
        fake_program(tmp_path, name, "")
    finding = cluster.slurm()
    assert finding.status is Status.OK
    assert "slurm 24.05.1" in finding.what
    fake_program(tmp_path, "squeue", "error: Unable to contact slurm controller", 1)
    assert cluster.slurm().status is Status.WARNING
    assert "Unable to contact" in cluster.slurm().what


def test_extras_import_nothing() -> None:
    loaded = set(sys.modules)
    finding = software.extras()
    assert not {"plotly", "streamlit", "cupy", "torch"} & (set(sys.modules) - loaded)
    assert "installed" in finding.what


def test_one_command_installs_an_extra_and_the_others_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    finding = software.extras()
    assert finding.what == "not installed: plotly, streamlit, cupy, torch"
    assert finding.fix.startswith(f"for HTML reports: {advice('plots')}; instead of [plots], ")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: object())
    assert software.extras().fix == ""


@pytest.mark.parametrize(
    ("available_bytes", "status"), [(2**29 - 1, Status.WARNING), (2**29, Status.OK)]
)
def test_scarce_memory_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, available_bytes: int, status: Status
) -> None:
    assert software.machine().status in (Status.OK, Status.WARNING)
    ram = SimpleNamespace(total=8 * 2**30, available=available_bytes)
    monkeypatch.setattr("psutil.virtual_memory", lambda: ram)
    monkeypatch.setattr("psutil.swap_memory", lambda: SimpleNamespace(total=0))
    finding = software.machine()
    assert finding.status is status
    assert "8.0 GiB RAM, 0.5 GiB of it available, no swap" in finding.what


def test_a_required_package_that_is_missing_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    assert software.packages().status is Status.OK
    monkeypatch.setattr(software, "_installed", lambda name: name not in ("numba", "plotly"))
    finding = software.packages()
    assert finding.status is Status.PROBLEM
    assert finding.what == "not installed: numba"  # plotly is for an extra
    assert finding.fix == advice()


def test_lines_are_aligned() -> None:
    findings = [
        Finding("a", Status.OK, "fine"),
        Finding("long name", Status.PROBLEM, "bad", "fix it"),
    ]
    assert list(text.plain_lines(findings)) == [
        "ok       a          fine",
        "problem  long name  bad",
        "                    → fix it",
        "1 problem",
    ]


# --- name clashes ------------------------------------------------------------------------------


def test_this_checkout_has_no_clash(tmp_path: Path) -> None:
    findings = doctor(tmp_path)
    assert findings["name clashes"]["status"] == "ok"
    assert findings["local folders"]["status"] == "ok"


@pytest.mark.parametrize(
    "staged",
    [
        {"record": ["supervisor/__init__.py", "supervisor/states.py"]},
        {"record": None, "top": "supervisor"},
    ],
    ids=["by its files", "by top_level.txt"],
)
def test_supervisord_beside_us_is_a_problem(tmp_path: Path, staged: dict[str, Any]) -> None:
    fake_distribution(tmp_path / "site", "supervisor", "4.2.5", **staged)
    finding = doctor(tmp_path, tmp_path / "site")["name clashes"]
    assert finding["status"] == "problem"
    assert "supervisor 4.2.5 also installs supervisor" in finding["what"]
    assert finding["fix"].startswith(f"{sys.executable} -m pip uninstall supervisor; ")
    assert "environment of its own" in finding["fix"]


def test_any_owner_of_our_names_is_named_and_others_are_not(tmp_path: Path) -> None:
    site = tmp_path / "site"
    fake_distribution(site, "Some_Tools", "1.0", record=["workers/x.py", "bench.py", "y.py"])
    fake_distribution(site, "harmless", "1.0", record=["other/supervisor/x.py", "bench/data.txt"])
    (site / "broken-1.0.dist-info").mkdir()
    finding = doctor(tmp_path, site)["name clashes"]
    assert "some-tools 1.0 also installs workers, bench:" in finding["what"]
    assert "harmless" not in finding["what"]
    assert finding["fix"] == f"{sys.executable} -m pip uninstall some-tools"


@pytest.mark.parametrize("made", ["workers/__init__.py", "workers.py"])
def test_a_local_folder_that_hides_a_package_is_a_problem(tmp_path: Path, made: str) -> None:
    path = tmp_path / made
    path.parent.mkdir(exist_ok=True)
    path.touch()
    finding = doctor(tmp_path)["local folders"]
    assert finding["status"] == "problem"
    assert f"workers from {tmp_path / 'workers'}" in finding["what"]


def test_a_local_folder_without_init_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    assert doctor(tmp_path)["local folders"]["status"] == "ok"


def test_a_local_folder_that_could_hide_a_package_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slurm.py").touch()
    monkeypatch.chdir(tmp_path)
    finding = names.local_folders()  # here the current directory is not on the path
    assert finding.status is Status.WARNING
    assert "slurm.py" in finding.what


def test_first_aid_has_a_fix_for_every_import_error() -> None:
    said = names.first_aid(ImportError("cannot import name 'RunStatus'", name="supervisor.states"))
    assert "cannot import name 'RunStatus'" in said
    assert said.endswith(advice(again=True))
    ours = ModuleNotFoundError("No module named 'slurm.book'", name="slurm.book")
    assert names.first_aid(ours).endswith(advice(again=True))
    theirs = ModuleNotFoundError("No module named 'pydantic'", name="pydantic")
    assert names.first_aid(theirs) == f"pydantic is not installed: {advice()}"


@pytest.mark.slow
def test_an_installation_overwritten_by_supervisord_is_still_examined(tmp_path: Path) -> None:
    """Ours is installed from a wheel, then files of its are overwritten as pip would do it."""
    pytest.importorskip("hatchling")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=ROOT, check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("allstop-*.whl")
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)

    def findings() -> dict[str, str]:
        ended = subprocess.run(
            [str(python), "-m", "supervisor.doctor"],
            cwd=tmp_path,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert ended.stderr == ""
        return {
            name: line.split()[0]
            for line in ended.stdout.splitlines()
            for name in ("installation", "name clashes", "local folders")
            if name in line and "→" not in line  # a fix names paths, which may contain these
        }

    assert findings() == {"installation": "ok", "name clashes": "ok", "local folders": "ok"}
    theirs = supervisord_wheel(tmp_path)
    subprocess.run([*pip, str(theirs)], check=True, capture_output=True)
    assert findings()["name clashes"] == "problem"
    assert findings()["installation"] == "problem"
    uninstall = [str(python), "-m", "pip", "uninstall", "--quiet", "--yes", "supervisor"]
    subprocess.run(uninstall, check=True, capture_output=True)
    assert findings()["name clashes"] == "ok"
    assert findings()["installation"] == "problem"  # its files went, and ours with them
    subprocess.run([*pip, "--force-reinstall", str(wheel)], check=True, capture_output=True)
    assert findings()["installation"] == "ok"


def supervisord_wheel(folder: Path) -> Path:
    """A wheel with files where the real one has them."""
    files = {f"supervisor/{name}.py": b"# not ours\n" for name in ("events", "process", "states")}
    info = "supervisor-4.2.5.dist-info"
    files[f"{info}/METADATA"] = b"Metadata-Version: 2.1\nName: supervisor\nVersion: 4.2.5\n"
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = [f"{name},sha256={_digest(content)},{len(content)}" for name, content in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    path = folder / "supervisor-4.2.5-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def test_where_no_thread_can_be_started_the_checks_run_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def short_of_files() -> Finding:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(threading.Thread, "start", refused)
    fine = Finding("a", Status.OK, "is fine")
    first, second = examine.examine([("a", lambda: fine), ("b", short_of_files)])
    assert first == fine
    assert (second.status, "ulimit -n" in second.what) == (Status.PROBLEM, True)
