"""The shim behaves as ``sbatch`` does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from slurm.records.book import Keeper
from slurm.shim import install
from supervisor.system.process import Identity, children
from tests.cluster.place import ClusterPlace, verified
from tests.support.waiting import DEADLINE_S, wait_for

pytestmark = pytest.mark.slurm

COMPARE = r"""
import json, os, re, subprocess, sys
SCRIPT = b"#!/bin/sh\ntrue\n"
FORMS = [
    ([], SCRIPT), ([], b""), ([], b"echo no shebang\n"), (["--wrap=true"], b""),
    (["-H", "--wrap", "echo 'a  b' \"$X\" $(date) `id` \xe9 | tee > /dev/null"], b""),
    (["--parsable", "--wrap=true"], b""), (["job.sh", "--flag", "a b", "", "*"], b""),
    (["./job.sh"], b""), (["nosuch.sh"], b""), (["-p", "nowhere", "--wrap=true"], b""),
    (["--nonsense"], b""), (["--array=0-2", "--wrap=true"], b""),
    (["--array=x", "--wrap=true"], b""), (["--version"], b""), (["--help"], b""),
    (["--usage"], b""), (["-Q", "--wrap=true"], b""), (["--wrap=true", "job.sh"], b""),
    (["--export=NONE", "--wrap=true"], b""), (["-J", "a;b \n c|d", "--wrap=true"], b""),
    (["--dependency=afterok:999999", "--wrap=true"], b""), (["--nodes=99", "--wrap=true"], b""),
    (["--wait", "--wrap=exit 7"], b""), ([b"--wrap=echo \xff\xfe"], b""),
    (["--mem=1T", "--wrap=true"], b""), (["--time=soon", "--wrap=true"], b""), (["."], b""),
]
def ask(program, arguments, stdin):
    said = subprocess.run([program, *arguments], input=stdin, capture_output=True)
    mask = lambda text: re.sub(rb"\d+", b"N", text).decode(errors="backslashreplace")
    return said.returncode, mask(said.stdout), mask(said.stderr)
def closed(program, how):
    shell = ["sh", "-c", f"{program} --wrap=true {how}"]
    return subprocess.run(shell, capture_output=True).returncode
open("job.sh", "w").write(SCRIPT.decode())
os.environ["SBATCH_OUTPUT"] = "/dev/null"
found = [[repr(f), ask("sbatch", *f), ask("/usr/bin/sbatch", *f)] for f in FORMS]
for how in (">&-", "2>&-", "<&-", ">&- 2>&- <&-", "| true", "> /dev/full"):
    found.append([how, closed("sbatch", how), closed("/usr/bin/sbatch", how)])
json.dump(found, open(sys.argv[1], "w"))
sys.exit(1)
"""


def test_it_behaves_as_the_real_one(there: ClusterPlace) -> None:
    script, found = there.root / "compare.py", there.root / "found.json"
    script.write_text(COMPARE)
    run = there.argv("run", "--run-dir", str(there.root / "run"), "--", sys.executable)
    begun = there.start([*run, str(script), str(found)])
    assert begun.end(200) == 1, begun.tell()
    forms = json.loads(found.read_text())
    assert len(forms) == 33
    assert [form for form, ours, theirs in forms if ours != theirs] == [], forms
    there.assert_no_jobs()
    there.assert_nothing_outstanding()


class Behind:
    """A shim in a directory of its own, before some other ``sbatch``."""

    def __init__(self, there: ClusterPlace) -> None:
        self.run_dir = there.root / "behind"
        self.run_dir.mkdir()
        self.keeper = Keeper(self.run_dir / "ledger")
        self.keeper.expect("allstop-behind", "local", {})
        self.shim = install(self.run_dir, "allstop-behind")
        self.environment = there.env | {"PATH": f"{self.shim}:{there.env['PATH']}"}

    def call(self, *arguments: str, **options: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["sbatch", *arguments], env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
        )  # fmt: skip

    def put_behind(self, there: ClusterPlace, script: str) -> None:
        """Have this be the real one."""
        folder = there.root / "fake"
        folder.mkdir()
        (folder / "sbatch").write_text(f"#!/bin/bash\n{script}\n")
        (folder / "sbatch").chmod(0o700)
        self.environment["PATH"] = f"{self.shim}:{folder}:{there.env['PATH']}"

    def ids(self) -> set[str]:
        self.keeper.catch_up()
        return self.keeper.book.ids


@pytest.fixture
def behind(there: ClusterPlace):
    shim = Behind(there)
    yield shim
    shim.keeper.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_it_reaches_the_real_one(
    there: ClusterPlace, behind: Behind, number: signal.Signals
) -> None:
    there.lab.slurmctld.freeze()
    with behind.call("--wrap=true") as shim:
        (real,) = wait_for(lambda: children(shim.pid), "the real one")
        identity = Identity.of(real)
        shim.send_signal(number)
        assert shim.wait(60) == -number
    assert identity is not None
    assert not identity.alive
    there.lab.slurmctld.thaw()
    behind.keeper.catch_up()
    assert len(behind.keeper.book.open) == 1  # whether there is a job, a look will tell


def test_the_real_one_killed(there: ClusterPlace, behind: Behind) -> None:
    there.lab.slurmctld.freeze()
    with behind.call("--wrap=true") as shim:
        (real,) = wait_for(lambda: children(shim.pid), "the real one")
        os.kill(real, signal.SIGKILL)
        assert shim.wait(60) == -signal.SIGKILL
    there.lab.slurmctld.thaw()
    behind.keeper.catch_up()
    assert len(behind.keeper.book.open) == 1


@pytest.mark.parametrize("lack", ["ledger", "ledger unwritable", "directory", "shim"])
def test_it_steps_aside(there: ClusterPlace, behind: Behind, lack: str) -> None:
    ledger = behind.run_dir / "ledger"
    if lack == "shim":
        script = behind.shim / "sbatch"
        script.write_text(script.read_text().replace("shim.py", "gone.py"))
    elif lack == "directory":
        behind.shim.rename(there.root / "moved")
        behind.environment["PATH"] = f"{there.root / 'moved'}:{there.env['PATH']}"  # seen elsewhere
        ledger.unlink()
    else:
        ledger.unlink()
        if lack == "ledger unwritable":
            ledger.mkdir()
    with behind.call("--parsable", "--output=/dev/null", "--wrap=true") as shim:
        out, err = shim.communicate(timeout=DEADLINE_S)
    assert (shim.returncode, err) == (0, b"")
    there.lab.wait_state(int(out), "COMPLETED")


def test_no_sbatch_after_it(there: ClusterPlace, behind: Behind) -> None:
    behind.environment["PATH"] = str(behind.shim)
    with behind.call("--wrap=true") as shim:
        _, err = shim.communicate(timeout=DEADLINE_S)
    assert shim.returncode == 127
    assert b"not found on the PATH" in err


def test_half_an_id_is_not_an_id(there: ClusterPlace, behind: Behind) -> None:
    fifo = there.root / "fifo"
    os.mkfifo(fifo)
    behind.put_behind(there, f"printf 'Submitted batch job 12'; read x < {fifo}; echo 34")
    with behind.call() as shim:
        assert shim.stdout is not None
        assert os.read(shim.stdout.fileno(), 100) == b"Submitted batch job 12"
        assert not behind.ids()
        fifo.write_text("go on\n")
        out, _ = shim.communicate(timeout=DEADLINE_S)
    assert out == b"34\n"
    assert behind.ids() == {"1234"}


@pytest.mark.parametrize("said", ["Submitted batch job 77 on cluster other", "77;other"])
def test_an_id_of_another_cluster_is_not_one_of_this(
    there: ClusterPlace, behind: Behind, said: str
) -> None:
    behind.put_behind(there, f"echo '{said}'")
    with behind.call() as shim:
        out, _ = shim.communicate(timeout=DEADLINE_S)
    assert out.decode() == said + "\n"
    assert not behind.ids()
    assert not behind.keeper.book.open


def test_the_id_is_recorded_before_it_is_passed_on(there: ClusterPlace, behind: Behind) -> None:
    behind.put_behind(there, "echo 55; exec sleep 600")
    with behind.call() as shim:
        assert shim.stdout is not None
        assert os.read(shim.stdout.fileno(), 100) == b"55\n"
        assert behind.ids() == {"55"}
        shim.terminate()
        assert shim.wait(60) == -signal.SIGTERM


def test_many_at_a_time(there: ClusterPlace, behind: Behind) -> None:
    calls = [behind.call("--parsable", "--hold", "--wrap=true") for _ in range(16)]
    ids = set()
    for shim in calls:
        with shim:
            ids.add(shim.communicate(timeout=DEADLINE_S)[0].decode().strip())
    assert behind.ids() == ids
    assert len(ids) == 16
    assert not behind.keeper.book.open


def test_a_run_within_a_run(there: ClusterPlace) -> None:
    inner = " ".join(there.argv("run", "--run-dir", str(there.root / "inner")))
    line = f"{inner} -- sbatch -o /dev/null --wrap true > $IDS/a"
    begun = there.shell(line)
    assert begun.end() == 0, begun.tell()
    assert verified(begun.report) == {there.ids["a"]: "completed"}
    report = json.loads((there.root / "inner" / "report.json").read_text())
    assert verified(report) == {there.ids["a"]: "completed"}
    there.assert_nothing_outstanding()


def test_the_job_does_not_inherit_the_run_s_variables(there: ClusterPlace) -> None:
    out = there.root / "env"
    line = f"sbatch --output={out} --wrap env > $IDS/a"
    begun = there.shell(line)
    assert begun.end() == 0, begun.tell()
    assert "ALLSTOP_RUN_ID" not in Path(out).read_text()
