"""Which ledgers still tell of jobs that may be alive: found after any death, and any reboot.

One small file per token, in a directory of the user's that outlives a reboot:
the cluster outlives it too. It is there before the first job is asked for, and is
struck off once the jobs have been seen gone. A debt whose owner lives is the
owner's business; any other is everybody's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

from supervisor.errors import ConfigError
from supervisor.records import registry
from supervisor.records.ledger import LedgerWriteError
from supervisor.system import durable
from supervisor.system.process import Identity

_FOLDER = "jobs"


class Debt(NamedTuple):
    """A ledger with jobs.

    Attributes
    ----------
    token : str
        What the jobs bear.
    address : str
        Which cluster they are on.
    variables : dict
        Environment variables by which it is found.
    ledger : Path
        What there is to know about them.
    owner : Identity
        The process that looks after them while it lives.
    """

    token: str
    address: str
    variables: dict[str, str]
    ledger: Path
    owner: Identity

    @property
    def spare_ledger(self) -> Path:
        """Where its ledger is carried on when the directory of the first one is gone."""
        return ledger_for(self.token)

    def incur(self) -> Self:
        """Write the debt down."""
        plain = self._asdict() | {"ledger": str(self.ledger), "owner": self.owner._asdict()}
        path = _path(self.token)
        try:
            durable.write_json(path, plain)
            durable.sync_directory(path.parent)
        except OSError as error:
            raise LedgerWriteError(path, error) from None
        return self

    def strike(self) -> None:
        """Strike the debt off; not an error if it was not there."""
        _path(self.token).unlink(missing_ok=True)


def debts() -> Iterator[Debt]:
    """Yield the debts that are written down, oldest first."""
    for path in sorted(_folder().glob("*.json")):
        with contextlib.suppress(ConfigError, KeyError, TypeError):
            plain = durable.read_json(path)
            yield Debt(
                token=plain["token"],
                address=plain["address"],
                variables=plain["variables"],
                ledger=Path(plain["ledger"]),
                owner=Identity(**plain["owner"]),
            )


def orphaned(ledger: Path | None = None) -> Iterator[Debt]:
    """Yield the debts whose owner is gone; of one ledger, if it is named."""
    for debt in debts():
        if not debt.owner.alive and ledger in (None, debt.ledger):
            yield debt


def ledger_for(token: str) -> Path:
    """Where the ledger of a client lies that belongs to no run."""
    return _folder() / f"{token}.ledger"


def this_process() -> Identity:
    """Who owns what this process incurs."""
    return Identity.of(os.getpid()) or Identity(os.getpid(), 0)


def _path(token: str) -> Path:
    return _folder() / f"{token}.json"


def _folder() -> Path:
    return registry.private_dir(registry.state_dir().parent / _FOLDER)
