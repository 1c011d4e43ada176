"""The SSH transport with a real sshd, and with every failure in between."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("paramiko")

from slurm.errors import (
    CallTimedOutError,
    LinkRefusedError,
    ProgramMissingError,
    TransportError,
)
from slurm.local import LocalTransport
from slurm.ssh.transport import SshTransport
from slurm.transport import Transport
from supervisor.system.install import advice
from tests.cluster.daemon import Home, new_directory
from tests.cluster.install import SSH, why_not
from tests.cluster.proxy import Proxy, Way
from tests.cluster.sshd import PASSPHRASE, Sshd, why_no_login
from tests.support.waiting import DEADLINE_S, wait_for

pytestmark = pytest.mark.ssh

Connect = Callable[..., SshTransport]

MB = 1 << 20


@pytest.fixture(scope="module")
def calm() -> Iterator[Sshd]:
    """An sshd that nothing is done to: shared by the tests that only use it."""
    if lacking := why_not(SSH) or why_no_login():
        pytest.skip(lacking)
    server = Sshd(new_directory())
    server.up()
    yield server
    server.down()


@pytest.fixture(scope="module")
def cluster(calm: Sshd) -> Iterator[SshTransport]:
    """A connection for all tests that do no harm to it."""
    transport = SshTransport("cluster", config=calm.ssh_config)
    yield transport
    transport.close()


@pytest.fixture
def connect(no_leaks: None, capfd: pytest.CaptureFixture[str]) -> Iterator[Connect]:
    """Make transports; fail on leaks, and on records that paramiko logs."""
    made: list[SshTransport] = []
    before = set(threading.enumerate())  # the shared connection's among them

    def make(host: str, server: Sshd, **options: object) -> SshTransport:
        made.append(SshTransport(host, **{"config": server.ssh_config, **options}))
        return made[-1]

    yield make
    for transport in made:
        transport.close()
    wait_for(
        lambda: not [t for t in set(threading.enumerate()) - before if is_ours(t)],
        "no thread left",
        tell=lambda: str(threading.enumerate()),
    )
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


def is_ours(thread: threading.Thread) -> bool:
    return type(thread).__module__.startswith("paramiko") or thread.name.startswith("slurm-ssh")


def configure(server: Sshd, *lines: str, host: str = "cluster") -> None:
    """Put lines before all others: the first value counts."""
    text = "\n  ".join([f"Host {host}", *lines])
    server.ssh_config.write_text(f"{text}\n{server.ssh_config.read_text()}")


def reconfigure_server(server: Sshd, *lines: str) -> None:
    file = server.directory / "sshd_config"
    file.write_text("\n".join([*lines, file.read_text()]))
    server.listener.kill()
    server.start()


def key_file(
    server: Sshd, name: str, kind: str = "ed25519", passphrase: str = "", *more: str
) -> Path:
    file = server.directory / name
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", file, *more],
        check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return file


# -- what it is for


def test_it_runs_a_command_and_returns_all_of_it(cluster: SshTransport) -> None:
    answer = cluster.run(["sh", "-c", "cat; echo there >&2; exit 7"], stdin=b"here\n")
    assert answer == (7, "here\n", "there\n")


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8")), max_size=4))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_words_arrive(cluster: SshTransport, words: list[str]) -> None:
    answer = cluster.run(["printf", "%s\\0", *words])
    assert answer.stdout == "".join(f"{word}\0" for word in words or [""])


def test_a_very_long_word_arrives(cluster: SshTransport) -> None:
    assert cluster.run(["printf", "%s", "'" * 100_000]).stdout == "'" * 100_000


def test_both_streams_are_read_at_once(cluster: SshTransport) -> None:
    """10 MB each: five times the window that both share."""
    script = f"head -c {10 * MB} /dev/zero & head -c {10 * MB} /dev/zero >&2; wait"
    answer = cluster.run(["sh", "-c", script], timeout_s=120)
    assert (len(answer.stdout), len(answer.stderr)) == (10 * MB, 10 * MB)


def test_input_and_output_flow_at_once(cluster: SshTransport) -> None:
    data = os.urandom(5 * MB).hex()
    assert cluster.run(["cat"], stdin=data.encode(), timeout_s=120).stdout == data


def test_a_command_may_leave_its_input_unread(cluster: SshTransport) -> None:
    assert cluster.run(["true"], stdin=b"x" * 5 * MB).code == 0


def test_variables_are_set_and_foreign_ones_are_gone(sshd: Sshd, connect: Connect) -> None:
    file = sshd.directory / "sshd_config"
    more = 'SetEnv "SLURM_CONF=/kept" "SBATCH_PARTITION=x" "SQUEUE_FORMAT=%i"'
    file.write_text(file.read_text().replace("SetEnv", more, 1))
    sshd.listener.kill()
    sshd.start()
    transport = connect("cluster", sshd)
    said = transport.run(["env"], variables={"SBATCH_WCKEY": "a 'b' $(id)"}).stdout.splitlines()
    found = dict(line.partition("=")[::2] for line in said)
    assert found["SBATCH_WCKEY"] == "a 'b' $(id)"
    assert (found["SLURM_CONF"], found["LC_ALL"]) == ("/kept", "C.UTF-8")
    assert not {"SBATCH_PARTITION", "SQUEUE_FORMAT"} & set(found)


def test_a_program_that_is_not_there(cluster: SshTransport) -> None:
    with pytest.raises(ProgramMissingError) as caught:
        cluster.run(["no-such-program", "x"])
    assert caught.value.program == "no-such-program"
    assert cluster.run(["sh", "-c", "exit 127"]).code == 127


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL, signal.SIGSEGV])
def test_the_signal_that_ended_it_is_returned(cluster: SshTransport, number: int) -> None:
    assert cluster.run(["sh", "-c", f"kill -{int(number)} $$"]).code == -number


def test_many_threads_share_one_connection(calm: Sshd, proxy_to: Callable[[Sshd], Proxy]) -> None:
    with contextlib.closing(SshTransport("proxy", config=calm.ssh_config)) as transport:
        proxy = proxy_to(calm)
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda i: transport.run(["echo", str(i)]), range(100)))
        assert [answer.stdout for answer in answers] == [f"{i}\n" for i in range(100)]
        assert proxy.accepted == 1


@pytest.fixture
def proxy_to() -> Iterator[Callable[[Sshd], Proxy]]:
    with contextlib.ExitStack() as stack:

        def make(server: Sshd) -> Proxy:
            proxy = stack.enter_context(Proxy(server.port))
            server.trust("proxy", proxy.port)
            return proxy

        yield make


def test_a_server_with_few_sessions_is_waited_for(sshd: Sshd, connect: Connect) -> None:
    reconfigure_server(sshd, "MaxSessions 2")
    transport = connect("cluster", sshd)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: transport.run(["echo", str(i)]), range(24)))
    assert [answer.stdout for answer in answers] == [f"{i}\n" for i in range(24)]
    assert len(sshd.connections()) <= 2


def test_it_can_be_closed_and_used_again(sshd: Sshd, connect: Connect) -> None:
    transport = connect("cluster", sshd)
    for _ in range(3):
        assert transport.run(["true"]).code == 0
        transport.close()
        wait_for(lambda: not sshd.connections(), "the connection closed")
    transport.close()


def test_closing_ends_what_waits(sshd: Sshd, connect: Connect) -> None:
    transport = connect("cluster", sshd)
    ready = sshd.directory / "ready"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(transport.run, ["sh", "-c", f"touch {ready}; exec sleep 600"])
        wait_for(ready.exists, "the command running")
        transport.close()
        with pytest.raises(TransportError) as caught:
            waiting.result(60)
    assert caught.value.may_have_run


# -- noise


def test_a_banner_and_startup_files_spoil_nothing(connect: Connect, tmp_path: Path) -> None:
    if lacking := why_not(SSH) or why_no_login():
        pytest.skip(lacking)
    server = Sshd(new_directory(), banner="Welcome!\nAll is logged.\n")
    server.up()
    try:
        (tmp_path / ".bashrc").write_text("echo out; echo err >&2; yes | head -c 100000\n")
        file = server.directory / "sshd_config"
        # bash reads its file only where it takes itself for the first shell
        file.write_text(file.read_text().replace("SHLVL=1", f'SHLVL=0" "HOME={tmp_path}'))
        server.listener.kill()
        server.start()
        assert server.run("true").stdout.startswith("out\n"), "no noise to be cut off"
        transport = connect("cluster", server)
        assert transport.run(["sh", "-c", "echo a; echo b >&2"]) == (0, "a\n", "b\n")
        transport.put(str(tmp_path / "file"), b"x")
        assert transport.get(str(tmp_path / "file")) == b"x"
    finally:
        server.down()


def test_a_login_shell_that_runs_nothing(sshd: Sshd, connect: Connect) -> None:
    reconfigure_server(sshd, "ForceCommand echo this account is closed; exit 1")
    with pytest.raises(LinkRefusedError, match=r"runs no commands.*this account is closed"):
        connect("cluster", sshd).run(["true"])


def test_a_server_without_sessions(sshd: Sshd, connect: Connect) -> None:
    reconfigure_server(sshd, "MaxSessions 0")
    with pytest.raises(LinkRefusedError, match="opens no session"):
        connect("cluster", sshd).run(["true"])


# -- the host key


def test_an_unknown_host_is_refused_with_the_command_that_adds_it(
    sshd: Sshd, connect: Connect
) -> None:
    sshd.known_hosts.write_text("")
    transport = connect("cluster", sshd)
    with pytest.raises(LinkRefusedError) as caught:
        transport.run(["true"])
    told = str(caught.value)
    shown = subprocess.run(
        ["ssh-keygen", "-lf", sshd.host_key], capture_output=True, text=True, check=True
    )
    assert shown.stdout.split()[1] in told
    command = told.rpartition("add it with: ")[2]
    assert command.startswith(f"ssh-keyscan -p {sshd.port} 127.0.0.1 >> ")
    subprocess.run(["sh", "-c", command], check=True, capture_output=True)
    assert transport.run(["true"]).code == 0


def test_a_changed_host_key_is_refused_loudly(sshd: Sshd, connect: Connect) -> None:
    transport = connect("cluster", sshd)
    assert transport.run(["true"]).code == 0
    transport.close()
    sshd.listener.kill()
    for file in (sshd.host_key, sshd.host_key.with_suffix(".pub")):
        file.unlink()
    key_file(sshd, sshd.host_key.name)
    sshd.start()
    with pytest.raises(LinkRefusedError, match=r"HAS CHANGED.*known_hosts, line 1.*ssh-keygen -R"):
        transport.run(["true"])


def test_a_revoked_host_key_is_refused(sshd: Sshd, connect: Connect) -> None:
    key = sshd.host_key.with_suffix(".pub").read_text()
    with sshd.known_hosts.open("a") as known:
        known.write(f"@revoked * {key}")
    with pytest.raises(LinkRefusedError, match="REVOKED"):
        connect("cluster", sshd).run(["true"])


def test_hashed_entries_are_known(sshd: Sshd, connect: Connect) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-H", "-f", sshd.known_hosts], check=True, capture_output=True
    )
    assert "127.0.0.1" not in sshd.known_hosts.read_text()
    assert connect("cluster", sshd).run(["true"]).code == 0


def test_the_kind_of_key_that_is_known_is_asked_for(sshd: Sshd, connect: Connect) -> None:
    """paramiko would take the server's preferred kind, which is not known."""
    rsa = key_file(sshd, "host_key_rsa", "rsa")
    reconfigure_server(sshd, f"HostKey {rsa}")
    kind, key = rsa.with_suffix(".pub").read_text().split()[:2]
    sshd.known_hosts.write_text(f"[127.0.0.1]:{sshd.port} {kind} {key}\n")
    assert connect("cluster", sshd).run(["true"]).code == 0


def test_another_file_and_another_name(sshd: Sshd, connect: Connect, tmp_path: Path) -> None:
    key = sshd.host_key.with_suffix(".pub").read_text()
    known = tmp_path / "known"
    known.write_text(f"our-cluster {key}")
    configure(sshd, "HostKeyAlias our-cluster")
    assert connect("cluster", sshd, known_hosts=known).run(["true"]).code == 0
    with pytest.raises(LinkRefusedError, match="our-cluster is not known"):
        connect("cluster", sshd).run(["true"])


# -- the login


def test_a_wrong_key(sshd: Sshd, connect: Connect) -> None:
    wrong = key_file(sshd, "wrong")
    text = sshd.ssh_config.read_text()
    sshd.ssh_config.write_text(text.replace(str(sshd.key), str(wrong)))
    with pytest.raises(LinkRefusedError, match=rf"server accepts publickey.*{wrong}") as e:
        connect("cluster", sshd).run(["true"])
    assert not e.value.transient


def locked(server: Sshd, file: Path) -> None:
    text = server.ssh_config.read_text().replace("BatchMode yes", "BatchMode no")
    server.ssh_config.write_text(text.replace(f"IdentityFile {server.key}", f"IdentityFile {file}"))


class Person:
    """A user who answers."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, question: str) -> str:
        self.asked.append(question)
        return self.answers.pop(0) if self.answers else ""


@pytest.mark.parametrize(("kind", "form"), [("ed25519", ""), ("rsa", "PEM"), ("ecdsa", "")])
def test_a_passphrase_is_asked_for_once(
    sshd: Sshd, connect: Connect, kind: str, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    file = key_file(sshd, "locked", kind, PASSPHRASE, *(["-m", form] if form else []))
    with (sshd.directory / "authorized_keys").open("a") as keys:
        keys.write(file.with_suffix(".pub").read_text())
    locked(sshd, file)
    person = Person("wrong", PASSPHRASE)
    transport = connect("cluster", sshd, prompt=person)
    assert transport.run(["true"]).code == 0
    sshd.drop()
    wait_for(lambda: not sshd.connections(), "the connection lost")
    assert transport.run(["true"]).code == 0
    assert person.asked == [f"Passphrase for {file}: "] * 2
    assert PASSPHRASE not in repr(vars(transport)) + repr(transport) + caplog.text
    with pytest.raises(TypeError):
        pickle.dumps(transport)


def test_a_key_without_its_passphrase(sshd: Sshd, connect: Connect) -> None:
    locked(sshd, sshd.encrypted_key)
    with pytest.raises(LinkRefusedError, match="is encrypted: ssh-add"):
        connect("cluster", sshd).run(["true"])
    person = Person("wrong", "wronger", "wrongest", "never asked")
    with pytest.raises(LinkRefusedError, match="wrong passphrase") as caught:
        connect("cluster", sshd, prompt=person).run(["true"])
    assert len(person.asked) == 3
    assert "wrongest" not in str(caught.value)


def test_no_question_without_need(sshd: Sshd, connect: Connect) -> None:
    locked(sshd, sshd.encrypted_key)
    configure(sshd, f"IdentityFile {sshd.key}")
    person = Person()
    assert connect("cluster", sshd, prompt=person).run(["true"]).code == 0
    assert person.asked == []


def test_typing_slowly_does_not_count(sshd: Sshd, connect: Connect) -> None:
    locked(sshd, sshd.encrypted_key)
    clock = threading.Event()

    def slow(_question: str) -> str:
        clock.wait(6.5)
        return PASSPHRASE

    transport = connect("cluster", sshd, prompt=slow, connect_timeout_s=6.0)
    assert transport.run(["true"], timeout_s=6.0).code == 0


def accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
        client.connect(str(path))
        return True
    return False


@pytest.fixture
def agent(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    if shutil.which("ssh-agent") is None:
        pytest.skip("ssh-agent is not installed")
    path = sshd.directory / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL) as process:
        wait_for(lambda: accepts(path), "the agent listening")
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        text = sshd.ssh_config.read_text().replace("  IdentityAgent none\n", "")
        sshd.ssh_config.write_text(text)

        def add(key: Path) -> None:
            subprocess.run(["ssh-add", "-q", key], check=True, capture_output=True)

        yield add
        process.terminate()


def test_the_agent_is_asked(sshd: Sshd, connect: Connect, agent: Callable[[Path], None]) -> None:
    agent(sshd.key)
    sshd.ssh_config.write_text(sshd.ssh_config.read_text().replace(str(sshd.key), "/nowhere"))
    with pytest.raises(LinkRefusedError, match="nothing: there is no key"):
        connect("cluster", sshd).run(["true"])  # IdentitiesOnly
    configure(sshd, "IdentitiesOnly no")
    assert connect("cluster", sshd).run(["true"]).code == 0


def test_many_keys_of_the_agent(
    sshd: Sshd, connect: Connect, agent: Callable[[Path], None]
) -> None:
    """sshd disconnects after six: the configured key comes first; else the message says why."""
    for i in range(7):
        agent(key_file(sshd, f"other{i}"))
    agent(sshd.key)
    configure(sshd, "IdentitiesOnly no")
    assert connect("cluster", sshd).run(["true"]).code == 0
    sshd.ssh_config.write_text(sshd.ssh_config.read_text().replace(str(sshd.key), "/nowhere"))
    with pytest.raises(LinkRefusedError, match="IdentitiesOnly"):
        connect("cluster", sshd).run(["true"])


def test_an_agent_that_does_not_answer(
    sshd: Sshd, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    sshd.ssh_config.write_text(sshd.ssh_config.read_text().replace("IdentityAgent none", ""))
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(sshd.directory / "deaf"))
        deaf.listen()
        monkeypatch.setenv("SSH_AUTH_SOCK", str(sshd.directory / "deaf"))
        assert connect("cluster", sshd).run(["true"]).code == 0
        deaf.accept()[0].close()  # lets the thread that asked go


# -- the way there


def test_through_other_hosts(sshd: Sshd, connect: Connect) -> None:
    sshd.trust("gate", sshd.port)
    sshd.trust("yard", sshd.port)
    configure(sshd, "ProxyJump gate,yard")
    transport = connect("cluster", sshd)
    assert transport.run(["echo", "in"]).stdout == "in\n"
    transport.close()
    wait_for(lambda: not sshd.connections(), "every connection closed")
    configure(sshd, "HostName 127.0.0.9", host="gate")
    with pytest.raises(LinkRefusedError, match=r"ssh gate: .*127\.0\.0\.9.* is not known|refused"):
        try:
            transport.run(["true"])
        except TransportError as error:
            raise LinkRefusedError(str(error)) from None


def test_through_a_command(sshd: Sshd, connect: Connect) -> None:
    configure(sshd, f"ProxyCommand ssh -q -F {sshd.ssh_config} -W %h:%p direct")
    sshd.trust("direct", sshd.port)
    transport = connect("cluster", sshd)
    assert transport.run(["echo", "in"]).stdout == "in\n"
    assert len(transport.run(["head", "-c", "3000000", "/dev/zero"]).stdout) == 3_000_000


def test_a_command_that_fails(sshd: Sshd, connect: Connect) -> None:
    configure(sshd, "ProxyCommand echo no way from here >&2; exit 1")
    with pytest.raises(TransportError, match="no way from here") as caught:
        connect("cluster", sshd).run(["true"])
    assert not caught.value.may_have_run


def test_a_host_that_is_not_there(sshd: Sshd, connect: Connect) -> None:
    with pytest.raises(LinkRefusedError, match=r"there is no host no-such-host\.invalid"):
        connect("no-such-host.invalid", sshd).run(["true"])


def test_a_port_without_a_listener(sshd: Sshd, connect: Connect) -> None:
    sshd.kill()
    with pytest.raises(TransportError, match="connection refused") as caught:
        connect("cluster", sshd).run(["true"])
    assert caught.value.transient
    assert not caught.value.may_have_run


GREETINGS = [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 400 Bad\r\n\r\n"]


def test_a_server_that_says_nothing_more(sshd: Sshd, connect: Connect) -> None:
    """All three at once: each takes as long as a connection is waited for."""
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(len(GREETINGS)))
        calls = []
        for number, greeting in enumerate(GREETINGS):
            deaf = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            sshd.trust(f"deaf{number}", deaf.getsockname()[1])
            transport = connect(f"deaf{number}", sshd, connect_timeout_s=4.0)
            calls.append(pool.submit(transport.run, ["true"]))
            client = stack.enter_context(deaf.accept()[0])
            client.sendall(greeting)
        for call in calls:
            with pytest.raises(TransportError, match="no SSH server answered") as caught:
                call.result(60)
            assert not caught.value.may_have_run


def test_without_paramiko_one_line_says_so(
    sshd: Sshd, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("slurm.ssh.hop", "slurm.ssh.link", "slurm.ssh.login"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "paramiko", None)
    with pytest.raises(LinkRefusedError, match=re.escape(advice("slurm"))):
        connect("cluster", sshd).run(["true"])


def test_it_is_loaded_without_paramiko() -> None:
    code = """
import sys
from slurm.ssh.transport import SshTransport
SshTransport('h')
assert 'paramiko' not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# -- losing it


Break = Callable[[Sshd, Proxy], None]
LOSSES: dict[str, Break] = {
    "reset": lambda sshd, proxy: proxy.cut(),
    "in order": lambda sshd, proxy: proxy.cut(reset=False),
    "sshd killed": lambda sshd, proxy: sshd.drop(),
}


@pytest.mark.parametrize("how", LOSSES)
def test_an_idle_link_that_is_lost_is_made_again(
    sshd: Sshd, proxy: Proxy, connect: Connect, how: str
) -> None:
    transport = connect("proxy", sshd)
    assert transport.run(["true"]).code == 0
    LOSSES[how](sshd, proxy)
    assert transport.run(["echo", "again"]).stdout == "again\n"
    assert proxy.accepted == 2


@pytest.mark.parametrize("how", LOSSES)
def test_a_command_whose_link_is_lost_may_have_run(
    sshd: Sshd, proxy: Proxy, connect: Connect, how: str, tmp_path: Path
) -> None:
    transport = connect("proxy", sshd)
    count = tmp_path / "count"
    script = f"echo once >> {count}; exec sleep 600"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(transport.run, ["sh", "-c", script])
        wait_for(lambda: count.exists() and count.read_text(), "the command running")
        LOSSES[how](sshd, proxy)
        with pytest.raises(TransportError) as caught:
            waiting.result(60)
    assert caught.value.may_have_run
    assert not isinstance(caught.value, CallTimedOutError)
    assert transport.run(["cat", str(count)]).stdout == "once\n"


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("count", [1, 100, 1000, 30_000, 200_000])
def test_an_answer_that_is_cut_is_no_answer(
    sshd: Sshd, proxy: Proxy, connect: Connect, count: int, reset: bool
) -> None:
    transport = connect("proxy", sshd)
    transport.run(["true"])
    proxy.cut_after(count, Way.DOWN, reset=reset)
    try:
        answer = transport.run(["head", "-c", "300000", "/dev/zero"])
    except TransportError as error:
        assert error.may_have_run
    else:  # cut before it was sent, and sent anew
        assert (answer.code, len(answer.stdout)) == (0, 300_000)
        assert proxy.accepted == 2
        assert count < 1000


def test_a_command_is_never_sent_twice(
    sshd: Sshd, proxy: Proxy, connect: Connect, tmp_path: Path
) -> None:
    """The link is cut after every number of bytes: one call runs at most one command."""
    transport = connect("proxy", sshd)
    for count in range(1, 1400, 90):
        transport.run(["true"])
        file = tmp_path / str(count)
        proxy.cut_after(count, Way.UP)
        try:
            transport.run(["sh", "-c", f"echo ran >> {file}"])
        except TransportError as error:
            if not error.may_have_run:
                assert not file.exists()
        else:
            assert file.exists()
        proxy.heal()
    for file in tmp_path.iterdir():  # one that was sent last may only just have begun
        assert file.read_text() in ("", "ran\n")


def test_a_black_hole_ends_in_time(sshd: Sshd, proxy: Proxy, connect: Connect) -> None:
    transport = connect("proxy", sshd)
    transport.run(["true"])
    ready = sshd.directory / "ready"
    with ThreadPoolExecutor(1) as pool:
        script = f"touch {ready}; exec sleep 600"
        waiting = pool.submit(transport.run, ["sh", "-c", script], timeout_s=5.0)
        wait_for(ready.exists, "the command running")
        proxy.stall()
        with pytest.raises(CallTimedOutError) as caught:
            waiting.result(30)  # long before the heartbeat is missed
    assert caught.value.may_have_run
    # into the hole: no new connection either
    began = time.monotonic()
    with pytest.raises(TransportError) as lost:
        transport.run(["true"], timeout_s=5.0)
    assert not lost.value.may_have_run
    assert time.monotonic() - began < 30.0
    proxy.heal()
    assert transport.run(["true"]).code == 0


def test_out_of_a_black_hole_leads_a_new_connection(
    sshd: Sshd, proxy: Proxy, connect: Connect
) -> None:
    transport = connect("proxy", sshd)
    transport.run(["true"])
    transport._link._limit_s = 1.0  # the old one's: the new one has its time
    sshd.freeze()
    frozen = sshd.connections()
    sshd.listener.thaw()
    assert transport.run(["true"]).code == 0
    for process in frozen:
        process.send(signal.SIGKILL)


def test_silence_is_noticed_without_a_command(sshd: Sshd, proxy: Proxy, connect: Connect) -> None:
    transport = connect("proxy", sshd, keepalive_s=1.0)
    with ThreadPoolExecutor(1) as pool:
        ready = sshd.directory / "ready"
        # alive although the command says nothing for longer than three times that
        script = f"sleep 3.5; touch {ready}; exec sleep 600"
        waiting = pool.submit(transport.run, ["sh", "-c", script], timeout_s=60.0)
        wait_for(ready.exists, "the command running")
        assert not waiting.done()
        proxy.stall(Way.DOWN)
        with pytest.raises(TransportError, match="lost") as caught:
            waiting.result(50)  # before the time for the command is over
    assert caught.value.may_have_run
    proxy.heal()
    assert transport.run(["true"]).code == 0


def test_a_full_hole_blocks_no_call(sshd: Sshd, proxy: Proxy, connect: Connect) -> None:
    """Megabytes to send, every buffer full: paramiko's own limits do not hold there."""
    transport = connect("proxy", sshd, connect_timeout_s=4.0)
    transport.run(["true"])
    proxy.stall(Way.UP)
    began = time.monotonic()
    with pytest.raises(TransportError):
        transport.run(["cat"], stdin=b"x" * 30 * MB, timeout_s=4.0)
    with pytest.raises(TransportError):
        transport.put(str(sshd.directory / "file"), b"x" * 30 * MB, timeout_s=4.0)
    assert time.monotonic() - began < 40.0
    proxy.heal()


def test_a_slow_command_ends_in_time_and_the_link_lives(
    sshd: Sshd, proxy: Proxy, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = connect("proxy", sshd)
    transport.run(["true"])
    monkeypatch.setattr("slurm.ssh.link._SUSPECT_LIMIT_S", 30.0)
    with pytest.raises(CallTimedOutError):
        transport.run(["sleep", "600"], timeout_s=3.0)
    assert transport.run(["true"]).code == 0
    assert proxy.accepted == 1


def test_a_process_ends_whatever_its_connections_do(sshd: Sshd, proxy: Proxy) -> None:
    """No thread of paramiko delays the interpreter's end, and none prints a traceback."""
    code = (
        "import sys; from slurm.ssh.transport import SshTransport\n"
        f"t = SshTransport('proxy', config={str(sshd.ssh_config)!r}, connect_timeout_s=30)\n"
        "t.run(['true']); print('ready', flush=True); sys.stdin.readline()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        proxy.cut()
        began = time.monotonic()
        _, said = process.communicate(b"\n", timeout=DEADLINE_S)
    assert (process.returncode, said) == (0, b"")
    assert time.monotonic() - began < 25.0  # less than the time for a connection


# -- files


@pytest.fixture(params=["local", "ssh"])
def transport(request: pytest.FixtureRequest) -> Transport:
    """Both adapters keep the port's promises on files."""
    if request.param == "local":
        return LocalTransport()
    found: Transport = request.getfixturevalue("cluster")
    return found


def test_files_travel_whole(transport: Transport, tmp_path: Path) -> None:
    data = os.urandom(3 * MB)
    path = str(tmp_path / "a file\n$(id)é")
    transport.put(path, b"old")
    transport.put(path, data, 0o640)
    assert transport.get(path) == data
    assert (tmp_path / "a file\n$(id)é").stat().st_mode & 0o777 == 0o640
    transport.put(str(tmp_path / "b"), b"")
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o600
    assert transport.get(str(tmp_path / "b")) == b""
    assert transport.list(str(tmp_path)) == ("a file\n$(id)é", "b")


def test_errors_of_the_file_system_are_raised(transport: Transport, tmp_path: Path) -> None:
    missing = str(tmp_path / "no" / "file")
    for call in (lambda: transport.get(missing), lambda: transport.put(missing, b"x"),
                 lambda: transport.list(missing)):  # fmt: skip
        with pytest.raises(FileNotFoundError) as caught:
            call()
        assert caught.value.filename
    (tmp_path / "directory").mkdir()
    with pytest.raises(OSError):
        transport.put(str(tmp_path / "directory"), b"x")
    assert transport.list(str(tmp_path)) == ("directory",)


def test_a_file_whose_link_is_lost(sshd: Sshd, proxy: Proxy, connect: Connect) -> None:
    transport = connect("proxy", sshd)
    file = sshd.directory / "file"
    file.write_bytes(b"old")
    transport.run(["true"])
    proxy.cut_after(500_000, Way.UP)
    with pytest.raises(TransportError) as caught:
        transport.put(str(file), b"x" * 3 * MB)
    assert caught.value.may_have_run
    assert file.read_bytes() == b"old"
    transport.put(str(file), b"new")
    assert file.read_bytes() == b"new"


def test_a_server_without_sftp(sshd: Sshd, connect: Connect) -> None:
    file = sshd.directory / "sshd_config"
    file.write_text(file.read_text().replace("Subsystem sftp internal-sftp", ""))
    sshd.listener.kill()
    sshd.start()
    transport = connect("cluster", sshd)
    with pytest.raises(LinkRefusedError):
        transport.get("/etc/passwd")
    assert transport.run(["true"]).code == 0


def test_nothing_of_a_call_is_left(sshd: Sshd, connect: Connect) -> None:
    transport = connect("cluster", sshd)
    transport.run(["true"])
    transport.close()
    wait_for(lambda: len(Home(sshd.directory).processes()) == 1, "only the listener")
