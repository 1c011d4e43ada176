from __future__ import annotations

import base64
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from slurm.errors import LinkRefusedError
from slurm.ssh.config import HostSettings
from slurm.ssh.host_keys import Finding, KnownHosts, Verdict, fingerprint, names_of
from slurm.ssh.revoked import is_revoked

KIND = "ssh-ed25519"
KEY = b"\0\0\0\x0bssh-ed25519" + b"k" * 36
OTHER = b"\0\0\0\x0bssh-ed25519" + b"o" * 36


def b64(blob: bytes) -> str:
    return base64.b64encode(blob).decode()


def look_up(text: str, directory: Path, host: str = "h.org", port: int = 22) -> Verdict:
    file = directory / "known_hosts"
    file.write_text(text)
    return KnownHosts([file]).look_up(names_of(host, port), KIND, KEY).verdict


@pytest.mark.parametrize(
    ("line", "host", "port", "verdict"),
    [
        (f"h.org {KIND} {b64(KEY)} comment", "h.org", 22, Verdict.KNOWN),
        (f"h.org\t{KIND}\t{b64(KEY)}", "H.ORG", 22, Verdict.KNOWN),
        (f"H.Org,10.0.0.1 {KIND} {b64(KEY)}", "10.0.0.1", 22, Verdict.KNOWN),
        (f"[h.org]:2222 {KIND} {b64(KEY)}", "h.org", 2222, Verdict.KNOWN),
        (f"[h.org]:2222 {KIND} {b64(KEY)}", "h.org", 22, Verdict.UNKNOWN),
        (f"h.org {KIND} {b64(KEY)}", "h.org", 2222, Verdict.KNOWN),
        (f"h.org {KIND} {b64(OTHER)}", "h.org", 2222, Verdict.UNKNOWN),
        (f"*.org {KIND} {b64(KEY)}", "h.org", 22, Verdict.KNOWN),
        (f"?.org {KIND} {b64(KEY)}", "hh.org", 22, Verdict.UNKNOWN),
        (f"*.org,!h.org {KIND} {b64(KEY)}", "h.org", 22, Verdict.UNKNOWN),
        (f"[h.org]:* {KIND} {b64(KEY)}", "h.org", 2222, Verdict.KNOWN),
        (f"h.org {KIND} {b64(OTHER)}", "h.org", 22, Verdict.CHANGED),
        (f"h.org {KIND} {b64(OTHER)}\nh.org {KIND} {b64(KEY)}", "h.org", 22, Verdict.KNOWN),
        (f"h.org ssh-rsa {b64(OTHER)}", "h.org", 22, Verdict.UNKNOWN),
        (f"h.org {KIND} {b64(KEY)}\n@revoked * {KIND} {b64(KEY)}", "h.org", 22, Verdict.REVOKED),
        (f"@revoked g.org {KIND} {b64(KEY)}\nh.org {KIND} {b64(KEY)}", "h.org", 22, Verdict.KNOWN),
        (f"@revoked * {KIND} {b64(OTHER)}", "h.org", 22, Verdict.UNKNOWN),
        (f"@cert-authority *.org {KIND} {b64(KEY)}", "h.org", 22, Verdict.UNKNOWN),
        (f"#h.org {KIND} {b64(KEY)}", "h.org", 22, Verdict.UNKNOWN),
        (f"h.org {KIND} damaged!\n\nh.org\n|1|x| {KIND} {b64(KEY)}", "h.org", 22, Verdict.UNKNOWN),
    ],
)
def test_what_a_line_says_of_a_host(
    line: str, host: str, port: int, verdict: Verdict, tmp_path: Path
) -> None:
    assert look_up(line + "\n", tmp_path, host, port) is verdict


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
@pytest.mark.parametrize("port", [22, 2222])
def test_entries_that_openssh_has_hashed_are_found(port: int, tmp_path: Path) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "k"], check=True
    )
    kind, key = (tmp_path / "k.pub").read_text().split()[:2]
    name = names_of("h.org", port)[0]
    file = tmp_path / "known_hosts"
    file.write_text(f"{name} {kind} {key}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", file], check=True, capture_output=True)
    assert "h.org" not in file.read_text()
    known = KnownHosts([file])
    blob = base64.b64decode(key)
    assert known.look_up(names_of("h.org", port), kind, blob) == Finding(
        Verdict.KNOWN, f"{file}, line 1"
    )
    assert known.look_up(names_of("i.org", port), kind, blob).verdict is Verdict.UNKNOWN
    assert known.kinds(names_of("h.org", port)) == (kind,)
    shown = subprocess.run(
        ["ssh-keygen", "-lf", tmp_path / "k.pub"], check=True, capture_output=True, text=True
    )
    assert fingerprint(blob) in shown.stdout


def test_an_alias_stands_for_itself() -> None:
    assert names_of("h.org", 2222, "Login") == ("login",)


def test_several_files_count_and_missing_ones_are_empty(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    second.write_text(f"h.org {KIND} {b64(KEY)}\n")
    known = KnownHosts([first, second, Path("/dev/null/none")])
    assert known.look_up(("h.org",), KIND, KEY).verdict is Verdict.KNOWN


def test_a_file_that_cannot_be_read_is_no_empty_file(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        KnownHosts([tmp_path])


# -- RevokedHostKeys ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three public keys, and revocation lists of OpenSSH's own that revoke ``a``."""
    folder = tmp_path_factory.mktemp("keys")
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")

    def keygen(*words: str) -> str:
        return subprocess.run(
            ["ssh-keygen", *words], cwd=folder, check=True, capture_output=True, text=True,
            stdin=subprocess.DEVNULL,
        ).stdout  # fmt: skip

    for name in "abc":
        keygen("-q", "-t", "ed25519", "-N", "", "-f", name)
    (folder / "sha1").write_text(f"sha1: {(folder / 'a.pub').read_text()}")
    (folder / "sha256").write_text(f"hash: {keygen('-lf', 'a.pub').split()[1]}\n")
    keygen("-k", "-f", "key.krl", "a.pub", "c.pub")
    keygen("-k", "-f", "sha1.krl", "sha1", "c.pub")
    keygen("-k", "-f", "sha256.krl", "sha256", "c.pub")
    (folder / "list").write_text(f"# revoked\n\n{(folder / 'a.pub').read_text()}")
    (folder / "empty").touch()
    return folder


def blob_of(keys: Path, name: str) -> bytes:
    return base64.b64decode((keys / f"{name}.pub").read_text().split()[1])


@pytest.mark.parametrize("file", ["list", "key.krl", "sha1.krl", "sha256.krl", "empty"])
def test_keys_are_revoked_as_ssh_keygen_says(keys: Path, file: str) -> None:
    assert is_revoked(keys / file, blob_of(keys, "a")) is (file != "empty")
    assert not is_revoked(keys / file, blob_of(keys, "b"))
    if file.endswith(".krl"):
        asked = [
            subprocess.run(
                ["ssh-keygen", "-Q", "-f", file, f"{name}.pub"],
                cwd=keys,
                capture_output=True,
                check=False,
            ).returncode
            for name in "ab"
        ]
        assert asked == [1, 0]


class ServerKey:
    """A server's host key, as paramiko shows it."""

    def __init__(self, blob: bytes) -> None:
        self._blob = blob

    def get_name(self) -> str:
        return KIND

    def asbytes(self) -> bytes:
        return self._blob


def refused(keys: Path, revoked: Path, name: str) -> str:
    pytest.importorskip("paramiko")
    from slurm.ssh.trust import HostTrust

    known = keys / "known"
    known.write_text(f"h.org {KIND} {b64(blob_of(keys, name))}\n")
    settings = HostSettings("h", "h.org", 22, "me", revoked_host_keys=(revoked,))
    try:
        HostTrust(settings, known, behind=False).check(ServerKey(blob_of(keys, name)))
    except LinkRefusedError as error:
        return str(error)
    return ""


def test_a_known_key_that_is_revoked_is_refused(keys: Path) -> None:
    assert "REVOKED" in refused(keys, keys / "list", "a")
    assert "REVOKED" in refused(keys, keys / "key.krl", "a")
    assert not refused(keys, keys / "list", "b")


def test_no_key_is_trusted_while_the_list_cannot_be_read(keys: Path, tmp_path: Path) -> None:
    whole = (keys / "key.krl").read_bytes()
    damaged: dict[str, bytes] = {
        "cut": whole[:-3], "head": whole[:20], "section": whole + b"\x09\0\0\0\0",
        "version": whole[:8] + b"\0\0\0\x02" + whole[12:], "words": b"no key\n",
    }  # fmt: skip
    for name, data in damaged.items():
        (tmp_path / name).write_bytes(data)
        said = refused(keys, tmp_path / name, "b")
        assert "no host key is trusted" in said, name
        assert "\n" not in said
    assert "No such file" in refused(keys, tmp_path / "none", "b")
    assert "no host key is trusted" in refused(keys, tmp_path, "b")
    os.mkfifo(tmp_path / "fifo")
    assert "no host key is trusted" in refused(keys, tmp_path / "fifo", "b")
