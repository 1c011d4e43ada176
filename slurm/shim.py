"""An ``sbatch`` that stands first on a command's PATH and registers what is submitted.

Arguments, standard streams and exit code are those of the real one, which is the
next on the PATH. What is added: the intent is in the run's ledger before it runs,
and the job's id as soon as it is printed. Where this file cannot do its work (a
node without it, a ledger that is gone) it steps aside.

It is run as a file, by the interpreter that fullstop is installed in but with none
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

from slurm.calls import is_away
from supervisor.ledger import Ledger
from supervisor.rundir import BIN_DIR, LEDGER_FILE

# --parsable: the id alone, or with its cluster; otherwise the sentence
_JOB_ID = re.compile(rb"^(?:Submitted batch job )?(\d+)(?:;\S+| on cluster \S+)?$", re.MULTILINE)
_COOKIE = "FULLSTOP_RUN_ID"
_KEPT_BYTES = 4096

_SCRIPT = """\
#!/bin/sh
# registers what is submitted with the run it belongs to, see slurm/shim.py
here={here}
if [ -x {python} ] && [ -r {shim} ] && [ -w {ledger} ]; then
  exec {python} -I -S {shim} {here} "$@"
fi
# on another machine: step aside
IFS=:
for folder in $PATH; do
  [ "$folder" != "$here" ] && [ -x "$folder/sbatch" ] && exec "$folder/sbatch" "$@"
done
echo "sbatch: not found behind $here on the PATH" >&2
exit 127
"""


def install(run_dir: Path) -> Path:
    """Put the shim into a run's directory; return the directory for the PATH."""
    folder = run_dir / BIN_DIR
    folder.mkdir(mode=0o700, exist_ok=True)
    script = folder / "sbatch"
    script.write_text(
        _SCRIPT.format(
            here=shlex.quote(str(folder)),
            python=shlex.quote(sys.executable),
            shim=shlex.quote(str(Path(__file__).resolve())),
            ledger=shlex.quote(str(run_dir / LEDGER_FILE)),
        )
    )
    script.chmod(0o700)
    return folder


def main(here: str, arguments: list[str]) -> int:
    """Be ``sbatch``; return its exit code."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # die of it, as the real one does
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    real = _next_on_path(here)
    if real is None:
        print(f"sbatch: not found behind {here} on the PATH", file=sys.stderr)
        return 127
    number = secrets.token_hex(4)
    ledger = Ledger(Path(here).parent / LEDGER_FILE)
    ledger.append("submit_intended", number=number, arguments=arguments[:20])
    environment = {name: value for name, value in os.environ.items() if name != _COOKIE}
    with subprocess.Popen(
        [real, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        passage = _Passage(process)
        for job_id in passage.job_ids():
            ledger.append("submitted", number=number, job_id=job_id)
    if process.returncode > 0 and not passage.submitted and not is_away(passage.complaint):
        ledger.append("submit_refused", number=number, said=passage.complaint[-200:])
    if process.returncode < 0:
        signal.raise_signal(-process.returncode)  # as it died, so do we
    return process.returncode


class _Passage:
    """Passes on what the real one writes, and reads along."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._kept = {1: b"", 2: b""}
        self.submitted = False

    @property
    def complaint(self) -> str:
        """What it said was wrong."""
        return self._kept[2].decode(errors="replace").strip()

    def job_ids(self) -> Iterator[str]:
        """Yield the job's id as soon as it is printed: ``--wait`` ends long after that."""
        with selectors.DefaultSelector() as selector:
            for number, pipe in ((1, self._process.stdout), (2, self._process.stderr)):
                if pipe is not None:
                    selector.register(pipe, selectors.EVENT_READ, number)
            while selector.get_map():
                for key, _ in selector.select():
                    said = os.read(key.fd, _KEPT_BYTES)
                    if not said:
                        selector.unregister(key.fileobj)
                        continue
                    _write(key.data, said)
                    self._kept[key.data] = (self._kept[key.data] + said)[-_KEPT_BYTES:]
                    found = _JOB_ID.search(self._kept[1])
                    if found and not self.submitted:
                        self.submitted = True
                        yield found[1].decode()


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _next_on_path(here: str) -> str | None:
    """Find the program that would have been run without us."""
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        candidate = Path(folder or ".") / "sbatch"
        if not _same(folder, here) and os.access(candidate, os.X_OK) and candidate.is_file():
            return str(candidate)
    return None


def _same(folder: str, here: str) -> bool:
    with contextlib.suppress(OSError):
        return Path(folder or ".").samefile(here)
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
