"""An ``sbatch`` that is first on a command's PATH and registers the jobs it submits.

Arguments, standard streams and exit code are those of the real ``sbatch``, which is the
next one on the PATH. The shim records the intent in the run's ledger before that runs,
and the job's id as soon as it is printed. Where it cannot do so, because a node does not
have this file or the ledger is gone, it executes the real one instead.

It is run as a file, in isolated mode, by the interpreter that allstop is installed in,
and imports next to nothing: a launcher may submit a thousand jobs.
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

if __name__ == "__main__":  # run as a file: only the standard library is on sys.path
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from slurm.controller.calls import is_away
from supervisor.errors import UntrustedError
from supervisor.records.ledger import Ledger, LedgerWriteError
from supervisor.records.rundir import BIN_DIR, LEDGER_FILE
from supervisor.system import private

# with --parsable the id alone, or with its cluster; otherwise a sentence
_JOB_ID = re.compile(rb"(?:Submitted batch job )?(\d+)(?:(?:;| on cluster )(\S+))?")
_COOKIE = "ALLSTOP_RUN_ID"
_KEPT_BYTES = 4096
_ASK_S = 5.0
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

_SCRIPT = """\
#!/bin/sh
# registers submitted jobs with their run, see slurm/shim.py
here=${{0%/*}}
if [ -x {python} ] && [ -r {shim} ] && [ -w {ledger} ]; then
  exec {python} -I -S {shim} "$here" {ledger} {token} "$@"
fi
# on another machine: execute the next sbatch on the PATH
IFS=:
behind=
for folder in $PATH; do
  if [ "$folder" -ef "$here" ]; then
    behind=1
  elif [ -n "$behind" ] && [ -x "$folder/sbatch" ]; then
    exec "$folder/sbatch" "$@"
  fi
done
echo "sbatch: not found on the PATH after $here" >&2
exit 127
"""


def install(run_dir: Path, token: str) -> Path:
    """Put the shim into a run's directory; return the directory for the PATH.

    ``token`` is the token of the run's jobs.
    """
    folder = run_dir / BIN_DIR
    private.make_directory(folder)
    text = _SCRIPT.format(
        python=shlex.quote(sys.executable),
        shim=shlex.quote(str(Path(__file__).resolve())),
        ledger=shlex.quote(str(run_dir / LEDGER_FILE)),
        token=shlex.quote(token),
    )
    fd, temporary = private.create_temporary(folder / "sbatch")
    with os.fdopen(fd, "w") as script:
        os.fchmod(fd, 0o700)
        script.write(text)
    temporary.replace(folder / "sbatch")
    return folder


def main(here: str, ledger_file: str, token: str, arguments: list[str]) -> int:
    """Run the real ``sbatch`` and register its job; return its exit code."""
    _open_streams()
    real = _next_on_path(here)
    if real is None:
        print(f"sbatch: not found on the PATH after {here}", file=sys.stderr)
        return 127
    environment = {name: value for name, value in os.environ.items() if name != _COOKIE}
    number = secrets.token_hex(4)
    try:
        ledger = Ledger(Path(ledger_file))
        ledger.append("submit_intended", number=number, arguments=arguments[:20])
    except (OSError, LedgerWriteError, UntrustedError):
        os.execve(real, [real, *arguments], environment)  # the ledger is gone, or the disk full
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signals = _Signals()
    with subprocess.Popen(
        [real, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        signals.forward_to(process)
        passage = _Passage(process)
        for kind, fields in passage.records():
            with contextlib.suppress(LedgerWriteError):  # then the job is found by its token alone
                ledger.append(kind, number=number, **fields)
        if passage.job_id and not _bears(token, arguments):
            with contextlib.suppress(LedgerWriteError):
                when = _submitted_at(passage.job_id)
                ledger.append("submitted", number=number, job_id=passage.job_id, submitted_at=when)
    if process.returncode < 0:
        _die_of(-process.returncode)
    elif not passage.submitted and (process.returncode == 0 or not is_away(passage.complaint)):
        # 0 without an id: --version, or --quiet. A job, if there is one, is with the controller by
        # now and has the token
        with contextlib.suppress(LedgerWriteError):
            ledger.append("submit_refused", number=number, said=passage.complaint[-200:])
    return process.returncode


class _Signals:
    """Forwards signals to the real ``sbatch``, and keeps those that come before it runs."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []
        for number in _FORWARDED:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, self._handle)

    def forward_to(self, process: subprocess.Popen[bytes]) -> None:
        """Forward signals to this process from now on."""
        self._process = process
        while self._early:
            process.send_signal(self._early.pop(0))

    def _handle(self, number: int, _frame: object) -> None:
        if self._process is None:
            self._early.append(number)
        else:
            self._process.send_signal(number)


class _Passage:
    """Copies the output of the real ``sbatch``, and reads the job's id from it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._line = b""
        self._complaint = b""
        self.submitted = False
        self.job_id = ""

    @property
    def complaint(self) -> str:
        """Its error message."""
        return self._complaint.decode(errors="replace").strip()

    def records(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield a record for each job id, before the line is passed on.

        ``sbatch --wait`` runs on long after it has printed the id, and the reader of the
        output may kill us as soon as it has it.
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
                        yield from self._scan(said)
                    else:
                        self._complaint = (self._complaint + said)[-_KEPT_BYTES:]
                    _write(key.data, said)

    def _scan(self, said: bytes) -> Iterator[tuple[str, dict[str, str]]]:
        """Scan each line once it is complete: half an id would be another job's."""
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
                else:  # here that id is another job's; the token tells
                    yield "submitted_elsewhere", {"job_id": job_id, "cluster": cluster.decode()}


def _bears(token: str, arguments: list[str]) -> bool:
    """Whether the job has the token.

    It does not if the user set a wckey, or if this is a run within another run.
    """
    overridden = any(argument.startswith("--wc") for argument in arguments)
    return os.environ.get("SBATCH_WCKEY") == token and not overridden


def _submitted_at(job_id: str) -> str:
    """The job's time of submission, which identifies it together with its id; or empty."""
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
    """Die of the signal that killed the real ``sbatch``."""
    with contextlib.suppress(OSError):  # SIGKILL cannot be handled, and need not be
        signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


def _open_streams() -> None:
    """Open closed standard streams, so that no file of ours gets their numbers."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _write(fd: int, data: bytes) -> None:
    with contextlib.suppress(OSError):  # the reader is gone: the real sbatch would continue, too
        while data:
            data = data[os.write(fd, data) :]


def _next_on_path(here: str) -> str | None:
    """Find the ``sbatch`` that would have been run without the shim: the next on the PATH.

    Entries before the shim are skipped: one may be the shim of an inner run that called us.
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
