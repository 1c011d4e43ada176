"""Where a cluster finds a sweep's directory, and how its journals come back.

Nodes that share a file system with this machine use the directory itself. On a cluster
behind SSH, a copy of what the shards need is staged below the user's home directory; the
shards' journals and logs are fetched from there, and the copy is removed once the results
are written. The ledger records the copy, so that a process that finishes or resumes a run
whose front was killed fetches from it, too.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple, Protocol

from slurm.connect import connect
from slurm.transport import Transport
from supervisor.errors import AllstopError, ConfigError, brief
from supervisor.lifecycle.neighbours import beside
from supervisor.market.bars import file_blocks
from supervisor.records import rundir
from supervisor.records.home import HOME_KEY
from supervisor.records.ledger import Ledger, read_ledger
from supervisor.records.plan import Origin, Plan, Source
from supervisor.rows.journal import is_journal_name
from supervisor.system import durable, private

if TYPE_CHECKING:
    from supervisor.lifecycle.prepare import Prepared

_FOLDER = ".allstop/runs"
"""Where the copies are, below the user's home directory on the cluster."""
_RECORD = "copy_made"

# a server may list anything: only names that a shard gives its files are fetched
_SHARD = re.compile(r"[0-9]{5,9}")
_LOG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\.log")


class StagingArea(Protocol):
    """The sweep's directory as the cluster sees it."""

    def stage(self, prepared: Prepared) -> str:
        """Make what the shards need available; return the directory's path."""
        ...

    def fetch(self) -> None:
        """Fetch what the shards have written so far."""
        ...

    def clear(self) -> None:
        """Remove the copy, if there is one."""
        ...


class SharedDirectory:
    """The directory itself, on a file system that the nodes share."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir

    def stage(self, prepared: Prepared) -> str:
        """Nothing needs to be copied."""
        return str(prepared.run_dir)

    def fetch(self) -> None:
        """Nothing needs to be fetched: the shards write here."""

    def clear(self) -> None:
        """Nothing needs to be removed: there is no copy."""


class RemoteCopy:
    """A copy on the cluster's own disk.

    Parameters
    ----------
    run_dir : Path
        The directory here.
    transport : Transport
        How the cluster is reached.

    Notes
    -----
    The copy's path is made of the run's id, never taken from a file: what is removed lies
    below our own folder on the cluster, whatever a ledger says.
    """

    def __init__(self, run_dir: Path, transport: Transport) -> None:
        self._run_dir = run_dir
        self._transport = transport
        known = copy_of(run_dir)
        self._run_id = ""
        if known is not None and known.address == transport.address:
            self._run_id = known.run_id
        self._found = ""

    def stage(self, prepared: Prepared) -> str:
        """Copy plan, bars and strategy, then fetch what an earlier attempt has written."""
        if not self._run_id:
            self._run_id = self._make(prepared.plan.run_id)
        plan = self._remote_plan(prepared.plan)
        there = rundir.read_run_file(self._run_dir)
        there.pop(HOME_KEY, None)  # it is another directory there, and no copy
        there |= plan.to_json() | {"cwd": self._path}
        self._transport.put(f"{self._path}/{rundir.RUN_FILE}", durable.as_json(there))
        for name in (rundir.FUNCTION_FILE, rundir.INPUTS_FILE):
            with contextlib.suppress(FileNotFoundError):
                data = private.read_bytes(self._run_dir / name)
                self._transport.put(f"{self._path}/{name}", data)
        bars = b"".join(file_blocks(prepared.bars.memfd))
        self._transport.put(f"{self._path}/{rundir.BARS_FILE}", bars)
        self.fetch()
        return self._path

    def fetch(self) -> None:
        """Fetch the shards' journals and logs."""
        if not self._run_id:
            return
        for name in self._names(f"{self._path}/{rundir.SHARD_DIR}"):
            if _SHARD.fullmatch(name):
                self._fetch_journals(f"{rundir.SHARD_DIR}/{name}/{rundir.JOURNAL_DIR}")
        for name in self._names(f"{self._path}/{rundir.LOG_DIR}"):
            if _LOG.fullmatch(name):
                self._fetch(f"{rundir.LOG_DIR}/{name}")

    def clear(self) -> None:
        """Remove the copy."""
        if self._run_id:
            self._shell(f"rm -rf -- {shlex.quote(self._path)}")

    @property
    def _path(self) -> str:
        self._found = self._found or self._place(self._run_id)
        return self._found

    def _place(self, run_id: str) -> str:
        # asked of the cluster: the user's home directory there may differ from the one here
        home = self._shell('cd && printf %s "$PWD"')
        if not home.startswith("/") or "\n" in home:
            raise ConfigError(
                f"{self._transport.name}: the home directory there is {brief(home)}: not a path",
                key="cluster",
            )
        return f"{home.rstrip('/')}/{_FOLDER}/{rundir.check_run_id(run_id)}"

    def _make(self, run_id: str) -> str:
        path = self._place(run_id)
        with Ledger(self._run_dir / rundir.LEDGER_FILE) as ledger:
            ledger.append(_RECORD, address=self._transport.address, path=path)  # for people
        folders = " ".join(
            shlex.quote(f"{path}/{name}")
            for name in (rundir.JOURNAL_DIR, rundir.LOG_DIR, rundir.SHARD_DIR)
        )
        # folders that are there already may have been made under a wide umask
        above = " ".join(shlex.quote(str(folder)) for folder in PurePosixPath(path).parents[:2])
        self._shell(f"umask 077; mkdir -p -- {folders} && chmod go-w -- {above}")
        return run_id

    def _remote_plan(self, plan: Plan) -> Plan:
        """The plan for the cluster: bars and the strategy's file lie beside it."""
        provenance = replace(
            plan.provenance,
            origin=Origin.MEMORY,
            path="",
            cwd=self._path,
            path_before=(),
            path_after=(),
            main="",
        )
        if plan.source is not Source.IMPORT:
            return replace(plan, provenance=provenance)
        home, _, name = plan.strategy.rpartition(":")
        if not home.endswith(".py"):
            raise ConfigError(
                f"strategy {plan.strategy!r} cannot be copied to {self._transport.name}: "
                "name its file: path/to/file.py:function",
                key="strategy",
            )
        file = Path(home)
        files = {file.name: file} | beside(file)
        folders = {f"{self._path}/{key}".rpartition("/")[0] for key in files}
        self._shell(f"umask 077; mkdir -p -- {' '.join(map(shlex.quote, sorted(folders)))}")
        for key, one in files.items():
            self._transport.put(f"{self._path}/{key}", one.read_bytes())
        return replace(plan, provenance=provenance, strategy=f"{self._path}/{file.name}:{name}")

    def _fetch_journals(self, folder: str) -> None:
        for name in self._names(f"{self._path}/{folder}"):
            if is_journal_name(name):
                self._fetch(f"{folder}/{name}")

    def _fetch(self, name: str) -> None:
        target = self._run_dir / name
        private.make_directories(target.parent)
        durable.write_bytes(target, [self._transport.get(f"{self._path}/{name}")])

    def _names(self, folder: str) -> tuple[str, ...]:
        try:
            return self._transport.list(folder)
        except FileNotFoundError:
            return ()

    def _shell(self, script: str) -> str:
        answer = self._transport.run(["sh", "-c", script])
        if answer.code != 0:
            raise ConfigError(f"{self._transport.name}: {answer.complaint}", key="cluster")
        return answer.stdout


def staging_area(run_dir: Path, transport: Transport) -> StagingArea:
    """Return where a cluster finds a sweep's directory."""
    if transport.address == "local":
        return SharedDirectory(run_dir)
    return RemoteCopy(run_dir, transport)


def fetch_what_is_left(run_dir: Path) -> list[str]:
    """Fetch what a run's shards have written to a copy on a cluster, if there is one.

    Returns
    -------
    list of str
        Errors; what could not be fetched stays where it is.
    """
    return _at_the_copy(run_dir, RemoteCopy.fetch, "results on {} could not be fetched: {}")


def clear_what_is_left(run_dir: Path) -> list[str]:
    """Remove the copy of a run whose results have all been fetched, if a cluster has one.

    Returns
    -------
    list of str
        Errors.
    """
    return _at_the_copy(run_dir, RemoteCopy.clear, "the copy on {} could not be removed: {}")


def _at_the_copy(run_dir: Path, do: Callable[[RemoteCopy], None], complaint: str) -> list[str]:
    try:
        copy = copy_of(run_dir)
    except AllstopError as error:
        return [str(error)]
    if copy is None:
        return []
    try:
        with contextlib.closing(connect(copy.address)) as transport:
            do(RemoteCopy(run_dir, transport))
    except (AllstopError, OSError) as error:
        return [complaint.format(copy.address, error)]
    return []


class _Copy(NamedTuple):
    """A copy of a run's directory: the cluster that has it, and the run's id."""

    address: str
    run_id: str


def copy_of(run_dir: Path) -> _Copy | None:
    """Return the copy that the ledger of a run knows of; None: there is none on a cluster."""
    for record in reversed(read_ledger(run_dir / rundir.LEDGER_FILE)):
        if record.kind == _RECORD:
            address = str(record.fields.get("address"))
            if not address.startswith("ssh:"):
                return None  # a directory here is never a copy
            return _Copy(address, str(rundir.read_run_file(run_dir)["run_id"]))
    return None
