"""What is read back: each target damages one kind of file, and reads it as the program does.

A reader may refuse with one of our errors, which name the file; it may leave out what is
damaged. What it does give has to be what was written.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from slurm.records import outstanding
from slurm.records.book import Book
from supervisor.cli.text import containment_lines, memory_lines, stop_lines
from supervisor.lifecycle import inputs
from supervisor.lifecycle.gpu import speed
from supervisor.lifecycle.status import status_of
from supervisor.market import cache
from supervisor.market.bars import Bars
from supervisor.records import facts, registry
from supervisor.records.command import plan_of
from supervisor.records.events import latest, read_events
from supervisor.records.ledger import read_ledger
from supervisor.records.report import read_report, unseen
from supervisor.records.rundir import journal_dirs
from supervisor.records.story import Story
from supervisor.report_page import history
from supervisor.rows import results
from supervisor.rows.frames import FrameKind
from supervisor.rows.index import Index
from tests.fuzz import damage
from tests.fuzz.sample import Sample
from workers.checkpoint import CheckpointFile
from workers.code_cache import CodeCache
from workers.indicators.disk import DiskCache

Damage = Callable[[random.Random, bytes], bytes]
RUN = "work/runs/sample"


class WrongError(AssertionError):
    """Something was believed that was never written."""


@dataclass
class Target:
    """One kind of file.

    Attributes
    ----------
    name : str
        For people.
    files : str
        Pattern of the paths below the sample's root.
    read : callable
        Reads it back, and returns what it found: the truth, when called first.
    differs : callable
        Whether what was found is not part of the truth, where damage was done by a disk.
    damages : tuple of callable
        What is done to it. What is not of :func:`tests.fuzz.damage.of_bytes` may be a forgery,
        with a checksum or none: then values may differ.
    """

    name: str
    files: str
    read: Callable[[Sample], Any]
    differs: Callable[[Any, Any], bool] = lambda found, truth: found not in (None, truth)
    damages: tuple[Damage, ...] = (damage.of_bytes,)
    truth: Any = field(default=None)


def journal_rows(sample: Sample) -> dict[tuple[Any, ...], Any]:
    """Every row that the journals hold, by its parameters; as ``results.parquet`` has them."""
    plan = plan_of(sample.run_dir)
    index = Index.of(journal_dirs(sample.run_dir), plan.space)
    rows: dict[tuple[Any, ...], Any] = {}
    for at in index.useful():
        frame = index.frame(int(at))
        indices = plan.space.accepted(frame.start, frame.stop)
        values = frame.rows() if frame.kind is FrameKind.ROWS else [frame.error()] * len(indices)
        for which, value in zip(indices.tolist(), values, strict=True):
            key = tuple(plan.grid.params(which).items())
            rows[key] = value if isinstance(value, str) else (*frame.columns, *value.tolist())
    return rows


def results_rows(sample: Sample) -> dict[tuple[Any, ...], Any]:
    """Every row of ``results.parquet``."""
    table = results.read(sample.run_dir / "results.parquet")
    results.best(sample.run_dir / "results.parquet", "sharpe", 3)
    return {(row["a"], row["b"]): tuple(row.items()) for row in table.to_pylist()}


def plan(sample: Sample) -> Any:
    status_of(sample.run_dir)
    return plan_of(sample.run_dir).to_json()


def report(sample: Sample) -> Any:
    found = read_report(sample.run_dir)
    stop_lines(found), memory_lines(found.memory), unseen(found.jobs)
    status_of(sample.run_dir)
    return found.to_json()


def events(sample: Sample) -> list[str]:
    story = Story.of(sample.run_dir)
    history.read(sample.run_dir)
    containment_lines(sample.run_dir)
    latest(sample.run_dir, "front.run_requested", "warden.run_ended")
    assert story.last_at >= 0
    # what is acted upon: a key more changes nothing
    found = [(fact.name, fact.at, facts.known(fact)) for fact in read_events(sample.run_dir)]
    return [repr(fact) for fact in found if fact[2] is not None]


def ledger(sample: Sample) -> list[str]:
    records = read_ledger(sample.run_dir / "ledger")
    book = Book.of(records)
    assert not (book.outstanding and not book.token and book.alive) or records
    return [repr(record) for record in records]


def debts(sample: Sample) -> list[str]:
    found = [repr(jobs) for jobs in outstanding.all_outstanding()]
    named = [line for _, line in outstanding.unreadable()]
    assert all("\n" not in line and "jobs/" in line for line in named), named
    if len(found) + len(named) != 2:
        raise WrongError(f"{len(found)} records and {len(named)} complaints of 2 files")
    return found


def entries(sample: Sample) -> list[str]:
    found = [repr(entry) for entry in registry.entries()]
    if len(found) + len(registry.unreadable()) != 2:
        raise WrongError("an entry is neither read nor named")
    return found


def bars_kept(sample: Sample) -> str:
    with (sample.run_dir / "bars.bin").open("rb") as file:
        return Bars.from_file(file.fileno()).digest()


def resumed_bars(sample: Sample) -> str:
    bars = inputs.bars_again(sample.run_dir, plan_of(sample.run_dir), lambda _line: None)
    return bars.digest()


def bars_cached(sample: Sample) -> str:
    return cache.load(sample.root / "bars.csv").digest()


def function_kept(sample: Sample) -> bytes | None:
    return inputs.function_again(sample.run_dir, plan_of(sample.run_dir), changed_code=False)


def machine_code(sample: Sample) -> bytes | None:
    return CodeCache(sample.root / "package", ".o").read("sweep", "source", "machine")


def cubin(sample: Sample) -> bytes | None:
    return CodeCache(sample.root / "package", ".cubin").read("crosses", "source", "sm_90")


def indicator(sample: Sample) -> list[float] | None:
    row = np.zeros(64)
    found = DiskCache(sample.root / "indicators", "digest").load("sma-5", row)
    return row.tolist() if found else None


def checkpoint(sample: Sample) -> Any:
    return CheckpointFile(sample.run_dir / "checkpoints", 7).load()


def device_speed(_: Sample) -> tuple[Any, ...]:
    found = speed.recall()
    found.cpu_s("sma_cross", 1e9, 4)
    return (found.gpu_start_s, tuple(found.cpu_bars_per_s.items()))


def prepare(sample: Sample) -> None:
    """Add what a sweep of a Python function has not made."""
    (sample.root / "package" / "__pycache__").mkdir(parents=True)
    for suffix, name, machine in ((".o", "sweep", "machine"), (".cubin", "crosses", "sm_90")):
        CodeCache(sample.root / "package", suffix).write(name, "source", machine, b"\x90" * 3000)
    DiskCache(sample.root / "indicators", "digest").store("sma-5", np.arange(64.0))
    (sample.run_dir / "checkpoints").mkdir(exist_ok=True)
    CheckpointFile(sample.run_dir / "checkpoints", 7).save({"bar": 123, "cash": [1.5] * 50})
    long_ago = time.time() - 60  # a file that was just written is not kept
    os.utime(sample.root / "bars.csv", (long_ago, long_ago))
    cache.keep(cache.load(sample.root / "bars.csv"))
    speed.remember_gpu_start(1.25)
    speed.remember_cpu_rate("sma_cross", 4e9)


def _other_rows(found: dict[Any, Any], truth: dict[Any, Any]) -> bool:
    return any(truth.get(key) != row for key, row in found.items())


def _others(found: list[str], truth: list[str]) -> bool:
    return not set(found) <= set(truth)


def _other_speed(found: tuple[Any, ...], truth: tuple[Any, ...]) -> bool:
    return found not in (truth, (None, ()))


DISK_AND_JSON = (damage.of_bytes, damage.of_json)
DISK_AND_LINES = (damage.of_bytes, damage.of_lines)
TARGETS = (
    Target("journal", f"{RUN}/journal/*.bin", journal_rows, _other_rows),
    Target("results", f"{RUN}/results.parquet", results_rows, _other_rows),
    Target("run.json", f"{RUN}/run.json", plan, damages=DISK_AND_JSON),
    Target("rows by run.json", f"{RUN}/run.json", journal_rows, _other_rows, DISK_AND_JSON),
    Target("report.json", f"{RUN}/report.json", report, damages=DISK_AND_JSON),
    Target("events", f"{RUN}/events.jsonl", events, _others, DISK_AND_LINES),
    Target("ledger", f"{RUN}/ledger", ledger, _others, DISK_AND_LINES),
    Target("debts", "state/allstop/jobs/*.json", debts, _others, DISK_AND_JSON),
    Target("registry", "state/allstop/runs/*.json", entries, _others, DISK_AND_JSON),
    Target("bars", f"{RUN}/bars.bin", bars_kept),
    Target("bars of a resume", f"{RUN}/bars.bin", resumed_bars),
    Target("cached bars", "cache/allstop/bars/*.bars", bars_cached),
    Target("inputs.json", f"{RUN}/inputs.json", resumed_bars, damages=DISK_AND_JSON),
    Target("function", f"{RUN}/function.dill", function_kept),
    Target("machine code", "package/__pycache__/*.o", machine_code),
    Target("cubin", "package/__pycache__/*.cubin", cubin),
    Target("indicators", "indicators/*.row", indicator),
    Target("checkpoint", f"{RUN}/checkpoints/7.ckpt", checkpoint),
    Target("device speed", "cache/allstop/device-speed-*.json", device_speed, _other_speed,
           DISK_AND_JSON),
)  # fmt: skip
