"""Targets for processes that ``multiprocessing`` spawns."""

from __future__ import annotations

from supervisor.ipc.stopflag import Level, StopFlag


def set_when_told(go: StopFlag, answer: StopFlag) -> None:
    go.wait(30)
    answer.request(Level.KILL)
