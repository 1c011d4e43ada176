from __future__ import annotations

import re
import signal
from collections.abc import Iterator

import pexpect
import pytest

from tests.support.cli import DEAF, POLITE, Place, Started, code_of
from tests.support.waiting import DEADLINE_S, wait_for

DONE = 50
CTRL_C, CTRL_BACKSLASH = "\x03", "\x1c"


class Terminal:
    """``allstop run`` on a terminal, as a person has it."""

    def __init__(
        self, place: Place, what: str | list[str], *options: str, shell: bool = False
    ) -> None:
        """Start a command, or a sweep with a strategy of this body."""
        argv = what
        if isinstance(what, str):
            argv = place.run_argv(what, *options, json=False, DONE=DONE)
        if shell:
            argv = ["sh", "-c", '"$@"; echo "code=$?"', "sh", *argv]
        self.place = place
        self.child = pexpect.spawn(
            argv[0], argv[1:], cwd=str(place.work), env=place.env, dimensions=(24, 80),
            timeout=DEADLINE_S, encoding="utf-8", codec_errors="replace",
        )  # fmt: skip
        self.started = Started(place, None)  # type: ignore[arg-type]

    def wait_ready(self, n: int = 2) -> None:
        wait_for(lambda: len(list(self.place.root.glob("ready-*"))) >= n, "workers ready")
        self.started.look()

    def end(self) -> int:
        self.child.expect(pexpect.EOF)
        wait_for(lambda: not self.child.isalive(), "its end")  # close would send SIGHUP
        self.child.close()
        return code_of(self.child)

    def close_window(self) -> None:
        """Close the terminal, as a window is closed; pexpect would signal, too."""
        self.child.ptyproc.fileobj.close()
        self.child.ptyproc.closed = self.child.closed = True

    def assert_gone(self) -> None:
        wait_for(lambda: not self.place.alive(), "everything gone")


@pytest.fixture
def terminal(place: Place) -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for each in opened:
        each.child.close(force=True)


def test_a_progress_bar_then_ctrl_c_then_a_summary(place: Place, terminal: list) -> None:
    term = Terminal(place, POLITE)
    terminal.append(term)
    term.wait_ready()
    term.child.expect(r"running[^\r\n]*5\.0 %[^\r\n]*0:00:\d\d")  # nothing is cut off on 80 columns
    term.child.expect(r"50/1,000")
    term.child.expect(r"\d MB")
    term.child.expect(r"best \d+ \(a=\d+\)")
    term.child.send(CTRL_C)
    term.child.expect(r"stopped: 50 of 1,000 combinations")
    term.child.expect(r"stop \(stop\) requested by SIGINT: everything gone after \d+\.\d+ s")
    term.child.expect(r"RAM: before .* MB, peak .* MB, after .* MB, freed .* MB; back")
    term.child.expect(r"results: .*results\.parquet")
    assert term.end() == 130
    term.assert_gone()
    term.started.assert_nothing_lost(DONE)


def test_a_run_to_its_end(place: Place, terminal: list) -> None:
    body = """
    def f(bars, params, stop):
        return row(params)
    """
    term = Terminal(place, body)
    terminal.append(term)
    term.child.expect(r"completed: 1,000 of 1,000 combinations")
    term.child.expect(r"best by sharpe")
    term.child.expect(r"999 +999 +1998")
    assert term.end() == 0
    term.assert_gone()


def test_ctrl_c_twice_kills(place: Place, terminal: list) -> None:
    term = Terminal(place, DEAF, "--grace", "60", "--terminate", "60")
    terminal.append(term)
    term.wait_ready()
    term.child.send(CTRL_C)
    term.child.expect(r"stopping; Ctrl\+C again kills")
    term.child.send(CTRL_C)
    term.child.expect(r"stop \(kill\) requested by SIGINT: everything gone")
    assert term.end() == 130
    term.assert_gone()
    term.started.assert_nothing_lost()


def test_ctrl_backslash_shows_where_they_are(place: Place, terminal: list) -> None:
    term = Terminal(place, DEAF, "--grace", "60")
    terminal.append(term)
    term.wait_ready()
    term.child.send(CTRL_BACKSLASH)
    term.child.expect(r"worker pid \d+ \(state R\)")
    term.child.expect(r"strategy\.py.* in f")
    assert term.end() == 131
    term.assert_gone()


def test_under_a_shell_of_the_same_group(place: Place, terminal: list) -> None:
    term = Terminal(place, POLITE, shell=True)
    terminal.append(term)
    term.wait_ready()
    term.child.send(CTRL_C)
    term.child.expect(r"stopped: 50 of 1,000")
    term.child.expect(pexpect.EOF)
    term.assert_gone()
    term.started.assert_nothing_lost(DONE)


LOOPS = {
    "sweep": 'for i in 1 2 3; do "$@" --run-dir run-$i; done; echo over',
    "command": "for i in 1 2 3; do \"$@\" sh -c 'touch ready-$$; sleep 1000'; done; echo over",
}


@pytest.mark.parametrize("kind", LOOPS)
def test_ctrl_c_ends_the_loop_of_a_shell(place: Place, terminal: list, kind: str) -> None:
    """Only where the program dies of the signal: one that exits with 130 has handled it."""
    if kind == "sweep":
        argv = place.run_argv(POLITE, DONE=DONE)
        marks, at = "ready-*", argv.index("--run-dir")
        del argv[at : at + 2]
    else:
        argv, marks = place.argv("run", "--grace", "0.3", "--"), "work/ready-*"
    term = Terminal(place, ["bash", "-c", LOOPS[kind], "bash", *argv])
    terminal.append(term)
    wait_for(lambda: list(place.root.glob(marks)), "the first one")
    term.child.send(CTRL_C)
    term.child.expect(pexpect.EOF)
    assert "over" not in term.child.before
    assert term.end() == 130
    term.assert_gone()
    assert len(list(place.root.glob("**/report.json"))) == 1


def test_the_terminal_is_closed(place: Place, terminal: list) -> None:
    """The window goes: the kernel sends SIGHUP, and writing to the screen fails."""
    term = Terminal(place, POLITE)
    terminal.append(term)
    term.wait_ready()
    term.close_window()
    report = term.started.wait_report()
    wait_for(lambda: not term.child.isalive(), "the front's end")
    term.assert_gone()
    term.started.assert_nothing_lost(DONE)
    assert report["status"] == "stopped"
    assert report["stop"]["requested_by"] == "SIGHUP"
    assert term.child.signalstatus == signal.SIGHUP


def test_the_screen_is_left_as_it_was(place: Place, terminal: list) -> None:
    term = Terminal(place, POLITE)
    terminal.append(term)
    term.wait_ready()
    term.child.expect("50/1,000")
    term.child.send(CTRL_C)
    term.child.expect(pexpect.EOF)
    everything = term.child.before
    hidden, shown = everything.rfind("\x1b[?25l"), everything.rfind("\x1b[?25h")
    assert shown > hidden, "the cursor stays hidden"
    assert not re.search(r"Traceback|Error", everything)
    assert term.end() == 130
    term.assert_gone()
