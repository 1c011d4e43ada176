"""Claims on a run's directory where the kernel keeps no file locks."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.errors import RunBusyError
from supervisor.records.claim import Claim, claim_directory
from supervisor.system import durable
from supervisor.system.process import Identity
from tests.support.cli import ROOT

HOLDER = f"""
import errno, fcntl, sys
def flock(fd, operation):
    raise OSError(errno.ENOSYS, "no locks here")
fcntl.flock = flock
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from supervisor.records.claim import Claim
claim = Claim(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
claim.release()
"""


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, "no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)


def hold(run_dir: Path) -> subprocess.Popen[bytes]:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    return holder


@pytest.mark.usefixtures("no_locks")
@pytest.mark.parametrize("killed", [True, False])
def test_a_claim_is_exclusive_and_ends_with_its_holder(tmp_path: Path, killed: bool) -> None:
    with hold(tmp_path) as holder:
        with pytest.raises(RunBusyError, match="if that process is dead, remove the file"):
            Claim(tmp_path)
        if killed:
            holder.kill()
        elif holder.stdin is not None:
            holder.stdin.close()
        holder.wait()
    with claim_directory(tmp_path):
        assert len(list(tmp_path.glob(".lock.*"))) == 1, "the dead one's is removed"
        with pytest.raises(RunBusyError):  # another part of this process
            Claim(tmp_path)
    assert not list(tmp_path.glob(".lock.*"))


@pytest.mark.usefixtures("no_locks")
def test_a_mark_of_another_host_is_not_judged(tmp_path: Path) -> None:
    me = Identity.of(os.getpid())
    assert me is not None
    there = me._replace(node="elsewhere", machine="0" * 16, boot="another")
    durable.write_json(tmp_path / ".lock.abc", there._asdict())
    with pytest.raises(RunBusyError, match=r"\.lock\.abc"):
        Claim(tmp_path)
    assert [path.name for path in tmp_path.glob(".lock.*")] == [".lock.abc"]


@pytest.mark.usefixtures("no_locks")
@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}'])
def test_a_mark_that_cannot_be_read_may_be_a_living_processs(tmp_path: Path, text: str) -> None:
    (tmp_path / ".lock.abc").write_text(text)
    with pytest.raises(RunBusyError):
        Claim(tmp_path)
