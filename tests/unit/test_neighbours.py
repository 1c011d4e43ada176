"""What is copied to a cluster with a strategy's file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from slurm.local import LocalTransport
from supervisor.errors import ConfigError
from supervisor.lifecycle import neighbours
from supervisor.lifecycle.neighbours import beside
from supervisor.lifecycle.prepare import Order, check
from supervisor.lifecycle.staging import RemoteCopy

FILES = {
    "mine.py": "import numpy, helper\nfrom pkg.deep import x\ndef f(b, p, s):\n    import late\n"
               "    return {'x': helper.y + x + late.z}\n",
    "helper.py": "from second import y\nimport mine\n",
    "second.py": "y = 1.0\n",
    "late.py": "z = 3.0\n",
    "pkg/__init__.py": "",
    "pkg/deep.py": "from .other import x\n",
    "pkg/other.py": "x = 2.0\n",
    "pkg/data.txt": "",
    "unused.py": "1 / 0\n",
    "numpy_like.py": "",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / "home" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "home" / name).write_text(text)
    return tmp_path / "home"


def test_modules_and_packages_beside_it_are_found_and_nothing_else(folder: Path) -> None:
    assert sorted(beside(folder / "mine.py")) == [
        "helper.py", "late.py", "pkg/__init__.py", "pkg/deep.py", "pkg/other.py", "second.py",
    ]  # fmt: skip


def test_what_is_no_python_imports_nothing(folder: Path) -> None:
    (folder / "mine.py").write_bytes(b"\xff def (")
    assert beside(folder / "mine.py") == {}


def test_too_much_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_MOST_FILES", 2)
    with pytest.raises(ConfigError, match="install it there"):
        beside(folder / "mine.py")


def test_a_copy_on_a_cluster_is_whole(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = Order.of({"strategy": f"{folder / 'mine.py'}:f", "grid": {"a": [1]}})
    plan = check(order)[0]
    monkeypatch.setenv("HOME", str(tmp_path))
    copy = RemoteCopy(tmp_path, LocalTransport())
    copy._run_id = copy._make(plan.run_id)
    there = copy._remote_plan(plan)
    for path in folder.rglob("*.py"):
        path.unlink()
    assert there.strategy == f"{tmp_path}/.allstop/runs/{plan.run_id}/mine.py:f"
    assert (there.provenance.path_before, there.provenance.main) == ((), "")
    assert there.seed == plan.seed
    code = (
        "import sys, json; from workers.function_home import importer; "
        "from supervisor.records.plan import Provenance; "
        "print(importer(sys.argv[1], Provenance())()({}, {}, None))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, there.strategy], text=True, capture_output=True, check=True
    )
    assert done.stdout == "{'x': 6.0}\n"
