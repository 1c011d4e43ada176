"""Which processes NVML shows to whom: a worker, one in a PID namespace, a fork that stays.

What NVML answers is recorded as it is: for the fake library of the tests, too.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from pathlib import Path
from typing import Any

from bench.gpu.activities import hold
from bench.gpu.children import LOOPS, READY_NS, Child, Shared, answer_of
from bench.gpu.step import Bench
from bench.gpu.watch import NvmlDevice, watch_release
from bench.harness.errors import NotMeasuredError
from bench.harness.processes import fork
from supervisor.containment import pid_namespace
from supervisor.system import process

_READY_S = 20.0
_ASK_S = 10.0
_OUTER = LOOPS


def measure(bench: Bench) -> None:
    """Take three situations; each in processes that are ended before the next."""
    record = bench.record
    shared = Shared()
    idle = answer_of(answers, _ASK_S)
    record.fact("idle", idle)
    baseline = idle["used_bytes"]
    for situation in (plain_worker, worker_in_a_namespace, fork_that_stays):
        shared.signs.clear()
        shared.flag.clear()
        try:
            record.fact(situation.__name__, situation(shared, baseline))
        except (NotMeasuredError, OSError) as error:
            record.fact(situation.__name__, {"not measured": str(error)})


def answers() -> dict[str, Any]:
    """Return what NVML says of the first device, and to whom it says it."""
    import pynvml as nvml

    device = NvmlDevice.first()
    handle = nvml.nvmlDeviceGetHandleByUUID(device.uuid)
    said: dict[str, Any] = {"asked_by": os.getpid(), "used_bytes": device.used_bytes()}
    for name, version in (("memory_v1", None), ("memory_v2", nvml.nvmlMemory_v2)):
        try:
            memory = nvml.nvmlDeviceGetMemoryInfo(handle, *([version] if version else []))
        except nvml.NVMLError as error:
            said[name] = str(error)
        else:
            fields = ("total", "reserved", "used", "free")
            said[name] = {field: getattr(memory, field, None) for field in fields}
    try:
        listed = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except nvml.NVMLError as error:
        said["processes"] = str(error)
    else:
        said["processes"] = [[one.pid, one.usedGpuMemory] for one in listed]
    return said


def plain_worker(shared: Shared, baseline: int) -> dict[str, Any]:
    """A worker in the front's own PID namespace."""
    child = Child(fork(lambda: _hold(shared)), 0, shared.signs)
    try:
        child.wait_ready(time.monotonic() + _READY_S)
        return {"worker": child.pid, "seen": answer_of(answers, _ASK_S)}
    finally:
        _end(child)


def worker_in_a_namespace(shared: Shared, baseline: int) -> dict[str, Any]:
    """A worker of a warden in a PID namespace of its own, seen from outside and inside."""
    asked, asks = os.pipe()
    answered, tells = os.pipe()
    started = fork(lambda: _be_warden(shared, asked, tells, (asks, answered)))
    os.close(asked)
    os.close(tells)
    # it has made the namespace's first process, a child of ours, and ended
    if os.waitpid(started, 0)[1]:
        raise NotMeasuredError("no PID namespace here; the step's output says why")
    deadline = time.monotonic() + _READY_S
    outer = shared.signs.get(0, _OUTER)
    warden = Child(outer, 0, shared.signs)
    try:
        warden.wait_ready(deadline)
    except NotMeasuredError:
        _end(warden)
        raise
    seen: dict[str, Any] = {"warden": outer, "worker": process.descendants(outer)}
    seen["from_outside"] = answer_of(answers, _ASK_S)
    os.close(asks)
    # not until the end of the file: the worker has inherited the pipe
    ready, _, _ = select.select([answered], [], [], _READY_S)
    seen["from_inside"] = os.read(answered, 2**16).decode() if ready else "no answer"
    os.close(answered)
    begun = time.monotonic()
    shared.flag.set()
    gone = warden.gone(_ASK_S)
    seen["stopped_by_the_flag_s"] = round(time.monotonic() - begun, 4) if gone else None
    _end(warden)
    return seen


def _be_warden(shared: Shared, asked: int, tells: int, theirs: tuple[int, int]) -> None:
    """Enter a PID namespace, fork a worker there, and say what NVML shows inside."""
    containment = pid_namespace.enter(
        lambda containment: shared.signs.put(0, _OUTER, containment.outside(os.getpid()))
    )
    for fd in theirs:
        os.close(fd)
    process.die_with_parent(0)  # the parent has no pid here
    worker = fork(lambda: _hold(shared))
    # end of file: it is this side's turn; or the worker has ended, and with it all of this
    while not select.select([asked], [], [], 0.05)[0]:
        if os.waitpid(worker, os.WNOHANG)[0]:
            os._exit(1)
    try:
        said = repr(answer_of(answers, _ASK_S) | {"worker": worker})
    except NotMeasuredError as error:
        said = str(error)
    os.write(tells, said.encode())
    os.close(tells)
    os.waitpid(worker, 0)
    del containment


def fork_that_stays(shared: Shared, baseline: int) -> dict[str, Any]:
    """A worker that has forked without exec: its child keeps the memory when it is killed."""
    child = Child(fork(lambda: _hold(shared, forking=True)), 0, shared.signs)
    left: Child | None = None
    try:
        child.wait_ready(time.monotonic() + _READY_S)
        left = Child(shared.signs.get(1, READY_NS), 1, shared.signs)
        child.send(signal.SIGKILL)
        child.gone(_ASK_S)
        os.waitpid(child.pid, 0)
        seen: dict[str, Any] = {"killed": child.pid, "fork": left.pid}
        seen["after"] = answer_of(answers, _ASK_S)
        seen["holders"] = holders()
        device = NvmlDevice.first()
        begun = time.monotonic()
        left.send(signal.SIGKILL)
        seen["after_the_fork_was_killed"] = watch_release(device, [left], baseline, begun).to_json()
        return seen
    finally:
        for one in (child, left):
            if one is not None:
                _end(one)


def holders() -> list[int]:
    """Return the processes that have a file of the driver open."""
    found = []
    for directory in Path("/proc").glob("[0-9]*/fd"):
        try:
            links = [str(link.readlink()) for link in directory.iterdir()]
        except OSError:
            continue
        if any(link.startswith("/dev/nvidia") for link in links):
            found.append(int(directory.parent.name))
    return found


def _hold(shared: Shared, *, forking: bool = False) -> None:
    if forking:
        shared.after_ready = lambda: _fork_and_stay(shared)
    hold(shared, 0, hold_gb=1, pinned_gb=0, kernel="polling", leave="exit")


def _fork_and_stay(shared: Shared) -> None:
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    shared.signs.put(1, READY_NS, pid)


def _end(child: Child) -> None:
    if not child.gone():
        child.send(signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(child.pid, 0)
    os.close(child.pidfd)
