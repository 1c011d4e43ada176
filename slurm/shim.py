"""An ``sbatch`` that stands first on a command's PATH and registers what is submitted.

Arguments, standard streams and exit code are those of the real one, which is the
next on the PATH. What is added: the intent is in the run's ledger before it runs,
and the job's id as soon as it is printed. Where this file cannot do its work (a
node without it, a ledger that is gone) it steps aside.

It is run as a file, by the interpreter that allstop is installed in but with none
of its settings, and imports next to nothing: a launcher may submit a thousand jobs.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import selectors
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":  # as a file: nothing but the standard library is on the path
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from slurm.controller.calls import is_away
from supervisor.records.ledger import Ledger, LedgerWriteError
from supervisor.records.rundir import BIN_DIR, LEDGER_FILE

# --parsable: the id alone, or with its cluster; otherwise the sentence
_JOB_ID = re.compile(rb"(?:Submitted batch job )?(\d+)(?:(?:;| on cluster )(\S+))?")
_COOKIE = "ALLSTOP_RUN_ID"
_KEPT_BYTES = 4096
_ASK_S = 5.0
_TOLD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

_SCRIPT = """\
#!/bin/sh
# registers what is submitted with the run it belongs to, see slurm/shim.py
here=${{0%/*}}
if [ -x {python} ] && [ -r {shim} ] && [ -w {ledger} ]; then
  exec {python} -I -S {shim} "$here" {ledger} {token} "$@"
fi
# on another machine: step aside, for what stands behind this on the PATH
IFS=:
behind=
for folder in $PATH; do
  if [ "$folder" -ef "$here" ]; then
    behind=1
  elif [ -n "$behind" ] && [ -x "$folder/sbatch" ]; then
    exec "$folder/sbatch" "$@"
  fi
done
echo "sbatch: not found behind $here on the PATH" >&2
exit 127
"""


def install(run_dir: Path, token: str) -> Path:
    """Put the shim into a run's directory; return the directory for the PATH.

    ``token`` is what the run's jobs bear.
    """
    folder = run_dir / BIN_DIR
    folder.mkdir(mode=0o700, exist_ok=True)
    script = folder / "sbatch"
    script.write_text(
        _SCRIPT.format(
            python=shlex.quote(sys.executable),
            shim=shlex.quote(str(Path(__file__).resolve())),
            ledger=shlex.quote(str(run_dir / LEDGER_FILE)),
            token=shlex.quote(token),
        )
    )
    script.chmod(0o700)
    return folder


def main(here: str, ledger_file: str, token: str, arguments: list[str]) -> int:
    """Be ``sbatch``; return its exit code."""
    _have_streams()
    real = _next_on_path(here)
    if real is None:
        print(f"sbatch: not found behind {here} on the PATH", file=sys.stderr)
        return 127
    environment = {name: value for name, value in os.environ.items() if name != _COOKIE}
    number = secrets.token_hex(4)
    try:
        ledger = Ledger(Path(ledger_file))
        ledger.append("submit_intended", number=number, arguments=arguments[:20])
    except (OSError, LedgerWriteError):
        os.execve(real, [real, *arguments], environment)  # the run's directory is gone, or full
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    told = _Told()
    with subprocess.Popen(
        [real, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        told.pass_on_to(process)
        passage = _Passage(process)
        for kind, fields in passage.records():
            with contextlib.suppress(LedgerWriteError):  # then the token alone tells
                ledger.append(kind, number=number, **fields)
        if passage.job_id and not _bears(token, arguments):
            with contextlib.suppress(LedgerWriteError):
                when = _submitted_at(passage.job_id)
                ledger.append("submitted", number=number, job_id=passage.job_id, submitted_at=when)
    if process.returncode < 0:
        _die_of(-process.returncode)
    elif not passage.submitted and (process.returncode == 0 or not is_away(passage.complaint)):
        # 0 without an id: it was asked for its version, or to be quiet. The job, if there is
        # one, is with the controller by now and bears the token
        with contextlib.suppress(LedgerWriteError):
            ledger.append("submit_refused", number=number, said=passage.complaint[-200:])
    return process.returncode


class _Told:
    """Passes on what we are told: the real one dies of it, or not, and we do as it does.

    From before it is there: what comes too early waits for it.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []
        for number in _TOLD:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, self._hear)

    def pass_on_to(self, process: subprocess.Popen[bytes]) -> None:
        """It is there now."""
        self._process = process
        while self._early:
            process.send_signal(self._early.pop(0))

    def _hear(self, number: int, _frame: object) -> None:
        if self._process is None:
            self._early.append(number)
        else:
            self._process.send_signal(number)


class _Passage:
    """Passes on what the real one writes, and reads along."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._line = b""
        self._complaint = b""
        self.submitted = False
        self.job_id = ""

    @property
    def complaint(self) -> str:
        """What it said was wrong."""
        return self._complaint.decode(errors="replace").strip()

    def records(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield what is to be noted as soon as it is printed, before anybody else reads it.

        ``--wait`` ends long after the id; and who reads it may break off at once.
        """
        with selectors.DefaultSelector() as selector:
            for number, pipe in ((1, self._process.stdout), (2, self._process.stderr)):
                if pipe is not None:
                    selector.register(pipe, selectors.EVENT_READ, number)
            while selector.get_map():
                for key, _ in selector.select():
                    said = os.read(key.fd, _KEPT_BYTES)
                    if not said:
                        selector.unregister(key.fileobj)
                    if key.data == 1:
                        yield from self._read_along(said)
                    else:
                        self._complaint = (self._complaint + said)[-_KEPT_BYTES:]
                    _write(key.data, said)

    def _read_along(self, said: bytes) -> Iterator[tuple[str, dict[str, str]]]:
        """Look at each line once it is whole: half an id is another job's."""
        *lines, self._line = (self._line + said).split(b"\n")
        if not said:
            lines.append(self._line)
        for line in lines:
            found = _JOB_ID.fullmatch(line)
            if found and not self.submitted:
                self.submitted = True
                job_id, cluster = found[1].decode(), found[2]
                if cluster is None:
                    self.job_id = job_id
                    yield "submitted", {"job_id": job_id}
                else:  # that id means another job here; if it is on this one, the token tells
                    yield "submitted_elsewhere", {"job_id": job_id, "cluster": cluster.decode()}


def _bears(token: str, arguments: list[str]) -> bool:
    """Whether the controller knows whose the job is.

    Not if its user has a wckey of their own, or this is a run within another one.
    """
    overridden = any(argument.startswith("--wc") for argument in arguments)
    return os.environ.get("SBATCH_WCKEY") == token and not overridden


def _submitted_at(job_id: str) -> str:
    """When the controller took a job: with the id, what tells it from every other. Or empty."""
    environment = {**os.environ, "SLURM_TIME_FORMAT": "%s"}
    try:
        answer = subprocess.run(
            ["squeue", "--all", "--noheader", f"--jobs={job_id}", "--format=%V"],
            env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_ASK_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return min(answer.stdout.split(), default="")


def _die_of(number: int) -> None:
    """As the real one died, so do we."""
    with contextlib.suppress(OSError):  # SIGKILL cannot be handled, and need not be
        signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


def _have_streams() -> None:
    """Where a standard stream is closed, nothing of ours must take its place."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _write(fd: int, data: bytes) -> None:
    with contextlib.suppress(OSError):  # whoever reads us is gone: the real one would not mind
        while data:
            data = data[os.write(fd, data) :]


def _next_on_path(here: str) -> str | None:
    """Find the program that would have been run without us: the next one behind us.

    Before us may stand the shim of a run within this one, which has just called us.
    """
    behind = False
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        candidate = Path(folder or ".") / "sbatch"
        if _same(folder, here):
            behind = True
        elif behind and os.access(candidate, os.X_OK) and candidate.is_file():
            return str(candidate)
    return None


def _same(folder: str, here: str) -> bool:
    with contextlib.suppress(OSError):
        return Path(folder or ".").samefile(here)
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]))
