from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from supervisor.system.process import Identity
from tests.chaos.engine import play
from tests.chaos.local.game import games
from tests.chaos.local.marks import Marks
from tests.chaos.local.order import Expected
from tests.chaos.local.round import Round
from tests.chaos.local.scenario import Attempt, Damage, Deed, Phase, Target, scenario
from tests.chaos.local.workload import FIFO, Behaviour, Hold
from tests.chaos.verdict import contradictions
from tests.support.cli import Place
from tests.support.waiting import DEADLINE_S, until, wait_for

ROUNDS = int(os.environ.get("ALLSTOP_CHAOS_ROUNDS", "12"))
FIRST_SEED = int(os.environ.get("ALLSTOP_CHAOS_SEED", "1"))
ALL = ("cgroup", "pid-namespace", "subreaper")


@pytest.mark.chaos
@pytest.mark.timeout(120 + 30 * ROUNDS)
def test_random_kills_leave_nothing_and_lose_nothing(tmp_path: Path, no_leaks: None) -> None:
    tally = play(games(tmp_path), range(FIRST_SEED, FIRST_SEED + ROUNDS), tmp_path)
    print(*tally.lines(), sep="\n")
    assert len(tally.outcomes) == ROUNDS
    assert not tally.failed, tally.stories()


def test_a_seed_tells_a_round_entirely() -> None:
    assert [scenario(seed, ALL) for seed in range(50)] == [
        scenario(seed, ALL) for seed in range(50)
    ]
    assert len({str(scenario(seed, ALL)) for seed in range(50)}) == 50


def test_every_deed_and_behaviour_is_drawn() -> None:
    drawn = [scenario(seed, ALL) for seed in range(1000)]
    blows = [blow for s in drawn for attempt in s.attempts for blow in attempt.blows]
    assert {blow.deed for blow in blows} == set(Deed)
    assert {blow.target for blow in blows} == set(Target)
    assert {blow.phase for blow in blows} == set(Phase)
    assert {s.behaviour for s in drawn} == set(Behaviour)
    assert {s.hold for s in drawn} == set(Hold)
    assert {attempt.damage for s in drawn for attempt in s.attempts} == set(Damage)
    assert {s.containment for s in drawn} == {"auto", *ALL}


# --- a round sees what it is there to see ---------------------------------------------------

SHEDS_ALL = """
import os, sys
if os.fork():
    os._exit(0)
os.setsid()
FIFO = os.open(sys.argv[1], os.O_WRONLY)
os.set_inheritable(FIFO, True)
print(os.getpid(), flush=True)
os.execve("/bin/sleep", ["sleep", "1000"], {})
"""


@pytest.fixture
def marks(place: Place) -> Iterator[Marks]:
    found = Marks(place)
    yield found
    found.close()


def test_a_daemon_that_sheds_environment_and_arguments_holds_the_fifo(
    place: Place, marks: Marks
) -> None:
    assert not marks.held()
    started = place.start([sys.executable, "-c", SHEDS_ALL, str(place.root / FIFO)])
    wait_for(lambda: started.out.endswith("\n"), "the daemon's pid", tell=started.tell)
    daemon = Identity.of(int(started.out))
    assert daemon is not None
    try:
        assert until(lambda: not marks.found(), DEADLINE_S)
        assert marks.held()
    finally:
        daemon.send(signal.SIGKILL)
        started.end()
    assert until(lambda: not marks.held(), DEADLINE_S)


@pytest.mark.parametrize("fault", ["process", "socket", "row"])
def test_a_round_goes_red_for_what_is_left_or_lost(tmp_path: Path, fault: str) -> None:
    """One round that is left alone, but for what is planted once it is over."""
    quiet = replace(
        scenario(1, ALL), built_in=False, behaviour=Behaviour.STEADY, hold=Hold.NONE, fails=False,
        n=30, containment="subreaper", attempts=(Attempt(()),),
    )  # fmt: skip
    (tmp_path / "round").mkdir()
    played = Round(quiet, tmp_path / "round", Expected(tmp_path))
    if fault == "process":
        played.place.start(["sleep", "1000"])
    elif fault == "socket":
        (played.place.root / "runtime" / "allstop").mkdir()
        (played.place.root / "runtime" / "allstop" / "left").touch()
    else:
        strategy = played.place.root / "strategy.py"
        strategy.write_text(strategy.read_text().replace("a % 7", "a % 7 + (a == 29)"))
    violation = played.play().violation
    assert {"process": "sleep", "socket": "left", "row": "other results"}[fault] in violation


@pytest.mark.parametrize(
    ("changed", "wrong"),
    [
        ({}, []),
        ({"exit_code": 1}, ["status completed with exit code 1"]),
        ({"status": "failed", "reason": "r", "exit_code": 2}, []),
        ({"status": "stopped", "reason": "r", "exit_code": 143}, []),
        ({"status": "stopped", "reason": "r", "exit_code": 0}, ["status stopped with exit code 0"]),
        (
            {"status": "failed", "reason": "r", "exit_code": 130},
            ["status failed with exit code 130"],
        ),
        ({"status": "failed", "exit_code": 1}, ["status failed with the reason ''"]),
        ({"jobs": [{"verified": False}], "exit_code": 3}, []),
        ({"jobs": [{"verified": False}]}, ["exit code 0, though there are survivors"]),
        ({"stop": {"survivors": ["pid 7"]}}, ["exit code 0, though there are survivors"]),
    ],
)
def test_a_verdict_that_disagrees_with_itself_is_seen(
    changed: dict[str, object], wrong: list[str]
) -> None:
    report = {"status": "completed", "reason": "", "exit_code": 0, "stop": None, "jobs": []}
    found = contradictions(report | changed)
    assert len(found) == len(wrong)
    assert all(one.startswith(start) for one, start in zip(found, wrong, strict=True))
