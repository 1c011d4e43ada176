from __future__ import annotations

import os
import pwd
import shutil
import time
from pathlib import Path

import pytest

from slurm.errors import LinkRefusedError, TransportError
from slurm.ssh import config
from slurm.ssh.config import Destination, HostSettings, route, settings_for
from slurm.ssh.host_keys import KnownHosts

needs_ssh = pytest.mark.skipif(shutil.which("ssh") is None, reason="ssh is not installed")

PLAIN = """\
Host c
  HostName login.example.org
  Port 2222
  User me
  IdentityFile {dir}/key-%h
  IdentitiesOnly yes
  IdentityAgent none
  BatchMode yes
  ConnectTimeout 7
  HostKeyAlias key-name
  UserKnownHostsFile {dir}/a {dir}/b
  GlobalKnownHostsFile /dev/null
  ProxyCommand nc %h %p %r %%
"""


def write(directory: Path, text: str) -> Path:
    file = directory / "config"
    file.write_text(text.format(dir=directory))
    return file


@pytest.fixture(params=["openssh", "paramiko"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both readers of a configuration: OpenSSH's client, and paramiko where that is missing."""
    if request.param == "openssh":
        if shutil.which("ssh") is None:
            pytest.skip("ssh is not installed")
    else:
        pytest.importorskip("paramiko")
        monkeypatch.setattr(config.shutil, "which", lambda _: None)
    return str(request.param)


def test_everything_that_is_used_is_read(reader: str, tmp_path: Path) -> None:
    found = settings_for(Destination("c"), write(tmp_path, PLAIN))
    assert found == HostSettings(
        alias="c",
        hostname="login.example.org",
        port=2222,
        user="me",
        identity_files=(tmp_path / "key-login.example.org",),
        identities_only=True,
        use_agent=False,
        may_prompt=False,
        known_hosts=(tmp_path / "a", tmp_path / "b", Path("/dev/null")),
        host_key_alias="key-name",
        proxy_command="nc login.example.org 2222 me %",
        connect_timeout_s=7.0,
    )


def test_the_caller_s_user_and_port_win(reader: str, tmp_path: Path) -> None:
    found = settings_for(Destination("c", "you", 99), write(tmp_path, PLAIN))
    assert (found.user, found.port) == ("you", 99)


def test_defaults(reader: str, tmp_path: Path) -> None:
    found = settings_for(Destination("other"), write(tmp_path, PLAIN))
    assert (found.hostname, found.port, found.proxy_jump) == ("other", 22, "")
    assert any(file.name == "id_ed25519" for file in found.identity_files)
    assert any(file.name == "known_hosts" for file in found.known_hosts)
    assert found.use_agent
    assert found.may_prompt


def test_a_file_that_cannot_be_read_is_named(reader: str, tmp_path: Path) -> None:
    with pytest.raises(LinkRefusedError, match="nowhere cannot be read"):
        settings_for(Destination("c"), tmp_path / "nowhere")


def test_nonsense_is_one_line(reader: str, tmp_path: Path) -> None:
    with pytest.raises(LinkRefusedError) as caught:
        settings_for(Destination("c"), write(tmp_path, "Host c\n  Port many\n"))
    assert "\n" not in str(caught.value)
    assert "ssh c: " in str(caught.value)


@needs_ssh
def test_include_and_match_mean_what_they_mean_to_ssh(tmp_path: Path) -> None:
    (tmp_path / "more").write_text("Host c\n  User included\n")
    config = write(tmp_path, "Include {dir}/more\nMatch host c user included\n  Port 2200\n")
    found = settings_for(Destination("c"), config)
    assert (found.user, found.port) == ("included", 2200)


def test_what_paramiko_would_misread_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("paramiko")
    monkeypatch.setattr(config.shutil, "which", lambda _: None)
    with pytest.raises(LinkRefusedError, match="Include or Match"):
        settings_for(Destination("c"), write(tmp_path, "Include more\n"))


@needs_ssh
def test_a_configuration_that_hangs_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "_ASK_TIMEOUT_S", 0.5)
    began = time.monotonic()
    with pytest.raises(TransportError) as caught:
        settings_for(Destination("c"), write(tmp_path, 'Match exec "exec sleep 60"\n  Port 1\n'))
    assert not caught.value.may_have_run
    assert time.monotonic() - began < 20.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host", Destination("host")),
        ("me@host", Destination("host", "me")),
        ("me@dom@host:22", Destination("host", "me@dom", 22)),
        ("[::1]:2222", Destination("::1", "", 2222)),
        ("fe80::1", Destination("fe80::1")),
    ],
)
def test_destinations(text: str, expected: Destination) -> None:
    assert Destination.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "-oProxyCommand=x", "a b", "me@", "h:x", "h:0", "h:70000", "-l@h", "h\nj", "@h"]
)
def test_invalid_destinations(text: str) -> None:
    with pytest.raises(LinkRefusedError):
        Destination.parse(text)


FOR_A_SHELL = (
    "$(touch x)", "`touch x`", "a;touch x", "a;b", "a|b", "a&b", "a>b", "a<b", "a$IFS", "a\\",
    "'a'", '"a"', "a\nb", "a\tb", "a\x1b[2Jb", "a*", "{a,b}", "#a", "~a", "-oProxyCommand=x",
)  # fmt: skip


# without the configuration's own quotes and comments
FOR_THE_FILE = [name for name in FOR_A_SHELL if name.isprintable() and name[0] not in "\"'#"]


@pytest.mark.parametrize("name", FOR_A_SHELL)
def test_names_that_mean_something_to_a_shell_are_refused(name: str) -> None:
    for text in (name, f"me@{name}", f"{name}@host"):
        with pytest.raises(LinkRefusedError, match=r"\A[ -~…]+\Z"):
            Destination.parse(text)


@pytest.mark.parametrize("name", FOR_THE_FILE)
@pytest.mark.parametrize("option", ["HostName", "User"])
def test_names_of_the_configuration_are_checked_as_well(
    reader: str, tmp_path: Path, option: str, name: str
) -> None:
    file = tmp_path / "config"
    file.write_text(f"Host c\n  {option} {name}\n  ProxyCommand nc %h %r\n")
    with pytest.raises(LinkRefusedError) as refused:
        settings_for(Destination("c"), file)
    assert str(refused.value).isprintable()


def test_a_user_of_a_domain_is_one_but_not_for_a_shell(reader: str, tmp_path: Path) -> None:
    file = write(tmp_path, "Host c d\n  ProxyCommand nc %h %p\nHost e\n  ProxyCommand nc %r\n")
    assert settings_for(Destination("c", "dom\\me"), file).user == "dom\\me"
    with pytest.raises(LinkRefusedError, match="ProxyCommand"):
        settings_for(Destination("e", "dom\\me"), file)


TOKENS = """\
Host c
  HostName login.org
  Port 2222
  User me
  HostKeyAlias key-name
  IdentityFile {dir}/%r-%h-%p-%n-%k-%i-%%h
  IdentityFile {dir}/${{ALLSTOP_TEST}}/%u
  RevokedHostKeys {dir}/revoked-%r
  UserKnownHostsFile {dir}/known-%r
  ProxyCommand nc %h %p %r %n %%r
"""


def test_tokens_are_replaced_once_and_the_user_is_the_one_who_logs_in(
    reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALLSTOP_TEST", "%r")  # no token: it was replaced already
    monkeypatch.setenv("LOGNAME", "somebody")  # no proof of who we are
    found = settings_for(Destination("c", "you"), write(tmp_path, TOKENS))
    me = pwd.getpwuid(os.getuid())
    assert found.identity_files == (
        tmp_path / f"you-login.org-2222-c-key-name-{me.pw_uid}-%h",
        tmp_path / "%r" / me.pw_name,
    )
    assert found.revoked_host_keys == (tmp_path / "revoked-you",)
    assert found.known_hosts[0] == tmp_path / "known-you"
    assert found.proxy_command == "nc login.org 2222 you c %r"


def test_the_user_who_is_not_named_is_this_one(
    reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "somebody")
    monkeypatch.setenv("USER", "somebody")
    found = settings_for(Destination("c"), write(tmp_path, "Host c\n  ProxyCommand nc %r\n"))
    assert found.proxy_command == f"nc {pwd.getpwuid(os.getuid()).pw_name}"


@pytest.mark.parametrize(
    "option",
    ["IdentityFile {dir}/%q", "ProxyCommand nc %u", "IdentityFile {dir}/${{ALLSTOP_NONE}}",
     "RevokedHostKeys {dir}/%", "ProxyJump %d"],
)  # fmt: skip
def test_what_cannot_be_replaced_is_one_line(reader: str, tmp_path: Path, option: str) -> None:
    with pytest.raises(LinkRefusedError, match=r"\Assh c: [^\n]+\Z"):
        settings_for(Destination("c"), write(tmp_path, f"Host c\n  {option}\n"))


def the_way(destination: str, **jumps: str) -> list[str]:
    def look_up(wanted: Destination) -> HostSettings:
        return HostSettings(
            wanted.host, wanted.host, wanted.port or 22, wanted.user or "me",
            proxy_jump=jumps.get(wanted.host, ""), proxy_command=f"reach {wanted.host}",
        )  # fmt: skip

    by = {True: " by ", False: ""}
    return [
        f"{hop.user}@{hop.alias}:{hop.port}{by[bool(hop.proxy_command)]}{hop.proxy_command}"
        for hop in route(destination, look_up)
    ]


def test_the_route_passes_every_jump_host() -> None:
    assert the_way("c") == ["me@c:22 by reach c"]
    assert the_way("c", c="you@a:99,b") == ["you@a:99 by reach a", "me@b:22", "me@c:22"]
    assert the_way("c", c="b", b="a") == ["me@a:22 by reach a", "me@b:22", "me@c:22"]
    # "Host *" with a ProxyJump sends the gate through itself
    assert the_way("c", c="a", a="a") == ["me@a:22 by reach a", "me@c:22"]
    assert the_way("c", c="a", a="c") == ["me@a:22 by reach a", "me@c:22"]


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_the_user_s_own_file_is_not_read_if_others_may_write_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """OpenSSH's client refuses it as well: it may name a ProxyCommand."""
    pytest.importorskip("paramiko")
    monkeypatch.setattr(config.shutil, "which", lambda _: None)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    file = tmp_path / ".ssh" / "config"
    file.write_text("Host c\n  User me\n")
    assert settings_for(Destination("c")).user == "me"
    file.chmod(mode)
    with pytest.raises(LinkRefusedError, match="others may write it"):
        settings_for(Destination("c"))


@pytest.mark.parametrize("kind", ["device", "pipe", "directory", "big"])
def test_a_configuration_without_end_is_refused(tmp_path: Path, reader: str, kind: str) -> None:
    """``ssh -F /dev/zero`` would read one line of it until the memory is full."""
    file = tmp_path / "config"
    if kind == "device":
        file.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "directory":
        file.mkdir()
    else:
        with file.open("wb") as sparse:
            sparse.truncate(5 * 2**30)
    with pytest.raises(LinkRefusedError, match=rf"ssh c: {file} is (a|too) ") as caught:
        settings_for(Destination("c"), file)
    assert "\n" not in str(caught.value)


def test_files_of_host_keys_have_bounds(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, end in (("pipe", "is a pipe"), ("zero", "is a device")):
        with pytest.raises(OSError, match=end):
            KnownHosts([tmp_path / name])
    assert KnownHosts([Path("/dev/null")]).kinds(["c"]) == ()
