"""The inputs of a run, kept so that it can be resumed on the same data and code.

The data's digest, bars that came from memory, and a callable are written into
the run directory *while the run is running*: none of it delays the first row. Each file
is written whole or not at all, and ``inputs.json`` is written last: if it exists, so do the
others.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from supervisor.errors import ConfigError, ProtocolError
from supervisor.market import cache
from supervisor.market.bars import Bars, blocks
from supervisor.records import rundir
from supervisor.records.plan import Origin, Plan, Provenance, Source
from supervisor.system import durable
from supervisor.system.environment import working_directory
from supervisor.system.small_file import check_small, read_small

_MAX_CODE_BYTES = 16 * 2**20


def provenance(data: Any, strategy: str, source: Source) -> Provenance:
    """Note where data and code come from. Called before the data is read.

    Raises
    ------
    ConfigError
        If the working directory was deleted.
    """
    cwd = working_directory()
    code = code_digest(strategy, source, cwd)
    if data is None:
        return Provenance(Origin.EXAMPLE, code=code, cwd=cwd)
    if not isinstance(data, str | os.PathLike):
        return Provenance(Origin.MEMORY, code=code, cwd=cwd)
    path = Path(data).expanduser().resolve()
    size, mtime_ns = _stamp(path) or (0, 0)
    return Provenance(Origin.FILE, str(path), size, mtime_ns, code, cwd)


def code_digest(strategy: str, source: Source, cwd: str) -> str:
    """Digest of the file that holds a strategy function; empty where it is not found.

    Files that it imports are not included, and nothing is imported to find them.
    """
    if source is not Source.IMPORT:
        return ""
    path = cwd / code_path(strategy.rpartition(":")[0])
    try:
        content = read_small(path, _MAX_CODE_BYTES, pipe=False)
    except OSError:
        return ""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def code_path(home: str) -> Path:
    """Return the file of a strategy that is named by its file, or by its module."""
    return Path(home if home.endswith(".py") else f"{home.replace('.', '/')}.py")


def check_code_file(path: Path, *, may_be_missing: bool = False) -> None:
    """Raise :class:`ConfigError` if a strategy's file does not exist or is none of code.

    The workers import it whole: a device without end would fill the memory of each.
    """
    try:
        check_small(path, _MAX_CODE_BYTES)
    except FileNotFoundError:
        if not may_be_missing:
            raise ConfigError(f"strategy file {path} does not exist", key="strategy") from None
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EISDIR, errno.EOVERFLOW):
            raise ConfigError(f"strategy file {path} {error.strerror}", key="strategy") from None
        raise ConfigError(
            f"strategy file {path} cannot be read: {error.strerror}", key="strategy"
        ) from None


def keep(run_dir: Path, plan: Plan, bars: Bars, function: bytes | None) -> None:
    """Write what a resumed run will need. May be called again.

    Raises
    ------
    OSError
        If it cannot be written; the run can then be resumed only with what was.
    """
    cache.keep(bars)
    if (run_dir / rundir.INPUTS_FILE).exists():
        return
    if function is not None:
        durable.write_bytes(run_dir / rundir.FUNCTION_FILE, [function])
    if plan.provenance.origin is Origin.MEMORY:
        # the shared memory is laid out as a file already
        durable.write_bytes(run_dir / rundir.BARS_FILE, blocks(bars.memfd))
    durable.write_json(run_dir / rundir.INPUTS_FILE, {"bars_digest": bars.digest()})


def known_digest(run_dir: Path) -> str | None:
    """Digest of the data the run began with; None if the run died before it was written."""
    path = run_dir / rundir.INPUTS_FILE
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
    bars = _load(run_dir, plan)
    where = plan.provenance.path or plan.data
    digest = known_digest(run_dir)
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
            return (run_dir / rundir.FUNCTION_FILE).read_bytes()
        except FileNotFoundError:
            raise ConfigError(
                f"run {plan.run_id} sweeps a Python callable and died before it was saved: "
                "start a new run",
                key="strategy",
            ) from None
    if plan.source is Source.IMPORT:
        _check_code(plan, changed_code=changed_code)
    return None


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
    now = code_digest(plan.strategy, plan.source, facts.cwd)
    if facts.code and now != facts.code and not changed_code:
        raise ConfigError(
            f"the code of strategy {plan.strategy} has changed since run {plan.run_id} began, so "
            "old and new rows would differ: put it back, start a new run, or allow it with "
            "--changed-code",
            key="strategy",
        )


def _load(run_dir: Path, plan: Plan) -> Bars:
    facts = plan.provenance
    if facts.origin is Origin.MEMORY:
        return _bars_kept(run_dir, plan)
    if facts.origin is Origin.FILE:
        if not Path(facts.path).exists():
            raise ConfigError(
                f"{facts.path}, the data of run {plan.run_id}, no longer exists: put it back",
                key="data",
            )
        return cache.load(facts.path)
    from supervisor.market.example import example_bars

    return example_bars()


def _bars_kept(run_dir: Path, plan: Plan) -> Bars:
    path = run_dir / rundir.BARS_FILE
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ConfigError(
            f"the data of run {plan.run_id} came from memory, and the run died before it was "
            "saved: start a new run",
            key="data",
        ) from None
    try:
        return Bars.from_fd(fd)
    except ProtocolError as error:
        raise ConfigError(f"{path}: {error}: start a new run", key="data") from None
    finally:
        os.close(fd)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_size, facts.st_mtime_ns
