"""One round: its attempts, what is done to them, and what must hold after each."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supervisor.containment import cgroup
from supervisor.rows.frames import read_journal
from supervisor.rows.journal import JournalWriter, journal_path, journal_paths, next_serial
from supervisor.system import process
from supervisor.system.process import Identity
from tests.chaos.marks import Found, Marks
from tests.chaos.scenario import Attempt, Blow, Damage, Deed, Phase, Scenario, Target
from tests.chaos.workload import ARMED, Behaviour, Hold, source
from tests.support.cli import Place, kept_in, rows_of
from tests.support.leaks import shared_memory_names, unused
from tests.support.processes import COOKIE, present

VERIFY_S = 5.0
MARGIN_S = 15.0
"""Granted beyond the rungs before an end counts as a hang: the machine may be busy."""

_START_S = 6.0  # for a run to begin, before a blow falls all the same
_PHASE_S = 0.4  # from then on, for a phase that may never come
_REAPED_S = 20.0  # for what the kernel, or init, does by itself as soon as it comes to it
_LOOK_S = 0.002
_SCAN_S = 0.02
_BUILT_IN_BARS = 100_000  # so many that blows find built-in kernels at work
_IDLE_S = 0.06  # nobody has been at work for that long: nobody will be
_WORKER = re.compile(r"allstop-w\d")
_ENDINGS = {0, 1, *(128 + n for n in (1, 2, 15)), *(-n for n in (1, 2, 9, 15))}


class ViolationError(AssertionError):
    """A promise that was not kept."""


def pause(seconds: float) -> None:
    """Let a random instant pass; nothing is waited for."""
    select.select([], [], [], seconds)


def until(condition: Callable[[], object], seconds: float, every_s: float = _LOOK_S) -> bool:
    """Wait for a condition, but no longer than that."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        pause(every_s)
    return True


@dataclass
class Outcome:
    """What became of a round.

    Attributes
    ----------
    end_s : float
        Longest time from an attempt's last blow until nothing was left of it.
    deeds : list of str
        What was done to whom, and reached somebody.
    documented : int
        Processes with an environment of their own that outlived a subreaper killed with
        SIGKILL, which that containment cannot prevent.
    """

    scenario: Scenario
    violation: str = ""
    story: str = ""
    round_s: float = 0.0
    end_s: float = 0.0
    deeds: list[str] = field(default_factory=list)
    reaped: int = 0
    doubled: int = 0
    retried: int = 0
    documented: int = 0


class Expected:
    """Results of runs that were left alone, each computed once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._known: dict[tuple[bool, bool, int, int], tuple[bytes, int]] = {}

    def of(self, scenario: Scenario) -> tuple[bytes, int]:
        """Bytes of ``results.parquet``, and how many combinations fail."""
        with self._lock:
            if scenario.key not in self._known:
                self._known[scenario.key] = self._compute(scenario)
            return self._known[scenario.key]

    def _compute(self, scenario: Scenario) -> tuple[bytes, int]:
        root = self._root / f"expected-{len(self._known)}"
        root.mkdir()
        place = furnished(root, scenario, steady=True)
        marks = Marks(place)
        try:
            said = place.command(*order(place, scenario, containment="auto"))
            if said.returncode != 0:
                raise ViolationError(f"a run that is left alone fails: {said}")
            failed = json.loads(said.stdout.splitlines()[-1])["combos_failed"]
            return (root / "run" / "results.parquet").read_bytes(), failed
        finally:
            marks.close()
            place.clear()


def furnished(root: Path, scenario: Scenario, *, steady: bool = False) -> Place:
    """Make a place with the round's data and strategy."""
    place = Place(root)
    place.env.pop("NUMBA_CACHE_DIR")  # kernels need not be compiled in every round
    place.data.write_text(_walk(scenario.data) if scenario.built_in else _bars(scenario.data))
    behaviour, hold = scenario.behaviour, scenario.hold
    step_s = scenario.step_s
    if steady:
        behaviour, hold, step_s = Behaviour.STEADY, Hold.NONE, 0.0
    text = source(behaviour, hold, step_s, fails=scenario.fails, cookie=COOKIE)
    (root / "strategy.py").write_text(text)
    return place


def _bars(number: int) -> str:
    lines = ["time,close"]
    lines += [f"2024-01-{1 + i // 24:02d} {i % 24:02d}:00:00,1.1{5 + number}" for i in range(30)]
    return "\n".join(lines) + "\n"


def _walk(number: int) -> str:
    lines, close = ["time,close"], 10_000
    for minute in range(_BUILT_IN_BARS):
        close += (minute * minute * 7919 + number * 104_729) % 11 - 5
        lines.append(f"{1_700_000_000 + 60 * minute},{close / 100:.2f}")
    return "\n".join(lines) + "\n"


def order(place: Place, scenario: Scenario, *, containment: str) -> list[str]:
    """What is asked of ``allstop``; begins a run or carries it on."""
    if scenario.built_in:
        what = ["sma_cross", "--grid", "fast=2:101", "--grid", f"slow=2:{1 + scenario.n // 100}"]
    else:
        what = [f"{place.root / 'strategy.py'}:f", "--grid", f"a=0:{scenario.n - 1}"]
    return [
        "run", "--resume", "--json", "--data", str(place.data), "--strategy", *what,
        "--workers", str(scenario.workers), "--containment", containment,
        "--grace", str(scenario.grace_s), "--terminate", str(scenario.terminate_s),
        "--verify", str(VERIFY_S), "--run-dir", str(place.root / "run"),
    ]  # fmt: skip


class Round:
    """Carries one scenario out in a directory of its own."""

    def __init__(self, scenario: Scenario, root: Path, expected: Expected) -> None:
        self.scenario = scenario
        self.place = furnished(root, scenario)
        self.run_dir = root / "run"
        self.outcome = Outcome(scenario)
        self._expected = expected
        self._marks = Marks(self.place)
        self._names = shared_memory_names()
        self._seen: set[Identity] = set()
        self._log: list[str] = []
        self._began = time.monotonic()
        self._limit_s = scenario.grace_s + scenario.terminate_s + VERIFY_S + MARGIN_S
        # of the attempt at hand
        self._front: Identity | None = None
        self._popen: subprocess.Popen[bytes] | None = None
        self._warden_pid = 0
        self._events_from = 0
        self._journals_from = 0
        self._results_before = 0
        self._struck: set[Target] = set()
        self._suspended: list[Identity] = []
        self._stops: list[tuple[subprocess.Popen[str], Deed]] = []
        self._worker_kills = 0
        self._kept_before: set[int] = set()

    def play(self) -> Outcome:
        """Carry the scenario out; what is wrong is in the outcome."""
        try:
            for attempt in self.scenario.attempts:
                self._disturbed(attempt)
            self._left_alone()
        except ViolationError as violation:
            self.outcome.violation = str(violation)
        except Exception as error:  # noqa: BLE001 - the driver's own fault must show as well
            self.outcome.violation = f"{type(error).__name__}: {error}"
        finally:
            if self.outcome.violation:
                self.outcome.story = self._tell()
            self._clear()
        self.outcome.round_s = time.monotonic() - self._began
        return self.outcome

    # -- attempts ----------------------------------------------------------

    def _disturbed(self, attempt: Attempt) -> None:
        holds = self.scenario.hold is not Hold.NONE
        self._arm(holds)
        self._start(self._command(by_order=attempt.by_order))
        for blow in attempt.blows:
            self._await(blow.phase)
            pause(blow.delay_s)
            self._strike(blow)
        last = time.monotonic()
        self._await_stops(drains=False)
        for who in self._suspended:
            who.send(signal.SIGCONT)
        if holds:
            if not attempt.blows:
                self._await(Phase.FLAGGED)  # which nobody has asked for: until it holds
            self._end_hold()
        code = self._await_front()
        self._await_stops(drains=True)
        self._await_quiet()
        self.outcome.end_s = max(self.outcome.end_s, time.monotonic() - last)
        self._note(f"ended with {code}")
        if code not in _ENDINGS or (not attempt.blows and not holds and code != 0):
            raise ViolationError(f"the command ended with {code}")
        self._check_files()
        self._damage(attempt.damage)

    def _left_alone(self) -> None:
        self._arm(False)
        whole, failing = self._expected.of(self.scenario)
        report = self._finish(self._command(by_order=False))
        if report["combos_failed"] > failing and self._worker_kills:
            # a combination whose worker is killed twice counts as the culprit: not by its own
            # fault here, so it is tried once more
            self.outcome.retried += 1
            report = self._finish(["resume", str(self.run_dir), "--json", "--retry-failed"])
        if report["status"] != "completed" or report["combos_failed"] != failing:
            raise ViolationError(f"not completed, or too many have failed: {report}")
        if (self.run_dir / "results.parquet").read_bytes() != whole:
            raise ViolationError(f"other results than of a run left alone: {self._difference()}")
        self._check_files()

    def _finish(self, command: list[str]) -> dict[str, Any]:
        self._start(command)
        code = self._await_front()
        self._await_quiet()
        self._note(f"ended with {code}")
        if code != 0:
            raise ViolationError(f"a resume that is left alone ended with {code}")
        report: dict[str, Any] = json.loads(self._out("stdout").splitlines()[-1])
        return report

    def _command(self, *, by_order: bool) -> list[str]:
        if by_order or not (self.run_dir / "run.json").exists():
            return order(self.place, self.scenario, containment=self.scenario.containment)
        return ["resume", str(self.run_dir), "--json"]

    def _arm(self, armed: bool) -> None:
        path = self.place.root / ARMED
        if armed:
            path.touch()
        else:
            path.unlink(missing_ok=True)

    def _start(self, command: list[str]) -> None:
        self._note(f"start: {command[0]}")
        self._warden_pid = 0
        self._events_from = self._size("events.jsonl")
        self._journals_from = self._journal_bytes()
        self._results_before = self._inode("results.parquet")
        self._struck, self._suspended, self._stops = set(), [], []
        # a session of its own: the process group is that of the front
        started = self.place.start(self.place.argv(*command), start_new_session=True)
        self._popen = started.popen
        self._front = Identity.of(self._popen.pid)

    # -- phases ------------------------------------------------------------

    def _await(self, phase: Phase) -> None:
        """Wait for a phase; one that may never come is not waited for long."""

        def reached() -> bool:
            return self._reached(phase) or not self._anybody()

        if not until(lambda: reached() or "run_started" in self._events(), _START_S):
            return
        until(reached, _PHASE_S)

    def _reached(self, phase: Phase) -> bool:
        match phase:
            case Phase.SPAWNED:
                return True
            case Phase.STARTER:
                return bool(process.children(self._popen.pid)) if self._popen else False
            case Phase.ROWS:
                return self._journal_bytes() > self._journals_from
            case Phase.INPUTS:
                return self._size("inputs.json") > 0
            case Phase.COMPACTING:
                return self._inode("results.parquet") != self._results_before or any(
                    self.run_dir.glob(".results.parquet*")
                )
            case Phase.RESULTS:
                return self._inode("results.parquet") not in (0, self._results_before)
            case Phase.REPORT:
                return self._size("report.json") > 0
            case Phase.FRONT_GONE:
                return self._popen is None or self._popen.poll() is not None
        return phase in self._events()

    def _anybody(self) -> bool:
        """Whether front or warden is alive still, as far as they are known."""
        front = self._front is not None and self._front.alive
        return front or process.state_letter(self._warden() or 0) not in (None, "Z", "X")

    def _events(self) -> str:
        with contextlib.suppress(OSError), (self.run_dir / "events.jsonl").open() as file:
            file.seek(self._events_from)
            return file.read()
        return ""

    def _warden(self) -> int:
        """Pid of the warden, or of whoever is on the way to become it; 0: unknown."""
        if not self._warden_pid:
            for line in self._events().splitlines():
                if "front.run_requested" in line:
                    with contextlib.suppress(ValueError):
                        self._warden_pid = int(json.loads(line)["warden"])
        if self._warden_pid or self._front is None:
            return self._warden_pid
        return (process.children(self._front.pid) or [0])[-1]

    def _size(self, name: str) -> int:
        with contextlib.suppress(OSError):
            return (self.run_dir / name).stat().st_size
        return 0

    def _inode(self, name: str) -> int:
        with contextlib.suppress(OSError):
            return (self.run_dir / name).stat().st_ino
        return 0

    def _journal_bytes(self) -> int:
        return sum(path.stat().st_size for path in journal_paths(self.run_dir / "journal"))

    # -- blows -------------------------------------------------------------

    def _strike(self, blow: Blow) -> None:
        if blow.deed in (Deed.STOP, Deed.STOP_NOW, Deed.DRAIN):
            self._stop_from_outside(blow.deed)
            self._did(blow)
            return
        victims = self._victims(blow)
        self._see(victims)
        number = signal.Signals[str(blow.deed)]
        reached = False
        if blow.target is Target.GROUP:
            # not waited for yet, so its pid, and the group's number, are nobody else's
            if self._popen and self._popen.returncode is None:
                os.killpg(self._popen.pid, number)
                reached = True
        else:
            if blow.target is Target.BOTH:
                for who in victims:  # nobody can react to the other's death
                    who.send(signal.SIGSTOP)
            reached = sum(who.send(number) for who in victims) > 0
        if not reached:
            self._note(f"nobody there: {blow}")
            return
        self._did(blow)
        self._struck.add(blow.target)
        self._worker_kills += blow.target in (Target.WORKER, Target.WORKERS)
        if blow.deed is Deed.SUSPEND:
            self._suspended += victims

    def _did(self, blow: Blow) -> None:
        self._note(str(blow))
        outside = blow.deed in (Deed.STOP, Deed.STOP_NOW, Deed.DRAIN)
        self.outcome.deeds.append(str(blow.deed) if outside else f"{blow.deed} to {blow.target}")

    def _victims(self, blow: Blow) -> list[Identity]:
        warden = self._marks.ours(self._warden()) if self._warden() else None
        front = [self._front] if self._front else []
        match blow.target:
            case Target.FRONT | Target.GROUP:
                return front
            case Target.WARDEN:
                return [warden] if warden else []
            case Target.BOTH:
                return [*([warden] if warden else []), *front]
        workers = process.children(warden.pid) if warden else []
        if blow.target is Target.WORKER:
            workers = _pick(workers, blow.pick)
        if blow.target is Target.GRANDCHILD:
            below = [pid for worker in workers for pid in process.descendants(worker)]
            workers = _pick(below, blow.pick)
        return [who for who in map(self._marks.ours, workers) if who]

    def _stop_from_outside(self, deed: Deed) -> None:
        words = str(deed).split()
        stop = subprocess.Popen(
            self.place.argv(words[0], str(self.run_dir), *words[1:]), cwd=self.place.work,
            env=self.place.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self._stops.append((stop, deed))

    def _await_stops(self, *, drains: bool) -> None:
        """See the commands end; a drain of what is held ends only when that does."""
        for stop, deed in self._stops:
            if (deed is Deed.DRAIN) > drains or stop.returncode is not None:
                continue
            try:
                said, _ = stop.communicate(timeout=self._limit_s)
            except subprocess.TimeoutExpired:
                stop.kill()
                stop.communicate()
                raise ViolationError(f"{deed} hangs") from None
            self._note(f"{deed}: {stop.returncode} {said.strip()!r}")
            # 2: there was nothing to stop yet, or any more
            if stop.returncode not in (0, 2) and not self._may_leave_bare():
                raise ViolationError(f"{deed} ended with {stop.returncode}: {said}")

    def _end_hold(self) -> None:
        """Ask what would go on for ever to end, unless it is ending."""
        s = self.scenario
        if until(self._front_over, s.grace_s + s.terminate_s + 0.3):
            return
        if self._popen and self._popen.poll() is None:
            self._note("SIGTERM, for it would stay for ever")
            self._popen.send_signal(signal.SIGTERM)

    # -- what must hold ----------------------------------------------------

    def _front_over(self) -> bool:
        return self._popen is None or self._popen.poll() is not None

    def _await_front(self) -> int:
        assert self._popen is not None
        if not until(self._front_over, self._limit_s):
            raise ViolationError(f"the command hangs after {self._limit_s:g} s")
        return int(self._popen.returncode)

    def _await_quiet(self) -> None:
        """See everything gone; ``reap`` may be needed once, when nobody was left to do it."""
        if not self._await_clean(self._limit_s, while_at_work=True):
            self._reap()
            self._excuse_bare()
            if not self._await_clean(self._limit_s, while_at_work=False):
                raise ViolationError("left: " + "; ".join(self._left()))
        if self._seen and not until(lambda: not present(self._seen), _REAPED_S, _SCAN_S):
            raise ViolationError("zombies: " + "; ".join(present(self._seen)))
        if not until(lambda: not self._cgroups(), _REAPED_S, _SCAN_S):
            raise ViolationError(f"cgroups left: {self._cgroups()}")
        if not until(lambda: not unused(shared_memory_names() - self._names), _REAPED_S, _SCAN_S):
            left = sorted(unused(shared_memory_names() - self._names))
            raise ViolationError(f"names left in /dev/shm: {left}")

    def _await_clean(self, seconds: float, *, while_at_work: bool) -> bool:
        """Wait until nothing is left; not longer than somebody is at work, if that is asked."""
        deadline = time.monotonic() + seconds
        idle_since = time.monotonic()
        while self._left():
            now = time.monotonic()
            if self._at_work():
                idle_since = now
            if now >= deadline or (while_at_work and now - idle_since >= _IDLE_S):
                return False
            pause(_SCAN_S)
        return True

    def _left(self) -> list[str]:
        found = self._marks.found()
        self._see([one.who for one in found])
        held = ["somebody unseen, who holds the FIFO"] * (not found and self._marks.held())
        return [*map(str, found), *held, *map(str, self._entries()), *map(str, self._sockets())]

    def _entries(self) -> list[Path]:
        return list((self.place.root / "state").glob("allstop/runs/*"))

    def _sockets(self) -> list[Path]:
        return list((self.place.root / "runtime").glob("allstop/*"))

    def _cgroups(self) -> list[Path]:
        """Cgroups of this round's run, and those tried out by its processes."""
        try:
            home = cgroup.own_cgroup()
        except OSError:
            return []
        names = [f"allstop-trial-{who.pid}" for who in self._seen]
        with contextlib.suppress(OSError, ValueError):
            run_id = json.loads((self.run_dir / "run.json").read_text())["run_id"]
            names.append(cgroup.name_of(run_id))
        return [home / name for name in names if (home / name).exists()]

    def _at_work(self) -> bool:
        """Whether front, warden, or who finishes or reaps in their place is alive."""
        for path in self._entries():
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                entry = json.loads(path.read_text())
                if Identity(**entry["front"]).alive or Identity(**entry["warden"]).alive:
                    return True
        # what a worker forks has its arguments, which are the warden's, but the worker's name
        return any(
            "-m supervisor." in one.command and not _WORKER.match(process.command_name(one.who.pid))
            for one in self._marks.found()
        )

    def _reap(self) -> None:
        both = {Target.FRONT, Target.GROUP} & self._struck and (
            Target.WARDEN in self._struck or self._cut_short()
        )
        left = self._left()
        if not left:
            return
        if not both and Target.BOTH not in self._struck and not self._may_leave_bare():
            raise ViolationError("left, though front or warden could act: " + "; ".join(left))
        self._see_workers_gone()
        self._note("reap, for there is " + "; ".join(left))
        self.outcome.reaped += 1
        said = self.place.command("reap", "--json")
        if said.returncode != 0:
            raise ViolationError(f"reap ended with {said.returncode}: {said.stdout}{said.stderr}")

    def _cut_short(self) -> bool:
        """Whether the front itself has killed the warden: it was asked to stop before the warden
        had begun, which would not have heard of it while it loads.
        """
        names = [json.loads(line)["event"] for line in self._events().splitlines()]
        if "front.run_requested" not in names:
            return False
        attempt = names[len(names) - names[::-1].index("front.run_requested") :]
        return "front.stop_requested" in attempt and "warden.run_started" not in attempt

    def _see_workers_gone(self) -> None:
        """Whatever the containment: workers die with the warden, and wait for nobody's reap."""
        facts = [json.loads(line) for line in self._events().splitlines() if "worker_st" in line]
        workers = {fact["pid"] for fact in facts}
        gone = until(lambda: not workers & {one.who.pid for one in self._marks.found()}, _REAPED_S)
        if not gone:
            raise ViolationError(f"workers outlive the warden: {'; '.join(self._left())}")

    def _may_leave_bare(self) -> bool:
        """A killed warden's subreaper cannot hold what has shed its environment."""
        names = [json.loads(line) for line in self._events().splitlines() if "run_started" in line]
        weak = any(fact.get("containment") == "subreaper" for fact in names)
        return weak and self.scenario.behaviour is Behaviour.SCRUB and self._warden_was_killed()

    def _warden_was_killed(self) -> bool:
        stopped = any(deed is Deed.STOP_NOW for _, deed in self._stops)
        return bool({Target.WARDEN, Target.BOTH} & self._struck) or stopped

    def _excuse_bare(self) -> None:
        found = self._marks.found()
        if self._may_leave_bare() and found and all(one.bare for one in found):
            self.outcome.documented += len(found)
            self._end(found)

    def _end(self, found: list[Found]) -> int:
        return sum(one.who.send(signal.SIGKILL) for one in found)

    def _check_files(self) -> None:
        """Rows once each and right; none lost; a report where a run has begun."""
        for name in ("stdout", "stderr"):
            if "Traceback" in self._out(name) and "warden.run_started" in self._events():
                raise ViolationError("the command shows a traceback")
        if "front.run_requested" in self._events() and not self._size("report.json"):
            raise ViolationError("no report")
        kept = self._kept()
        self.outcome.doubled += sum(times > 1 for times in kept.values())
        if lost := self._kept_before - set(kept):
            raise ViolationError(f"no journal holds {sorted(lost)} any more")
        self._kept_before = set(kept)
        if "front.run_requested" in self._events() and not self.scenario.built_in:
            self._check_rows(set(kept))

    def _kept(self) -> Counter[int]:
        return kept_in(self.run_dir) if (self.run_dir / "journal").exists() else Counter()

    def _check_rows(self, kept: set[int]) -> None:
        rows = rows_of(self.run_dir) if self._size("results.parquet") else []
        names = [row["a"] for row in rows]
        if names != sorted(kept):
            raise ViolationError(f"rows {names}, but the journals hold {sorted(kept)}")
        for row in rows:
            if row.get("error") is None and row["twice"] != 2.0 * row["a"]:
                raise ViolationError(f"a wrong row: {row}")

    def _damage(self, damage: Damage) -> None:
        """What a power loss or an unlucky instant does to journals."""
        paths = [path for path in journal_paths(self.run_dir / "journal") if path.stat().st_size]
        if not paths:
            return
        if damage is Damage.TORN:
            os.truncate(paths[-1], max(0, paths[-1].stat().st_size - 5))
            self._kept_before = set(self._kept())
        if damage is Damage.DOUBLED:
            self._double(paths[0])

    def _double(self, path: Path) -> None:
        """As if a worker had died between keeping rows and counting them."""
        frames = [frame for frame in read_journal(path)[0] if frame.columns]
        if not frames:
            return
        directory = self.run_dir / "journal"
        serial = next_serial(directory)
        run_id = json.loads((self.run_dir / "run.json").read_text())["run_id"]
        with contextlib.closing(
            JournalWriter(journal_path(directory, serial), run_id, serial)
        ) as journal:
            for frame in frames:
                journal.append(frame.start, frame.columns, frame.rows())

    def _difference(self) -> str:
        rows = rows_of(self.run_dir)
        kept = kept_in(self.run_dir)
        return f"{len(rows)} rows, {len(kept)} combinations in the journals; {rows[:3]} …"

    # -- the story ---------------------------------------------------------

    def _see(self, identities: list[Identity]) -> None:
        self._seen.update(identities)

    def _note(self, what: str) -> None:
        self._log.append(f"{time.monotonic() - self._began:8.3f} s  {what}")

    def _out(self, name: str) -> str:
        with contextlib.suppress(OSError):
            return (self.place.root / name).read_text(errors="replace")
        return ""

    def _tell(self) -> str:
        texts = [str(self.scenario), *self._log, "left now: " + "; ".join(self._left())]
        texts += ["stderr:", self._out("stderr")[-3000:], "stdout:", self._out("stdout")[-1500:]]
        texts += ["events:", self._events()[-4000:]]
        for log in sorted((self.run_dir / "logs").glob("*.log")):
            if log.stat().st_size:
                texts += [f"{log.name}:", log.read_text(errors="replace")[-2000:]]
        return "\n".join(texts)

    def _clear(self) -> None:
        """Leave nothing behind, whatever the product has left."""
        for stop, _ in self._stops:
            if stop.returncode is None:
                stop.kill()
                stop.communicate()
        until(lambda: not self._end(self._marks.found()), 10.0, _SCAN_S)
        self.place.clear()
        self._marks.close()
        for path in self._cgroups():
            with contextlib.suppress(OSError):
                path.rmdir()


def _pick(pids: list[int], share: float) -> list[int]:
    return [pids[int(share * len(pids))]] if pids else []
