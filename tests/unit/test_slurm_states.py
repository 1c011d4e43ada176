"""Every state of squeue(1) is classified; an unknown word counts as alive."""

from __future__ import annotations

import pytest

from slurm.records.states import JobState, job_state

# squeue(1) of 22.05 and 24.11, "JOB STATE CODES"
_ALIVE = """
    CONFIGURING COMPLETING PENDING RUNNING RESV_DEL_HOLD REQUEUE_FED REQUEUE_HOLD REQUEUED RESIZING
    SIGNALING SPECIAL_EXIT STAGE_OUT STOPPED SUSPENDED
"""
_ENDED = """
    BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED REVOKED TIMEOUT
    LAUNCH_FAILED RECONFIG_FAIL
"""


@pytest.mark.parametrize("word", _ALIVE.split())
def test_alive(word: str) -> None:
    assert not job_state(word).ended
    assert job_state(word) is not JobState.UNKNOWN


@pytest.mark.parametrize("word", _ENDED.split())
def test_ended(word: str) -> None:
    assert job_state(word).ended


@pytest.mark.parametrize("word", ["", "POWER_UP_NODE", "EXPEDITING", "done", "R", "COMPLETE"])
def test_a_word_that_is_not_known_is_alive(word: str) -> None:
    assert job_state(word) is JobState.UNKNOWN
    assert not JobState.UNKNOWN.ended


@pytest.mark.parametrize("word", ["CANCELLED by 1000", "CANCELLED+", "cancelled"])
def test_as_sacct_writes_them(word: str) -> None:
    assert job_state(word) is JobState.CANCELLED


def test_every_state_survives_being_written_down() -> None:
    for state in JobState:
        assert JobState.of(str(state)) is state
