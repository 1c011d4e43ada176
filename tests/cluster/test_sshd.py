"""The sshd and the proxy before it: they serve, and break as they are told."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from supervisor.system.process import command_name
from tests.cluster.daemon import Home
from tests.cluster.lab import Lab
from tests.cluster.proxy import Proxy, Way
from tests.cluster.sshd import PASSPHRASE, Sshd
from tests.support.waiting import wait_for

pytestmark = pytest.mark.ssh


def read_all(client: socket.socket) -> bytes:
    """Read until the other side has finished; ConnectionResetError if it broke off."""
    return b"".join(iter(lambda: client.recv(4096), b""))


def test_it_runs_commands_for_who_knows_it(sshd: Sshd) -> None:
    said = sshd.run("echo here; echo there >&2; exit 7")
    assert (said.returncode, said.stdout, said.stderr) == (7, "here\n", "there\n")


def test_who_does_not_know_it_does_not_come_in(sshd: Sshd) -> None:
    sshd.known_hosts.write_text("")
    said = sshd.run("echo here")
    assert (said.returncode, said.stdout) == (255, "")
    assert "Host key verification failed" in said.stderr


def test_the_second_key_has_a_passphrase(sshd: Sshd) -> None:
    ask = ["ssh-keygen", "-y", "-f", str(sshd.encrypted_key), "-P"]
    assert subprocess.run([*ask, "wrong"], capture_output=True).returncode != 0
    assert subprocess.run([*ask, PASSPHRASE], capture_output=True).returncode == 0


def test_paramiko_comes_in_with_it(sshd: Sshd, proxy: Proxy) -> None:
    paramiko = pytest.importorskip("paramiko")
    with paramiko.SSHClient() as client:
        client.load_host_keys(str(sshd.known_hosts))
        client.connect(
            "127.0.0.1", proxy.port, sshd.user, key_filename=str(sshd.encrypted_key),
            passphrase=PASSPHRASE, allow_agent=False, look_for_keys=False,
        )  # fmt: skip
        _, stdout, _ = client.exec_command("echo here")
        assert stdout.read() == b"here\n"


@pytest.mark.slurm
def test_its_sessions_speak_to_the_cluster(lab: Lab, sshd: Sshd) -> None:
    assert sshd.run("sinfo -h -p main -o %D").stdout == f"{len(lab.nodes)}\n"


def test_a_dropped_connection_leaves_its_command_alone(sshd: Sshd, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    ssh = ["ssh", "-F", str(sshd.ssh_config), "cluster", f"touch {ready}; exec sleep 600"]
    with subprocess.Popen(ssh, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as client:
        wait_for(ready.exists, "the command running")
        home = Home(sshd.directory)
        # touch may not have ended yet
        wait_for(lambda: "sleep" in [command_name(i.pid) for i in home.processes()], "its sleep")
        connections = sshd.connections()
        before = {i for i in home.processes() if i not in connections}
        sshd.drop()
        assert client.wait(30) == 255
        assert client.stderr is not None
        client.stderr.read()
    assert all(process.alive for process in before)
    sshd.down()
    assert not any(process.alive for process in before)


def test_a_frozen_host_hangs(sshd: Sshd) -> None:
    sshd.freeze()
    with pytest.raises(subprocess.TimeoutExpired):
        sshd.run("true", timeout_s=0.5)
    sshd.thaw()
    assert sshd.run("true").returncode == 0


def test_it_comes_back_on_the_same_port(sshd: Sshd) -> None:
    sshd.kill()
    assert "refused" in sshd.run("true").stderr
    sshd.start()
    assert sshd.run("true").returncode == 0


def test_the_proxy_carries_everything_both_ways(sshd: Sshd, proxy: Proxy) -> None:
    assert len(sshd.run("head -c 300000 /dev/zero", "proxy").stdout) == 300_000
    wait_for(lambda: not proxy.open, "the connection closed")
    assert proxy.accepted == 1
    assert proxy.passed[Way.DOWN] > 300_000
    assert proxy.passed[Way.UP] > 0


@pytest.mark.parametrize("count", [0, 1, 8])
def test_it_cuts_after_so_many_bytes(proxy: Proxy, count: int) -> None:
    proxy.cut_after(count, Way.DOWN, reset=False)
    with socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.settimeout(60)
        assert read_all(client) == b"SSH-2.0-OpenSSH"[:count]
    assert proxy.cuts == 1
    assert proxy.passed[Way.DOWN] == count


def test_it_cuts_by_reset(proxy: Proxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.settimeout(60)
        assert client.recv(8) == b"SSH-2.0-"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            read_all(client)
    assert proxy.open == 0


def test_ssh_loses_its_link_in_mid_command(sshd: Sshd, proxy: Proxy) -> None:
    proxy.cut_after(50_000, Way.DOWN)
    said = sshd.run("head -c 300000 /dev/zero", "proxy")
    assert said.returncode == 255
    assert len(said.stdout) < 50_000
    assert sshd.run("true", "proxy").returncode == 0


def test_a_hole_swallows_until_it_is_healed(proxy: Proxy) -> None:
    proxy.stall(Way.DOWN)
    with socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(8)
        proxy.heal()
        client.settimeout(60)
        assert client.recv(8) == b"SSH-2.0-"


def test_a_proxy_that_refuses_resets(proxy: Proxy) -> None:
    proxy.refuse()
    with socket.create_connection(("127.0.0.1", proxy.port)) as client, pytest.raises(OSError):
        client.settimeout(60)
        client.sendall(b"x")
        while client.recv(1):
            pass


def test_nothing_of_either_is_left(sshd: Sshd, proxy: Proxy, no_leaks: None) -> None:
    with Proxy(sshd.port) as between, socket.create_connection(("127.0.0.1", between.port)):
        wait_for(lambda: between.passed[Way.DOWN], "a greeting")
    assert sshd.run("(setsid sleep 600 >/dev/null 2>&1 &)").returncode == 0
    home = Home(sshd.directory)
    wait_for(lambda: len(home.processes()) == 2, "listener and command")
    sshd.down()
    assert not home.processes()
    assert not sshd.directory.exists()
