"""What ``--device`` means: its spellings, the GPUs they name, and what ``auto`` chooses."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from supervisor.errors import ConfigError
from supervisor.lifecycle.gpu import choice, speed
from supervisor.lifecycle.gpu import place as places
from supervisor.lifecycle.gpu.choice import HiddenGpuError, NoGpuError, choose, seen_by_cuda
from supervisor.lifecycle.gpu.place import place, refuse_for_function
from supervisor.lifecycle.gpu.speed import LEAST_WORK
from supervisor.records.device import KNOWN, DeviceRequest, Stack, Where, parse_device
from supervisor.records.plan import Plan, Source
from supervisor.rows.grid import Grid
from supervisor.system.gpus import Gpu
from supervisor.system.nvml import Nvml

GPUS = [
    Gpu("GPU-11aa", 0, "H100", 80 << 30),
    Gpu("GPU-12bb", 1, "H100", 80 << 30),
    Gpu("GPU-33cc", 2, "A10", 24 << 30),
]
SLICES = [
    Gpu("MIG-a1", 0, "A100 MIG 1g", 5 << 30, mig=True),
    Gpu("MIG-a2", 0, "A100 MIG 1g", 5 << 30, mig=True),
    Gpu("GPU-9", 1, "A100", 40 << 30),
]

# -- spellings ---------------------------------------------------------------

SPELLINGS = [
    ("auto", None, Where.ANY, ()),
    ("cpu", Stack.NUMBA, Where.CPU, ()),
    ("cuda", Stack.CUPY, Where.GPU, ()),
    ("cuda:0", Stack.CUPY, Where.GPU, (0,)),
    ("cuda:12", Stack.CUPY, Where.GPU, (12,)),
    ("cuda:0,1", Stack.CUPY, Where.GPU, (0, 1)),
    ("cuda:GPU-11aa", Stack.CUPY, Where.GPU, ("GPU-11aa",)),
    ("cuda:MIG-a1,2", Stack.CUPY, Where.GPU, ("MIG-a1", 2)),
    ("torch", Stack.TORCH, Where.ANY, ()),
    ("torch:cpu", Stack.TORCH, Where.CPU, ()),
    ("torch:cuda", Stack.TORCH, Where.GPU, ()),
    ("torch:cuda:1", Stack.TORCH, Where.GPU, (1,)),
    ("torch:cuda:1,GPU-33", Stack.TORCH, Where.GPU, (1, "GPU-33")),
]


@pytest.mark.parametrize(("text", "stack", "where", "gpus"), SPELLINGS)
def test_every_spelling(
    text: str, stack: Stack | None, where: Where, gpus: tuple[int | str, ...]
) -> None:
    assert parse_device(text) == DeviceRequest(text, stack, where, gpus)


@pytest.mark.parametrize(
    "text",
    [
        "", "gpu", "CPU", "cpu:0", "auto:0", "cuda:", "cuda:,", "cuda:0,", "cuda:-1", "cuda:x",
        "cuda: 0", "cuda:0x1", "cuda:1.5", "cuda:99999", "cuda:GPU-", "cuda:GPU", "cuda:gpu-1",
        "cuda:cuda:0", "torch:", "torch:0", "torch:gpu", "torch:cuda:", "torch:torch", "numba",
        "cupy", "cuda:٣", "cuda:0\n", "cuda:GPU-1\n", "cuda:GPU-a b", "cuda:0\0", "auto ",
        None, 0, True, ["cuda"], "cuda:GPU-" + 200 * "a",
    ],
)  # fmt: skip
def test_what_is_no_device_is_refused_with_those_that_are(text: object) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_device(text, "--device")
    said = str(caught.value)
    assert said.startswith(f"--device must be one of {', '.join(KNOWN)}, not ")
    assert "\n" not in said
    assert len(said) < 400
    assert caught.value.key == "device"


def test_what_is_listed_is_known() -> None:
    for text in KNOWN:
        parse_device(text.replace("…", "11aa"))


@pytest.mark.parametrize("text", ["cuda:1,1", "torch:cuda:0,2,0", "cuda:GPU-1,GPU-1"])
def test_a_gpu_named_twice_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="names a GPU twice"):
        parse_device(text)


# -- which GPUs ----------------------------------------------------------------


def chosen(text: str, gpus: Sequence[Gpu] = GPUS, visible: str | None = None) -> list[str]:
    return [gpu.uuid for gpu in choose(parse_device(text), gpus, visible)]


def test_gpus_are_chosen_by_index_or_the_beginning_of_a_uuid() -> None:
    assert chosen("cuda") == ["GPU-11aa", "GPU-12bb", "GPU-33cc"]
    assert chosen("cuda:2,0") == ["GPU-33cc", "GPU-11aa"]
    assert chosen("cuda:GPU-3") == ["GPU-33cc"]
    assert chosen("torch:cuda:GPU-12bb,0") == ["GPU-12bb", "GPU-11aa"]
    assert chosen("cuda", SLICES) == ["MIG-a1", "MIG-a2", "GPU-9"]
    assert chosen("cuda:MIG-a2,1", SLICES) == ["MIG-a2", "GPU-9"]


@pytest.mark.parametrize(
    ("text", "gpus", "visible", "said"),
    [
        ("cuda", [], None, "no GPU was found"),
        ("cuda:3", GPUS, None, "there is no GPU 3; there are 0 (GPU-11aa), 1 (GPU-12bb)"),
        ("cuda:GPU-4", GPUS, None, "there is no GPU GPU-4"),
        ("cuda:GPU-1", GPUS, None, "GPU GPU-1 may be any of 0 (GPU-11aa), 1 (GPU-12bb)"),
        ("cuda:0", SLICES, None, "GPU 0 may be any of 0 (MIG-a1), 0 (MIG-a2)"),
        ("cuda:0,GPU-11", GPUS, None, "names a GPU twice"),
        ("cuda", GPUS, "", "CUDA_VISIBLE_DEVICES= hides every GPU"),
        ("cuda", GPUS, "-1", "CUDA_VISIBLE_DEVICES=-1 hides every GPU"),
        ("cuda:0", GPUS, "1,2", "CUDA_VISIBLE_DEVICES=1,2 hides GPU 0"),
        ("cuda:GPU-11aa", GPUS, "GPU-33", "CUDA_VISIBLE_DEVICES=GPU-33 hides GPU GPU-11aa"),
    ],
)
def test_a_gpu_that_cannot_be_had(
    text: str, gpus: list[Gpu], visible: str | None, said: str
) -> None:
    with pytest.raises(NoGpuError) as caught:
        chosen(text, gpus, visible)
    assert said in str(caught.value)
    assert isinstance(caught.value, HiddenGpuError) == ("hides" in said)


@pytest.mark.parametrize(
    ("visible", "left"),
    [
        (None, ["GPU-11aa", "GPU-12bb", "GPU-33cc"]),
        ("2,0", ["GPU-33cc", "GPU-11aa"]),
        (" 1 , GPU-33 ", ["GPU-12bb", "GPU-33cc"]),
        ("0,-1,1", ["GPU-11aa"]),  # what follows an invalid entry is invisible
        ("0,7,1", ["GPU-11aa"]),
        ("0,0", ["GPU-11aa"]),
        ("GPU-1", []),  # ambiguous
        ("GPU-", []),
        ("NoDevFiles", []),
        (5_000 * "9", []),
        ("", []),
    ],
)
def test_what_the_callers_environment_leaves(visible: str | None, left: list[str]) -> None:
    assert [gpu.uuid for gpu in seen_by_cuda(GPUS, visible)] == left


def test_a_uuid_finds_a_gpu_among_those_left() -> None:
    assert chosen("cuda:GPU-1", visible="1,2") == ["GPU-12bb"]
    assert chosen("cuda:1", visible="1,2") == ["GPU-12bb"]  # the index is the machine's
    assert chosen("cuda", visible="2,1") == ["GPU-33cc", "GPU-12bb"]


# -- where a run computes --------------------------------------------------------


class Machine:
    """What is there: GPUs, libraries, an environment."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.gpus: list[Gpu] | NoGpuError = list(GPUS)
        self.libraries = {Stack.CUPY, Stack.TORCH}
        self.asked = 0
        patch.setattr(choice, "find_gpus", self.find)
        patch.setattr(places, "installed", lambda stack: stack in {*self.libraries, Stack.NUMBA})
        patch.setattr(places, "cpu_only_torch", lambda: False)
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def find(self) -> list[Gpu]:
        self.asked += 1
        if isinstance(self.gpus, NoGpuError):
            raise self.gpus
        return self.gpus


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Machine:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("ALLSTOP_GPU_FILES", str(tmp_path))
    (tmp_path / "nvidiactl").touch()
    return Machine(monkeypatch)


def a_plan(device: str, **changes: Any) -> Plan:
    facts: dict[str, Any] = {
        "run_id": "r", "strategy": "sma_cross", "source": Source.BUILT_IN,
        "grid": Grid.of({"fast": [1], "slow": [2]}), "combos_total": 1, "data": "example",
        "n_bars": 525_600, "workers": 16, "device": device,
    }  # fmt: skip
    return Plan(**facts | changes)


BIG = 200_000
SMALL = BIG - 1


def test_the_cpu_asks_for_no_gpu(machine: Machine) -> None:
    plan = place(a_plan("cpu", workers_asked=3), BIG, 3).plan
    assert (plan.stack, plan.devices, plan.workers) == (Stack.NUMBA, (), 3)
    plan = place(a_plan("torch:cpu"), BIG, 16).plan
    assert (plan.stack, plan.devices, plan.workers) == (Stack.TORCH, (), 16)
    assert machine.asked == 0


@pytest.mark.parametrize(("text", "stack"), [("cuda", Stack.CUPY), ("torch:cuda", Stack.TORCH),
                                             ("torch", Stack.TORCH)])  # fmt: skip
def test_one_worker_for_each_gpu(machine: Machine, text: str, stack: Stack) -> None:
    plan = place(a_plan(text), 1, 16).plan
    assert (plan.stack, plan.devices) == (stack, ("GPU-11aa", "GPU-12bb", "GPU-33cc"))
    assert (plan.workers, plan.spare_devices, plan.fallback_workers) == (3, (), 0)


def test_a_number_of_workers_takes_gpus_in_turn(machine: Machine) -> None:
    plan = place(a_plan("cuda", workers_asked=4), 1, 4).plan
    assert plan.devices == ("GPU-11aa", "GPU-12bb", "GPU-33cc", "GPU-11aa")
    assert plan.spare_devices == ()
    plan = place(a_plan("cuda", workers_asked=1), 1, 1).plan
    assert (plan.devices, plan.spare_devices) == (("GPU-11aa",), ("GPU-12bb", "GPU-33cc"))


def test_a_function_gets_gpus_where_they_are_asked_for(machine: Machine) -> None:
    machine.libraries.clear()  # it brings its own
    plan = place(a_plan("cuda:1", source=Source.IMPORT), 1, 16).plan
    assert (plan.devices, plan.workers) == (("GPU-12bb",), 1)
    for text in ("auto", "cpu"):
        plan = place(a_plan(text, source=Source.CALLABLE), 10**9, 16).plan
        assert (plan.devices, plan.workers) == ((), 16)


@pytest.mark.parametrize(
    ("text", "instead"),
    [("torch", "cuda"), ("torch:cpu", "cpu"), ("torch:cuda:0,1", "cuda:0,1"),
     ("torch:cuda", "cuda")],
)  # fmt: skip
def test_torch_is_not_for_functions(text: str, instead: str) -> None:
    with pytest.raises(ConfigError, match=f"give --device {instead}, and") as caught:
        refuse_for_function(parse_device(text), Source.IMPORT)
    assert caught.value.key == "device"
    refuse_for_function(parse_device(text), Source.BUILT_IN)


@pytest.mark.parametrize(
    ("text", "cpu"), [("cuda", "cpu"), ("cuda:0", "cpu"), ("torch:cuda", "torch:cpu")]
)
def test_a_gpu_that_was_asked_for_must_be_there(machine: Machine, text: str, cpu: str) -> None:
    machine.gpus = NoGpuError("libnvidia-ml.so.1 was not found")
    with pytest.raises(ConfigError) as caught:
        place(a_plan(text), BIG, 16)
    assert str(caught.value) == (
        f"device {text}: libnvidia-ml.so.1 was not found; give --device {cpu} to compute on the CPU"
    )
    assert caught.value.key == "device"


@pytest.mark.parametrize(
    ("text", "name", "extra"),
    [("cuda", "CuPy", "cuda13"), ("torch:cpu", "PyTorch", "torch"), ("torch", "PyTorch", "torch")],
)
def test_a_library_that_is_needed_must_be_there(
    machine: Machine, text: str, name: str, extra: str
) -> None:
    machine.libraries.clear()
    with pytest.raises(ConfigError, match=f"device {text} needs {name}.*pip install.*{extra}"):
        place(a_plan(text), BIG, 16)


def test_torch_is_content_with_the_cpu(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.gpus = NoGpuError("there is none")
    placed = place(a_plan("torch"), BIG, 16)
    assert (placed.plan.stack, placed.plan.devices) == (Stack.TORCH, ())
    assert placed.notes == ()
    machine.gpus = list(GPUS)
    monkeypatch.setattr(places, "cpu_only_torch", lambda: True)
    assert place(a_plan("torch"), BIG, 16).plan.devices == ()
    with pytest.raises(ConfigError, match="a build for the CPU only"):
        place(a_plan("torch:cuda"), BIG, 16)


# -- auto --------------------------------------------------------------------------


def test_auto_takes_gpus_from_a_threshold_on_where_none_was_measured(machine: Machine) -> None:
    assert BIG * 525_600 == LEAST_WORK
    small = place(a_plan("auto"), SMALL, 16).plan
    assert (small.stack, small.devices, small.workers) == (Stack.NUMBA, (), 16)
    assert "an estimate: no GPU has been measured on this machine" in small.device_why
    assert machine.asked == 0, "for a small sweep no driver is woken"
    big = place(a_plan("auto"), BIG, 16).plan
    assert (big.stack, len(big.devices), big.workers) == (Stack.CUPY, 3, 3)
    assert (big.fallback_workers, big.slots) == (16, 16)
    assert place(a_plan("auto", n_bars=525_600 // 2), BIG, 16).plan.stack is Stack.NUMBA


def test_auto_goes_by_what_was_measured(machine: Machine) -> None:
    speed.remember_gpu_start(2.0)
    speed.remember_cpu_rate("sma_cross", 525_600.0 * 1000)
    # 3 s on 16 cores: 1.5 × 2 s
    assert place(a_plan("auto"), 48_000, 16).plan.stack is Stack.NUMBA
    found = place(a_plan("auto"), 48_100, 16).plan
    assert found.stack is Stack.CUPY
    assert "3.01 s on 16 cores" in found.device_why
    assert "3 s on" in found.device_why
    assert place(a_plan("auto", workers_asked=1), 3_100, 1).plan.stack is Stack.CUPY
    other = a_plan("auto", strategy="rsi_reversion")
    assert place(other, 48_100, 16).plan.stack is Stack.NUMBA, "each strategy has its own rate"


def test_auto_never_fails_because_of_a_gpu(machine: Machine) -> None:
    machine.gpus = NoGpuError("no driver")
    placed = place(a_plan("auto"), BIG, 16)
    assert (placed.plan.stack, placed.plan.workers) == (Stack.NUMBA, 16)
    (note,) = placed.notes
    assert note == "computed on the CPU although this machine has a GPU: no driver"


@pytest.mark.parametrize(
    "error", [AttributeError("old"), OSError("io"), TypeError("none"), ValueError("bytes")]
)
def test_an_answer_of_nvml_that_is_none_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    def fail() -> Nvml:
        raise error

    monkeypatch.setattr(Nvml, "open", fail)
    with pytest.raises(NoGpuError, match="NVML cannot be understood"):
        choice.find_gpus()


def test_nvml_that_does_not_answer_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(choice, "PATIENCE_S", 0.01)
    monkeypatch.setattr(Nvml, "open", released.wait)
    with pytest.raises(NoGpuError, match="has not answered within"):
        choice.find_gpus()
    released.set()


def test_auto_says_nothing_where_there_is_no_gpu(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    machine.gpus = NoGpuError("no driver")
    (tmp_path / "nvidiactl").unlink()
    assert place(a_plan("auto"), BIG, 16).notes == ()
    machine.gpus = list(GPUS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    placed = place(a_plan("auto"), BIG, 16)
    assert (placed.plan.stack, placed.notes) == (Stack.NUMBA, ())
    assert "hides every GPU" in placed.plan.device_why


def test_auto_says_when_only_cupy_is_missing(machine: Machine) -> None:
    machine.libraries.clear()
    placed = place(a_plan("auto"), BIG, 16)
    assert placed.plan.stack is Stack.NUMBA
    (note,) = placed.notes
    assert "CuPy is not installed" in note
    assert "3 GPUs (A10, H100)" in note
    assert "pip install" in note
