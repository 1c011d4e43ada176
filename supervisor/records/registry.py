"""Where runs are found: one small file per run, in a directory of the user's own.

``stop``, ``status`` and ``report`` need no path: a run is known by its id, by
its directory, or by being the only one there is.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from supervisor.errors import ConfigError, RunNotFoundError
from supervisor.records import rundir
from supervisor.system import durable
from supervisor.system.process import Identity


class Entry(NamedTuple):
    """A run as the registry knows it.

    Attributes
    ----------
    run_id : str
        Its id.
    run_dir : Path
        Its directory.
    front, warden : Identity
        The two processes that stand for it.
    over : bool
        It has ended and left survivors. Its processes may serve other runs by now; the
        entry stays for who tries again to end what it has left.
    """

    run_id: str
    run_dir: Path
    front: Identity
    warden: Identity
    over: bool = False

    @property
    def alive(self) -> bool:
        """Whether the run goes on, or somebody lives who sees to its end."""
        return not self.over and (self.front.alive or self.warden.alive)

    @property
    def intact(self) -> bool:
        """Whether its directory is still there, and holds this run and not another one."""
        with contextlib.suppress(ConfigError):
            return bool(durable.read_json(self.run_dir / rundir.RUN_FILE)["run_id"] == self.run_id)
        return False


def state_dir() -> Path:
    """Directory that outlives a reboot: the entries."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return private_dir(Path(base) / "allstop" / "runs")


def runtime_dir() -> Path:
    """Directory for the control sockets."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and Path(base).is_dir() and os.access(base, os.W_OK):
        return private_dir(Path(base) / "allstop")
    return private_dir(Path(f"/tmp/allstop-{os.getuid()}"))


def check() -> None:
    """Make both directories, or raise :class:`ConfigError` where that cannot be."""
    state_dir()
    runtime_dir()


def socket_path(run_id: str) -> Path:
    """Where the warden of a run listens."""
    return runtime_dir() / f"{run_id}.sock"


def add(entry: Entry) -> None:
    """Write a run down."""
    plain = {
        "run_id": entry.run_id,
        "run_dir": str(entry.run_dir),
        "front": entry.front._asdict(),
        "warden": entry.warden._asdict(),
        "over": entry.over,
    }
    durable.write_json(state_dir() / f"{entry.run_id}.json", plain, named=False)


def leave_to_reap(run_id: str) -> None:
    """Note that a run is over and has left survivors: whoever reaps finds them by its entry."""
    entry = find(run_id)
    if entry is not None:
        add(entry._replace(over=True))


def remove(run_id: str) -> None:
    """Strike a run off; not an error if it was not there."""
    (state_dir() / f"{run_id}.json").unlink(missing_ok=True)


def sockets() -> list[Path]:
    """Control sockets that are there, whoever answers them."""
    return sorted(runtime_dir().glob("*.sock"))


def entries() -> Iterator[Entry]:
    """Yield the runs that are written down, oldest first; unreadable entries are left out."""
    for path in _files():
        entry = _read(path)
        if entry is not None:
            yield entry


def living() -> list[Entry]:
    """Return the runs that are alive, oldest first."""
    return [entry for entry in entries() if entry.alive]


def find(run_id: str) -> Entry | None:
    """Return a run's entry as it is now."""
    return _read(state_dir() / f"{run_id}.json")


def unreadable() -> list[Path]:
    """Return entries that nothing can be learnt from."""
    return [path for path in _files() if path.exists() and _read(path) is None]


def _files() -> list[Path]:
    """Files of entries; one of another user's, put there by root, is nobody's business here."""
    found = []
    for path in sorted(state_dir().glob("*.json")):
        with contextlib.suppress(OSError):
            if path.lstat().st_uid == os.getuid():
                found.append(path)
    return found


def _read(path: Path) -> Entry | None:
    with contextlib.suppress(ConfigError, KeyError, TypeError):
        plain = durable.read_json(path)
        entry = Entry(
            run_id=plain["run_id"],
            run_dir=Path(plain["run_dir"]),
            front=Identity(**plain["front"]),
            warden=Identity(**plain["warden"]),
            over=plain.get("over") is True,
        )
        if f"{entry.run_id}.json" == path.name:
            return entry
    return None


def find_running(name: str | None) -> Entry:
    """Find a living run by id, by directory, or as the only one.

    Raises
    ------
    RunNotFoundError
        If there is no such run, or more than one when ``name`` is left out.
    """
    alive = living()
    if name is None:
        if len(alive) == 1:
            return alive[0]
        if not alive:
            raise RunNotFoundError("no run is running")
        ids = ", ".join(entry.run_id for entry in alive)
        raise RunNotFoundError(f"{len(alive)} runs are running: name one of {ids}")
    for entry in alive:
        if name == entry.run_id or _same_dir(name, entry.run_dir):
            return entry
    raise RunNotFoundError(f"no running run {name!r}")


def find_dir(name: str | None) -> Path:
    """Directory of a run, running or not, by id, by directory, or the latest one here.

    Raises
    ------
    RunNotFoundError
        If there is no such run.
    """
    for entry in entries():
        named = name is not None and (name == entry.run_id or _same_dir(name, entry.run_dir))
        if named and entry.intact:
            return entry.run_dir
    if name is not None:
        for candidate in (Path(name), rundir.DEFAULT_ROOT / name):
            if (candidate / rundir.RUN_FILE).is_file():
                return candidate.resolve()
        raise RunNotFoundError(f"no run {name!r}: give its id or its directory")
    known = [entry.run_dir for entry in entries() if entry.alive]
    known += sorted(path.parent for path in rundir.DEFAULT_ROOT.glob(f"*/{rundir.RUN_FILE}"))
    if not known:
        raise RunNotFoundError("no run here yet: name a run's id or its directory")
    return max(known, key=lambda path: path.name).resolve()


def _same_dir(name: str, run_dir: Path) -> bool:
    return Path(name).exists() and Path(name).resolve() == run_dir


def private_dir(path: Path) -> Path:
    """Make a directory, or accept one, that only this user can enter."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        facts = path.lstat()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be made ({error.strerror}): set XDG_STATE_HOME and XDG_RUNTIME_DIR "
            "to directories of yours"
        ) from None
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        raise ConfigError(f"{path} is not a directory of yours: remove it, or set XDG_RUNTIME_DIR")
    if stat.S_IMODE(facts.st_mode) & 0o077:
        path.chmod(0o700)
    return path
