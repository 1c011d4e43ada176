from __future__ import annotations

import base64
import shutil
import subprocess
from pathlib import Path

import pytest

from slurm.ssh.host_keys import Finding, KnownHosts, Verdict, fingerprint, names_of

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
