"""The command line as a subprocess, in a place of its own."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supervisor.rows.frames import iter_frames
from supervisor.rows.journal import journal_paths
from supervisor.system import process
from supervisor.system.process import Identity
from tests.support.processes import COOKIE, is_helper, kill, outside, present, with_cookie
from tests.support.verdict import check_verdict
from tests.support.waiting import DEADLINE_S, wait_for
from workers.registry import PRELOAD_VARIABLE

ROOT = Path(__file__).resolve().parents[2]

PRELUDE = """\
import os, signal, sys, time
from pathlib import Path
HERE = Path(__file__).parent

def mark(name):
    (HERE / f"{name}-{os.getpid()}").touch()

def marked(name):
    return sorted(HERE.glob(f"{name}-*"))

def first(name):
    '''True once, in whatever process.'''
    try:
        (HERE / f"{name}.once").open("x").close()
    except FileExistsError:
        return False
    return True

def row(params):
    return {"sharpe": float(params["a"]), "twice": 2.0 * params["a"]}
"""

POLITE = """
def f(bars, params, stop):
    '''Finishes the first DONE combinations, then stays until it is told to stop.'''
    if params["a"] < DONE:
        return row(params)
    mark("ready")
    stop.wait()
    return None
"""

DEAF = """
from numba import njit

@njit
def spin(n):
    x = 1
    while x != 0:
        x = (x * 1103515245 + n) | 1
    return x

spin.compile("int64(int64)")

def f(bars, params, stop):
    '''Finishes the first DONE combinations, then hears nothing.'''
    if params["a"] < DONE:
        return row(params)
    mark("ready")
    spin(7)
"""


def bars_csv(n: int = 20) -> str:
    lines = ["time,open,high,low,close,volume"]
    lines += [f"2024-01-{1 + i // 24:02d} {i % 24:02d}:00:00,1.1,1.2,1.0,1.15,10" for i in range(n)]
    return "\n".join(lines) + "\n"


PATIENT_S = 30.0
"""Grace for those who end when asked: however late they come to run on a busy machine, it is
not a SIGTERM that ends them, and with it the rows they were about to write."""


class Place:
    """A directory with state and runtime directories of its own.

    Every process started here inherits a token, by which it is found whatever
    it does to hide.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.token = secrets.token_hex(8)
        self.started: list[Started] = []
        self.inside: list[Any] = []
        self.work = root / "work"
        self.data = root / "bars.csv"
        self.data.write_text(bars_csv())
        for name in ("work", "state", "runtime"):
            (root / name).mkdir()
        self.env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("XDG_", "ALLSTOP_", "COLUMNS", "LINES"))
        } | {
            "XDG_STATE_HOME": str(root / "state"),
            "XDG_RUNTIME_DIR": str(root / "runtime"),
            "XDG_CACHE_HOME": str(root / "cache"),
            "PYTHONPATH": os.pathsep.join(
                [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
            "NUMBA_CACHE_DIR": str(root / "numba"),
            COOKIE: self.token,
            PRELOAD_VARIABLE: "0",
        }

    def strategy(self, body: str, **constants: object) -> str:
        """Write a strategy file; return it as the command line wants it."""
        if "numba" in body:
            self.env.pop(PRELOAD_VARIABLE, None)
        values = "".join(f"{name} = {value!r}\n" for name, value in constants.items())
        (self.root / "strategy.py").write_text(PRELUDE + values + textwrap.dedent(body))
        return f"{self.root / 'strategy.py'}:f"

    def argv(self, *arguments: str) -> list[str]:
        """Command line of ``allstop``."""
        return [sys.executable, "-P", "-m", "supervisor", *map(str, arguments)]

    def run_argv(
        self,
        body: str,
        *options: str,
        n: int = 1000,
        workers: int = 2,
        json: bool = True,
        **constants: object,
    ) -> list[str]:
        """Command line of ``allstop run`` over ``a`` = 0 … n - 1 with a strategy of the test's."""
        return self.argv(
            "run", "--data", str(self.data), "--strategy", self.strategy(body, **constants),
            "--grid", f"a=0:{n - 1}", "--workers", str(workers), "--run-dir",
            str(self.root / "run"), "--grace", str(PATIENT_S), *(["--json"] if json else []),
            *options,
        )  # fmt: skip

    def start(self, argv: list[str], **options: Any) -> Started:
        """Start a command and hand it back at once."""
        out, err = self.root / "stdout", self.root / "stderr"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            popen = subprocess.Popen(
                argv, cwd=self.work, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
                env=self.env, **options,
            )  # fmt: skip
        self.started.append(Started(self, popen))
        return self.started[-1]

    def sweep(self, body: str, *options: str, **kw: Any) -> Started:
        """Start ``allstop run`` with a strategy of the test's; see :meth:`run_argv`."""
        return self.start(self.run_argv(body, *options, **kw))

    def command(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run ``allstop`` to its end; the return code is the one that a shell sees."""
        done = subprocess.run(
            self.argv(*arguments), cwd=self.work, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, env=self.env, timeout=2 * DEADLINE_S, **options,
        )  # fmt: skip
        done.returncode = as_shells_see(done.returncode)
        return done

    def alive(self) -> list[Identity]:
        """Living processes that were started here, directly or not."""
        return with_cookie(self.token)

    def working(self) -> list[Identity]:
        """Those of them that do more than write for others."""
        return [one for one in self.alive() if not is_helper(one.pid)]

    def end_inside(self) -> None:
        """End the runs of this process that a failed test has left running."""
        while self.inside:
            run = self.inside.pop()
            if run.running:
                run.kill()

    def wait_sent_for(self) -> None:
        """Wait for the end of the processes that runs have started to clean up after them."""
        wait_for(
            lambda: not [one for one in self.alive() if _was_sent_for(one.pid)],
            "the end of the clean-up",
        )

    def clear(self) -> list[str]:
        """Kill what is left; return what it was."""
        self.end_inside()
        left = present(found := self.alive())
        kill(found)
        for started in self.started:
            started.popen.wait()
        return left


@dataclass
class Started:
    """A command that was started, and what became of it."""

    place: Place
    popen: subprocess.Popen[bytes]
    seen: set[Identity] = field(default_factory=set)

    @property
    def run_dir(self) -> Path:
        return self.place.root / "run"

    @property
    def out(self) -> str:
        return (self.place.root / "stdout").read_text(errors="replace")  # half a letter, perhaps

    @property
    def err(self) -> str:
        return (self.place.root / "stderr").read_text(errors="replace")

    def tell(self) -> str:
        """Everything that helps to understand a failure."""
        texts = [self.tell_end()]
        for log in sorted((self.run_dir / "logs").glob("*.log")):
            if log.stat().st_size:
                texts += [f"{log.name}:", log.read_text(errors="replace")[-2000:]]
        with contextlib.suppress(OSError):
            texts += ["events:", (self.run_dir / "events.jsonl").read_text()[-3000:]]
        return "\n".join(texts)

    def tell_end(self) -> str:
        """How it ended, and what it said."""
        return f"exit code {self.popen.poll()}\nstderr:\n{self.err}\nstdout:\n{self.out}"

    def wait_for(self, condition: Any, what: str, **kw: Any) -> Any:
        """Wait for a condition; not longer than the command lives."""

        def look() -> Any:
            over = self.over  # asked first: what it did last, it did before it ended
            found = condition()
            if not found and over:
                raise AssertionError(f"the command ended before {what}\n{self.tell()}")
            return found

        return wait_for(look, what, tell=self.tell, **kw)

    def wait_marks(self, name: str, n: int) -> list[int]:
        """Wait until ``n`` processes have left a mark; return the pids we know them by."""
        marks = self.wait_for(
            lambda: (m := sorted(self.place.root.glob(f"{name}-*"))) and len(m) >= n and m,
            f"{n} marks {name!r}",
        )
        self.look()
        return outside(self.warden, (int(mark.name.rpartition("-")[2]) for mark in marks))

    def wait_report(self) -> dict[str, Any]:
        """Wait for the report of a run whose front may be gone."""
        path = self.run_dir / "report.json"
        wait_for(path.exists, "report.json", tell=self.tell)
        return json.loads(path.read_text())

    def look(self) -> set[Identity]:
        """Note which processes live now, so that it can be seen later that they are gone."""
        self.seen.update(self.place.alive())
        return self.seen

    @property
    def warden(self) -> int:
        """Pid of the warden, as the front says."""

        def said() -> int | None:
            facts = [json.loads(line) for line in self.events.splitlines()]
            pids = [fact["warden"] for fact in facts if fact["event"] == "front.run_requested"]
            return pids[-1] if pids else None

        return self.wait_for(said, "a warden")

    @property
    def front(self) -> int:
        """Pid of the front."""
        return self.popen.pid

    @property
    def over(self) -> bool:
        """Whether the command has ended."""
        return self.popen.poll() is not None

    @property
    def events(self) -> str:
        """Facts so far, as they lie on disk; one that is half-written is left out."""
        try:
            text = (self.run_dir / "events.jsonl").read_text()
        except FileNotFoundError:
            return ""
        return text[: text.rfind("\n") + 1]

    def stop(self) -> int:
        """Stop it; return its exit code."""
        self.signal(signal.SIGTERM)
        return self.end()

    def look_below(self) -> None:
        """Note every descendant too, those without our token included."""
        self.look()
        below = process.descendants(self.front)
        self.seen.update(i for i in map(Identity.of, below) if i is not None)

    def signal(self, number: int) -> None:
        """Signal the front."""
        self.look()
        self.popen.send_signal(number)

    def end(self, timeout_s: float = DEADLINE_S) -> int:
        """Wait for the command's end; return its exit code, as a shell sees it."""
        try:
            return as_shells_see(self.popen.wait(timeout_s))
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end within {timeout_s:g} s\n{self.tell()}") from None

    def kill_front(self) -> None:
        """Take the front away without a chance to react."""
        self.look()
        self.popen.send_signal(signal.SIGKILL)
        self.popen.wait()

    @property
    def report(self) -> dict[str, Any]:
        """The report as it lies on disk."""
        assert (self.run_dir / "report.json").exists(), self.tell()
        return json.loads((self.run_dir / "report.json").read_text())

    def assert_gone(self) -> None:
        """No process that was ever seen exists, not as a zombie either; nor any other."""
        wait_for(
            lambda: not present(self.seen) and not self.place.alive(),
            "every process gone",
            tell=lambda: "\n".join(
                [*present(self.seen), *present(self.place.alive()), self.tell()]
            ),
        )
        self.assert_one_verdict()

    def assert_one_verdict(self) -> None:
        """Another process that finished the run would judge it as its report does."""
        if (self.run_dir / "report.json").is_file():
            assert check_verdict(self.run_dir) == [], self.tell()

    def kept(self) -> Counter[int]:
        """Combinations in the journals, and how often each is there."""
        return kept_in(self.run_dir)

    def results(self) -> list[dict[str, Any]]:
        """Rows of ``results.parquet``."""
        return rows_of(self.run_dir)

    def assert_nothing_lost(self, at_least: int = 0) -> None:
        """Every combination in the journals is in the results, exactly once and right."""
        rows = self.results()
        assert sorted(row["a"] for row in rows) == sorted(self.kept()), self.tell()
        assert len(rows) >= at_least, self.tell()
        for row in rows:
            if row.get("error") is None:
                assert row["sharpe"] == row["a"]
                assert row["twice"] == 2 * row["a"]
        assert self.report["combos_done"] == len(rows)


def as_shells_see(code: int) -> int:
    """Return an exit code as ``$?`` has it: a process that died of signal N has 128 + N."""
    return 128 - code if code < 0 else code


def code_of(child: Any) -> int:
    """Exit code of a process on a terminal of pexpect's that has ended, as a shell sees it."""
    died = child.exitstatus is None
    return as_shells_see(-child.signalstatus if died else child.exitstatus)


def kept_in(run_dir: Path) -> Counter[int]:
    found: Counter[int] = Counter()
    for path in journal_paths(run_dir / "journal"):
        for frame in iter_frames(path):
            found.update(range(frame.start, frame.stop))
    return found


def rows_of(run_dir: Path) -> list[dict[str, Any]]:
    from supervisor.rows.results import read

    return read(run_dir / "results.parquet").to_pylist()


def _was_sent_for(pid: int) -> bool:
    try:
        return b"supervisor.lifecycle.reap" in Path(f"/proc/{pid}/cmdline").read_bytes().split(
            b"\0"
        )
    except OSError:
        return False
