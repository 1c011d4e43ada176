"""The registry of runs: one small file per run, in a directory private to the user.

So ``stop``, ``status`` and ``report`` find a run by its id, by its directory, or because it
is the only one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from supervisor.errors import ConfigError, RunBusyError, RunNotFoundError, brief
from supervisor.records import rundir
from supervisor.system import durable
from supervisor.system import private_dir as private_dirs
from supervisor.system.process import Identity
from supervisor.system.shape import ShapeError, read_as

_TRIES = 8
_TMP = Path("/tmp")


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
            return bool(rundir.read_run_file(self.run_dir)["run_id"] == self.run_id)
        return False

    @property
    def damage(self) -> str:
        """Why its ``run.json`` cannot be read though it is there; empty: it can, or is gone."""
        file = self.run_dir / rundir.RUN_FILE
        try:
            rundir.read_run_file(self.run_dir)
        except ConfigError as error:
            return str(error) if os.path.lexists(file) else ""
        return ""


FULL = (errno.ENOSPC, errno.EDQUOT)
"""No room on a disk, or in a user's quota: nothing is wrong with the directory itself."""


def state_dir() -> Path:
    """Return the directory of the entries, which outlives a reboot."""
    return private_dir(_state_home() / "runs")


def runtime_dir() -> Path:
    """Return the directory of the control sockets."""
    base = private_dirs.named("XDG_RUNTIME_DIR")
    # one that belongs to another user has come along with the environment, as `sudo -E` does
    if base and base.is_dir() and base.stat().st_uid == os.getuid() and os.access(base, os.W_OK):
        return private_dir(base / "allstop")
    usual = _usual_runtime_dir()
    try:
        return private_dir(usual)
    except ConfigError:
        return _other_runtime_dir(usual)  # another user has taken the name


def taken_runtime_dir() -> Path | None:
    """Return the usual name in ``/tmp`` if another one is used because it was taken."""
    usual = _usual_runtime_dir()
    return usual if runtime_dir().name.startswith(f"{usual.name}-") else None


def _usual_runtime_dir() -> Path:
    return _TMP / f"allstop-{os.getuid()}"


def _other_runtime_dir(usual: Path) -> Path:
    """Return a directory of a name that cannot be guessed, and that all our processes find.

    A link in the state directory names it, one for each host: homes are shared, ``/tmp`` is not.
    """
    link = private_dir(_state_home()) / f"runtime-{platform.node()}"
    for _ in range(_TRIES):
        with contextlib.suppress(OSError, ConfigError):
            found = link.readlink()
            if found.parent == usual.parent and found.name.startswith(f"{usual.name}-"):
                return private_dir(found)  # made again, where /tmp was emptied since
        with contextlib.suppress(OSError):
            link.unlink()
        with contextlib.suppress(FileExistsError):  # another process of ours was faster
            link.symlink_to(private_dir(usual.with_name(f"{usual.name}-{secrets.token_hex(8)}")))
    raise ConfigError(f"{usual} belongs to another user: set XDG_RUNTIME_DIR")


def _state_home() -> Path:
    try:
        return private_dirs.state_home()
    except RuntimeError:
        raise ConfigError("there is no home directory: set XDG_STATE_HOME") from None


def check() -> None:
    """Create both directories, or raise :class:`ConfigError` if that fails.

    A full disk is no failure: see :func:`private_dir`.
    """
    state_dir()
    runtime_dir()


def socket_path(run_id: str) -> Path:
    """Return the path of a run's control socket.

    Raises
    ------
    ConfigError
        If it is not the id of a run.
    """
    return runtime_dir() / f"{rundir.check_run_id(run_id)}.sock"


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
    place = _file_of(entry.run_id)
    private_dirs.make_all(place.parent)  # it may lack: then this says why
    durable.write_json(place, plain, named=False)


def leave_to_reap(run_id: str) -> None:
    """Mark a run as over with survivors; its entry stays for ``reap``."""
    entry = find(run_id)
    if entry is not None:
        with contextlib.suppress(OSError):  # once its processes are dead, the old one says enough
            add(entry._replace(over=True))


def remove(run_id: str) -> None:
    """Remove a run; not an error if it has no entry."""
    _file_of(run_id).unlink(missing_ok=True)


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
    return _read(_file_of(run_id))


def torn() -> list[Path]:
    """Return what processes have left that were killed while they wrote an entry."""

    def abandoned(path: Path) -> bool:
        writer = path.name.split(".")[-2]
        return not (writer.isdecimal() and Path(f"/proc/{writer}").exists())

    return [path for path in state_dir().glob(".*.tmp") if abandoned(path)]


def unreadable() -> list[Path]:
    """Return the files of entries that cannot be read."""
    return [path for path in _files() if path.exists() and _read(path) is None]


def _file_of(run_id: str) -> Path:
    return state_dir() / f"{rundir.check_run_id(run_id)}.json"


def _files() -> list[Path]:
    """Files of entries; those that another user has put there, or could write, are ignored."""
    found = []
    for path in sorted(state_dir().glob("*.json")):
        with contextlib.suppress(OSError):
            if private_dirs.is_ours(path.lstat()):
                found.append(path)
    return found


def _read(path: Path) -> Entry | None:
    with contextlib.suppress(ConfigError, ShapeError):
        entry = read_as(Entry, durable.read_json(path))
        rundir.check_run_id(entry.run_id)
        if f"{entry.run_id}.json" == path.name:
            return entry
    return None


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
    for entry in named(name):
        if entry.alive:
            return entry
        if entry.elsewhere:
            raise RunNotFoundError(f"run {entry.run_id} was begun on {_there(entry, 'stop')}")
    raise RunNotFoundError(f"no running run {name!r}")


def named(name: str) -> list[Entry]:
    """Return the entries of a run's id or directory, whether it still exists or not."""
    known = list(entries())
    path = os.path.abspath(name)  # noqa: PTH100 - resolve() would look at a disk that may hang
    plain = [entry for entry in known if name == entry.run_id or path == str(entry.run_dir)]
    return plain or [entry for entry in known if _same_dir(name, entry.run_dir)]


def find_dir(name: str | None) -> Path:
    """Find the directory of a run, running or not, by id or directory; None: the latest.

    Raises
    ------
    RunNotFoundError
        If there is no such run.
    UntrustedError
        If another user owns its directory, or may write it.
    """
    found = _find_dir(name)
    rundir.check_own(found)
    return found


def _find_dir(name: str | None) -> Path:
    for entry in entries():
        named = name is not None and (name == entry.run_id or _same_dir(name, entry.run_dir))
        if named and entry.intact:
            return entry.run_dir
        if named and (damage := entry.damage):
            raise RunNotFoundError(f"run {entry.run_id}: {damage}")
    if name is not None:
        for candidate in (Path(name), rundir.DEFAULT_ROOT / name):
            if _holds_run(candidate):
                return rundir.resolve(candidate)
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

    One of ours that others could enter is made private, unlike a cache: what is read here is
    checked file by file (a socket by who listens), so that nothing planted is believed.

    On a full disk it may not exist afterwards. Then nothing is in it, and a run goes on without.
    """
    try:
        private_dirs.make_all(path)
        facts = path.lstat()
        if stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid():
            _close_to_others(path)
            return path
    except OSError as error:
        if error.errno in FULL:
            return path
        raise ConfigError(
            f"{path} cannot be created ({error.strerror}): set XDG_STATE_HOME and "
            "XDG_RUNTIME_DIR to directories that you own"
        ) from None
    raise ConfigError(f"{path} is not a directory that you own: remove it, or set XDG_RUNTIME_DIR")


def _close_to_others(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        facts = os.fstat(fd)
        if facts.st_uid == os.getuid() and stat.S_IMODE(facts.st_mode) & 0o077:
            os.fchmod(fd, private_dirs.MODE)
    finally:
        os.close(fd)
