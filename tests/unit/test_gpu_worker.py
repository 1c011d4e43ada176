"""What a worker on a GPU is given, and what its front remembers of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.front.sweep import Sweep
from supervisor.ipc import messages
from supervisor.lifecycle.gpu import speed
from supervisor.records.device import Stack
from supervisor.records.plan import Plan, Source
from supervisor.rows.grid import Grid
from supervisor.states import RunStatus
from workers.gpu import broken, is_lost, own_device


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "allstop"


def test_the_environment_of_a_worker_with_a_gpu(cache: Path) -> None:
    assert own_device("GPU-a", None, {}) == {
        "CUDA_VISIBLE_DEVICES": "GPU-a",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "CUPY_CACHE_DIR": str(cache / "cupy"),
    }
    assert (cache / "cupy").stat().st_mode & 0o077 == 0
    given = own_device("GPU-a", 1 << 30, {"CUPY_CACHE_DIR": "/mine", "CUDA_VISIBLE_DEVICES": "7"})
    assert "CUPY_CACHE_DIR" not in given
    assert given["CUPY_GPU_MEMORY_LIMIT"] == str(1 << 30)
    assert given["CUDA_VISIBLE_DEVICES"] == "GPU-a"


def test_no_cache_that_others_can_write(cache: Path) -> None:
    (cache / "cupy").mkdir(parents=True)
    (cache / "cupy").chmod(0o777)
    assert "CUPY_CACHE_DIR" not in own_device("GPU-a", None, {})


def test_a_process_without_cuda_has_no_broken_context() -> None:
    assert broken() is None


@pytest.mark.parametrize(("code", "lost"), [(214, True), (46, True), (700, False), (719, False)])
def test_which_errors_are_the_devices(code: int, lost: bool) -> None:
    error: Any = SimpleNamespace(code=code)
    assert is_lost(error) is lost


# -- what is remembered --------------------------------------------------------------


class Notes(list[str]):
    note = list.append


def a_sweep(**changes: Any) -> tuple[Sweep, Notes]:
    facts: dict[str, Any] = {
        "run_id": "r", "strategy": "sma_cross", "source": Source.BUILT_IN,
        "grid": Grid.of({"fast": [1], "slow": [2]}), "combos_total": 1, "data": "example",
        "n_bars": 1000, "workers": 2, "stack": Stack.CUPY, "devices": ("GPU-a", "GPU-b"),
    }  # fmt: skip
    notes = Notes()
    run: Any = SimpleNamespace(notes=notes, run_dir=Path("/nowhere"))
    prepared: Any = SimpleNamespace(plan=Plan(**facts | changes), finished=100)
    return Sweep(run, prepared), notes


def test_the_first_start_of_a_gpu_worker_is_remembered() -> None:
    sweep, notes = a_sweep()
    sweep.hear(messages.DeviceReady("GPU-a", 1.5))
    sweep.hear(messages.DeviceReady("GPU-b", 9.5))
    assert speed.recall().gpu_start_s == 1.5
    sweep.hear(messages.DeviceLost("GPU-a", "it is gone"))
    sweep.hear(messages.Remark("the CPU computes"))
    assert notes == ["GPU-a is not used any more: it is gone", "the CPU computes"]
    sweep.close()


def test_a_functions_start_says_nothing_of_ours() -> None:
    sweep, _ = a_sweep(stack=Stack.NUMBA, source=Source.IMPORT)
    sweep.hear(messages.DeviceReady("GPU-a", 1.5))
    assert speed.recall().gpu_start_s is None
    sweep.close()


@pytest.mark.parametrize(
    ("changes", "elapsed_s", "rate"),
    [
        ({"stack": Stack.NUMBA, "devices": ()}, 4.0, 100 * 1000 / (4.0 * 2)),
        ({"stack": Stack.NUMBA, "devices": ()}, 0.5, None),
        ({"stack": Stack.TORCH, "devices": ()}, 4.0, None),
        ({"stack": Stack.NUMBA, "devices": (), "source": Source.IMPORT}, 4.0, None),
        ({}, 4.0, None),
    ],
)
def test_the_rate_of_the_cpu_is_remembered(
    changes: dict[str, Any], elapsed_s: float, rate: float | None
) -> None:
    sweep, _ = a_sweep(**changes)
    report: Any = SimpleNamespace(status=RunStatus.COMPLETED, combos_done=200, elapsed_s=elapsed_s)
    sweep.complete(report)
    assert speed.recall().cpu_bars_per_s.get("sma_cross") == rate
    sweep.close()
