"""What the project says of itself is true: dependencies, typed tests, the hooks of a commit."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest

from tests.support.optional import OPTIONAL

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]
PACKAGES = ("supervisor", "workers", "slurm", "bench")

# import name -> distribution, where they differ and need not be installed here
DISTRIBUTIONS = {
    "_numba_cuda_redirector": "numba-cuda",
    "cupy": "cupy-cuda13x",
    "dask_jobqueue": "dask-jobqueue",
    "numba_cuda": "numba-cuda",
    "pynvml": "nvidia-ml-py",
}

FOR_USERS = {
    "cupy-cuda12x": "strategies of users compute with it",
    "streamlit": "scripts of users run in it",
}
"""In extras, and imported by no module of ours."""

TOOLS = {
    "hatchling": r"hatchling",
    "import-linter": r"lint-imports",
    "mypy": r"/mypy",
    "nvidia-cuda-cuobjdump": r"cuobjdump",
    "nvidia-cuda-nvdisasm": r"nvdisasm",
    "pytest-timeout": r"(?m)^timeout = ",
    "pytest-xdist": r"xdist|-n\b",
    "ruff": r"/ruff",
}
"""In the test extra and run rather than imported: what of them stands in Makefile or settings."""

ONLY_FOR_FUZZING = {"atheris"}  # has no wheels for every Python; CONTRIBUTING says how to get it


def imported(folders: Iterable[str]) -> dict[str, str]:
    """Every foreign top-level package that modules below these folders import, and one of them."""
    found: dict[str, str] = {}
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for name in names_imported(path.read_text("utf-8")):
                found.setdefault(name, str(path.relative_to(ROOT)))
    return found


def names_imported(source: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
        elif (  # pytest.importorskip("x"), importlib.util.find_spec("x")
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "importorskip"
            and isinstance(node.args[0], ast.Constant)
        ):
            names.add(node.args[0].value)
    tops = {name.partition(".")[0] for name in names}
    return tops - sys.stdlib_module_names - {*PACKAGES, "tests"}


def distribution_of(module: str) -> str:
    """Normalised name of the distribution that a module comes from."""
    if module in DISTRIBUTIONS:
        return DISTRIBUTIONS[module]
    owners = OWNERS.get(module, [module])
    return sorted(re.sub(r"[-_.]+", "-", owner).lower() for owner in owners)[0]


OWNERS = metadata.packages_distributions()


def named(requirements: Iterable[str]) -> set[str]:
    return {re.split(r"[\s\[<>=!~;]", line, maxsplit=1)[0].lower() for line in requirements}


REQUIRED = named(PROJECT["dependencies"])
EXTRAS = {name: named(lines) for name, lines in PROJECT["optional-dependencies"].items()}
INSTALLED_APART = {name for package in OPTIONAL for name in named(package.requirements)}
"""Too large for the test extra; tests without them are left out."""
FOR_RUNS = set().union(*(names for extra, names in EXTRAS.items() if extra != "test"))


# --- dependencies ------------------------------------------------------------------------------


def test_an_import_is_found_wherever_it_stands() -> None:
    source = "def f():\n    import a.b as c\n    from d.e import f\nfrom . import g\nimport os\n"
    assert names_imported(source) == {"a", "d"}


def test_what_the_packages_import_is_declared() -> None:
    """In an extra at least; what only a peer of the benchmarks needs, in that of the tests."""
    ours = imported(PACKAGES)
    peers = set(imported(["bench/peers"]))
    undeclared = {
        name: where
        for name, where in ours.items()
        if distribution_of(name)
        not in REQUIRED | FOR_RUNS | (EXTRAS["test"] if name in peers else set())
    }
    assert undeclared == {}


def test_what_is_required_is_imported() -> None:
    used = {distribution_of(name) for name in imported(PACKAGES)}
    assert REQUIRED - used == set()


def test_what_an_extra_brings_is_imported_or_for_users() -> None:
    used = {distribution_of(name) for name in imported(PACKAGES)}
    assert FOR_RUNS - used == set(FOR_USERS)


def test_what_the_tests_import_is_declared() -> None:
    known = REQUIRED | EXTRAS["test"] | INSTALLED_APART | ONLY_FOR_FUZZING | {"pip"}
    theirs = imported(["tests"])
    assert {n: where for n, where in theirs.items() if distribution_of(n) not in known} == {}


def test_what_the_test_extra_brings_is_used() -> None:
    """Imported, by name in a test that starts it in another process, or run as a tool."""
    used = {distribution_of(name) for name in imported(["tests", "bench"])}
    texts = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py"))
    settings = (ROOT / "Makefile").read_text("utf-8")
    settings += (ROOT / "pyproject.toml").read_text("utf-8").partition("[tool.")[2]
    unused = {
        name
        for name in EXTRAS["test"] - used
        if not (name in TOOLS and re.search(TOOLS[name], settings + texts))
        and not re.search(rf"\b{name.replace('-', '_')}\b", texts)
    }
    assert unused == set()


def test_each_python_that_is_claimed_is_allowed_and_the_running_one_is_claimed() -> None:
    claimed = {
        tuple(map(int, found[1].split(".")))
        for line in PROJECT["classifiers"]
        if (found := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line))
    }
    oldest = tuple(map(int, PROJECT["requires-python"].removeprefix(">=").split(".")))
    assert min(claimed) == oldest
    assert sys.version_info[:2] in claimed


# --- types -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_make_check_sees_a_wrong_type_of_the_public_face(tmp_path: Path) -> None:
    """The very command of ``make check``, with one line of ``tests/typing`` made wrong."""
    assert "$(BIN)/mypy\n" in (ROOT / "Makefile").read_text("utf-8")
    right = (ROOT / "tests" / "typing" / "api.py").read_text("utf-8")
    assert "assert_type(run, Run)" in right
    for name in (*PACKAGES, "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    wrong = tmp_path / "tests" / "typing" / "api.py"
    wrong.parent.mkdir(parents=True)
    wrong.write_text(right.replace("assert_type(run, Run)", "assert_type(run, int)"))
    known = ROOT / ".mypy_cache"
    if known.is_dir():  # what `make check` has found: a minute less
        shutil.copytree(known, tmp_path / known.name)
    ended = subprocess.run(
        [Path(sys.executable).with_name("mypy")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert 'tests/typing/api.py:21: error: Expression is of type "Run", not "int"' in ended.stdout
    assert "Found 1 error in 1 file" in ended.stdout


# --- hooks -------------------------------------------------------------------------------------


def test_the_hooks_of_a_commit_are_the_steps_of_make_check() -> None:
    recipe = (ROOT / "Makefile").read_text("utf-8").partition("\ncheck:")[2].partition("\n\n")[0]
    steps = re.findall(r"\$\(BIN\)/(.+)", recipe)
    assert len(steps) == 4
    hooks = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    entries = re.findall(r"entry: \.venv/bin/(.+)", hooks)
    assert [entry.replace(" --force-exclude", "") for entry in entries] == [
        step.removesuffix(" .") for step in steps
    ]
