"""SECURITY.md and docs/faults.md name tests: each exists, and each line of either names one."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECURITY = ROOT / "SECURITY.md"
FAULTS = ROOT / "docs" / "faults.md"

_NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@cache
def defined_in(path: Path) -> frozenset[str]:
    """The tests that a file defines, on its own or in a class."""
    if not path.is_file():
        return frozenset()
    tree = ast.parse(path.read_text("utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, kinds))


def points() -> list[str]:
    """What SECURITY.md says is defended."""
    text = SECURITY.read_text("utf-8")
    start = text.index("## What allstop defends")
    defended = text[start : text.index("## What allstop does not defend")]
    return [line for line in defended.splitlines() if line.startswith("- ")]


def cells() -> list[list[str]]:
    """The rows of the fault matrix, without heads."""
    lines = [line for line in FAULTS.read_text("utf-8").splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in rows if row[0] != "fault" and set(row[0]) != {"-"}]


@pytest.mark.parametrize("document", [SECURITY, FAULTS], ids=lambda path: path.name)
def test_every_test_that_is_named_exists(document: Path) -> None:
    named = _NAMED.findall(document.read_text("utf-8"))
    assert named
    missing = [f"{path}::{name}" for path, name in named if name not in defined_in(ROOT / path)]
    assert missing == []


def test_every_defended_point_names_a_test() -> None:
    assert len(points()) > 15
    assert [point for point in points() if not _NAMED.search(point)] == []


def test_every_cell_of_the_matrix_says_what_happens_and_names_a_test_or_why_not() -> None:
    assert len(cells()) > 50
    for row in cells():
        assert len(row) == 3, row
        fault, happens, test = row
        assert fault, row
        assert happens, row
        assert re.match(r"not tested: \S", test) or _NAMED.match(test), row
