"""The escalation: a total table, (state, event) → (next state, actions).

Pure: nothing here signals, waits or looks at a clock. One loop, the warden's,
feeds events in and performs the actions that come out.

Natural completion follows the same path as a stop, from the first rung on: a worker
that lingers after the last chunk is asked, terminated and killed like any other. So
there is one way to end, and it is always bounded.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple


class State(Enum):
    """State of a run, from running to ended."""

    RUNNING = auto()
    """Chunks are handed out, lost workers are replaced."""
    DRAINING = auto()
    """Workers finish their current chunks; no further one is handed out."""
    FLAGGED = auto()
    """The stop word is set; workers return at their next poll."""
    TERMINATED = auto()
    """SIGTERM then SIGCONT went to what was left."""
    KILLED = auto()
    """SIGKILL went to what was left, and goes to every process that appears later."""
    CLEAN = auto()
    """No descendant exists: the kernel said so (ECHILD)."""
    SURVIVED = auto()
    """Processes outlived SIGKILL until the verification ended; they are named."""


class Event(Enum):
    """What can happen to a run."""

    DRAIN = auto()
    STOP = auto()
    KILL = auto()
    WORK_DONE = auto()
    """No worker has a chunk, and none will be handed out."""
    GONE = auto()
    """No descendant is left."""
    DEADLINE = auto()
    """The time limit of the current state has passed."""


class Action(Enum):
    """What the loop must do. Order within a tuple matters."""

    SET_DRAIN = auto()
    SET_STOP = auto()
    SET_KILL = auto()
    SIGNAL_TERM = auto()
    """SIGTERM, then SIGCONT so that a stopped process can act on it."""
    SIGNAL_KILL = auto()
    ARM_GRACE = auto()
    ARM_TERMINATE = auto()
    ARM_VERIFY = auto()
    DISARM = auto()
    REPORT_CLEAN = auto()
    REPORT_SURVIVORS = auto()


class Step(NamedTuple):
    """The effect of one event in one state."""

    state: State
    actions: tuple[Action, ...] = ()


FINAL = frozenset({State.CLEAN, State.SURVIVED})

_ASK = Step(State.FLAGGED, (Action.SET_STOP, Action.ARM_GRACE))
_TERMINATE = Step(State.TERMINATED, (Action.SIGNAL_TERM, Action.ARM_TERMINATE))
_KILL = Step(State.KILLED, (Action.SET_KILL, Action.SIGNAL_KILL, Action.ARM_VERIFY))
_CLEAN = Step(State.CLEAN, (Action.DISARM, Action.REPORT_CLEAN))
_GIVE_UP = Step(State.SURVIVED, (Action.DISARM, Action.REPORT_SURVIVORS))


def _stay(state: State) -> Step:
    return Step(state)


TABLE: dict[tuple[State, Event], Step] = {
    (State.RUNNING, Event.DRAIN): Step(State.DRAINING, (Action.SET_DRAIN,)),
    (State.RUNNING, Event.STOP): _ASK,
    (State.RUNNING, Event.KILL): _KILL,
    (State.RUNNING, Event.WORK_DONE): _ASK,
    (State.RUNNING, Event.GONE): _stay(State.RUNNING),  # lost workers are replaced
    (State.RUNNING, Event.DEADLINE): _stay(State.RUNNING),
    (State.DRAINING, Event.DRAIN): _stay(State.DRAINING),
    (State.DRAINING, Event.STOP): _ASK,
    (State.DRAINING, Event.KILL): _KILL,
    (State.DRAINING, Event.WORK_DONE): _ASK,
    (State.DRAINING, Event.GONE): _CLEAN,
    (State.DRAINING, Event.DEADLINE): _stay(State.DRAINING),
    (State.FLAGGED, Event.DRAIN): _stay(State.FLAGGED),
    (State.FLAGGED, Event.STOP): _stay(State.FLAGGED),
    (State.FLAGGED, Event.KILL): _KILL,
    (State.FLAGGED, Event.WORK_DONE): _stay(State.FLAGGED),
    (State.FLAGGED, Event.GONE): _CLEAN,
    (State.FLAGGED, Event.DEADLINE): _TERMINATE,
    (State.TERMINATED, Event.DRAIN): _stay(State.TERMINATED),
    (State.TERMINATED, Event.STOP): _stay(State.TERMINATED),
    (State.TERMINATED, Event.KILL): _KILL,
    (State.TERMINATED, Event.WORK_DONE): _stay(State.TERMINATED),
    (State.TERMINATED, Event.GONE): _CLEAN,
    (State.TERMINATED, Event.DEADLINE): _KILL,
    (State.KILLED, Event.DRAIN): _stay(State.KILLED),
    (State.KILLED, Event.STOP): _stay(State.KILLED),
    # requested again while killing: kill what appeared since, but extend no deadline
    (State.KILLED, Event.KILL): Step(State.KILLED, (Action.SIGNAL_KILL,)),
    (State.KILLED, Event.WORK_DONE): _stay(State.KILLED),
    (State.KILLED, Event.GONE): _CLEAN,
    (State.KILLED, Event.DEADLINE): _GIVE_UP,
    **{(state, event): _stay(state) for state in FINAL for event in Event},
}


def step(state: State, event: Event) -> Step:
    """Look one cell of the table up; every cell exists."""
    return TABLE[state, event]
