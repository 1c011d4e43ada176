"""Wheel and sdist: complete, and run from an environment that knows nothing of the checkout."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 240
PACKAGES = ("supervisor", "workers", "slurm", "bench")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
HERE = "{}.{}".format(*sys.version_info)

BUILD = """
import os, sys
from hatchling.build import build_sdist, build_wheel
print({"sdist": build_sdist, "wheel": build_wheel}[sys.argv[1]](sys.argv[2]))
"""

SWEEP = [
    "run",
    "--json",
    "--strategy",
    "sma_cross",
    "--grid",
    "fast=5,6",
    "--grid",
    "slow=20,30",
    "--workers",
    "1",
]


def run(
    command: Sequence[str | Path], cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def checked(
    command: Sequence[str | Path], cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    ended = run(command, cwd, env)
    assert ended.returncode == 0, f"{command}\n{ended.stdout}{ended.stderr}"
    return ended


def built(kind: str, source: Path, into: Path) -> Path:
    into.mkdir(exist_ok=True)
    command = [sys.executable, "-P", "-c", BUILD, kind, str(into)]
    return into / checked(command, source).stdout.split()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="the test extra brings hatchling")
    return built("sdist", ROOT, tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def unpacked(sdist: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(sdist.parent, filter="data")
    return sdist.parent / sdist.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(unpacked: Path) -> Path:
    """Built from the sdist, so that nothing which only the checkout has can be in it."""
    return built("wheel", unpacked, unpacked.parent / "wheels")


def clean_environment(root: Path) -> dict[str, str]:
    """Without what leads to the checkout, and with state of the test's own."""
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "ALLSTOP", "XDG_", "COV_")) and name != "VIRTUAL_ENV"
    }
    for variable, name in (
        ("XDG_STATE_HOME", "state"),
        ("XDG_RUNTIME_DIR", "runtime"),
        ("XDG_CACHE_HOME", "cache"),
    ):
        (root / name).mkdir(mode=0o700, exist_ok=True)
        env[variable] = str(root / name)
    return env


def interpreter(version: str) -> Path | None:
    """An installed Python of a version, on PATH or where pyenv has it."""
    places = [Path(found)] if (found := shutil.which(f"python{version}")) else []
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    places += sorted(pyenv.glob(f"versions/{version}.*/bin/python"))
    for place in places:
        # a shim of pyenv's is there for a Python that it does not run
        ended = subprocess.run(
            [place, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        if ended.returncode == 0 and ended.stdout.strip() == version:
            return place
    return None


def test_the_sdist_has_every_file_of_the_repository(unpacked: Path) -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("no git repository here to compare with")
    tracked = checked(["git", "ls-files", "-z"], ROOT).stdout.split("\0")[:-1]
    expected = {name for name in tracked if (ROOT / name).exists()}
    there = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    assert expected - there == set()
    assert (unpacked / ".ci" / "run").stat().st_mode & 0o111


def test_make_check_works_from_the_sdist(unpacked: Path) -> None:
    """Every step of it, with the tools of this environment."""
    recipe = (ROOT / "Makefile").read_text("utf-8").partition("\ncheck:")[2].partition("\n\n")[0]
    steps = [shlex.split(step) for step in re.findall(r"\$\(BIN\)/(.+)", recipe)]
    assert [step[0] for step in steps] == ["ruff", "ruff", "mypy", "lint-imports"]
    known = ROOT / ".mypy_cache"
    if known.is_dir():  # what `make check` has found here: a minute less
        shutil.copytree(known, unpacked / known.name, dirs_exist_ok=True)
    # lint-imports reads the package that Python imports: let that be the one unpacked
    env = os.environ | {"PYTHONPATH": str(unpacked)}
    for tool, *arguments in steps:
        checked([Path(sys.executable).with_name(tool), *arguments], unpacked, env)


def test_the_licence_is_in_wheel_and_sdist(wheel: Path, unpacked: Path) -> None:
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert text.startswith("MIT License\n\nCopyright (c) 2026 allstop contributors\n")
    assert (unpacked / "LICENSE").read_text("utf-8") == text
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        info = metadata.rpartition("/")[0]
        assert archive.read(f"{info}/licenses/LICENSE").decode() == text
        lines = archive.read(metadata).decode().splitlines()
    assert "License-Expression: MIT" in lines
    assert "License-File: LICENSE" in lines


def test_the_wheel_has_our_packages_alone(wheel: Path) -> None:
    """Their data files and type markers too, and no test."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and "out" not in path.parts
    }
    assert names == expected
    assert {f"{package}/py.typed" for package in ("supervisor", "workers", "slurm")} <= names


@pytest.mark.slow
def test_the_wheel_runs_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """What it requires is lent by this environment; allstop is the one in the wheel."""
    python = tmp_path / "venv" / "bin" / "python"
    env = clean_environment(tmp_path)
    checked([sys.executable, "-m", "venv", tmp_path / "venv"], tmp_path, env)
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    lend(site)
    before = set((tmp_path / "venv").rglob("*"))
    install = [python, "-m", "pip", "install", "--quiet", "--no-index"]
    checked([*install, wheel], tmp_path, env)  # not --no-deps: pip sees that they are there
    swept(python, tmp_path, env)
    advice = "from supervisor.system.install import advice; print(advice('plots'))"
    said = checked([python, "-P", "-c", advice], tmp_path, env).stdout
    assert f"{wheel}[plots]" in said
    taken = checked([*shlex.split(said), "--dry-run", "--no-index", "--no-deps"], tmp_path, env)
    assert "does not provide the extra" not in taken.stdout + taken.stderr
    again = "from supervisor.system.install import advice; print(advice(again=True))"
    said = checked([python, "-P", "-c", again], tmp_path, env).stdout
    (site / "supervisor" / "states.py").write_text("")
    broken = run([python, "-P", "-m", "supervisor", "status"], tmp_path, env)
    assert broken.returncode == 2
    assert said.strip() in broken.stderr
    checked(shlex.split(said), tmp_path, env)
    assert run([python, "-P", "-m", "supervisor", "status"], tmp_path, env).stdout
    checked([python, "-m", "pip", "uninstall", "--yes", "allstop"], tmp_path, env)
    left = set((tmp_path / "venv").rglob("*")) - before
    assert {path for path in left if "pip" not in path.parts} == set(), "left by pip uninstall"


@pytest.mark.slow
@pytest.mark.parametrize("version", [version for version in PYTHONS if version != HERE])
def test_the_wheel_runs_on_each_other_python(wheel: Path, tmp_path: Path, version: str) -> None:
    """With all that it requires, as a user installs it: that takes a package index."""
    found = interpreter(version)
    if found is None:
        pytest.skip(f"Python {version} is not installed")
    if os.environ.get("CI") != "true" and not os.environ.get("ALLSTOP_THOROUGH"):
        pytest.skip(f"neither CI nor ALLSTOP_THOROUGH: Python {version} needs 200 MB from an index")
    env = clean_environment(tmp_path)
    checked([found, "-m", "venv", tmp_path / "venv"], tmp_path, env)
    python = tmp_path / "venv" / "bin" / "python"
    checked([python, "-m", "pip", "install", "--quiet", wheel], tmp_path, env)
    checked([python, "-m", "pip", "check"], tmp_path, env)
    swept(python, tmp_path, env)


def lend(site: Path) -> None:
    """Make this environment's packages importable in another one, except our own.

    Links instead of a ``.pth`` file: the editable installation of the checkout is
    a ``.pth`` file here, and its directory would be on the path there.
    """
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(place).iterdir():
            ours = "allstop" in entry.name or entry.name in PACKAGES
            if not ours and entry.suffix != ".pth" and not (site / entry.name).exists():
                (site / entry.name).symlink_to(entry)


def swept(python: Path, place: Path, env: dict[str, str]) -> None:
    """Run a tiny sweep with an installed allstop, by the module and by the command."""
    where = "import supervisor; print(supervisor.__file__)"
    home = Path(checked([python, "-P", "-c", where], place, env).stdout.strip())
    assert place in home.parents
    for command in ([python, "-P", "-m", "supervisor"], [python.with_name("allstop")]):
        ended = checked([*command, *SWEEP], place, env)
        report = json.loads(ended.stdout.splitlines()[-1])
        assert (report["status"], report["combos_done"]) == ("completed", 4)
    findings = json.loads(
        run([python, "-P", "-m", "supervisor", "doctor", "--json"], place, env).stdout
    )
    of = {finding["name"]: finding for finding in findings}
    assert of["installation"]["status"] == of["packages"]["status"] == "ok"
