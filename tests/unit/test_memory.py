from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from supervisor.system import memory

pytestmark = pytest.mark.usefixtures("no_leaks")

MB = 2**20


@contextmanager
def holding(code: str) -> Iterator[int]:
    """Run a process that holds memory; yield its pid."""
    with subprocess.Popen(
        [sys.executable, "-c", f"{code}\nprint('ready', flush=True)\ninput()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stdout.readline() == "ready\n"
        yield child.pid
        child.communicate("\n")


def test_what_a_process_holds_is_counted() -> None:
    with holding("pass") as small, holding(f"x = b'x' * {64 * MB}") as large:
        difference = memory.pss_bytes(large) - memory.pss_bytes(small)
        assert 60 * MB < difference < 72 * MB


def test_what_is_shared_is_counted_once() -> None:
    code = (
        f"import mmap, os; m = mmap.mmap(-1, {64 * MB}); m.write(b'x' * {64 * MB})\n"
        "ready, until = os.pipe(), os.pipe()\n"
        "for _ in range(3):\n"
        "    if os.fork() == 0:\n"
        "        os.close(until[1])\n"
        "        sum(m[i] for i in range(0, len(m), 4096))\n"
        "        os.write(ready[1], b'.')\n"
        "        os.read(until[0], 1)\n"
        "        os._exit(0)\n"
        "for _ in range(3): os.read(ready[0], 1)"
    )
    with holding(code) as root:
        held = memory.tree_bytes(root)
        assert 64 * MB < held < 150 * MB


def test_pages_of_files_do_not_count(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_bytes(b"x" * 64 * MB)
    code = (
        f"import mmap; f = open({str(file)!r}, 'rb'); m = mmap.mmap(f.fileno(), 0, prot=1)\n"
        "sum(m[i] for i in range(0, len(m), 4096))"
    )
    with holding("pass") as small, holding(code) as large:
        assert memory.pss_bytes(large) - memory.pss_bytes(small) < 8 * MB


def test_untouched_memory_is_not_held() -> None:
    with holding(f"import mmap; m = mmap.mmap(-1, {512 * MB})") as pid:
        assert memory.pss_bytes(pid) < 100 * MB


def test_a_process_that_is_gone_holds_no_memory() -> None:
    with subprocess.Popen(["true"]) as child:
        child.wait()
    assert memory.pss_bytes(child.pid) == 0
    assert memory.tree_bytes(child.pid) == 0
    assert memory.sum_bytes([child.pid, child.pid]) == 0


def test_a_sampler_looks_seldom_while_nothing_moves_and_often_when_it_does() -> None:
    def pause() -> float:
        sampler.sample()
        return sampler.interval_s

    grow = f"x = []\nwhile input() == 'more': x.append(b'x' * {64 * MB}); print()"
    with subprocess.Popen(
        [sys.executable, "-c", grow],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
    ) as child:  # fmt: skip
        child.stdin.write("more\n")
        child.stdout.readline()
        sampler = memory.Sampler(child.pid)
        assert pause() == 0.1  # the first time everything is new
        pauses = [pause() for _ in range(6)]
        assert pauses == sorted(pauses)
        assert pauses[-1] == 0.5
        held = sampler.last
        child.stdin.write("more\n")
        child.stdout.readline()
        assert pause() == 0.1
        assert sampler.peak == sampler.last > held + 60 * MB
        child.communicate("end\n")


def test_this_process_holds_something() -> None:
    assert memory.pss_bytes(os.getpid()) > MB
