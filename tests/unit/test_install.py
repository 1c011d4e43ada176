"""Install advice names where this package came from, and never a bare name on PyPI."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.doctor import software
from supervisor.system import install

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("supervisor", "workers", "slurm", "bench")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

INSTALLS = re.compile(r"\b(?:pip3?|pipx|uv)\s+(?:tool\s+)?(?:install|add)\b(.*)")
OUR_NAMES = re.compile(
    r"""(?<![\w./:+-])(?:allstop|fullstop|supervisor|workers|slurm|bench)(?![\w/.-])(?!\S*\s+@\s)"""
)


def bare_names(text: str) -> list[str]:
    """Lines that would install one of our names from PyPI, where it may be a stranger's."""
    return [
        line.strip()
        for line in text.splitlines()
        if (found := INSTALLS.search(line)) and OUR_NAMES.search(found[1])
    ]


def installed(home: Path, direct_url: dict[str, Any] | str | None) -> Path:
    """A directory with our distribution in it, as pip records it."""
    info = home / "allstop-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.4\nName: allstop\nVersion: 0.1.0\n")
    if direct_url is not None:
        text = direct_url if isinstance(direct_url, str) else json.dumps(direct_url)
        (info / "direct_url.json").write_text(text)
    return home


def words(advice: str) -> list[str]:
    """What a shell passes to the interpreter after ``-m pip``."""
    python, dash_m, pip, *rest = shlex.split(advice)
    assert (python, dash_m, pip) == (sys.executable, "-m", "pip")
    return rest


# --- what is said ------------------------------------------------------------------------------


def test_a_source_tree_is_installed_where_it_lies() -> None:
    assert install.is_source_tree()
    assert words(install.advice()) == ["install", "--editable", str(ROOT)]
    assert words(install.advice("plots")) == ["install", "--editable", f"{ROOT}[plots]"]
    assert install.advice(again=True).startswith(f"restore the files of {ROOT}")


def test_a_foreign_project_above_us_is_no_source_tree(tmp_path: Path) -> None:
    """As after ``pip install --target``, beside a ``pyproject.toml`` of the user's."""
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'theirs'\n")
    assert not install.is_source_tree(tmp_path)
    (tmp_path / "pyproject.toml").write_text("not TOML")
    assert not install.is_source_tree(tmp_path)


def test_a_local_wheel_is_named_by_its_path(tmp_path: Path) -> None:
    wheel = tmp_path / "it's here" / "allstop-0.1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.touch()
    home = installed(tmp_path / "site", {"url": wheel.as_uri(), "archive_info": {}})
    assert words(install.advice("slurm", home=home)) == ["install", f"{wheel}[slurm]"]
    again = ["install", "--force-reinstall", "--no-deps", str(wheel)]
    assert words(install.advice(again=True, home=home)) == again


@pytest.mark.parametrize(
    ("direct_url", "named"),
    [
        (
            {
                "url": "https://git.example.com/a/allstop.git",
                "vcs_info": {"vcs": "git", "commit_id": "0123abc"},
            },
            "allstop[plots] @ git+https://git.example.com/a/allstop.git@0123abc",
        ),
        (
            {
                "url": "file:///srv/allstop.git",
                "vcs_info": {"vcs": "git", "commit_id": "0123abc"},
                "subdirectory": "python",
            },
            "allstop[plots] @ git+file:///srv/allstop.git@0123abc#subdirectory=python",
        ),
        (
            {"url": "https://files.example.com/allstop-0.1.0.tar.gz", "archive_info": {}},
            "allstop[plots] @ https://files.example.com/allstop-0.1.0.tar.gz",
        ),
    ],
    ids=["git", "git in a folder", "archive"],
)
def test_a_url_is_named_as_pip_takes_it(
    tmp_path: Path, direct_url: dict[str, Any], named: str
) -> None:
    home = installed(tmp_path, direct_url)
    assert words(install.advice("plots", home=home)) == ["install", named]


@pytest.mark.parametrize(
    "direct_url",
    [
        None,
        "{}",
        "not JSON",
        "[1]",
        '{"url": "https://x/y", "vcs_info": {"vcs": "git"}}',
        '{"url": "file:///no/such/allstop-0.1.0-py3-none-any.whl"}',
    ],
)
def test_an_unknown_or_lost_origin_is_said(tmp_path: Path, direct_url: str | None) -> None:
    said = install.advice("plots", home=installed(tmp_path, direct_url))
    assert "'WHEEL_OR_SOURCE_DIRECTORY[plots]', naming the wheel or source directory" in said
    assert not bare_names(said)


# --- every line in the source ------------------------------------------------------------------


def texts() -> Iterator[tuple[str, str]]:
    """Every string constant of our packages, docstrings included, and every page of ours."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "Makefile"]
    for path in pages:
        yield str(path.relative_to(ROOT)), path.read_text("utf-8")


def advised_extras() -> Iterator[tuple[str, str]]:
    """Every extra that a call of ``advice`` in our packages spells out."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Name)
                    and node.func.id == "advice"
                    and node.args
                    and isinstance(node.args[0], ast.Constant)
                ):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node.args[0].value


@pytest.mark.parametrize(
    ("line", "bare"),
    [
        ("pip install 'allstop[plots]'", True),
        ("python -m pip install --upgrade allstop", True),
        ("pip install --force-reinstall --no-deps allstop", True),
        ("pipx install fullstop", True),
        ("uv pip install allstop>=0.1", True),
        ("pip install '/srv/allstop[plots]'", False),
        ("pip install ./dist/allstop-0.1.0-py3-none-any.whl", False),
        ("pip install 'allstop[plots] @ git+https://x/allstop.git@0123'", False),
        ("pip install 'submitit>=1.5,<1.6'", False),
        ("pip install --editable '.[test]'", False),
    ],
)
def test_a_bare_name_is_seen(line: str, bare: bool) -> None:
    assert bool(bare_names(line)) is bare


def test_no_line_of_ours_installs_a_bare_name() -> None:
    found = {where: lines for where, text in texts() if (lines := bare_names(text))}
    assert found == {}


def test_only_one_place_makes_install_lines() -> None:
    """So that there is no second one to forget, nor one that a search misses."""
    makers = {where for where, text in texts() if re.search(r"pip3? install", text)}
    assert {where for where in makers if where.partition(":")[0].endswith(".py")} == set()
    assert '_pip("install"' in Path(install.__file__).read_text()


def test_every_advised_extra_exists() -> None:
    advised = dict(advised_extras())
    assert {"plots", "slurm"} <= set(advised.values())
    assert {where: extra for where, extra in advised.items() if extra not in EXTRAS} == {}
    assert {extra for extra, _ in software._EXTRAS.values()} <= set(EXTRAS)


# --- the advice is taken -----------------------------------------------------------------------


@pytest.mark.slow
def test_pip_takes_the_advice_for_this_source_tree() -> None:
    """But for ``--editable``, whose build needs a package that only PyPI has."""
    pytest.importorskip("pip")
    command = [word for word in shlex.split(install.advice("plots")) if word != "--editable"]
    offline = ["--dry-run", "--no-deps", "--no-index", "--no-build-isolation"]
    ended = subprocess.run(
        [*command, *offline], cwd="/", capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    assert "Would install allstop-" in ended.stdout
    assert "does not provide the extra" not in ended.stdout + ended.stderr
