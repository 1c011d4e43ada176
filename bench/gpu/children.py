"""Processes of a step: one that answers and ends, and one that forks workers on demand.

A step itself never opens the device: what a fork inherits of a device is unusable. And it
opens NVML only after :class:`Nursery` was forked: NVML's descriptors would be inherited too.
"""

from __future__ import annotations

import importlib
import json
import mmap
import os
import select
import signal
import struct
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

from bench.harness.errors import NotMeasuredError
from bench.harness.processes import fork
from supervisor.ipc.stopflag import StopFlag
from supervisor.system import process

_WORDS = 8
SLOTS = 8
"""Workers that can be shown at a time."""

READY_NS, BACK_NS, LOOPS = range(3)
"""A worker is inside its activity since; its kernel came back at; how often it has gone round."""


def answer_of(function: Callable[[], Any], timeout_s: float) -> Any:
    """Return what a function returns in a forked process of its own, as JSON carries it.

    Raises
    ------
    NotMeasuredError
        With what it raised, or how it ended; or if it took longer.
    """
    ours, theirs = os.pipe()

    def tell() -> None:
        try:
            answer = {"value": function()}
        except BaseException as error:  # noqa: BLE001 - reported to the parent
            answer = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        with os.fdopen(theirs, "w") as pipe:
            json.dump(answer, pipe, default=str)

    pid = fork(tell)
    os.close(theirs)
    pidfd = os.pidfd_open(pid)
    try:
        text = _read_all(ours, time.monotonic() + timeout_s)
    finally:
        os.close(ours)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if text is None:
        raise NotMeasuredError(f"no answer within {timeout_s:g} s")
    if not text:
        raise NotMeasuredError(process.describe_exit(code))
    answer = json.loads(text)
    if "error" in answer:
        raise NotMeasuredError(answer["error"])
    return answer["value"]


def _read_all(fd: int, deadline: float) -> bytes | None:
    """Read until the end; None: it has not come in time."""
    parts: list[bytes] = []
    while True:
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        part = os.read(fd, 2**16)
        if not part:
            return b"".join(parts)
        parts.append(part)


class Signs:
    """Words in anonymous shared memory by which workers show where they are.

    Inherited by every process forked from here; a line of eight int64 words for each slot.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, SLOTS * _WORDS * 8)

    def put(self, slot: int, word: int, value: int) -> None:
        """Set a word."""
        struct.pack_into("q", self._memory, 8 * (slot * _WORDS + word), value)

    def get(self, slot: int, word: int) -> int:
        """Return a word."""
        value: int = struct.unpack_from("q", self._memory, 8 * (slot * _WORDS + word))[0]
        return value

    def clear(self) -> None:
        """Set all words to zero."""
        self._memory[:] = bytes(len(self._memory))


class Shared:
    """What a worker shares with the process that ends it.

    Attributes
    ----------
    flag : StopFlag
        The stop flag.
    signs : Signs
        Words.
    after_ready : callable or None
        What the worker does between holding its memory and saying so.
    """

    def __init__(self) -> None:
        self.flag = StopFlag()
        self.signs = Signs()
        self.after_ready: Callable[[], None] | None = None


class Child:
    """A worker, by pid and pidfd; the pidfd is opened before it can have been reaped."""

    def __init__(self, pid: int, slot: int, signs: Signs) -> None:
        self.pid = pid
        self.slot = slot
        self._signs = signs
        self.pidfd = os.pidfd_open(pid)

    def sign(self, word: int) -> int:
        """Return one of its words."""
        return self._signs.get(self.slot, word)

    def send(self, number: int) -> None:
        """Signal it."""
        signal.pidfd_send_signal(self.pidfd, number)

    def gone(self, timeout_s: float = 0.0) -> bool:
        """Whether it has ended, waiting for at most this long."""
        return bool(select.select([self.pidfd], [], [], max(0.0, timeout_s))[0])

    def wait_ready(self, deadline: float) -> None:
        """Wait until it is inside its activity.

        Raises
        ------
        NotMeasuredError
            If it ends before, or is not in time.
        """
        while not self.sign(READY_NS):
            if self.gone(0.0005):
                raise NotMeasuredError(f"worker {self.pid} ended before it was ready")
            if time.monotonic() >= deadline:
                raise NotMeasuredError(f"worker {self.pid} was not ready in time")


class Nursery(Shared):
    """A process that has imported the libraries and forks workers from there, as a warden does.

    Parameters
    ----------
    imports : sequence of str
        What it imports. It must not open the device by that: then it ends, and
        ``NotMeasuredError`` says so.

    Attributes
    ----------
    flag : StopFlag
        Shared with all workers.
    signs : Signs
        Their words.
    """

    _ours: ClassVar[set[int]] = set()
    """This process's ends of the pipes to nurseries. Another one must not hold them: each would
    live until the other has ended."""

    def __init__(self, imports: Sequence[str]) -> None:
        super().__init__()
        to_nursery, self._requests = os.pipe()
        self._answers, from_nursery = os.pipe()
        self._ours.update((self._requests, self._answers))
        self._pid = fork(lambda: self._serve(imports, to_nursery, from_nursery))
        os.close(to_nursery)
        os.close(from_nursery)
        self._buffer = b""
        if problem := self._receive().get("error"):
            self.close()
            raise NotMeasuredError(problem)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, and with it every worker."""
        for fd in (self._requests, self._answers):
            self._ours.remove(fd)
            os.close(fd)
        os.waitpid(self._pid, 0)
        self.flag.close()

    def start(self, body: str, slot: int = 0, **arguments: Any) -> Child:
        """Fork a worker.

        Parameters
        ----------
        body : str
            ``module:function`` of :mod:`bench.gpu`; called with this nursery, the slot and
            the arguments.
        slot : int
            Its line of words.
        **arguments
            What JSON carries.
        """
        for word in range(_WORDS):
            self.signs.put(slot, word, 0)
        self._send({"body": body, "slot": slot, "arguments": arguments})
        answer = self._receive()
        if "error" in answer:
            raise NotMeasuredError(answer["error"])
        return Child(answer["pid"], slot, self.signs)

    def reap(self, child: Child) -> int:
        """Wait for the end of a worker; return its exit code, negative for a signal."""
        self._send({"reap": child.pid})
        os.close(child.pidfd)
        return int(self._receive()["code"])

    # -- the two ends of the pipes ---------------------------------------------

    def _send(self, request: Mapping[str, Any]) -> None:
        os.write(self._requests, json.dumps(request).encode() + b"\n")

    def _receive(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            part = os.read(self._answers, 4096)
            if not part:
                raise NotMeasuredError("the process that forks workers has ended")
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _serve(self, imports: Sequence[str], requests: int, answers: int) -> None:
        while self._ours:
            os.close(self._ours.pop())
        with os.fdopen(requests) as asked, os.fdopen(answers, "w", buffering=1) as said:
            said.write(json.dumps(self._prepare(imports)) + "\n")
            for line in asked:
                said.write(json.dumps(self._do(json.loads(line))) + "\n")

    def _prepare(self, imports: Sequence[str]) -> dict[str, Any]:
        from supervisor.system import cuda

        try:
            for name in imports:
                importlib.import_module(name)
        except ImportError as error:
            return {"error": str(error)}
        return {"error": f"importing {imports} opens the device"} if cuda.opened() else {}

    def _do(self, request: dict[str, Any]) -> dict[str, Any]:
        if "reap" in request:
            status = os.waitpid(request["reap"], 0)[1]
            return {"code": os.waitstatus_to_exitcode(status)}
        module, _, name = request["body"].partition(":")
        try:
            body = getattr(importlib.import_module(f"bench.gpu.{module}"), name)
        except (ImportError, AttributeError) as error:
            return {"error": str(error)}
        return {"pid": fork(lambda: body(self, request["slot"], **request["arguments"]))}
