"""Whether VRAM is back, and who holds the rest: a table of readings, no device asked."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor.lifecycle.gpu.release import (
    NEWCOMER_BYTES,
    SLACK_BYTES,
    Before,
    Now,
    Whose,
    compare,
    who_holds,
)
from supervisor.system.gpu_files import Holder
from supervisor.system.gpus import Gpu, ProcessList, Source
from supervisor.system.process import Identity

MB = 2**20
GPU = Gpu("GPU-1", 0, "H100", 80_000 * MB, minor=0)
OURS, FOREIGN, NAMELESS = Whose.OURS, Whose.FOREIGN, Whose.NAMELESS
UNKNOWN = "not told"

# used before, others before; used now, pid -> (bytes, whose) now; back, excess, foreign growth
CASES: dict[str, tuple[Any, ...]] = {
    "idle before and after":         (500, {}, 500, {}, True, 0, 0),
    "within the slack":              (500, {}, 532, {}, True, 32, 0),
    "beyond the slack":              (500, {}, 533, {}, False, 33, 0),
    "less than before":              (500, {}, 400, {}, True, -100, 0),
    "ours is listed still":          (500, {}, 500, {7: (0.5, OURS)}, False, 0, 0),
    "ours holds all":                (500, {}, 9500, {7: (9000, OURS)}, False, 9000, 0),
    "a stranger has grown":          (900, {5: 400}, 2900, {5: (2400, FOREIGN)}, True, 0, 2000),
    "a stranger grew, and we leak":  (900, {5: 400}, 3900, {5: (2400, FOREIGN)}, False, 1000, 2000),
    "a stranger hides a leak":       (5000, {5: 4500}, 1000, {}, False, 500, -4500),
    "a stranger has gone":           (5000, {5: 4500}, 400, {}, True, -100, -4500),
    "a newcomer and its context":    (500, {}, 1560, {5: (1000, FOREIGN)}, True, 60, 1000),
    "more than a newcomer explains": (500, {}, 1600, {5: (1000, FOREIGN)}, False, 100, 1000),
    "bytes not told, within":        (500, {}, 520, {5: (None, FOREIGN)}, True, 20, None),
    "bytes not told, beyond":        (500, {}, 2500, {5: (None, FOREIGN)}, False, 2000, None),
    "not known before":              (500, None, 2500, {5: (2000, FOREIGN)}, False, 2000, None),
    "a pid that is no process here": (500, {}, 2500, {9: (2000, NAMELESS)}, False, 2000, None),
}  # fmt: skip


def before(used: float, others: dict[int, int] | None) -> Before:
    known = None if others is None else {pid: held * MB for pid, held in others.items()}
    return Before(GPU, int(used * MB), known, UNKNOWN if others is None else "")


def now(used: float, listed: dict[int, tuple[float | None, Whose]]) -> Now:
    held = {pid: None if b is None else int(b * MB) for pid, (b, _) in listed.items()}
    told = None not in held.values()
    source = Source.PROCESS if told else Source.DEVICE
    processes = ProcessList(held, source, "" if told else UNKNOWN)
    return Now(int(used * MB), processes, {pid: whose for pid, (_, whose) in listed.items()})


@pytest.mark.parametrize("name", CASES)
def test_compare(name: str) -> None:
    used, others, used_now, listed, back, excess, foreign = CASES[name]
    found = compare(before(used, others), now(used_now, listed))
    grown = None if foreign is None else foreign * MB
    assert (found.back, found.excess_bytes, found.foreign_bytes) == (back, excess * MB, grown)
    assert found.source is (Source.DEVICE if foreign is None else Source.PROCESS)
    assert bool(found.why) == (foreign is None)


def test_the_estimates_are_those_the_table_was_written_for() -> None:
    assert (SLACK_BYTES, NEWCOMER_BYTES) == (32 * MB, 64 * MB)


def holder(pid: int, run_id: str = "", *, minors: frozenset[int] = frozenset({0}), **more: Any):
    facts = {"cuda": True, "orphan": False} | more
    return Holder(Identity(pid, 1), "python", minors, run_id=run_id, **facts)


def held(*states: tuple[Holder, str], **more: Any):
    found = compare(before(500, {}), now(2500, {}))
    return who_holds(before(500, {}), found, "run-1", states, waited_s=10.0, **more)


def test_a_holder_with_the_runs_cookie_is_a_survivor() -> None:
    said = held((holder(7, "run-1"), "D"), (holder(8), "S"))
    assert said.survivors == ["pid 7 (python), state D, holds VRAM of GPU 0"]
    assert said.note == (
        "GPU 0 (H100, GPU-1): 2,000 MB more in use than before the run after 10.0 s; device files "
        "are open in pid 7 (python), of this run; pid 8 (python), not known to be of this run"
    )


@pytest.mark.parametrize(
    ("run_id", "orphan", "said"),
    [
        ("", False, "not known to be of this run"),
        ("", True, "not known to be of this run, its parent has probably died"),
        ("run-2", False, "of run run-2"),
    ],
)
def test_a_holder_without_it_is_only_named(run_id: str, orphan: bool, said: str) -> None:
    found = held((holder(7, run_id, orphan=orphan), "S"))
    assert found.survivors == []
    assert f"pid 7 (python), {said}" in found.note


@pytest.mark.parametrize(
    "one",
    [
        (holder(7, "run-1"), ""),
        (holder(7, "run-1", cuda=False), "S"),
        (holder(7, "run-1", minors=frozenset({3})), "S"),
    ],
    ids=["gone meanwhile", "a monitor", "another device"],
)
def test_what_cannot_hold_it_is_not_accused(one: tuple[Holder, str]) -> None:
    found = held(one)
    assert found.survivors == []
    assert "no holder was found" in found.note


def test_what_could_not_be_seen_is_said() -> None:
    note = held(hidden=3, namespace_only=True).note
    assert "3 processes of other users could not be looked into" in note
    assert "processes outside this container cannot be seen" in note
    found = compare(before(500, None), now(2500, {}))
    said = who_holds(before(500, None), found, "run-1", (), waited_s=1.0)
    assert f"whether others took it is not known: {UNKNOWN}" in said.note
