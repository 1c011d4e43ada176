"""What cannot be installed for the tests is named in a line, and the others run."""

from __future__ import annotations

import pytest

from tests.support import optional
from tests.support.optional import OPTIONAL, Package


def test_what_is_there_is_not_installed_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(optional, "OPTIONAL", (Package("json", ("json",), "tests"),))
    monkeypatch.setattr(optional, "_pip", lambda *_: pytest.fail("pip was run"))
    assert optional.main() == 0
    assert capsys.readouterr().out == ""


def test_what_pip_does_not_find_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = Package("no_such_module_here", ("pip==0.0.0.dev99",), "tests of this")
    monkeypatch.setattr(optional, "OPTIONAL", (missing,))
    monkeypatch.setattr(optional, "_OPTIONS", ("--no-index",))
    assert optional.main() == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1
    assert said[0].startswith("tests of this are left out: ERROR: No matching distribution found")


@pytest.mark.parametrize(
    ("version", "why"),
    [("2.13.0+cpu", ""), ("2.13.0", "pip finds torch 2.13.0 with CUDA's libraries")],
)
def test_of_pytorch_only_a_build_for_cpus_is_installed(
    version: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed: list[tuple[str, ...]] = []
    monkeypatch.setattr(optional, "_pip", lambda *words: installed.append(words) or "")
    monkeypatch.setattr(optional, "_found", lambda _: ({"torch": version}, ""))
    torch = next(package for package in OPTIONAL if package.module == "torch")
    assert optional.install(torch).startswith(why)
    assert bool(installed) is not bool(why)
