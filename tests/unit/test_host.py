from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.errors import RunBusyError, RunNotFoundError
from supervisor.lifecycle.reap import reap, reap_run
from supervisor.lifecycle.status import status_of
from supervisor.records import registry, rundir
from supervisor.records.registry import Entry
from supervisor.states import RunStatus
from supervisor.system import host, process
from supervisor.system.host import Host, this_host
from supervisor.system.process import Identity
from tests.support.waiting import DEADLINE_S

HERE = Host("login1", "m1", "b1", "4026531836")
NOBODY = 2**22 - 1


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Host:
    """This process lives on HERE."""
    monkeypatch.setattr(process, "this_host", lambda: HERE)
    return HERE


def somebody(at: Host, pid: int = NOBODY, start_time: int = 1) -> Identity:
    return Identity(pid, start_time, at.boot, at.node, at.machine, at.namespace)


@pytest.mark.parametrize(
    ("at", "what"),
    [
        (HERE, "dead"),
        (HERE._replace(boot="b0"), "dead"),  # before a reboot
        (HERE._replace(boot="b0", machine=""), "dead"),  # the same, without an installation's id
        (Host(), "dead"),  # of a record that says nothing
        (Host(boot="b0"), "dead"),
        (HERE._replace(node="login2"), "elsewhere"),  # another node of the same image, same boot?
        (HERE._replace(node="login2", boot="b2"), "elsewhere"),
        (HERE._replace(machine="m2"), "elsewhere"),
        (HERE._replace(machine="m2", boot="b2"), "elsewhere"),
        (HERE._replace(boot="b2", machine="", namespace="4026539999"), "elsewhere"),  # a container
        (HERE._replace(boot="b0", namespace="4026539999"), "dead"),  # one before a reboot
        (HERE._replace(namespace="4026539999"), "dead"),  # every namespace is seen: it is gone
    ],
)
def test_who_may_be_judged(here: Host, at: Host, what: str) -> None:
    who = somebody(at)
    assert {"alive": who.alive, "elsewhere": who.elsewhere, "dead": who.dead} == {
        "alive": False, "elsewhere": what == "elsewhere", "dead": what == "dead",
    }  # fmt: skip
    assert not who.send(0)


def test_in_a_container_the_host_outside_is_out_of_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "this_host", lambda: HERE._replace(namespace="4026539999"))
    assert somebody(HERE).elsewhere


@pytest.mark.parametrize("at", [HERE._replace(node="login2"), HERE._replace(namespace="1")])
def test_a_pid_of_elsewhere_is_not_ours_though_it_exists_here(here: Host, at: Host) -> None:
    me = Identity.of(os.getpid())
    assert me is not None
    assert somebody(HERE, *me[:2]).alive
    assert not somebody(at, *me[:2]).alive
    assert not somebody(at, *me[:2]).send(0)


@pytest.fixture
def inside() -> Iterator[subprocess.Popen[str]]:
    """A process in a PID namespace of its own, which tells its identity there."""
    tell = (
        "from supervisor.system.process import Identity; import os, json;"
        "print(json.dumps(Identity.of(os.getpid())), flush=True); input()"
    )
    isolate = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    isolate += [] if os.getuid() == 0 else ["--user", "--map-root-user"]
    if subprocess.run([*isolate, "true"], capture_output=True).returncode != 0:
        pytest.skip("no PID namespace can be made here")
    with subprocess.Popen(
        [*isolate, sys.executable, "-P", "-c", tell],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        yield running
        running.kill()


def test_a_process_in_a_namespace_below_ours_is_seen_and_never_signalled(
    inside: subprocess.Popen[str],
) -> None:
    import json

    assert inside.stdout is not None
    assert inside.stdin is not None
    who = Identity(*json.loads(inside.stdout.readline()))
    assert who.namespace != this_host().namespace
    assert (who.alive, who.elsewhere) == (True, False)
    assert not who.send(0), "its pid is another process's here"
    inside.communicate("\n", timeout=DEADLINE_S)
    assert not who.alive
    assert who.elsewhere is not this_host().sees_all


def test_the_namespace_outside_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(host.NAMESPACE, "12345")
    assert this_host().namespace == "12345"


# -- what is left alone -------------------------------------------------------


@pytest.fixture
def theirs(own_state: Path) -> Entry:
    """A run that was begun on another host, whose pids are nobody's here."""
    run_dir = own_state / "run"
    run_dir.mkdir()
    (run_dir / rundir.RUN_FILE).write_text(
        '{"run_id": "20200101-000000-aaaaaa", "command": ["true"], "combos_total": 0}'
    )
    who = somebody(this_host()._replace(node="login2", boot="b2"))
    entry = Entry("20200101-000000-aaaaaa", run_dir, front=who, warden=who)
    registry.add(entry)
    return entry


def test_a_run_of_another_host_is_not_reaped(theirs: Entry) -> None:
    assert (theirs.alive, theirs.dead, theirs.elsewhere) == (False, False, "login2")
    assert reap_run(theirs) is None
    assert list(reap()) == []
    assert registry.find(theirs.run_id) == theirs
    assert not (theirs.run_dir / rundir.REPORT_FILE).exists()


def test_it_is_listed_with_its_host(theirs: Entry) -> None:
    found = status_of(theirs.run_dir)
    assert (found.status, found.host) == (RunStatus.ELSEWHERE, "login2")


@pytest.mark.parametrize("verb", ["stop", "resume", "report"])
def test_what_cannot_be_done_from_here_names_the_host_and_the_way_out(
    theirs: Entry, verb: str
) -> None:
    with pytest.raises((RunNotFoundError, RunBusyError)) as caught:
        if verb == "stop":
            registry.find_running(theirs.run_id)
        else:
            registry.check_here(theirs.run_id, verb)
    said = str(caught.value)
    assert f"login2, and cannot be judged from here: allstop {verb} {theirs.run_id} there" in said
    assert f"allstop reap {theirs.run_id}" in said


def test_nothing_running_here_says_what_may_run_there(theirs: Entry) -> None:
    with pytest.raises(RunNotFoundError, match="on this host; 1 may be on login2"):
        registry.find_running(None)
