"""The device's port: one contract for both that implement it; structs, cubins, errors."""

from __future__ import annotations

import functools
import importlib.util
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from supervisor.errors import AllstopError, DeviceLostError
from supervisor.system.cuda import CudaError
from tests.support.gpu.emulated_device import EmulatedDevice
from workers.cupy_backtest import cubin, faults, layout
from workers.cupy_backtest.cuda_device import (
    CONTEXT_BYTES,
    CudaEvent,
    CupyDevice,
    _import_cupy,
    pool_limit,
)
from workers.cupy_backtest.device import Device, Event, Grid, OutOfDeviceMemoryError
from workers.cupy_backtest.layout import BREAKOUTS, KERNELS, LADDER, SOURCES, STOP, STRUCTS, struct

HAS_CUPY = importlib.util.find_spec("cupy") is not None


# -- the contract ----------------------------------------------------------------


class DeviceContract:
    """What every device does."""

    @pytest.fixture
    def device(self) -> Iterator[Device]:
        raise NotImplementedError

    @pytest.fixture
    def scarce(self) -> Iterator[Device]:
        """A device with 64 MiB for arrays."""
        raise NotImplementedError

    def test_what_is_uploaded_comes_back(self, device: Device) -> None:
        stream, values = device.stream(), np.arange(1_000.0)
        there = device.upload(values)
        assert there.n_bytes == 8_000
        assert there.address % 256 == 0
        here = device.staging(80)
        device.copy_back(there, 7_920, here, stream)
        finish(device.event(stream))
        assert here.view(np.float64).tolist() == values[-10:].tolist()

    def test_copies_are_done_in_order(self, device: Device) -> None:
        stream, there = device.stream(), device.empty(64)
        first, second, back = device.staging(64), device.staging(32), device.staging(64)
        first[:], second[:] = 1, 2
        device.copy_in(first, there, stream)
        device.copy_in(second, there, stream)
        device.copy_back(there, 0, back, stream)
        finish(device.event(stream))
        assert back.tolist() == [2] * 32 + [1] * 32

    def test_nothing_is_copied_of_nothing(self, device: Device) -> None:
        assert device.upload(np.empty(0)).n_bytes == 0

    def test_a_kernel_takes_structs_by_value(self, device: Device) -> None:
        stream = device.stream()
        prices = np.array([3.0, 1.0, 2.0, 5.0, 4.0])
        ladder = device.upload(np.concatenate([prices, np.zeros(5)]))
        arguments = self.stop(device), struct(LADDER, ladder=ladder, n_bars=5, level=1)
        device.load(["raise_ladder"])
        device.launch("raise_ladder", Grid(1, 32), arguments, stream)
        for argument in arguments:  # the launch has taken them
            argument[...] = np.zeros((), argument.dtype)
        assert self.read(device, stream, ladder, 40, 5).tolist() == [3.0, 2.0, 5.0, 5.0, 4.0]

    def test_every_kernel_is_there(self, device: Device) -> None:
        """Launched on nothing at all where that is possible: with a stop already requested."""
        device.load(list(KERNELS))
        stream = device.stream()
        flag = device.upload(np.ones(1, np.int64))
        numbers = device.upload(np.ones(8, np.int32))  # what a first combination asks for
        for kernel, kinds in KERNELS.items():
            unfinished = device.upload(np.zeros(1, np.int32))
            seen = device.upload(np.zeros(1, np.int32))
            arguments = [struct(STOP, flag=flag, seen=seen, unfinished=unfinished)] * len(kinds)
            for at, kind in enumerate(kinds):
                if kind is not STOP:
                    arguments[at] = np.zeros((), kind)
                    pointers = (
                        "fast",
                        "slow",
                        "enter_at",
                        "leave_at",
                        "windows",
                        "above",
                        "bounds",
                    )
                    of_bands = ("shifts", "widths", "numerators", "denominators")
                    for name in (*pointers, *of_bands):
                        if name in (kind.names or ()):
                            arguments[at][name] = numbers.address
                    for name in ("n", "n_bars", "n_rows", "n_windows", "n_tiles"):
                        if name in (kind.names or ()):
                            arguments[at][name] = 1
            shared = 17_000 if kernel == "sweep_crosses" else 0
            device.launch(kernel, Grid(1, 32, shared), arguments, stream)
            word = self.read(device, stream, unfinished, 0, 1, np.int32)
            assert word.tolist() == [1], kernel

    def test_a_stream_waits_for_anothers_event(self, device: Device) -> None:
        first, second = device.stream(), device.stream()
        size = 1 << 20
        source, back = device.staging(size), device.staging(size)
        for value in range(1, 9):
            there = device.empty(size)
            source[:] = value
            device.copy_in(source, there, first)
            device.after(device.event(first), second)
            device.copy_back(there, 0, back, second)
            finish(device.event(second))
            assert (back == value).all()

    def test_memory_runs_out_and_comes_back(self, scarce: Device) -> None:
        free = scarce.free_bytes()
        assert 0 < free <= 64 << 20
        held = [scarce.empty(24 << 20), scarce.empty(24 << 20)]
        assert scarce.free_bytes() < free
        with pytest.raises(OutOfDeviceMemoryError):
            scarce.empty(24 << 20)
        held.clear()
        scarce.release()
        assert scarce.free_bytes() == free
        scarce.empty(48 << 20)

    def test_events_are_asked_without_waiting(self, device: Device) -> None:
        event = device.event(device.stream())
        finish(event)
        assert event.done()

    def test_facts(self, device: Device) -> None:
        assert device.n_multiprocessors >= 1
        assert device.shared_bytes >= 48 << 10

    @staticmethod
    def stop(device: Device) -> layout.Struct:
        words = {name: device.upload(np.zeros(1, np.int64)) for name in STOP.names or ()}
        held.extend(words.values())
        return struct(STOP, **words)

    @staticmethod
    def read(
        device: Device, stream: Any, source: Any, start: int, n: int, dtype: Any = np.float64
    ) -> NDArray[Any]:
        back = device.staging(n * np.dtype(dtype).itemsize)
        device.copy_back(source, start, back, stream)
        finish(device.event(stream))
        return back.view(dtype)


held: list[Any] = []
"""What the kernels of a test read."""


@pytest.fixture(autouse=True)
def _nothing_held() -> Iterator[None]:
    yield
    held.clear()


def finish(event: Event) -> None:
    pause = threading.Event()
    for _ in range(100_000):
        if event.done():
            return
        pause.wait(0.0001)
    pytest.fail("the device does not finish")


class TestEmulatedDevice(DeviceContract):
    @pytest.fixture
    def device(self, kernel_library: Any) -> Iterator[Device]:
        device = EmulatedDevice(kernel_library)
        yield device
        device.close()

    @pytest.fixture
    def scarce(self, kernel_library: Any) -> Iterator[Device]:
        device = EmulatedDevice(kernel_library, 64 << 20)
        yield device
        device.close()


@pytest.mark.gpu
class TestCupyDevice(DeviceContract):
    @pytest.fixture
    def device(self) -> Iterator[Device]:
        yield open_or_skip(None)

    @pytest.fixture
    def scarce(self) -> Iterator[Device]:
        yield open_or_skip(256 << 20)  # less than a context takes: a quarter is for arrays


def open_or_skip(limit: int | None) -> CupyDevice:
    try:
        return CupyDevice(limit)
    except DeviceLostError as error:
        pytest.skip(str(error))


def test_without_a_gpu_that_is_said_in_plain_words() -> None:
    try:
        CupyDevice()
    except DeviceLostError as error:
        assert "\n" not in str(error)
        assert ("CuPy cannot be imported" in str(error)) is not HAS_CUPY
    else:
        pytest.skip("there is a GPU")


def test_a_limit_leaves_room_for_the_context() -> None:
    assert pool_limit(8 << 30) == (8 << 30) - CONTEXT_BYTES
    assert pool_limit(512 << 20) == 128 << 20


# -- structs -----------------------------------------------------------------------


def test_structs_are_those_of_the_compiler(tmp_path: Path) -> None:
    """Sizes and offsets, as a C++ compiler lays out ``layout.cuh``."""
    lines = []
    for name, dtype in STRUCTS.items():
        lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
        for field in dtype.names or ():
            offset = f"offsetof({name}, {field}), sizeof((({name}*)0)->{field})"
            lines.append(f'printf("{name}.{field} %zu %zu\\n", {offset});')
    text = '#include "layout.cuh"\n#include <cstddef>\n#include <cstdio>\nint main() {\n'
    source = tmp_path / "offsets.cpp"
    source.write_text(text + "\n".join(lines) + "}\n")
    program = tmp_path / "offsets"
    compiler = shutil.which("g++") or pytest.skip("g++ is not installed")
    command = [compiler, "-std=c++17", f"-I{cubin.SOURCE}", "-o", str(program), str(source)]
    subprocess.run(command, check=True)
    said = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout
    expected = []
    for name, dtype in STRUCTS.items():
        expected.append(f"{name} {dtype.itemsize}")
        for field in dtype.names or ():
            kind, offset = dtype.fields[field][:2]  # type: ignore[index]
            expected.append(f"{name}.{field} {offset} {kind.itemsize}")
    assert said.splitlines() == expected


def test_every_kernel_has_its_source() -> None:
    named = [kernel for kernels in SOURCES.values() for kernel in kernels]
    assert sorted(named) == sorted(KERNELS)
    for source, kernels in SOURCES.items():
        text = (cubin.SOURCE / f"{source}.cu").read_text()
        found = re.findall(r"^(?:ROOMY_)?KERNEL (?:void )?(\w+)\(", text, re.MULTILINE)
        assert sorted(found) == sorted(kernels)


def test_a_struct_takes_addresses_and_numbers() -> None:
    made = struct(BREAKOUTS, close=SimpleNamespace(address=1 << 40), n_rows=3)  # type: ignore[arg-type]
    assert made.shape == ()
    assert int(made["close"]) == 1 << 40
    assert int(made["n_rows"]) == 3
    assert int(made["words"]) == 0
    with pytest.raises(ValueError, match="no field"):
        struct(BREAKOUTS, rows=1)


# -- errors ---------------------------------------------------------------------------------


class FakeCudaError(RuntimeError):
    def __init__(self, status: int) -> None:
        super().__init__(f"cudaError {status}")
        self.status = status


def code_of(error: BaseException) -> int | None:
    return getattr(error, "status", None)


Guard = Callable[[str], AbstractContextManager[None]]
GUARD: Guard = functools.partial(faults.told_apart, is_cuda=code_of)


@pytest.mark.parametrize("code", [35, 46, 100, 101, 214, 700, 702, 716, 719, 999])
def test_a_broken_device_is_lost(code: int) -> None:
    with pytest.raises(DeviceLostError) as caught, GUARD("launch sweep_signals"):
        raise FakeCudaError(code)
    assert f"[launch sweep_signals: cudaError {code}]" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.gone is (code not in (700, 702, 716, 719)), "a new process may use it"


def test_out_of_memory_is_not_lost() -> None:
    with pytest.raises(OutOfDeviceMemoryError, match="allocate 5 bytes"), GUARD("allocate 5 bytes"):
        raise FakeCudaError(faults.OUT_OF_MEMORY)


@pytest.mark.parametrize("error", [FakeCudaError(1), ValueError("ours"), AllstopError("x")])
def test_our_own_faults_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, GUARD("launch"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(("code", "done"), [(0, True), (600, False)])
def test_an_event_that_is_asked(code: int, done: bool) -> None:
    assert CudaEvent(SimpleNamespace(ptr=1), lambda ptr: code, GUARD).done() is done


def test_an_event_on_a_broken_context_is_not_waited_for() -> None:
    """CuPy's own ``Event.done`` says False then, for ever."""
    with pytest.raises(DeviceLostError, match="memory that is not its own"):
        CudaEvent(SimpleNamespace(ptr=1), lambda ptr: 700, GUARD).done()


def test_codes_of_the_driver_are_among_them() -> None:
    assert all(CudaError("x", code, "X").unusable <= (code in faults.LOST) for code in range(1_000))


# -- CuPy ----------------------------------------------------------------------------------------


def test_cupy_has_what_is_used() -> None:
    """Names only: without a driver none of them can be called."""
    try:
        cupy = _import_cupy()
    except DeviceLostError as error:
        pytest.skip(str(error))
    for owner, names in (
        (cupy, "RawModule"),
        (cupy.cuda, "Device Event MemoryPool PinnedMemory PinnedMemoryPointer Stream"),
        (cupy.cuda.memory, "OutOfMemoryError"),
        (cupy.cuda.driver, "CUDADriverError"),
        (cupy.cuda.runtime, "CUDARuntimeError deviceGetAttribute eventQuery memcpy memcpyAsync"),
        (cupy.cuda.runtime, "memGetInfo setDevice"),
        (cupy.cuda.nvrtc, "NVRTCError compileProgram createProgram destroyProgram"),
        (cupy.cuda.nvrtc, "getCUBIN getProgramLog getVersion"),
        (cupy.cuda.MemoryPool, "free_all_blocks free_bytes get_limit malloc set_limit used_bytes"),
        (cupy.cuda.Stream, "wait_event"),
        (cupy.cuda.Event, "record"),
        (cupy.RawModule, "get_function"),
        (cupy.RawKernel, "max_dynamic_shared_size_bytes"),
    ):
        for name in names.split():
            assert hasattr(owner, name), f"{owner}: {name}"
