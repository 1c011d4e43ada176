"""What the driver and the device are, and what asking NVML costs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.gpu import presence
from bench.gpu.children import answer_of
from bench.gpu.step import Bench
from bench.gpu.watch import SLACK_BYTES, NvmlDevice
from bench.harness.errors import NotMeasuredError
from bench.harness.record import Row, Target, compare
from supervisor.system import cuda

_NOISE_S = 2.0
_OPENINGS = 3
_TOOLS = ("nvcc", "ncu", "compute-sanitizer", "cuobjdump", "nvidia-smi")


def measure(bench: Bench) -> None:
    """Describe the machine; time NVML and the first call of CUDA."""
    record, sizes = bench.record, bench.sizes
    record.fact("machine", presence.describe())
    record.fact("kernel_log", kernel_log_of(Path("/proc/version")))
    record.fact("tools", {name: _version(name) for name in _TOOLS})
    with suppress(NotMeasuredError):
        record.fact("attributes", answer_of(attributes, 10))
    record.row(_first_calls("cuInit and a context, NVML closed"))
    device = NvmlDevice.first()
    record.row(_first_calls("cuInit and a context, NVML open"))
    record.row(per_call("NVML: a device's used bytes", device.used_bytes, sizes.nvml_calls))
    record.row(per_call("NVML: its process list", device.pids, sizes.nvml_lists))
    record.row(_idle_noise(device))
    record.fact("process_list_when_idle", device.bytes_of())
    record.fact("used_bytes_when_idle", device.used_bytes())


def kernel_log_of(version: Path) -> str:
    """Return the kernel's own description, and whether it is gVisor's."""
    text = version.read_text().strip()
    with suppress(OSError, subprocess.SubprocessError):
        log = subprocess.run(["dmesg"], capture_output=True, text=True, timeout=5, check=False)
        if "gVisor" in log.stdout:
            text += " (gVisor)"
    return text


def attributes() -> dict[str, Any]:
    """Return the device's attributes that matter to a stop flag."""
    driver = cuda.find()
    if driver is None:
        raise NotMeasuredError("libcuda.so.1 cannot be loaded")
    driver.initialise()
    driver.context()
    found: dict[str, Any] = {
        attribute.name.lower(): driver.attribute(0, attribute) for attribute in cuda.Attribute
    }
    return found | {"uuid": driver.uuid(0)}


def per_call(name: str, call: Callable[[], object], calls: int) -> Row:
    """Time a call that is repeated."""
    took_us = []
    for _ in range(calls):
        begun = time.perf_counter()
        call()
        took_us.append(1e6 * (time.perf_counter() - begun))
    return compare(name, "µs", took_us)


def _first_calls(name: str) -> Row:
    """Time the first use of the device in a new process, without the process's own start."""
    code = (
        "import time\nfrom supervisor.system import cuda\ndriver = cuda.find()\n"
        "begun = time.perf_counter()\ndriver.initialise()\ndriver.context()\n"
        "print(1000 * (time.perf_counter() - begun))"
    )
    took_ms = []
    for _ in range(_OPENINGS):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it failed"])[-1]
            return Row(name, "ms", not_measured=last)
        took_ms.append(float(done.stdout))
    return compare(name, "ms", took_ms)


def _idle_noise(device: NvmlDevice) -> Row:
    """Return how far the used bytes of an idle device range."""
    seen = []
    until = time.monotonic() + _NOISE_S
    while time.monotonic() < until:
        seen.append(device.used_bytes())
    range_mb = (max(seen) - min(seen)) / 2**20
    return compare(
        f"used bytes of an idle device: range within {_NOISE_S:g} s",
        "MiB",
        [range_mb],
        target=Target(SLACK_BYTES / 2**20),
        note=f"{len(seen):,} readings",
    )


def _version(tool: str) -> str:
    try:
        done = subprocess.run(
            [tool, "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"not there: {error}"
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {done.returncode}"
