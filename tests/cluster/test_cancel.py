"""A cancel sees a job gone in every state; jobs that are not ours are left alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from slurm import Client
from slurm.cancel import cancel
from slurm.controller.calls import Cluster
from slurm.local import LocalTransport
from slurm.records.book import Keeper
from slurm.records.tokens import token_variables
from tests.cluster.jobs import LONG, all_gone, deaf, left, ready, running, saver, wait_state
from tests.cluster.lab import Lab
from tests.support.waiting import DEADLINE_S, wait_for

pytestmark = pytest.mark.slurm


def test_running_pending_held_and_arrays_go_in_one_call(lab: Lab, here: Path) -> None:
    with Client(lease_s=0) as client:
        jobs = [
            running(lab, client),
            client.submit(command=LONG, cpus=8, nodes=4, options=["--exclusive"]),
            client.submit(command=LONG, hold=True),
            client.submit(command=LONG, array="0-99%3"),
            client.submit(command=LONG, options=["--begin=now+1hour"]),
        ]
        cancelled = client.cancel()
        all_gone(cancelled)
        assert cancelled.calls <= 2  # a second one where the first look came between
        assert [one.id for one in cancelled.jobs] == jobs
        assert not left(lab)
    assert not list((here / "state/allstop/jobs").iterdir())


def test_by_id_only_that_one_goes(lab: Lab, here: Path) -> None:
    with Client(lease_s=0) as client:
        first, second = running(lab, client), running(lab, client)
        cancelled = client.cancel([first])
        all_gone(cancelled)
        assert [one.id for one in cancelled.jobs] == [first]
        assert lab.states(int(second)) == ["RUNNING"]
        assert client.cancel([int(second)]).complete  # type: ignore[list-item]
        assert not left(lab)


def test_an_id_that_is_not_ours_is_left_alone_and_not_called_cancelled(
    lab: Lab, here: Path
) -> None:
    stranger = lab.submit("sleep 600")
    with Client(lease_s=0) as client:
        assert not client.cancel([str(stranger)]).complete
        running(lab, client)
        cancelled = client.cancel([str(stranger), "99999999"])
        assert not cancelled.complete
        assert str(stranger) in (cancelled.error or "")
        assert {one.verified for one in cancelled.jobs} == {False}
    lab.wait_state(stranger, "RUNNING")


def test_a_requeued_job_goes_too(lab: Lab, here: Path) -> None:
    with Client(lease_s=0) as client:
        job = running(lab, client, requeue=True)
        assert lab.run("scontrol", "requeue", job).returncode == 0
        all_gone(client.cancel())
        assert not left(lab)
        job = running(lab, client, requeue=True)
        assert lab.run("scontrol", "requeue", job).returncode == 0
        wait_state(lab, job, "PENDING")
        all_gone(client.cancel())
    assert not left(lab)


def test_an_array_of_which_some_complete_and_others_wait_goes(lab: Lab, here: Path) -> None:
    """A task that cannot complete, its node being hung, must not keep the others waiting."""
    with Client(lease_s=0) as client:
        job = client.submit(command=LONG, array="0-3%1", options=["--nodelist=n1"])
        wait_for(lambda: "RUNNING" in lab.states(int(job)), "a task runs")
        lab.slurmd["n1"].freeze()
        lab.run("scancel", f"{job}_0")
        wait_for(lambda: "COMPLETING" in lab.states(int(job)), "a task completes")
        cancelled = client.cancel(pause=lambda _: "PENDING" not in lab.states(int(job)))
        assert not cancelled.complete
        assert [one.state for one in cancelled.jobs] == ["completing"]
        assert "COMPLETING" in lab.states(int(job))
        lab.slurmd["n1"].thaw()
        all_gone(client.cancel())


def test_a_job_that_ignores_sigterm_goes(lab: Lab, here: Path) -> None:
    with Client(lease_s=0) as client:
        client.submit(command=deaf(here / "ready"))
        ready(here / "ready")
        all_gone(client.cancel())
    assert not left(lab)


def test_grace_lets_a_job_save_and_nothing_waiting_begins(lab: Lab, here: Path) -> None:
    with Client(lease_s=0) as client:
        client.submit(command=saver(here / "ready", here / "saved"))
        client.submit(command=["touch", "began"], options=["--begin=now+1hour"])
        ready(here / "ready")
        all_gone(client.cancel(grace_s=20))
        assert {one.state for one in client.known()} == {"completed", "cancelled"}
    assert (here / "saved").exists()
    assert not (here / "began").exists()


def test_grace_reaches_every_task_of_an_array(lab: Lab, here: Path) -> None:
    each = 'mkdir "$SLURM_ARRAY_TASK_ID"; cd "$_"; exec "$@"'
    script = saver(Path("ready"), Path("saved"))
    with Client(lease_s=0) as client:
        job = client.submit(command=["bash", "-c", each, "-", *script], array="0-7%4")
        wait_for(lambda: len(list(here.glob("*/ready"))) == 4, "four tasks ready")
        all_gone(client.cancel(grace_s=20))
        assert lab.states(int(job)).count("COMPLETED") == 4
    assert len(list(here.glob("*/saved"))) == 4


def test_grace_ends(lab: Lab, here: Path) -> None:
    with Client(lease_s=0) as client:
        client.submit(command=deaf(here / "ready"))
        ready(here / "ready")
        all_gone(client.cancel(grace_s=1))
    assert not left(lab)


def test_the_exit_status_of_a_job_that_saved_is_its_own(lab: Lab, here: Path) -> None:
    with Client(lease_s=0) as client:
        job = client.submit(command=saver(here / "ready", here / "saved"))
        ready(here / "ready")
        lab.run("scancel", "--signal=TERM", "--full", job)
        wait_state(lab, job, "COMPLETED")


def similar(token: str) -> list[tuple[str, ...]]:
    """Options of jobs that look much like ours."""
    return [
        (),
        (f"--job-name={token}",),
        (f"--job-name=x.{token}",),
        (f"--job-name=x{token}.1",),
        (f"--job-name=x.{token}x.1",),
        (f"--job-name=x.{token}.1.y",),
        (f"--job-name=x.{token}.-1",),
        (f"--comment={token}",),
        (f"--wckey={token}0",),
        (f"--wckey={token[:-1]}",),
        (f"--wckey=x|{token}",),
        (f"--job-name=x\n1|1|N/A|RUNNING|1|{token}|x",),
    ]


def test_jobs_of_others_are_left_alone(lab: Lab, here: Path) -> None:
    with Client(lease_s=0) as client, Client(lease_s=0) as other:
        bystanders = [lab.submit("sleep 600", *options) for options in similar(client.token)]
        theirs = running(lab, other)
        running(lab, client)
        all_gone(client.cancel())
        for job in (*bystanders, theirs):
            assert lab.states(int(job))[0] in ("RUNNING", "PENDING"), job
        all_gone(other.cancel())


SBATCH = shutil.which("sbatch") or "sbatch"


@pytest.mark.parametrize(
    "argv",
    [
        ["sbatch", "--wrap=sleep 600"],
        [SBATCH, "--wrap=sleep 600"],
        [SBATCH, "--job-name=its own", "--wrap=sleep 600"],
        [SBATCH, "with_wckey"],
        [SBATCH, "--array=0-9", "--wrap=sleep 600"],
        [SBATCH, "nested"],
    ],
    ids=["plain", "path", "name", "wckey", "array", "nested"],
)
def test_what_a_child_submits_is_found_by_token(lab: Lab, here: Path, argv: list[str]) -> None:
    (here / "with_wckey").write_text("#!/bin/sh\n#SBATCH --wckey=other\nsleep 600\n")
    (here / "nested").write_text('#!/bin/sh\nsbatch --wrap="sleep 600"\n')
    with Client(lease_s=0) as client:
        client.expect_others()
        variables = os.environ | token_variables(client.token)
        subprocess.run(argv, env=variables, check=True, capture_output=True)
        if argv[-1] == "nested":
            wait_for(lambda: len(client.query()) == 2, "a job of a job")
        cancelled = client.cancel(patience_s=DEADLINE_S)  # ten tasks' ends, on a busy machine
        all_gone(cancelled)
        assert len(cancelled.jobs) == (2 if argv[-1] == "nested" else 1)
    assert not left(lab)


def test_a_child_that_still_waits_to_submit_is_ended(lab: Lab, here: Path) -> None:
    """An sbatch outlives its caller; here it hangs, and would submit after the last look."""
    with Client(lease_s=0) as client:
        client.expect_others()
        lab.slurmctld.freeze()
        variables = os.environ | token_variables(client.token)
        child = subprocess.Popen(
            ["sbatch", "--wrap=sleep 600"], env=variables, stderr=subprocess.DEVNULL
        )
        bystander = subprocess.Popen(["bash", "-c", "read"], stdin=subprocess.PIPE, env=variables)
        comm = Path(f"/proc/{child.pid}/comm")
        wait_for(lambda: comm.read_text() == "sbatch\n", "sbatch waits")
        child.send_signal(19)  # it gets no further, not even after the thaw
        lab.slurmctld.thaw()
        all_gone(client.cancel())
        assert child.wait(30) == -9
        assert bystander.poll() is None
        bystander.communicate()
    assert not left(lab)


def keeper_of(here: Path, token: str, job: int | None = None, **known: str) -> Keeper:
    """Return the book of a shim that has registered a job."""
    keeper = Keeper(here / f"{token}.ledger")
    keeper.expect(token, "local", {}, others=True)
    if job is not None:
        keeper.write("submit_intended", number="a1b2")
        keeper.write("submitted", number="a1b2", job_id=str(job), **known)
    return keeper


def submitted_at(lab: Lab, job: int) -> str:
    said = subprocess.run(
        ["squeue", "-h", "-t", "all", "-j", str(job), "-o", "%V"],
        env=lab.environment | {"SLURM_TIME_FORMAT": "%s"}, capture_output=True, text=True,
    )  # fmt: skip
    return said.stdout.split()[0]


def test_a_registered_job_goes_by_its_id_and_time(lab: Lab, here: Path) -> None:
    job = lab.submit("sleep 600", "--wckey=of-its-own")
    keeper = keeper_of(here, "tok", job, submitted_at=submitted_at(lab, job))
    all_gone(cancel(Cluster(LocalTransport()), keeper))
    assert not left(lab)
    keeper.close()


def test_a_registered_job_goes_by_its_id_though_a_requeue_has_changed_its_time(
    lab: Lab, here: Path
) -> None:
    job = lab.submit("sleep 600", "--wckey=of-its-own", "--requeue")
    keeper = keeper_of(here, "tok", job, submitted_at=submitted_at(lab, job))
    lab.wait_state(job, "RUNNING")
    lab.run("scontrol", "requeue", str(job))
    lab.wait_state(job, "PENDING")
    lab.run("scontrol", "update", f"JobId={job}", "StartTime=now+3600")
    assert submitted_at(lab, job) != keeper.book.submitted_at[str(job)]
    all_gone(cancel(Cluster(LocalTransport()), keeper))
    assert not left(lab)
    keeper.close()


@pytest.mark.parametrize("known", [{}, {"submitted_at": "1"}])
def test_an_id_alone_proves_nothing(lab: Lab, here: Path, known: dict[str, str]) -> None:
    stranger = lab.submit("sleep 600", "--wckey=of-its-own")
    keeper = keeper_of(here, "tok", stranger, **known)
    cancelled = cancel(Cluster(LocalTransport()), keeper, patience_s=4 if not known else 30)
    lab.wait_state(stranger, "RUNNING")
    assert cancelled.calls == 0
    assert cancelled.complete == bool(known)  # another time: another job, and ours is gone
    assert keeper.book.outstanding != bool(known)
    keeper.close()


def test_jobs_that_the_controller_has_forgotten_are_gone(lab: Lab, here: Path) -> None:
    """MinJobAge is lowered to 2 s: the controller forgets every 5 s or so."""
    conf = lab.slurm_conf.read_text()
    with Client(lease_s=0) as client:
        job = running(lab, client)
        try:
            lab.slurm_conf.write_text(re.sub("MinJobAge=.*", "MinJobAge=2", conf))
            assert lab.run("scontrol", "reconfigure").returncode == 0
            lab.run("scancel", job)
            wait_for(
                lambda: lab.run("scontrol", "show", "job", job).returncode != 0,
                "forgotten",
                timeout_s=DEADLINE_S,
            )
        finally:
            lab.slurm_conf.write_text(conf)
            lab.run("scontrol", "reconfigure")
        # a job that was alive when last seen has to be missed twice
        wait_for(
            lambda: [(one.state, one.verified) for one in client.query()] == [("gone", True)],
            "gone",
        )
        assert client.cancel().calls == 0


def test_leaving_cancels_even_after_an_exception(lab: Lab, here: Path) -> None:
    with pytest.raises(ZeroDivisionError), Client(lease_s=0) as client:
        running(lab, client)
        raise ZeroDivisionError
    assert not left(lab)


def test_what_is_detached_lives_on(lab: Lab, here: Path) -> None:
    with Client(lease_s=0) as client:
        job = running(lab, client)
        client.detach()
    assert lab.states(int(job)) == ["RUNNING"]
    assert not list((here / "state/allstop/jobs").iterdir())


FULL = """
import pathlib, resource, sys
from slurm import Client
client = Client(lease_s=0)
client.submit(command=["sleep", "600"])
size = client._keeper.path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, size + 20))
try:
    client.submit(command=["sleep", "600"])
except Exception as error:
    print(type(error).__name__)
cancelled = client.cancel()
print(cancelled.complete, cancelled.error)
client.close()
"""


def test_a_full_disk_stops_no_cancel(lab: Lab, here: Path) -> None:
    root = Path(__file__).parents[2]
    said = subprocess.run(
        [sys.executable, "-P", "-c", FULL], env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True, text=True, timeout=DEADLINE_S,
    )  # fmt: skip
    assert said.stdout.split("\n") == ["LedgerWriteError", "True None", ""], said.stderr
    assert not left(lab)
    assert not list((here / "state/allstop/jobs").iterdir())


def test_jobs_in_a_hidden_partition_are_seen(lab: Lab, here: Path) -> None:
    """Root and SlurmUser see them in any case: it is for an unprivileged user that this tells."""
    lab.run("scontrol", "update", "PartitionName=gpu", "Hidden=YES")
    try:
        with Client(lease_s=0) as client:
            job = client.submit(command=LONG, partition="gpu", hold=True)
            assert [(one.id, one.state) for one in client.query()] == [(job, "pending")]
            all_gone(client.cancel())
    finally:
        lab.run("scontrol", "update", "PartitionName=gpu", "Hidden=NO")
    assert not left(lab, "--all")


NOTHING = [
    "echo no contact >&2",
    'echo "no contact" >&2; for last; do case $last in --format=*) echo "${last#*=}"; esac; done',
]


@pytest.mark.parametrize("script", NOTHING, ids=["silent", "complains"])
def test_no_answer_is_not_an_answer_that_there_are_no_jobs(
    lab: Lab, here: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    """A process that ignores SIGCHLD sees exit status 0 always; squeue may exit with 0, too."""
    with Client(lease_s=0) as client:
        running(lab, client)
        (here / "bin").mkdir()
        (here / "bin" / "squeue").write_text(f"#!/bin/sh\n{script}\n")
        (here / "bin" / "squeue").chmod(0o755)
        path = os.environ["PATH"]
        monkeypatch.setenv("PATH", f"{here}/bin:{path}")
        cancelled = client.cancel(pause=lambda _: True)  # one look
        assert not cancelled.complete
        assert "no contact" in (cancelled.error or "")
        monkeypatch.setenv("PATH", path)
        all_gone(client.cancel())
    assert not left(lab)
