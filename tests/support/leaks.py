"""What a test must not leave behind: processes, descriptors, names in /dev/shm."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.processes import children_of_this, present
from tests.support.waiting import wait_for

_SHM = Path("/dev/shm")


def open_descriptors() -> dict[int, str]:
    """Descriptors of this process and what they lead to."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the listing's own
            found[int(entry.name)] = str(entry.readlink())
    return found


def shared_memory_names() -> set[str]:
    """Names in ``/dev/shm``."""
    try:
        return {entry.name for entry in _SHM.iterdir()}
    except FileNotFoundError:
        return set()


def unused(names: set[str]) -> set[str]:
    """Those names that no living process has mapped: none will remove them any more."""
    wanted = {name: f"{_SHM}/{name}" for name in names}
    for maps_of in Path("/proc").glob("[0-9]*/maps"):
        if wanted:
            with contextlib.suppress(OSError):
                maps = maps_of.read_text(errors="replace")
                wanted = {name: path for name, path in wanted.items() if path not in maps}
    return set(wanted)


@contextmanager
def only_new_garbage() -> Iterator[None]:
    """Let the collector look only at objects that the body makes.

    A full collection of a process that has loaded Numba and pandas takes 0.3 s, which is
    more than most tests take.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


FAILED = pytest.StashKey[bool]()
"""Set for a test that has failed: its traceback keeps alive what it held."""


@contextmanager
def nothing_left_behind(failed: Callable[[], bool] = bool) -> Iterator[None]:
    """Fail if the body leaves processes, descriptors or shared memory behind.

    ``failed`` tells whether it has failed anyway: then there is nothing to add.
    """
    descriptors = open_descriptors()
    children = children_of_this()
    names = shared_memory_names()
    with only_new_garbage():
        yield
        if failed():
            return
        gc.collect()
    _wait_until_none(lambda: present(children_of_this() - children), "children left behind")
    _wait_until_none(
        lambda: [
            f"{fd} → {target}"
            for fd, target in open_descriptors().items()
            if descriptors.get(fd) != target
        ],
        "descriptors left open",
    )
    _wait_until_none(
        lambda: sorted(unused(shared_memory_names() - names)), "names left in /dev/shm"
    )


def _wait_until_none(found, what: str) -> None:
    wait_for(lambda: not found(), f"no {what}", tell=lambda: "\n".join(found()))
