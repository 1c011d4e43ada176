"""A record that was written is read again, whatever became of those around it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import UntrustedError
from supervisor.records.ledger import Ledger, LedgerError, LedgerWriteError, Record, read_ledger

OLD = Path(__file__).parents[1] / "support" / "ledger-v1"
ROOT = Path(__file__).parents[2]

FIELDS = st.dictionaries(
    st.text(min_size=1).filter(lambda name: name not in ("kind", "at", "self")),
    st.one_of(st.text(), st.integers(), st.booleans(), st.none(), st.lists(st.text())),
    max_size=4,
)


def written(path: Path, *kinds: str) -> list[Record]:
    with Ledger(path) as ledger:
        return [Record(kind, ledger.append(kind, of=kind), {"of": kind}) for kind in kinds]


def test_there_is_none_without_a_file(tmp_path: Path) -> None:
    assert read_ledger(tmp_path / "none") == []


@given(st.lists(FIELDS, max_size=5))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, many: list) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger"
    with Ledger(path) as ledger:
        expected = [Record("k", ledger.append("k", **fields), fields) for fields in many]
    assert read_ledger(path) == expected


def test_cut_at_every_byte_the_whole_ones_stay_and_the_next_one_is_read(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    records = written(path, "first", "second\n", "third")
    whole = path.read_bytes()
    ends = [index for index in range(len(whole)) if whole[index : index + 2] == b"\n\n"]
    ends.append(len(whole) - 1)
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        before = read_ledger(path)
        assert before == records[: sum(end <= cut for end in ends)], cut
        (later,) = written(path, "later")
        assert read_ledger(path) == [*before, later], cut


@given(st.binary(max_size=80), st.integers(0, 2))
def test_garbage_spoils_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, garbage: bytes, after: int
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger"
    records = written(path, *(f"kind {number}" for number in range(after)))
    with path.open("ab") as file:
        file.write(garbage)
    records += written(path, "later")
    assert read_ledger(path) == records


@pytest.mark.parametrize("torn", [b"0", b"00000000", b"00000000 ", b"0 ", b" ", b""])
def test_nothing_is_not_taken_for_a_record(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "ledger"
    path.write_bytes(b"\nallstop-ledger-1 " + torn)
    assert read_ledger(path) == []
    (later,) = written(path, "later")
    assert read_ledger(path) == [later]


def test_a_changed_byte_spoils_its_record_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    first, _, third = written(path, "first", "second", "third")
    path.write_bytes(path.read_bytes().replace(b"second", b"secand", 1))
    assert read_ledger(path) == [first, third]


APPEND = """
import sys
from pathlib import Path
from supervisor.records.ledger import Ledger
path, own, other = Path(sys.argv[1]), *sys.argv[2:]
with Ledger(path) as ledger:
    number = 0
    # so long both are at it; one whose other has died ends as well
    while number < 200 or (number < 20_000 and path.read_text().count(f"from {other}") < 100):
        ledger.append("from " + own, number=number, padding="x" * (number * 7 % 3000))
        number += 1
"""


def test_two_processes_append_at_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    writers = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", APPEND, str(path), *names],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        for names in ("ab", "ba")
    ]  # fmt: skip
    for writer in writers:
        assert writer.wait(timeout=200) == 0
    records = read_ledger(path)
    assert {record.kind for record in records} == {"from a", "from b"}
    for name in "ab":
        of_one = [r.fields["number"] for r in records if r.kind == f"from {name}"]
        assert len(of_one) >= 200
        assert of_one == list(range(len(of_one)))


@pytest.fixture
def small_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 1, 20, 60])
def test_a_full_disk_is_one_line_and_spoils_nothing(tmp_path: Path, small_files, room: int) -> None:
    path = tmp_path / "ledger"
    (first,) = written(path, "first")
    small_files(path.stat().st_size + room)
    with Ledger(path) as ledger:
        with pytest.raises(LedgerWriteError) as caught:
            ledger.append("second", padding="x" * 100)
        small_files(resource.RLIM_INFINITY)
        third = Record("third", ledger.append("third"), {})
    assert "cannot be written" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert read_ledger(path) == [first, third]


def test_a_device_that_is_full_is_one_line(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger") as ledger:
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, ledger._fd)
        os.close(full)
        with pytest.raises(LedgerWriteError, match="No space"):
            ledger.append("first")


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").touch(mode=0o600)
    (tmp_path / "ledger").symlink_to("other")
    with pytest.raises(UntrustedError, match="is a link"):
        Ledger(tmp_path / "ledger")
    with pytest.raises(UntrustedError, match="is a link"):
        read_ledger(tmp_path / "ledger")
    assert (tmp_path / "other").read_bytes() == b""


def test_a_directory_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LedgerWriteError, match="cannot be written"):
        Ledger(tmp_path / "none" / "ledger")


def test_each_record_is_on_disk_before_append_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    real_write, real_fsync = os.write, os.fsync
    monkeypatch.setattr(os, "write", lambda *a: (done.append("write"), real_write(*a))[1])
    monkeypatch.setattr(os, "fsync", lambda *a: (done.append("fsync"), real_fsync(*a))[1])
    with Ledger(tmp_path / "ledger") as ledger:
        assert done == ["fsync"]  # of the directory
        done.clear()
        ledger.append("first")
        assert done == ["write", "fsync"]


def test_a_later_version_s_ledger_is_refused_its_damaged_lines_are_not(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    (first,) = written(path, "first")
    head, payload = b"allstop-ledger-3", path.read_bytes().strip().split(b" ", 2)[2]
    line = b"\n%s %08x %s\n" % (head, zlib.crc32(head + b" " + payload), payload)
    with path.open("ab") as file:
        file.write(line.replace(b"first", b"furst"))
    assert read_ledger(path) == [first]
    with path.open("ab") as file:
        file.write(line)
    with pytest.raises(LedgerError, match="later version"):
        read_ledger(path)


def test_an_old_ledger_stays_readable() -> None:
    records = read_ledger(OLD)
    assert [record.kind for record in records] == [
        "jobs_expected", "submit_intended", "submitted", "submit_intended", "jobs_seen",
        "submit_intended", "submit_refused", "submit_intended", "cancel_wanted", "jobs_settled",
    ]  # fmt: skip
    assert records[0].fields["token"] == "allstop-20260301-120000-0a1b2c3d"
    assert records[-1].at == 1772362845.5
