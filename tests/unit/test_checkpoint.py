from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from supervisor.errors import CheckpointError
from supervisor.ipc.stopflag import StopFlag
from workers.checkpoint import CheckpointFile


@pytest.fixture
def file(tmp_path: Path) -> CheckpointFile:
    return CheckpointFile(tmp_path / "checkpoints", 7)


def test_the_last_state_is_kept_and_only_that(file: CheckpointFile) -> None:
    assert file.load() is None
    assert file.load("nothing") == "nothing"
    assert file.save({"bar": 1})
    assert file.save({"bar": 2, "equity": np.arange(3.0)})
    state = file.load()
    assert state["bar"] == 2
    assert state["equity"].tolist() == [0.0, 1.0, 2.0]
    assert [path.name for path in file.path.parent.iterdir()] == ["7.ckpt"]
    file.remove()
    file.remove()
    assert file.load() is None


def test_what_only_dill_can_pickle_is_kept_too(file: CheckpointFile) -> None:
    step = 3
    file.save(lambda: step + 1)
    assert file.load()() == 4


def test_what_cannot_be_pickled_is_an_error(file: CheckpointFile) -> None:
    file.save("before")
    with pytest.raises(CheckpointError, match="generator"):
        file.save(number for number in range(3))
    assert file.load() == "before"


@pytest.mark.parametrize(
    "damage", ["cut", "flipped", "another value", "empty", "foreign", "of no class"]
)
def test_a_damaged_state_is_ignored_and_named(
    file: CheckpointFile, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file.save({"bar": 1})
    whole = file.path.read_bytes()
    file.path.write_bytes(
        {
            "cut": whole[:-1],
            "flipped": whole[:-1] + bytes([whole[-1] ^ 1]),
            "another value": whole.replace(b"K\x01", b"K\x02"),
            "empty": b"",
            "foreign": pickle.dumps({"bar": 1}),
            "of no class": whole,
        }[damage]
    )
    if damage == "of no class":
        file.save(Gone())
    assert file.load("default") == "default"
    assert "7.ckpt" in capsys.readouterr().err


class Gone:
    def __reduce__(self) -> Any:
        return _raise, ()


def _raise() -> None:
    raise ImportError("no such class any more")


def test_a_full_disk_keeps_the_last_state(
    file: CheckpointFile, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file.save("before")

    def full(_fd: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    assert file.save("after") is False
    assert file.load() == "before"
    assert "No space left" in capsys.readouterr().err


def test_killed_while_saving_leaves_the_last_state(file: CheckpointFile) -> None:
    file.save("before")
    pid = os.fork()
    if pid == 0:
        os.fsync = lambda _fd: os._exit(9)  # the bytes are written, the name is not
        file.save("after")
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert file.load() == "before"
    file.save("again")  # over what was left half-written
    assert file.load() == "again"


def test_a_flag_without_a_combination_says_so() -> None:
    flag = StopFlag()
    with pytest.raises(CheckpointError, match="strategy function"):
        flag.checkpoint(1)
    with pytest.raises(CheckpointError, match="strategy function"):
        flag.load_checkpoint()
