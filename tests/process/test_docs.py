"""What README and docs show is true: their commands run, their links resolve, their words hold."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pexpect
import pytest

from supervisor.lifecycle.spec import read_spec
from tests.support.cli import ROOT, Place, Started, code_of
from tests.support.waiting import DEADLINE_S

README = ROOT / "README.md"
TUTORIAL = ROOT / "docs/tutorial.md"
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (README, *(ROOT / "docs").rglob("*.md"), ROOT / "CHANGELOG.md",
                 ROOT / "CONTRIBUTING.md")
)  # fmt: skip

MOST_WORDS = 900

REPLACED = (
    r"mend(s|ed|ing)?", "whoever", "whomever", "nobody", "somebody", "anybody", "owe[ds]?",
    "board", "depot", "circumstances?", "tapes?", "standing", "(hear|hears|heard) of", "gone into",
    "(carry|carries|carried|carrying) (it |them |a run |the run )?(on|out)", "comes? (to it|of it)",
)  # fmt: skip

COMMANDS = ("run", "stop", "status", "resume", "report", "reap", "doctor", "jobs")

CLUSTER = re.compile(r"--slurm|--cluster|submit_\w+\.sh")
INSTALLS = re.compile(r"make |source ")

WAITS = """
def f(bars, params, stop):
    '''Finishes 50 combinations, then stays until it is told to stop; once resumed, the rest.'''
    if params["a"] < 50 or (HERE / "resumed").exists():
        return row(params)
    mark("ready")
    stop.wait()
    return None
"""


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    language: str
    text: str

    @property
    def file(self) -> str:
        """Name of the file that it is to be saved as: its first line, a comment; or empty."""
        found = re.match(r"# (\w+\.(?:py|toml))\n", self.text)
        return found[1] if found else ""

    @property
    def commands(self) -> list[str]:
        """What is typed after the prompts, continuation lines included."""
        text = self.text.replace("\\\n", "\\\x00")
        lines = [line[2:] for line in text.splitlines() if line.startswith("$ ")]
        return [line.replace("\x00", "\n") for line in lines]


def blocks(path: Path) -> list[Block]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
    return [Block(*block) for block in found]


def prose(path: Path) -> str:
    return re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


# --- what is shown runs ------------------------------------------------------------------------


class Reader:
    """Does what a document says, block by block, in a directory of its own."""

    def __init__(self, place: Place) -> None:
        self.place = place
        here = Path(sys.executable).parent  # `python`, as in an activated environment
        self.env = place.env | {
            "PATH": f"{here}{os.pathsep}{place.env['PATH']}", "TERM": "xterm", "NO_COLOR": "1",
        }  # fmt: skip
        self.ran: list[str] = []
        self.waiting: Started | None = None

    def save_files(self, path: Path) -> None:
        """Save every block that is a file, as the text asks for."""
        for block in blocks(path):
            if block.file:
                (self.place.work / block.file).write_text(block.text)

    def follow(self, path: Path) -> None:
        """Save the files, then run the rest from top to bottom."""
        self.save_files(path)
        for block in blocks(path):
            if block.language == "console" and "^C" not in block.text:
                for command in block.commands:
                    self.do(command)
            elif block.language == "python" and not block.file:
                (self.place.work / "block.py").write_text(block.text)
                self.run("python block.py")

    def do(self, command: str) -> None:
        """Run one command as a reader at a terminal would."""
        if CLUSTER.search(command) or INSTALLS.match(command):
            return  # what these name is compared with --help and Makefile below
        self.ran.append(command)
        if re.match(r"python -m supervisor (status|stop)\b", command):
            self.have_one_running()
        if "RUN" in command:
            assert self.waiting is not None, "no run was shown that RUN could stand for"
            (self.place.root / "resumed").touch()
            command = command.replace("RUN", str(self.waiting.run_dir))
        if "--run-dir big" in command:
            self.interrupt(command)
        else:
            self.run(command)

    def run(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.place.work, env=self.env, text=True,
            stdin=subprocess.DEVNULL, capture_output=True, timeout=2 * DEADLINE_S,
        )  # fmt: skip
        # doctor's findings are this machine's; it has to answer, whatever they are
        allowed = (0, 1) if "supervisor doctor" in command else (0,)
        assert done.returncode in allowed, f"$ {command}\n{done.stdout}\n{done.stderr}"
        assert done.stdout or ">" in command or command.endswith(".py"), f"$ {command}: silent"
        return done.stdout

    def have_one_running(self) -> None:
        """Have a run that `status` shows and `stop` ends."""
        if self.waiting is None:
            self.waiting = self.place.sweep(WAITS, json=False)
            self.waiting.wait_marks("ready", 2)

    def interrupt(self, command: str) -> str:
        """Run a sweep on a terminal of 80 columns; Ctrl+C once it says how long it will take."""
        # two workers: on a machine with many cores it would be over before Ctrl+C
        terminal = pexpect.spawn(
            "bash", ["-c", f"{command} --workers 2"], cwd=str(self.place.work), env=self.env,
            dimensions=(24, 80), timeout=DEADLINE_S, encoding="utf-8", codec_errors="replace",
        )  # fmt: skip
        terminal.expect(r"running [━╸ ]+\d+\.\d % \d:\d\d:\d\d \d:\d\d:\d\d.*best")
        shown = terminal.before + terminal.after
        terminal.send("\x03")
        terminal.expect(pexpect.EOF)
        shown += terminal.before
        terminal.close()
        assert code_of(terminal) == 130, shown
        return shown


@pytest.fixture
def reader(place: Place) -> Reader:
    reader = Reader(place)
    reader.save_files(TUTORIAL)
    reader.run("python make_data.py")
    return reader


def test_what_readme_shows_runs(reader: Reader) -> None:
    work = reader.place.work
    (work / "backtest.sh").write_text('#!/bin/sh\nwhile read job; do echo "did $job"; done\n')
    (work / "backtest.sh").chmod(0o755)
    (work / "jobs.txt").write_text("one\ntwo\n")
    reader.follow(README)
    shown = [re.match(r"python -m supervisor (\w+)", command) for command in reader.ran]
    assert set(COMMANDS) - {found[1] for found in shown if found} == {"jobs"}
    assert (work / "log.txt").read_text() == "did one\ndid two\n"
    assert reader.waiting is not None
    assert reader.waiting.end() == 143  # ended by `stop`, as by SIGTERM
    assert reader.waiting.report["status"] == "completed"  # and resumed
    assert reader.waiting.report["combos_done"] == 1000


def test_what_the_tutorial_shows_runs(reader: Reader) -> None:
    reader.follow(TUTORIAL)
    said = reader.run("python best.py")
    assert len(re.findall(r"^lookback +\d+  sharpe -?\d+\.\d\d$", said, re.MULTILINE)) == 3
    rows = reader.run("python -m supervisor report big --json")
    assert '"status": "completed"' in rows  # interrupted, then resumed


def test_the_session_in_readme_is_a_session(reader: Reader) -> None:
    """A real run gives every line of it, but for numbers, lengths of bars and the run's id."""
    (session,) = (block for block in blocks(README) if "^C" in block.text)
    (command,) = session.commands
    real = {
        skeleton(line)
        for line in re.split(r"[\r\n]+|\x1b\[[0-9;?]*[A-Za-z]", reader.interrupt(command))
    }
    shown = session.text.replace("\\\n", "").splitlines()[1:]
    assert len(shown) > 10
    for line in shown:
        assert skeleton(line.removesuffix("^C")) in real, line


def skeleton(line: str) -> str:
    """A line without what differs from run to run."""
    line = re.sub(r"\d{8}-\d{6}-[0-9a-f]{6}", "RUN", line)
    line = re.sub(r"-?\d[\d,]*(\.\d+)?(e-?\d+)?", "N", line)
    return re.sub(r"[━╸\s]+", " ", line).strip()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_blocks_are_well_formed(document: str, tmp_path: Path) -> None:
    for block in blocks(ROOT / document):
        assert block.language in ("console", "python", "cpp", "toml", "bash", "mermaid", "")
        if block.language == "python":
            ast.parse(block.text)
        elif block.language == "toml" and "strategy" in block.text:
            spec = tmp_path / "spec.toml"
            spec.write_text(block.text)
            read_spec(spec)


# --- what is named exists ----------------------------------------------------------------------


@cache
def help_of(command: str) -> str:
    argv = [sys.executable, "-P", "-m", "supervisor", *command.split(), "--help"]
    env = os.environ | {"COLUMNS": "200", "PYTHONPATH": str(ROOT)}
    return subprocess.run(argv, check=True, capture_output=True, text=True, env=env).stdout


def options_of(command: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", help_of(command)))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_and_options_are_in_help(document: str) -> None:
    for block in blocks(ROOT / document):
        for line in block.commands if block.language == "console" else ():
            found = re.match(r"(?:python -m supervisor|allstop) (\w+)([^#]*)", line)
            if found:
                name, given = found[1], re.split(r" -- ", found[2])[0]
                assert name in COMMANDS, line
                for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", given):
                    assert option in options_of(name), line


def test_every_command_is_known_here() -> None:
    assert set(re.findall(r"^│ ([a-z]+) ", help_of(""), re.MULTILINE)) == set(COMMANDS)


def test_options_in_readme_prose_are_in_help() -> None:
    known = set().union(*(options_of(name) for name in COMMANDS))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", README.read_text()))
    assert named
    assert named <= known


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_exist(document: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = (ROOT / document).read_text()
    named = re.findall(r"(?:`|^\$ |test\w* )make ([a-z-]+)", text, re.MULTILINE)
    assert set(named) <= targets


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_resolve(document: str) -> None:
    path = ROOT / document
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"https?:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), link
        if anchor:
            assert anchor in anchors(file), link


def anchors(path: Path) -> set[str]:
    """What GitHub calls a document's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_named_in_text_exist(document: str) -> None:
    named = re.findall(r"`((?:supervisor|workers|slurm|bench|tests|docs)/[\w./-]*)`",
                       (ROOT / document).read_text())  # fmt: skip
    for name in named:
        assert (ROOT / name).exists(), name


def test_architecture_shows_every_room() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    table = text[text.index("| room of") : text.index("| package ")]
    shown = set(re.findall(r"^\| `(\w+)/`", table, re.MULTILINE))
    assert shown == {path.parent.name for path in (ROOT / "supervisor").glob("*/__init__.py")}


# --- how it is said ----------------------------------------------------------------------------


def test_readme_is_short() -> None:
    assert len(README.read_text().split()) <= MOST_WORDS  # as `wc -w` counts, blocks included


@pytest.mark.parametrize("document", DOCUMENTS)
def test_replaced_words_are_gone(document: str) -> None:
    pattern = re.compile(rf"\b({'|'.join(REPLACED)})\b", re.IGNORECASE)
    lines = (ROOT / document).read_text().splitlines()
    assert [f"{n}: {line}" for n, line in enumerate(lines, 1) if pattern.search(line)] == []


def test_glossary_is_sorted_and_says_a_thing_once() -> None:
    text = (ROOT / "docs/glossary.md").read_text()
    terms = [term.lower() for term in re.findall(r"^\*\*(.+?)\*\* ", text, re.MULTILINE)]
    assert len(terms) > 60
    assert terms == sorted(set(terms))
