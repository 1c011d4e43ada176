"""What travels of the caller's search path, and what a worker makes of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from supervisor.lifecycle import caller
from supervisor.lifecycle.inputs import code_digest
from supervisor.records.plan import Source

OWN = [
    path for path in sys.path if path.endswith((".zip", "site-packages")) or "/lib/python" in path
]


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        ([*OWN], [], []),
        (["", *OWN], ["CWD"], []),
        (["lib", *OWN, "lib", "."], ["CWD/lib"], ["CWD/lib", "CWD"]),
        (["/a/../b", "/a/../b", *OWN, "/c"], ["/a/../b"], ["/c"]),
        (["/tmp/../tmp", *OWN], ["/tmp"], []),
        ([*OWN, "__hook__.x.__path__"], [], ["__hook__.x.__path__"]),
        ([Path("/tmp"), b"/tmp", *OWN], [], []),
        (["/a", "/b"], ["/a", "/b"], []),
    ],
)  # fmt: skip
def test_entries_before_and_after_the_interpreters_own(
    path: list[str],
    before: list[str],
    after: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "lib").mkdir()
    monkeypatch.setattr(sys, "path", path)
    found = caller.search_path(str(tmp_path))
    expected = [[entry.replace("CWD", str(tmp_path)) for entry in part] for part in (before, after)]
    assert [list(part) for part in found] == expected


def test_the_program_is_the_main_modules_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert caller.program("/") == ""
    (tmp_path / "x.py").touch()
    main.__file__ = "x.py"
    assert caller.program(str(tmp_path)) == str(tmp_path / "x.py")


def test_a_worker_looks_where_the_caller_did_and_in_its_own_directories() -> None:
    code = (
        "import sys; own = list(sys.path); "
        "from workers.function_home import settle; from supervisor.records.plan import Provenance; "
        "settle(Provenance(cwd='/d', path_before=('/b',), path_after=('/a',)), '/b/x.py'); "
        "assert sys.path == ['/b', '/d', *own, '/a'], sys.path; assert sys.argv == ['/b/x.py']; "
        "import __main__; assert __main__.__file__ == '/b/x.py'; "
        "settle(Provenance(cwd='/b', path_before=('/b',)), ''); "
        "assert sys.argv == [''] and not hasattr(sys.modules['__main__'], '__file__')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_modules_file_is_looked_for_as_an_import_does(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(name)
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    first = code_digest("mine:f", Source.IMPORT, b, [str(tmp_path), a])
    assert first == code_digest("mine:f", Source.IMPORT, a)
    assert first != code_digest("mine:f", Source.IMPORT, a, [b])
    assert code_digest("other:f", Source.IMPORT, a, [b]) == ""
