"""Machine code: called as Numba would, cached, and never taken for another's."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import njit

from workers.kernels import kernel
from workers.kernels.kernel import Kernel
from workers.kernels.prefix_tables import make_prefix_tables
from workers.kernels.source import curves

LINE = np.zeros(8, np.int64)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALLSTOP_CACHE_DIR", str(tmp_path))
    return tmp_path / "kernels"


def missing(entry: Kernel) -> tuple[bool, list[bool]]:
    found = np.zeros(3, np.bool_)
    some = entry(np.array([1, 0, 1, 0]), np.array([0, 1, 2]), found)
    return some, found.tolist()


def test_it_does_what_numba_does() -> None:
    close = np.linspace(1.0, 2.0, 10_000) + np.sin(np.arange(10_000.0))
    ours, numbas = np.zeros(3 * 4096), np.zeros(3 * 4096)
    assert Kernel("curves", "rsi")(LINE, close, 14, ours) is True
    assert njit(curves.rsi)(LINE, close, 14, numbas)
    assert ours.tobytes() == numbas.tobytes()


def test_the_answer_is_a_bool(cache: Path) -> None:
    entry = Kernel("bank", "unwritten")
    assert missing(entry) == (True, [False, True, False])
    assert entry(np.ones(4, np.int64), np.array([3]), np.zeros(1, np.bool_)) is False
    stopped = np.ones(8, np.int64)
    assert Kernel("curves", "rsi")(stopped, np.ones(9), 2, np.zeros(4096)) is False


def test_it_is_compiled_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing(Kernel("bank", "unwritten"))
    (code,) = cache.iterdir()
    assert code.name.startswith("bank.unwritten-")
    monkeypatch.setattr("workers.kernels.compiler.njit", None)
    assert missing(Kernel("bank", "unwritten"))[0]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "stranger"])
def test_damaged_machine_code_is_compiled_again(cache: Path, damage: str) -> None:
    missing(Kernel("bank", "unwritten"))
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    path.write_bytes(
        {"cut": whole[:-7], "flip": flipped, "empty": b"", "stranger": b"\x7fELF" * 99}[damage]
    )
    assert missing(Kernel("bank", "unwritten")) == (True, [False, True, False])
    assert len(path.read_bytes()) == len(whole)


def test_an_engine_that_has_gone_leaves_the_others_working(cache: Path) -> None:
    missing(Kernel("bank", "unwritten"))
    gc.collect()  # its engine with it
    for path in cache.iterdir():
        path.unlink()
    assert missing(Kernel("bank", "unwritten")) == (True, [False, True, False])


def test_what_older_sources_left_goes(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir()
    (cache / "bank.unwritten-0000-1111.o").touch()
    (cache / "bank.unwritten_too-0000-1111.o").touch()
    missing(Kernel("bank", "unwritten"))
    assert not (cache / "bank.unwritten-0000-1111.o").exists()
    assert (cache / "bank.unwritten_too-0000-1111.o").exists()
    before = {path.name for path in cache.iterdir()}
    # another processor's code for the same sources stays: homes are shared by many machines
    monkeypatch.setattr(kernel, "_compiler_facts", lambda: ("another machine",))
    missing(Kernel("bank", "unwritten"))
    assert before < {path.name for path in cache.iterdir()}


def test_nowhere_to_keep_it_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLSTOP_CACHE_DIR", "/proc/nowhere")
    assert missing(Kernel("bank", "unwritten"))[0]


def test_each_kind_of_argument_has_its_own_code(cache: Path) -> None:
    entry = Kernel("curves", "signal_above")
    words = np.zeros(64, np.int64)
    assert entry(LINE, np.full(4096, 2.0), 1.0, words)
    assert (words == -1).all()
    assert entry(LINE, np.full(4096, 1.0), np.float64(1.0), words)
    assert not words.any()
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize(
    "wrong", [np.zeros((64, 64))[:, 0], np.broadcast_to(np.zeros(1), 4096)], ids=["stride", "const"]
)
def test_what_it_cannot_take_is_refused(
    wrong: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> None:
    with pytest.raises(TypeError, match="C-contiguous"):
        Kernel("curves", "signal_above")(LINE, wrong, 1.0, np.zeros(64, np.int64))


def test_an_exception_in_it_is_told() -> None:
    with pytest.raises(RuntimeError, match="average_extremes failed"):
        Kernel("curves", "average_extremes")(LINE, np.zeros(300), 64, 64, 0, np.zeros(2))


def test_once_compiled_numba_is_not_imported() -> None:
    make_prefix_tables(np.ones(3), 0.0, 1.0)
    code = (
        "import sys\n"
        "from workers.numba_backtest import warm_up\n"
        "warm_up('sma_cross')\n"
        "assert 'llvmlite' in sys.modules and 'numba' not in sys.modules\n"
    )
    warm = "from workers.numba_backtest import warm_up; warm_up('sma_cross')"
    subprocess.run([sys.executable, "-c", warm], check=True)
    subprocess.run([sys.executable, "-c", code], check=True)
