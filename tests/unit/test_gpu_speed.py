from __future__ import annotations

import json
from pathlib import Path

import pytest

from supervisor.lifecycle.gpu import speed
from supervisor.lifecycle.gpu.speed import DeviceSpeed, recall


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "allstop"


def test_what_was_measured_is_remembered(cache: Path) -> None:
    assert recall() == DeviceSpeed()
    speed.remember_gpu_start(1.25)
    speed.remember_cpu_rate("sma_cross", 4e9)
    speed.remember_cpu_rate("rsi_reversion", 1e9)
    found = recall()
    assert found == DeviceSpeed(1.25, {"sma_cross": 4e9, "rsi_reversion": 1e9})
    assert found.cpu_s("sma_cross", 8e9, 2) == 1.0
    (file,) = cache.iterdir()
    assert file.stat().st_mode & 0o077 == 0


def test_each_machine_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    speed.remember_gpu_start(1.25)
    monkeypatch.setattr("platform.node", lambda: "another")
    assert recall() == DeviceSpeed()


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "3", "null", '"x"', "\0", "[" * 100_000, "{}",
        '{"version": 2, "gpu_start_s": 1.0}',
        '{"version": 1, "gpu_start_s": "soon"}',
        '{"version": 1, "gpu_start_s": -1}',
        '{"version": 1, "gpu_start_s": NaN}',
        '{"version": 1, "gpu_start_s": Infinity}',
        '{"version": 1, "gpu_start_s": 1e9}',
        '{"version": 1, "gpu_start_s": true}',
        '{"version": 1, "cpu_bars_per_s": 3}',
        '{"version": 1, "cpu_bars_per_s": {"sma_cross": 0}}',
        '{"version": 1, "cpu_bars_per_s": {"sma_cross": "x"}}',
        '{"version": 1, "cpu_bars_per_s": {"sma_cross": 1' + 400 * "0" + "}}",
    ],
)  # fmt: skip
def test_a_damaged_file_is_ignored_and_written_anew(cache: Path, text: str) -> None:
    speed.remember_gpu_start(1.0)
    (file,) = cache.iterdir()
    file.write_text(text)
    assert recall() == DeviceSpeed()
    speed.remember_gpu_start(2.0)
    assert json.loads(file.read_text())["gpu_start_s"] == 2.0


def test_a_cache_that_cannot_be_written_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    speed.remember_gpu_start(2.0)
    assert recall() == DeviceSpeed()
