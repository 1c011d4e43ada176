"""Outstanding jobs: jobs that may be alive, and have to be seen gone.

One small file per token says which ledger knows of them. It is in the user's state
directory, which survives a reboot, because the cluster does not stop for one. The file
is written before the first job is submitted, and removed once the jobs were seen gone.
While its owner lives, the jobs are the owner's to look after; after that any process of
the user on the same host may cancel them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

from slurm.records.tokens import Token, check_token
from supervisor.errors import ConfigError, brief
from supervisor.records import registry
from supervisor.records.ledger import LedgerWriteError
from supervisor.system import durable
from supervisor.system.process import Identity
from supervisor.system.shape import ShapeError, read_as

_FOLDER = "jobs"


class OutstandingJobs(NamedTuple):
    """The jobs of one token, and where their ledger is.

    Attributes
    ----------
    token : str
        The token that the jobs have.
    address : str
        The cluster that has them, see :func:`slurm.connect.connect`.
    variables : dict
        Environment variables that are needed to reach it.
    ledger : Path
        The ledger.
    owner : Identity
        The process that looks after them while it lives.
    """

    token: Token
    address: str
    variables: dict[str, str]
    ledger: Path
    owner: Identity

    @property
    def spare_ledger(self) -> Path:
        """The file to continue the ledger in when its own directory is gone."""
        return ledger_for(self.token)

    def record(self) -> Self:
        """Write the file.

        Raises
        ------
        LedgerWriteError
            If it cannot be written.
        """
        plain = self._asdict() | {"ledger": str(self.ledger), "owner": self.owner._asdict()}
        path = _path(self.token)
        try:
            durable.write_json(path, plain)
        except OSError as error:
            raise LedgerWriteError(path, error) from None
        return self

    def remove(self) -> None:
        """Remove the file; not an error if there is none."""
        _path(self.token).unlink(missing_ok=True)


def all_outstanding() -> Iterator[OutstandingJobs]:
    """Yield all recorded outstanding jobs, sorted by token; see :func:`unreadable` for others."""
    for path in _files():
        with contextlib.suppress(ConfigError, ShapeError):
            yield _read(path)


def unreadable() -> Iterator[tuple[Path, str]]:
    """Yield the files that say nothing any more, and what is wrong with each, in one line."""
    for path in _files():
        try:
            _read(path)
        except ShapeError as error:
            yield path, f"{path}: {error}"
        except ConfigError as error:
            if path.exists():  # not removed in the meantime
                yield path, str(error)


def _files() -> list[Path]:
    return sorted(_folder().glob("*.json"))


def _read(path: Path) -> OutstandingJobs:
    """Read one file.

    Raises
    ------
    ConfigError, ShapeError
        If it cannot be read, or is not what :meth:`OutstandingJobs.record` wrote.
    """
    jobs = read_as(OutstandingJobs, durable.read_json(path))
    if f"{jobs.token}.json" != path.name:
        raise ShapeError(f"token must be {path.stem}, not {brief(jobs.token)}")
    if not jobs.ledger.is_absolute():
        raise ShapeError("ledger must be an absolute path")
    return jobs


def orphaned(ledger: Path | None = None, *, trusted: bool = False) -> Iterator[OutstandingJobs]:
    """Yield outstanding jobs whose owner is dead; those of one ledger, if one is given.

    An owner on another host may be alive: its jobs are left alone unless ``trusted``, which
    says that the user has named the run as dead.
    """
    for jobs in all_outstanding():
        gone = jobs.owner.dead or (trusted and not jobs.owner.alive)
        if gone and ledger in (None, jobs.ledger):
            yield jobs


def ledger_for(token: str) -> Path:
    """The ledger of a client that belongs to no run."""
    return _folder() / f"{check_token(token)}.ledger"


def this_process() -> Identity:
    """Return this process, as an owner."""
    return Identity.of(os.getpid()) or Identity(os.getpid(), 0)


def recorded_way(ledger: Path, token: str) -> tuple[str, dict[str, str]] | None:
    """Return address and environment variables by which a ledger's outstanding jobs are reached.

    Our own record, which no other user can write, may name a PATH and an SSH configuration; the
    ledger may not. None: there is no record.
    """
    for jobs in all_outstanding():
        if (jobs.token, jobs.ledger) == (token, ledger):
            return jobs.address, jobs.variables
    return None


def _path(token: str) -> Path:
    return _folder() / f"{check_token(token)}.json"


def _folder() -> Path:
    return registry.private_dir(registry.state_dir().parent / _FOLDER)
