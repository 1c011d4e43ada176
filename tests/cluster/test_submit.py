"""Jobs run as they were described; what SLURM refuses is one clear line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm import Client
from slurm.errors import ProgramMissingError, SubmitRefusedError
from supervisor.errors import AllstopError, ConfigError
from tests.cluster.jobs import LONG, all_gone, left, running, wait_state
from tests.cluster.lab import Lab

pytestmark = pytest.mark.slurm

WRITE = "import json, os, sys; json.dump([sys.argv[2:], dict(os.environ)], open(sys.argv[1], 'w'))"


def facts(lab: Lab, job: str) -> dict[str, str]:
    said = lab.run("scontrol", "-o", "show", "job", job).stdout
    return dict(word.partition("=")[::2] for word in said.split(" ") if "=" in word)


def test_every_option_arrives(lab: Lab, here: Path) -> None:
    (here / "work").mkdir()
    with Client(lease_s=0) as client:
        job = client.submit(
            command=LONG, name="all", partition="low", time_limit="1:30:00", memory="123M",
            cpus=3, gpus="fake:1", tasks=2, nodes=1, array="2-6:2%1", output=str(here / "o %a"),
            error=str(here / "e"), directory=str(here / "work"), requeue=True, hold=True,
            options=["--nice=7", "--mail-type=NONE"],
        )  # fmt: skip
        assert lab.states(int(job)) == ["PENDING"] * 3
        told = facts(lab, job)
        assert client.known()[0].id == job
    assert told["Partition"] == "low"
    assert told["TimeLimit"] == "01:30:00"
    assert told["MinMemoryNode"] == "123M"
    assert told["CPUs/Task"] == "3"
    assert told["NumTasks"] == "2"
    assert told["TresPerJob"] == "gres:gpu:fake:1"
    assert told["ArrayTaskId"] in ("2-6:2%1", "2,4,6%1")
    assert told["WorkDir"] == str(here / "work")
    assert told["StdErr"] == str(here / "e")
    assert told["Requeue"] == "1"
    assert told["Reason"] == "JobHeldUser"
    assert told["Nice"] == "7"
    assert told["JobName"] == f"all.{client.token}.1"


def test_an_array_given_as_a_number_runs_each_task_once(lab: Lab, here: Path) -> None:
    with Client(lease_s=0) as client:
        job = client.submit(
            command=["bash", "-c", 'touch "$SLURM_ARRAY_TASK_ID"'], array=5, directory=str(here)
        )
        wait_state(lab, job, "COMPLETED")
        assert [(one.id, one.state, one.verified) for one in client.wait(20)] == [
            (job, "completed", True)
        ]
    assert sorted(path.name for path in here.glob("[0-9]")) == list("01234")


HOSTILE = [
    "with spaces", "'single'", '"double"', "$(touch escaped)", "`touch escaped`", "; touch escaped",
    "a|b|c", "%j %A", "--wrap=touch escaped", "-leading", "..", "a,b", "naïve ✓ 名", "x" * 256,
    "\\", "*", "~", "{}", "!$", "#", "&", "a=b",
]  # fmt: skip


def test_hostile_names_neither_break_nor_escape(lab: Lab, here: Path) -> None:
    with Client(lease_s=0) as client:
        jobs = {client.submit(command=LONG, name=name): name for name in HOSTILE}
        shown = lab.run("squeue", "-h", "-o", "%A %j").stdout.split("\n")[:-1]
        named = dict(line.split(" ", 1) for line in shown)
        for number, (job, name) in enumerate(jobs.items(), 1):
            assert named[job] == f"{name}.{client.token}.{number}"
        assert {one.id for one in client.query()} == set(jobs)
        all_gone(client.cancel())
    assert not left(lab)
    assert not (here / "escaped").exists()


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\u2028b", "a\x85b", "", "x" * 257, "\x00"])
def test_a_name_that_would_break_a_line_is_refused(lab: Lab, here: Path, name: str) -> None:
    with Client(lease_s=0) as client:
        with pytest.raises(ConfigError, match="name: ") as caught:
            client.submit(command=LONG, name=name)
        assert "\n" not in str(caught.value)
        assert not client.known()


WORDS = [
    "with spaces", "$(touch escaped)", "'", '"', "\\", "a\nb", "a\r\nb", "-x", "", "*", "\t",
    "é✓", b"\xff\xfe".decode("utf-8", "surrogateescape"), "!", "a'b\x01'c", "\x7f", "\\'\n",
]  # fmt: skip


def test_words_and_variables_reach_the_command_as_they_are(lab: Lab, here: Path) -> None:
    environment = {f"HOSTILE_{number}": word for number, word in enumerate(WORDS)}
    with Client(lease_s=0) as client:
        job = client.submit(
            command=[sys.executable, "-c", WRITE, "out.json", *WORDS], environment=environment
        )
        wait_state(lab, job, "COMPLETED")
    words, variables = json.loads((here / "out.json").read_text())
    assert words == WORDS
    assert {name: variables[name] for name in environment} == environment
    assert variables["SBATCH_WCKEY"] == client.token
    assert not (here / "escaped").exists()


def test_setup_is_bash_as_it_is_and_its_failure_is_the_job_s(lab: Lab, here: Path) -> None:
    setup = ["cat > heredoc <<END", "  a b", "END", "export FROM=setup"]
    with Client(lease_s=0) as client:
        job = client.submit(command=["bash", "-c", 'echo "$FROM" > from'], setup=setup)
        bad = client.submit(command=["touch", "ran"], setup=["exit 7"])
        wait_state(lab, job, "COMPLETED")
        wait_state(lab, bad, "FAILED")
        assert facts(lab, bad)["ExitCode"] == "7:0"
    assert (here / "heredoc").read_text() == "  a b\n"
    assert (here / "from").read_text() == "setup\n"
    assert not (here / "ran").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"partition": "nowhere"}, "invalid partition"),
        ({"array": 200_000}, "array"),
        ({"options": ["--dependency=nonsense"]}, "dependency"),
        ({"options": ["--no-such-option"]}, "unrecognized option"),
    ],
)
def test_a_job_that_slurm_refuses_is_one_clear_line_and_not_outstanding(
    lab: Lab, here: Path, options: dict[str, object], says: str
) -> None:
    with Client(lease_s=0) as client:
        with pytest.raises(SubmitRefusedError) as caught:
            client.submit(command=LONG, **options)
        assert "\n" not in str(caught.value)
        assert says in caught.value.said.lower()
        assert client.cancel().calls == 0
    assert not list((here / "state/allstop/jobs").iterdir())


def test_a_job_that_no_node_can_run_yet_waits_as_sbatch_would_have_it(lab: Lab, here: Path) -> None:
    with Client(lease_s=0) as client:
        job = client.submit(command=LONG, cpus=5000)
        assert facts(lab, job)["Priority"] != "0"
        all_gone(client.cancel())


def test_a_missing_sbatch_is_named(lab: Lab, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(lease_s=0)
    monkeypatch.setenv("PATH", str(here))
    with pytest.raises(ProgramMissingError, match="no sbatch on its PATH"):
        client.submit(command=LONG)
    client.close()
    assert not list((here / "state/allstop/jobs").iterdir())


def test_no_state_directory_is_one_line_and_no_job(
    lab: Lab, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(here / "file"))
    with pytest.raises(AllstopError) as caught:
        Client(lease_s=0)
    assert "XDG_STATE_HOME" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_look_before_the_first_job_finds_none(lab: Lab, here: Path) -> None:
    stranger = lab.submit("sleep 600")
    with Client(lease_s=0) as client:
        assert client.query() == []
        running(lab, client)
        assert len(client.query()) == 1
    assert set(lab.states(stranger)) <= {"PENDING", "RUNNING"}


def test_others_variables_do_not_change_our_commands(
    lab: Lab, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "SBATCH_ARRAY_INX": "0-3", "SBATCH_PARTITION": "nowhere", "SQUEUE_STATES": "FAILED",
        "SQUEUE_FORMAT": "%i", "SCANCEL_STATE": "SUSPENDED", "SLURM_TIME_FORMAT": "relative",
        "SQUEUE_USERS": "nobody", "TZ": "Asia/Tokyo",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    with Client(lease_s=0) as client:
        job = client.submit(command=LONG)
        assert [one.id for one in client.query()] == [job]
        all_gone(client.cancel())
    assert not left(lab)


REFUSES = """
function slurm_job_submit(description, partitions, uid)
   if description.account == "closed" then return 2045 end  -- ESLURM_INVALID_ACCOUNT
   return slurm.SUCCESS
end
function slurm_job_modify(description, record, partitions, uid) return slurm.SUCCESS end
return slurm.SUCCESS
"""
"""What a site's own checks are written in; accounting would need a database."""


@pytest.fixture
def choosy(lab: Lab) -> Iterator[Lab]:
    """The cluster, with an account that may not compute."""
    if not list(Path("/usr/lib").glob("*/slurm*/job_submit_lua.so")):
        pytest.skip("this SLURM has no job_submit/lua (Debian: slurm-wlm-basic-plugins)")
    plain = lab.slurm_conf.read_text()
    lab.slurm_conf.with_name("job_submit.lua").write_text(REFUSES)
    try:
        lab.slurm_conf.write_text(plain + "JobSubmitPlugins=lua\n")
        lab.slurmctld.stop()  # killed, it would know jobs again that others have just cancelled
        lab.slurmctld.start()
        lab.wait_ready()
        yield lab
    finally:
        lab.slurm_conf.write_text(plain)
        lab.slurmctld.stop()


def test_an_account_that_is_rejected_is_one_line(choosy: Lab, here: Path) -> None:
    with Client(lease_s=0) as client:
        with pytest.raises(SubmitRefusedError) as caught:
            client.submit(command=LONG, account="closed")
        assert "Invalid account" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert client.known() == []
        client.submit(command=LONG, account="open")
        all_gone(client.cancel())
    assert left(choosy) == []
