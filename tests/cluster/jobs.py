"""What the tests of a cluster's jobs share: commands for jobs, and looks at what became of them."""

from __future__ import annotations

import contextlib
import re
import secrets
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from slurm import Client
from slurm.cancel import Cancelled
from supervisor.system.process import Identity
from tests.cluster.lab import Lab
from tests.support.waiting import DEADLINE_S, wait_for

LONG = ["sleep", "600"]

# says when it is ready; keeps SIGTERM to itself
DEAF = "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); " \
    "open(sys.argv[1], 'w').close(); time.sleep(600)"  # fmt: skip

# says when it is ready; saves for a second when told to end, then says that it has saved. It is
# told more than once, by the shell of the job and by SLURM
SAVER = """\
import pathlib, signal, sys, time
ready, saved = map(pathlib.Path, sys.argv[1:])
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
ready.touch()
while not told:
    time.sleep(0.02)
until = time.monotonic() + 1.0
while time.monotonic() < until:
    time.sleep(0.02)
saved.touch()
"""


def deaf(ready: Path) -> list[str]:
    """Command of a job that does not heed SIGTERM."""
    return [sys.executable, "-c", DEAF, str(ready)]


def saver(ready: Path, saved: Path) -> list[str]:
    """Command of a job that saves for a second after SIGTERM, then ends."""
    return [sys.executable, "-c", SAVER, str(ready), str(saved)]


def wait_state(lab: Lab, job: str | int, state: str) -> None:
    """Wait until all tasks of a job have come to a state."""
    lab.wait_state(int(job), state)


def left(lab: Lab, *more: str) -> list[str]:
    """Jobs that the controller still counts as living, by squeue's own default."""
    said = lab.run("squeue", "-h", "-o", "%A %T %j", *more)
    assert said.returncode == 0, said.stderr
    return said.stdout.split("\n")[:-1]


def all_gone(cancelled: Cancelled) -> None:
    """Fail unless a cancel says that all is gone."""
    assert cancelled.complete, cancelled


@contextmanager
def meanwhile(work: Callable[[], object]) -> Iterator[None]:
    """Have something done by a thread while the body runs; its failure is the body's."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join(DEADLINE_S)
    assert not thread.is_alive(), "it hangs"
    if failed:
        raise failed[0]


def running(lab: Lab, client: Client, **options: object) -> str:
    """Submit a job and wait until it runs."""
    job = client.submit(**{"command": LONG, **options})
    wait_state(lab, job, "RUNNING")
    return job


def ready(path: Path) -> None:
    """Wait until a job has made a file."""
    wait_for(path.exists, f"{path} made by a job")


def under_way(lab: Lab, program: str) -> list[Identity]:
    """Processes of one of SLURM's commands that speak to this lab."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "comm").read_text() == f"{program}\n":
                environ = (process / "environ").read_bytes().split(b"\0")
                if f"SLURM_CONF={lab.slurm_conf}".encode() in environ:
                    found.append(Identity.of(int(process.name)))
    return [identity for identity in found if identity is not None and identity.alive]


def asked(lab: Lab, program: str) -> bool:
    """Whether a frozen controller has been sent a request by such a program: it will be obeyed.

    It lies in the controller's socket; who has sent it may die now.
    """
    port = int(re.search(r"SlurmctldPort=(\d+)", lab.slurm_conf.read_text())[1])  # type: ignore[index]
    mine = {f"[{inode}]" for one in under_way(lab, program) for inode in _sockets(one)}
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ends = {w[1] for w in lines if w[2].endswith(f":{port:04X}") and f"[{w[9]}]" in mine}
    # more than the four bytes that say how long it is
    return any(w[2] in ends and int(w[4].partition(":")[2], 16) > 4 for w in lines)


def _sockets(process: Identity) -> list[str]:
    found = []
    with contextlib.suppress(OSError):
        for fd in Path(f"/proc/{process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.append(str(fd.readlink()).partition("socket:[")[2].rstrip("]"))
    return found


def saved(lab: Lab) -> None:
    """Wait until the controller has written down what it knows; it does so every 5 s or so."""
    mark = secrets.token_hex(8)
    lab.run("sbatch", "--hold", f"--comment={mark}", "--wrap=true")

    def written() -> bool:
        with contextlib.suppress(FileNotFoundError):  # the new one takes the place of the old one
            return mark.encode() in (lab.directory / "state" / "job_state").read_bytes()
        return False

    wait_for(written, "the state saved")


def ours(lab: Lab) -> list[str]:
    """Living jobs but those that :func:`saved` submits."""
    return [line for line in left(lab) if not line.endswith(" wrap")]
