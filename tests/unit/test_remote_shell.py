from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slurm.ssh.remote_shell import Cut, Frame, Outcome

LOGIN_SHELLS = ("bash", "dash", "zsh", "tcsh", "fish")
POSIX_SHELLS = ("dash", "bash", "busybox")

# any bytes but NUL: what a word may be, whatever the locale
words = st.binary(max_size=40).filter(lambda raw: b"\0" not in raw).map(os.fsdecode)
HOSTILE = ["", "-n", "--", "a b", "x\ny\n", "\n", "$(id)", "`id`", "'", '"\\', "!!", "é\u2028",
           "*", "~", "{a,b}", "\r", "\t", ";exit 3", "#", "\udc81\udcff", "%s", "\x7f"]  # fmt: skip


def need(shell: str) -> str:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed")
    return path


def answer(
    argv: Sequence[str],
    *,
    login: str = "/bin/sh",
    stdin: bytes = b"",
    variables: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    noise: str = "",
) -> tuple[Cut, int]:
    """Do what an sshd does with a frame."""
    frame = Frame(argv, variables or {})
    done = subprocess.run(
        [login, "-c", f"{noise}{frame.command_line}"],
        input=frame.script + stdin,
        env={**os.environ, **(env or {})},
        capture_output=True,
        timeout=60,
    )
    return frame.cut(done.stdout, done.stderr), done.returncode


def sh_is(shell: str, directory: Path) -> dict[str, str]:
    """An environment in which ``sh`` is that shell."""
    (directory / "sh").symlink_to(need(shell))
    return {"PATH": f"{directory}:{os.environ['PATH']}"}


@pytest.mark.parametrize("login", LOGIN_SHELLS)
def test_every_login_shell_passes_the_words_on(login: str) -> None:
    cut, code = answer(["printf", "%s\\0", *HOSTILE], login=need(login))
    assert cut.stdout.split(b"\0")[:-1] == [os.fsencode(word) for word in HOSTILE]
    assert (cut.outcome, code, cut.stderr) == (Outcome.STARTED, 0, b"")


@pytest.mark.parametrize("shell", POSIX_SHELLS)
def test_every_posix_shell_passes_the_words_on(shell: str, tmp_path: Path) -> None:
    cut, code = answer(["printf", "%s\\0", *HOSTILE], env=sh_is(shell, tmp_path))
    assert cut.stdout.split(b"\0")[:-1] == [os.fsencode(word) for word in HOSTILE]
    assert (cut.outcome, code) == (Outcome.STARTED, 0)


@given(st.lists(words, max_size=5), st.binary(max_size=60))
@example([chr(0xDC00 + byte) for byte in range(0x80, 0x100)], b"")
def test_any_word_and_any_input_arrives(argv: list[str], stdin: bytes) -> None:
    cut, _ = answer(["sh", "-c", 'printf "%s\\0" "$@"; cat', "sh", *argv], stdin=stdin)
    sent = b"".join(os.fsencode(word) + b"\0" for word in argv) if argv else b"\0"
    assert cut.stdout == sent + stdin


def test_a_long_word_and_many_words(tmp_path: Path) -> None:
    cut, _ = answer(["printf", "%s", "'" * 100_000])
    assert cut.stdout == b"'" * 100_000
    cut, _ = answer(["printf", "%s", *["x y"] * 30_000])
    assert cut.stdout == b"x y" * 30_000


@pytest.mark.parametrize("login", LOGIN_SHELLS)
def test_output_of_startup_files_is_cut_off(login: str) -> None:
    noise = "echo welcome; sh -c 'echo careful >&2'; "
    cut, code = answer(
        ["sh", "-c", "echo out; echo err >&2; exit 7"], login=need(login), noise=noise
    )
    assert cut == (Outcome.STARTED, b"out\n", b"err\n")
    assert code == 7


def test_the_trace_of_a_shell_is_cut_off() -> None:
    env = {"SHELLOPTS": "xtrace"}
    cut, _ = answer(["echo", "out"], login=need("bash"), env=env, noise="set -xv; ")
    assert cut == (Outcome.STARTED, b"out\n", b"")


@pytest.mark.parametrize("shell", POSIX_SHELLS)
def test_a_missing_program_differs_from_exit_status_127(shell: str, tmp_path: Path) -> None:
    env = sh_is(shell, tmp_path)
    (tmp_path / "plain").write_text("")
    assert answer(["no-such-program"], env=env)[0].outcome is Outcome.MISSING
    assert answer([str(tmp_path / "plain")], env=env)[0].outcome is Outcome.MISSING
    assert answer([str(tmp_path)], env=env)[0].outcome is Outcome.MISSING
    cut, code = answer(["sh", "-c", "exit 127"], env=env)
    assert (cut.outcome, code) == (Outcome.STARTED, 127)


@pytest.mark.parametrize("shell", POSIX_SHELLS)
def test_variables_that_change_answers_are_unset(shell: str, tmp_path: Path) -> None:
    env = sh_is(shell, tmp_path) | {
        "SLURM_CONF": "/kept", "SLURM_JOB_ID": "1", "SBATCH_PARTITION": "x",
        "SQUEUE_FORMAT": "a\nb", "SCANCEL_CTLD": "",
        "MINE": "SBATCH_a\nSBATCH_b-c d\n$(exit 3)*", "n": "kept", "IFS": "x",
    }  # fmt: skip
    cut, code = answer(["env"], env=env, variables={"SBATCH_WCKEY": "a 'b'\nc"})
    left = dict(line.partition("=")[::2] for line in cut.stdout.decode().splitlines())
    assert code == 0
    assert {name for name in left if name.startswith(("SLURM_", "SQUEUE_", "SCANCEL_"))} == {
        "SLURM_CONF"
    }
    assert (left["SBATCH_WCKEY"], left["n"], left["LC_ALL"]) == ("a 'b'", "kept", "C.UTF-8")
    assert "SBATCH_PARTITION" not in left
    assert not [name for name in left if name.startswith("allstop")]
    cut, _ = answer(["printenv", "SBATCH_WCKEY"], env=env, variables={"SBATCH_WCKEY": "a 'b'\nc"})
    assert cut.stdout == b"a 'b'\nc\n"


def test_a_truncated_script_is_not_run(tmp_path: Path) -> None:
    frame = Frame(["touch", str(tmp_path / "ran")], {})
    for part in (frame.script[:-2], frame.script[1:], frame.script[:-8] + b"\n", b""):
        done = subprocess.run(
            ["/bin/sh", "-c", frame.command_line], input=part, capture_output=True, timeout=60
        )
        assert frame.cut(done.stdout, done.stderr).outcome is Outcome.NOT_READ
    assert not (tmp_path / "ran").exists()


def test_words_are_not_in_the_command_line() -> None:
    assert "secret" not in Frame(["echo", "secret"], {"TOKEN": "secret"}).command_line


def test_words_that_cannot_be_sent_are_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        Frame(["echo", "a\0b"], {})
    with pytest.raises(ValueError, match="variable"):
        Frame(["echo"], {"A=$(id); B": "c"})
