from __future__ import annotations

import ast
import inspect
from itertools import product
from typing import ClassVar

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from supervisor.warden import escalation
from supervisor.warden.escalation import FINAL, TABLE, Action, Event, State, step
from supervisor.warden.run import _in_time

GRACE_S, TERMINATE_S, VERIFY_S = 2.0, 1.0, 10.0
ORDER = [State.RUNNING, State.DRAINING, State.FLAGGED, State.TERMINATED, State.KILLED]


@given(left_s=st.floats(-1e3, 1e6))
def test_a_wait_is_over_before_a_deadline_that_is_far_and_at_one_that_is_near(
    left_s: float,
) -> None:
    """The kernel may make it longer by a thousandth; waking early, one waits again."""
    waited_s = _in_time(left_s)
    assert 0.0 <= waited_s <= max(0.0, left_s)
    assert waited_s > 0.0 or left_s <= 0.0, "it would spin"
    assert waited_s * 1.001 <= max(0.0, left_s) + 0.0001, "a tenth of a millisecond late"


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)))
def test_every_cell_exists(state: State, event: Event) -> None:
    found = step(state, event)
    assert isinstance(found.state, State)
    assert all(isinstance(action, Action) for action in found.actions)


def test_there_is_no_cell_too_many() -> None:
    assert set(TABLE) == set(product(State, Event))


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)))
def test_no_event_goes_back_a_step(state: State, event: Event) -> None:
    following = step(state, event).state
    if state in FINAL:
        assert step(state, event) == escalation.Step(state)
    elif following not in FINAL:
        assert ORDER.index(following) >= ORDER.index(state)


@pytest.mark.parametrize("state", [state for state in ORDER if state is not State.RUNNING])
def test_gone_is_the_end_of_every_way_out(state: State) -> None:
    assert step(state, Event.GONE).state is State.CLEAN


@pytest.mark.parametrize("state", ORDER)
def test_kill_kills_at_once_wherever_it_comes(state: State) -> None:
    found = step(state, Event.KILL)
    assert found.state is State.KILLED
    assert Action.SIGNAL_KILL in found.actions


def test_a_timed_state_has_a_deadline_that_leads_on() -> None:
    """A transition to a state that waits for a deadline arms it."""
    arming = {
        State.FLAGGED: Action.ARM_GRACE,
        State.TERMINATED: Action.ARM_TERMINATE,
        State.KILLED: Action.ARM_VERIFY,
    }
    for (state, _), found in TABLE.items():
        if found.state is not state and found.state in arming:
            assert arming[found.state] in found.actions
    for state in arming:
        assert step(state, Event.DEADLINE).state is not state


def test_a_second_kill_grants_no_more_time() -> None:
    assert Action.ARM_VERIFY not in step(State.KILLED, Event.KILL).actions


def test_the_end_is_reported_exactly_once() -> None:
    for (state, _), found in TABLE.items():
        reports = {Action.REPORT_CLEAN, Action.REPORT_SURVIVORS} & set(found.actions)
        assert bool(reports) is (found.state in FINAL and state not in FINAL)


def test_the_module_is_pure() -> None:
    tree = ast.parse(inspect.getsource(escalation))
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= {"__future__", "enum", "typing"}


class Process:
    """One that obeys the flag, ignores SIGTERM, forks when it is signalled, or cannot die."""

    def __init__(
        self, *, polite: bool, term: bool, forks: int, immortal: bool, slow: float
    ) -> None:
        self.polite, self.term, self.forks = polite, term, forks
        self.immortal, self.slow = immortal, slow
        self.alive = True
        self.dies_at: float | None = None


class Loop(RuleBasedStateMachine):
    """The warden's loop with a clock of its own, over processes of every sort."""

    KINDS: ClassVar = st.builds(
        Process,
        polite=st.booleans(),
        term=st.booleans(),
        forks=st.integers(0, 2),
        immortal=st.sampled_from([False] * 9 + [True]),
        slow=st.floats(0, 4),
    )

    @initialize(processes=st.lists(KINDS, max_size=5))
    def begin(self, processes: list[Process]) -> None:
        self.now = 0.0
        self.state = State.RUNNING
        self.deadline: float | None = None
        self.processes = processes
        self.asked_at: float | None = None
        self.killed_by_request = False
        self.done: list[tuple[float, Action]] = []

    # -- the loop ------------------------------------------------------------------------------

    def happen(self, event: Event) -> None:
        assert self.state not in FINAL or step(self.state, event).actions == ()
        found = step(self.state, event)
        if self.state is State.RUNNING and found.state not in (State.RUNNING, State.DRAINING):
            self.asked_at = self.now
        if self.state is State.DRAINING and found.state not in (State.DRAINING, *FINAL):
            self.asked_at = self.now
        self.state = found.state
        for action in found.actions:
            self.done.append((self.now, action))
            getattr(self, action.name.lower(), lambda: None)()

    def set_stop(self) -> None:
        for process in self.living():
            if process.polite:
                process.dies_at = self.now + process.slow

    def signal_term(self) -> None:
        for process in self.living():
            if process.term:
                self.die(process)

    def signal_kill(self) -> None:
        for process in self.living():
            if not process.immortal:
                self.die(process)

    def die(self, process: Process) -> None:
        process.alive = False
        for _ in range(process.forks):
            self.processes.append(
                Process(polite=False, term=False, forks=process.forks - 1, immortal=False, slow=0)
            )

    def arm_grace(self) -> None:
        self.deadline = self.now + GRACE_S

    def arm_terminate(self) -> None:
        self.deadline = self.now + TERMINATE_S

    def arm_verify(self) -> None:
        self.deadline = self.now + VERIFY_S

    def disarm(self) -> None:
        self.deadline = None

    def living(self) -> list[Process]:
        return [process for process in self.processes if process.alive]

    def look(self) -> None:
        """What the loop does after each wait: reap, then the clock, then kill once more."""
        for process in self.living():
            if process.dies_at is not None and self.now >= process.dies_at:
                self.die(process)
        if not self.living():
            self.happen(Event.GONE)
        if self.deadline is not None and self.now >= self.deadline:
            self.happen(Event.DEADLINE)
        elif self.state is State.KILLED:
            self.signal_kill()
            if not self.living():
                self.happen(Event.GONE)

    # -- what can come from outside --------------------------------------------------------------

    @rule(event=st.sampled_from([Event.DRAIN, Event.STOP, Event.KILL, Event.WORK_DONE]))
    def ask(self, event: Event) -> None:
        self.killed_by_request |= event is Event.KILL
        self.happen(event)
        self.look()

    @rule(seconds=st.floats(0, 3))
    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while self.deadline is not None and self.now < self.deadline <= until:
            self.now = self.deadline  # the loop wakes at each deadline
            self.look()
        self.now = max(self.now, until)
        self.look()

    @rule(process=KINDS)
    @precondition(lambda self: self.state not in FINAL)
    def fork(self, process: Process) -> None:
        assume(len(self.processes) < 30)
        if self.living() or self.state is State.RUNNING:
            self.processes.append(process)

    # -- what has to hold -------------------------------------------------------------------------

    def at(self, action: Action) -> list[float]:
        return [when for when, what in self.done if what is action]

    @invariant()
    def it_ends_in_time(self) -> None:
        if self.asked_at is not None and self.state not in FINAL:
            assert self.now <= self.asked_at + GRACE_S + TERMINATE_S + VERIFY_S + 1e-9

    @invariant()
    def sigterm_comes_after_the_grace_and_at_most_once(self) -> None:
        terms = self.at(Action.SIGNAL_TERM)
        assert len(terms) <= 1
        if terms:
            assert self.at(Action.SET_STOP), "asked before it is told"
            assert terms[0] >= self.at(Action.SET_STOP)[0] + GRACE_S - 1e-9

    @invariant()
    def unless_asked_sigkill_comes_after_sigterm_and_its_time(self) -> None:
        kills = self.at(Action.SIGNAL_KILL)
        if kills and not self.killed_by_request:
            assert kills[0] >= self.at(Action.SIGNAL_TERM)[0] + TERMINATE_S - 1e-9

    @invariant()
    def no_process_survives_without_a_sigkill_and_the_time_to_die(self) -> None:
        if self.state is State.SURVIVED:
            assert self.at(Action.SIGNAL_KILL)
            reported = self.at(Action.REPORT_SURVIVORS)[0]
            assert reported >= self.at(Action.ARM_VERIFY)[0] + VERIFY_S - 1e-9

    @invariant()
    def clean_means_that_no_process_is_left(self) -> None:
        if self.state is State.CLEAN:
            assert not self.living()

    @invariant()
    def nothing_is_done_after_the_end(self) -> None:
        ends = self.at(Action.REPORT_CLEAN) + self.at(Action.REPORT_SURVIVORS)
        assert len(ends) <= 1
        if ends:
            assert self.done[-1][1] in (Action.REPORT_CLEAN, Action.REPORT_SURVIVORS)
            assert self.deadline is None

    @invariant()
    def only_the_immortal_survive(self) -> None:
        """Forks made while dying are killed too, as long as time is left."""
        if self.state is State.SURVIVED:
            assert self.living()

    def teardown(self) -> None:
        """Whatever came before, a stop ends it."""
        if not hasattr(self, "state"):
            return
        self.ask(Event.STOP)
        self.pass_time(GRACE_S + TERMINATE_S + VERIFY_S)
        assert self.state in FINAL
        self.no_process_survives_without_a_sigkill_and_the_time_to_die()
        self.nothing_is_done_after_the_end()


Loop.TestCase.settings = settings(max_examples=150, stateful_step_count=20, deadline=None)
TestLoop = Loop.TestCase
