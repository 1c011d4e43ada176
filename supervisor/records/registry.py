"""The registry of runs: one small file per run, in a directory private to the user.

So ``stop``, ``status`` and ``report`` find a run by its id, by its directory, or because it
is the only one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from supervisor.errors import ConfigError, RunBusyError, RunNotFoundError, brief
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
        Its two processes; the run is dead when both are.
    over : bool
        It has ended with survivors. Its front and warden may serve other runs by now; the
        entry stays, so that ``reap`` tries again to end the survivors.
    """

    run_id: str
    run_dir: Path
    front: Identity
    warden: Identity
    over: bool = False

    @property
    def alive(self) -> bool:
        """Whether the run is not over, and its front or its warden is alive."""
        return not self.over and (self.front.alive or self.warden.alive)

    @property
    def elsewhere(self) -> str:
        """The host on which it was begun, if it cannot be judged from here; else empty."""
        if self.front.elsewhere or self.warden.elsewhere:
            return self.front.node or "another host"
        return ""

    @property
    def dead(self) -> bool:
        """Whether it is not alive for certain: over, or its front and its warden are dead."""
        return not (self.alive or self.elsewhere)

    @property
    def intact(self) -> bool:
        """Whether its directory still exists, and holds this run and not another one."""
        with contextlib.suppress(ConfigError):
            return bool(durable.read_json(self.run_dir / rundir.RUN_FILE)["run_id"] == self.run_id)
        return False


FULL = (errno.ENOSPC, errno.EDQUOT)
"""No room on a disk, or in a user's quota: nothing is wrong with the directory itself."""


def state_dir() -> Path:
    """Return the directory of the entries, which outlives a reboot."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return private_dir(Path(base) / "allstop" / "runs")


def runtime_dir() -> Path:
    """Return the directory of the control sockets."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and Path(base).is_dir() and os.access(base, os.W_OK):
        return private_dir(Path(base) / "allstop")
    return private_dir(Path(f"/tmp/allstop-{os.getuid()}"))


def check() -> None:
    """Create both directories, or raise :class:`ConfigError` if that fails.

    A full disk is no failure: see :func:`private_dir`.
    """
    state_dir()
    runtime_dir()


def socket_path(run_id: str) -> Path:
    """Return the path of a run's control socket."""
    return runtime_dir() / f"{run_id}.sock"


def add(entry: Entry) -> None:
    """Add a run, or replace its entry.

    Raises
    ------
    OSError
        If it cannot be written: the disk is full, say.
    """
    plain = {
        "run_id": entry.run_id,
        "run_dir": str(entry.run_dir),
        "front": entry.front._asdict(),
        "warden": entry.warden._asdict(),
        "over": entry.over,
    }
    place = state_dir()
    place.mkdir(parents=True, exist_ok=True, mode=0o700)  # it may lack: then this says why
    durable.write_json(place / f"{entry.run_id}.json", plain, named=False)


def leave_to_reap(run_id: str) -> None:
    """Mark a run as over with survivors; its entry stays for ``reap``."""
    entry = find(run_id)
    if entry is not None:
        with contextlib.suppress(OSError):  # once its processes are dead, the old one says enough
            add(entry._replace(over=True))


def remove(run_id: str) -> None:
    """Remove a run; not an error if it has no entry."""
    (state_dir() / f"{run_id}.json").unlink(missing_ok=True)


def sockets() -> list[Path]:
    """Return the control sockets, whether or not a process listens on them."""
    return sorted(runtime_dir().glob("*.sock"))


def entries() -> Iterator[Entry]:
    """Yield the entries, oldest first; unreadable ones are left out."""
    for path in _files():
        entry = _read(path)
        if entry is not None:
            yield entry


def living() -> list[Entry]:
    """Return the runs that are alive, oldest first."""
    return [entry for entry in entries() if entry.alive]


def find(run_id: str) -> Entry | None:
    """Return a run's current entry; None: it has none."""
    return _read(state_dir() / f"{run_id}.json")


def torn() -> list[Path]:
    """Return what processes have left that were killed while they wrote an entry."""

    def abandoned(path: Path) -> bool:
        writer = path.name.split(".")[-2]
        return not (writer.isdecimal() and Path(f"/proc/{writer}").exists())

    return [path for path in state_dir().glob(".*.tmp") if abandoned(path)]


def unreadable() -> list[Path]:
    """Return the files of entries that cannot be read."""
    return [path for path in _files() if path.exists() and _read(path) is None]


def _files() -> list[Path]:
    """Files of entries; those of another user, which root may have put there, are ignored."""
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
            front=_identity(plain["front"]),
            warden=_identity(plain["warden"]),
            over=plain.get("over") is True,
        )
        if f"{entry.run_id}.json" == path.name:
            return entry
    return None


def _identity(plain: dict[str, Any]) -> Identity:
    who = Identity(**plain)
    numbers, texts = who[:2], who[2:]
    if all(type(one) is int for one in numbers) and all(isinstance(one, str) for one in texts):
        return who
    raise TypeError("not the identity of a process")


def find_running(name: str | None) -> Entry:
    """Find a run that is alive by id, by directory, or as the only one.

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
            others = [entry for entry in entries() if entry.elsewhere and not entry.over]
            on = ", ".join(sorted({entry.elsewhere for entry in others}))
            there = f" on this host; {len(others)} may be on {on}" if others else ""
            raise RunNotFoundError(f"no run is running{there}")
        ids = ", ".join(entry.run_id for entry in alive)
        raise RunNotFoundError(f"{len(alive)} runs are running: name one of {ids}")
    for entry in entries():
        if name != entry.run_id and not _same_dir(name, entry.run_dir):
            continue
        if entry.alive:
            return entry
        if entry.elsewhere:
            raise RunNotFoundError(f"run {entry.run_id} was begun on {_there(entry, 'stop')}")
    raise RunNotFoundError(f"no running run {name!r}")


def named(name: str) -> list[Entry]:
    """Return the entries of a run's id or directory, whether it still exists or not."""
    return [entry for entry in entries() if name == entry.run_id or _same_dir(name, entry.run_dir)]


def find_dir(name: str | None) -> Path:
    """Find the directory of a run, running or not, by id or directory; None: the latest.

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
            if _holds_run(candidate):
                return candidate.resolve()
        raise RunNotFoundError(f"no run {name!r}: give its id or its directory")
    known = [entry.run_dir for entry in entries() if entry.alive or entry.elsewhere]
    known += sorted(path.parent for path in rundir.DEFAULT_ROOT.glob(f"*/{rundir.RUN_FILE}"))
    if not known:
        raise RunNotFoundError("no run in ./runs yet: name a run's id or its directory")
    return max(known, key=lambda path: path.name).resolve()


def _there(entry: Entry, verb: str) -> str:
    """Say where a run can be ended that cannot be judged from here."""
    return (
        f"{entry.elsewhere}, and cannot be judged from here: allstop {verb} {entry.run_id} there; "
        f"if it was killed with its host: allstop reap {entry.run_id}"
    )


def check_here(run_id: str, verb: str) -> None:
    """Raise :class:`RunBusyError` if a run may be alive on another host."""
    entry = find(run_id)
    if entry is not None and entry.elsewhere and not entry.alive:
        raise RunBusyError(f"run {run_id} was begun on {_there(entry, verb)}")


def _holds_run(run_dir: Path) -> bool:
    try:
        return (run_dir / rundir.RUN_FILE).is_file()
    except OSError as error:  # a name that is too long for a path, or not ours to enter
        raise RunNotFoundError(f"{brief(str(run_dir))} cannot be read: {error.strerror}") from None


def _same_dir(name: str, run_dir: Path) -> bool:
    with contextlib.suppress(OSError):
        return Path(name).exists() and Path(name).resolve() == run_dir
    return False


def private_dir(path: Path) -> Path:
    """Create a directory that only this user can enter, or check an existing one.

    On a full disk it may not exist afterwards. Then nothing is in it, and a run goes on without.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        facts = path.lstat()
    except OSError as error:
        if error.errno in FULL:
            return path
        raise ConfigError(
            f"{path} cannot be created ({error.strerror}): set XDG_STATE_HOME and "
            "XDG_RUNTIME_DIR to directories that you own"
        ) from None
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        raise ConfigError(
            f"{path} is not a directory that you own: remove it, or set XDG_RUNTIME_DIR"
        )
    if stat.S_IMODE(facts.st_mode) & 0o077:
        path.chmod(0o700)
    return path
