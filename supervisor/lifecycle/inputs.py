"""The inputs of a run, kept so that it can be resumed on the same data and code.

The data's digest, bars that came from memory, and a callable are written into
the run directory *while the run is running*: none of it delays the first row. Each file
is written whole or not at all, and ``inputs.json`` is written last: if it exists, so do the
others.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from supervisor.errors import ConfigError, ProtocolError
from supervisor.lifecycle import caller
from supervisor.market import cache
from supervisor.market.asked import Asked
from supervisor.market.bars import Bars, file_blocks
from supervisor.records import rundir
from supervisor.records.plan import Origin, Plan, Provenance, Source
from supervisor.system import durable, private, sealed
from supervisor.system.environment import working_directory
from supervisor.system.small_file import check_small, read_small

_PICKLE = b"\x80"
"""First byte of a pickle (``pickletools``, PROTO)."""

_MAX_CODE_BYTES = 16 * 2**20


def provenance(data: Any, strategy: str, source: Source) -> Provenance:
    """Note where data and code come from. Called before the data is read.

    Raises
    ------
    ConfigError
        If the working directory was deleted.
    """
    cwd = working_directory()
    before, after = caller.search_path(cwd)
    found = Provenance(
        Origin.EXAMPLE,
        code=code_digest(strategy, source, cwd, before),
        cwd=cwd,
        path_before=before,
        path_after=after,
        main=caller.program(cwd),
    )
    if data is None:
        return found
    if not isinstance(data, str | os.PathLike):
        return replace(found, origin=Origin.MEMORY)
    path = Path(data).expanduser().resolve()
    size, mtime_ns = _stamp(path) or (0, 0)
    return replace(found, origin=Origin.FILE, path=str(path), size=size, mtime_ns=mtime_ns)


def code_of(plan: Plan) -> str:
    """Digest of the file that holds a plan's strategy, as it is now."""
    facts = plan.provenance
    return code_digest(plan.strategy, plan.source, facts.cwd, facts.path_before)


def code_digest(strategy: str, source: Source, cwd: str, before: Sequence[str] = ()) -> str:
    """Digest of the file that holds a strategy function; empty where it is not found.

    It is looked for in the directories ``before``, then in ``cwd``, as an import does.

    Files that it imports are not included, and nothing is imported to find them.
    """
    if source is not Source.IMPORT:
        return ""
    path = code_path(strategy.rpartition(":")[0])
    for folder in (*before, cwd):
        with contextlib.suppress(OSError):
            content = read_small(folder / path, _MAX_CODE_BYTES, pipe=False)
            return hashlib.blake2b(content, digest_size=16).hexdigest()
    return ""


def code_path(home: str) -> Path:
    """Return the file of a strategy that is named by its file, or by its module."""
    return Path(home if home.endswith(".py") else f"{home.replace('.', '/')}.py")


def check_code(home: str) -> None:
    """Raise :class:`ConfigError` if a strategy's file does not exist or is none of code.

    The workers import it whole: a device without end would fill the memory of each. A module's
    file is looked for as an import does; there may be none, for a module of another kind.
    """
    if home.endswith(".py"):
        if not _is_code(Path(home)):
            raise ConfigError(f"strategy file {home} does not exist", key="strategy")
        return
    cwd = working_directory()
    before, _ = caller.search_path(cwd)
    any(_is_code(folder / code_path(home)) for folder in map(Path, (*before, cwd)))


def _is_code(path: Path) -> bool:
    """Whether a file is there; raises :class:`ConfigError` if it is none of code."""
    try:
        check_small(path, _MAX_CODE_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EISDIR, errno.EOVERFLOW):
            raise ConfigError(f"strategy file {path} {error.strerror}", key="strategy") from None
        raise ConfigError(
            f"strategy file {path} cannot be read: {error.strerror}", key="strategy"
        ) from None
    return True


def keep(run_dir: Path, plan: Plan, bars: Bars, function: bytes | None) -> None:
    """Write what a resumed run will need. May be called again.

    Raises
    ------
    OSError
        If it cannot be written; the run can then be resumed only with what was.
    """
    cache.keep(bars)
    if _path_of(run_dir, rundir.INPUTS_FILE).exists():
        return
    for name, content in to_keep(plan, bars, function).items():
        parts = [content] if isinstance(content, bytes) else file_blocks(content)
        durable.write_bytes(run_dir / name, parts)


def to_keep(plan: Plan, bars: Bars, function: bytes | None) -> dict[str, bytes | int]:
    """Return what a resumed run will need, by name: contents, or the descriptor of the bars.

    To be written in this order: the last one says that the others are whole. Shared memory is
    laid out as a file already.
    """
    files: dict[str, bytes | int] = {}
    if function is not None:
        files[rundir.FUNCTION_FILE] = sealed.pack(function)
    if plan.provenance.origin is Origin.MEMORY:
        files[rundir.BARS_FILE] = bars.memfd
    files[rundir.INPUTS_FILE] = durable.as_json({"bars_digest": bars.digest()})
    return files


def known_digest(run_dir: Path) -> str | None:
    """Digest of the data the run began with; None if the run died before it was written."""
    path = _path_of(run_dir, rundir.INPUTS_FILE)
    if not path.exists():
        return None
    digest = durable.read_json(path).get("bars_digest")
    return digest if isinstance(digest, str) else None


def bars_again(run_dir: Path, plan: Plan, note: Callable[[str], None]) -> Bars:
    """Load the data the run began with, and check that it is the same.

    Parameters
    ----------
    run_dir : Path
        Its directory.
    plan : Plan
        Its plan.
    note : callable
        Receives what could not be verified.

    Raises
    ------
    ConfigError
        If it no longer exists or has changed.
    """
    digest = known_digest(run_dir)
    bars = _load(run_dir, plan, unchecked=digest is not None)
    where = plan.provenance.path or plan.data
    if plan.provenance.origin is Origin.MEMORY:
        where = str(run_dir / rundir.BARS_FILE)
    if digest is not None:
        if bars.digest() != digest:
            raise ConfigError(
                f"{where} has changed since run {plan.run_id} began: put the old data back, "
                "or start a new run",
                key="data",
            )
    elif plan.provenance.origin is Origin.FILE:
        facts = plan.provenance
        if len(bars) != plan.n_bars or _stamp(Path(facts.path)) != (facts.size, facts.mtime_ns):
            raise ConfigError(
                f"{where} cannot be verified to be the data that run {plan.run_id} began with: the "
                "run died before it had written the data's digest, and the file was written "
                "since; start a new run",
                key="data",
            )
        note(
            "the data could not be verified by its digest (the run died before it was written); "
            "the file's size and time are as they were"
        )
    return bars


def function_again(run_dir: Path, plan: Plan, *, changed_code: bool) -> bytes | None:
    """Check the strategy's code; return the dilled callable for a plan that sweeps one.

    Raises
    ------
    ConfigError
        If it no longer exists, or has changed and ``changed_code`` does not allow that.
    """
    if plan.source is Source.CALLABLE:
        try:
            return _function_kept(_path_of(run_dir, rundir.FUNCTION_FILE))
        except FileNotFoundError:
            raise ConfigError(
                f"run {plan.run_id} sweeps a Python callable and died before it was saved: "
                "start a new run",
                key="strategy",
            ) from None
    if plan.source is Source.IMPORT:
        _check_code(plan, changed_code=changed_code)
    return None


def _function_kept(path: Path) -> bytes:
    """Read a dilled function; it is verified here, because unpickling it runs what is in it."""
    content = private.read_bytes(path)
    if content.startswith(_PICKLE):
        return content  # of a version without checksums
    try:
        return sealed.unpack(content)
    except sealed.DamagedError:
        raise ConfigError(
            f"{path} does not match its checksum: put a copy of it back, or start a new run",
            key="strategy",
        ) from None


def _check_code(plan: Plan, *, changed_code: bool) -> None:
    facts = plan.provenance
    home = plan.strategy.rpartition(":")[0]
    if home.endswith(".py") and not Path(home).is_file():
        raise ConfigError(
            f"strategy file {home} of run {plan.run_id} no longer exists: put it back",
            key="strategy",
        )
    if facts.cwd and not home.endswith(".py") and not Path(facts.cwd).is_dir():
        raise ConfigError(
            f"{facts.cwd}, where {home} was imported from, no longer exists: put it back",
            key="strategy",
        )
    now = code_of(plan)
    if facts.code and now != facts.code and not changed_code:
        raise ConfigError(
            f"the code of strategy {plan.strategy} has changed since run {plan.run_id} began, so "
            "old and new rows would differ: put it back, start a new run, or allow it with "
            "--changed-code",
            key="strategy",
        )


def _load(run_dir: Path, plan: Plan, *, unchecked: bool) -> Bars:
    facts = plan.provenance
    if facts.origin is Origin.MEMORY:
        return _bars_kept(run_dir, plan, unchecked=unchecked)
    if facts.origin is Origin.FILE:
        if not Path(facts.path).exists():
            raise ConfigError(
                f"{facts.path}, the data of run {plan.run_id}, no longer exists: put it back",
                key="data",
            )
        asked = plan.data_facts
        return cache.load(facts.path, Asked(asked.columns, asked.symbol))
    from supervisor.market.example import example_bars

    return example_bars()


def _bars_kept(run_dir: Path, plan: Plan, *, unchecked: bool) -> Bars:
    path = _path_of(run_dir, rundir.BARS_FILE)
    try:
        fd = private.open_regular(path)
    except FileNotFoundError:
        raise ConfigError(
            f"the data of run {plan.run_id} came from memory, and the run died before it was "
            "saved: start a new run",
            key="data",
        ) from None
    try:
        return Bars.from_file(fd, unchecked=unchecked)
    except ProtocolError as error:
        raise ConfigError(
            f"{path}: {error}: put a copy of it back, or start a new run", key="data"
        ) from None
    finally:
        os.close(fd)


def _path_of(run_dir: Path, name: str) -> Path:
    """Return the path of an input; a shard of a sweep has those of the sweep."""
    own = run_dir / name
    whole = run_dir.parent.parent
    is_shard = run_dir.parent.name == rundir.SHARD_DIR and (whole / rundir.RUN_FILE).exists()
    # shards of earlier versions have links
    return whole / name if is_shard and (own.is_symlink() or not own.exists()) else own


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_size, facts.st_mtime_ns
