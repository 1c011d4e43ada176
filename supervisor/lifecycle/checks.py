"""Checks of single values: each returns the value, or says in one line what it must be.

Every check takes the value and the name by which the user wrote it: ``--workers`` on the
command line, a key of a spec file, a keyword in Python.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from supervisor.errors import ConfigError, brief
from supervisor.records.device import parse_device
from supervisor.records.plan import CONTAINMENTS

MAX_WORKERS = 1024
MAX_TASKS = 10_000
MAX_SEED = 2**63 - 1
MAX_BARS_PER_YEAR = 1e11  # of 3 a millisecond
LEAST_VRAM_BYTES = 64 * 2**20

_MAX_PATH_BYTES = 4095
_MAX_NAME_BYTES = 255
"""Limits of Linux: of a path, and of each name in it on nearly every file system."""

_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)([KMGT]?)i?B?", re.ASCII | re.IGNORECASE)
_UNITS = ("", "K", "M", "G", "T")

_NOT_THE_USERS = ("command", "array", "hold")
"""Job options that a sweep sets itself."""


def default_workers() -> int:
    """Return the number of workers where none is given: one per core that we may use."""
    return min(len(os.sched_getaffinity(0)), MAX_WORKERS)


def check_workers(value: Any, name: str = "workers") -> int:
    """Return a number of workers, 1 to :data:`MAX_WORKERS`."""
    if _is_whole(value) and 1 <= value <= MAX_WORKERS:
        return int(value)
    raise ConfigError(
        f"{name} must be a whole number from 1 to {MAX_WORKERS}, not {brief(value)}; "
        "leave it out for one per core",
        key="workers",
    )


def check_fee(value: Any, name: str = "fee") -> float:
    """Return a fee, 0 ≤ fee < 1."""
    if _is_number(value) and 0 <= value < 1:
        return float(value)
    raise ConfigError(
        f"{name} must be a fraction of the traded value, 0 ≤ fee < 1 (0.0005 is 5 basis points), "
        f"not {brief(value)}",
        key="fee",
    )


def check_seed(value: Any, name: str = "seed") -> int:
    """Return a seed, a whole number from 0 to :data:`MAX_SEED`."""
    if _is_whole(value) and 0 <= value <= MAX_SEED:
        return int(value)
    raise ConfigError(
        f"{name} must be a whole number from 0 to 2**63 - 1, not {brief(value)}; leave it out "
        "for one that is drawn",
        key="seed",
    )


def check_min_trades(value: Any, name: str = "min_trades") -> int:
    """Return the least number of trades of a combination that is ranked."""
    if _is_whole(value) and 0 <= value < 2**53:
        return int(value)
    raise ConfigError(
        f"{name} must be a whole number, 0 or more, not {brief(value)}", key="min_trades"
    )


def check_device(value: Any, name: str = "device") -> str:
    """Return a device; whether it is there is seen where the run computes."""
    return parse_device(value, name).text


def check_vram_limit(value: Any, name: str = "vram_limit") -> int:
    """Return a size in bytes: a whole number of them, or a text such as ``8G`` or ``512M``."""
    size = -1
    if _is_whole(value):
        size = int(value)
    elif isinstance(value, str) and (found := _SIZE.fullmatch(value)):
        size = int(float(found[1]) * 1024 ** _UNITS.index(found[2].upper()))
    if LEAST_VRAM_BYTES <= size < 2**60:
        return size
    raise ConfigError(
        f"{name} must be a size of at least {LEAST_VRAM_BYTES >> 20}M, such as 8G or 512M, "
        f"not {brief(value)}",
        key="vram_limit",
    )


def check_containment(value: Any, name: str = "containment") -> str:
    """Return a containment, one of :data:`~supervisor.records.plan.CONTAINMENTS`."""
    return _one_of(CONTAINMENTS, value, name, "containment")


def check_text(value: Any, name: str) -> str:
    """Return a text that is not empty."""
    if isinstance(value, str) and value and "\0" not in value:
        return value
    raise ConfigError(f"{name} must be a text that is not empty, not {brief(value)}")


def check_path(value: Any, name: str) -> Path:
    """Return a path."""
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str) or not path or "\0" in path:
        raise ConfigError(f"{name} must be a path, not {brief(value)}")
    try:
        written = os.fsencode(path)
    except UnicodeEncodeError:
        raise ConfigError(f"{name} must be a path, not {brief(value)}") from None
    if len(written) > _MAX_PATH_BYTES or max(map(len, written.split(b"/"))) > _MAX_NAME_BYTES:
        raise ConfigError(f"{name} {brief(path)} is too long for a path")
    return Path(path)


def check_data(value: Any, name: str) -> Any:
    """Return market data: a path is checked here, the data itself where it is read."""
    if isinstance(value, str | os.PathLike):
        check_path(value, name)
    return value


def check_bars_per_year(value: Any, name: str = "bars_per_year") -> float:
    """Return a number of bars in a year, above 0."""
    if _is_number(value) and 0 < value <= MAX_BARS_PER_YEAR:
        return float(value)
    raise ConfigError(
        f"{name} must be a number above 0, such as 252 for daily bars or 98280 for 252 sessions of "
        f"390 minutes, not {brief(value)}",
        key="bars_per_year",
    )


def check_year_days(value: Any, name: str = "year_days") -> int:
    """Return a number of days, 1 to 366."""
    if _is_whole(value) and 1 <= value <= 366:
        return int(value)
    raise ConfigError(
        f"{name} must be a whole number of days from 1 to 366, such as 252 or 365, "
        f"not {brief(value)}",
        key="year_days",
    )


def check_strategy(value: Any, name: str) -> str | Callable[..., Any]:
    """Return a strategy: a text, or a callable from Python."""
    if callable(value):
        return value  # type: ignore[no-any-return]
    if isinstance(value, str) and value and "\0" not in value:
        if value.rpartition(":")[0].endswith(".py"):
            check_path(value.rpartition(":")[0], name)
        return value
    raise ConfigError(
        f"{name} must be a built-in's name, module:function, path.py:function or, in Python, "
        f"a callable, not {brief(value)}"
    )


def check_grid(value: Any, name: str) -> Mapping[str, Any] | list[Mapping[str, Any]]:
    """Return a grid: parameters and their values, or points; checked where it is built."""
    if _has_names(value):
        return value  # type: ignore[no-any-return]
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
        points = list(value)
        if all(map(_has_names, points)):
            return points
    raise ConfigError(
        f"{name} must map each parameter's name to its values, as in {{'fast': [5, 10]}}, or "
        f"list points, as in [{{'fast': 5}}, {{'fast': 10}}], not {brief(value)}"
    )


def _has_names(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def check_flag(value: Any, name: str) -> bool:
    """Return True or False."""
    if isinstance(value, bool):
        return value
    raise ConfigError(f"{name} must be True or False, not {brief(value)}")


def check_cluster(value: Any, name: str) -> str:
    """Return the address of a cluster; whether it can be reached is seen later."""
    if isinstance(value, str) and (value == "local" or value[:4] == "ssh:" != value):
        return value
    raise ConfigError(f"{name} must be local or ssh:HOST, not {brief(value)}")


def check_tasks(value: Any, name: str) -> int:
    """Return the number of parts that a sweep is divided into."""
    if _is_whole(value) and 1 <= value <= MAX_TASKS:
        return int(value)
    raise ConfigError(f"{name} must be a whole number from 1 to {MAX_TASKS:,}, not {brief(value)}")


def check_lease(value: Any, name: str) -> int:
    """Return the length of a lease, in s; 0: it never ends."""
    if _is_whole(value) and value >= 0:
        return int(value)
    raise ConfigError(
        f"{name} must be a whole number of seconds, or 0 for never, not {brief(value)}"
    )


def check_job(value: Any, name: str) -> dict[str, Any]:
    """Return what each cluster job needs, by the names of :class:`slurm.batch.job.Job`."""
    from slurm.batch.job import Job

    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{name} must be a table of job options, as in {{ cpus = 8 }}, not {brief(value)}"
        )
    ours = [key for key in _NOT_THE_USERS if key in value]
    if ours:
        raise ConfigError(f"{name}: job option {ours[0]} belongs to allstop: leave it out")
    known = [key for key in (item.name for item in fields(Job)) if key not in _NOT_THE_USERS]
    unknown = [key for key in value if key not in known]
    if unknown:
        raise ConfigError(f"{name}: unknown job option {unknown[0]}: there are {', '.join(known)}")
    try:
        Job.from_options({"command": ["true"], **value})
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    return dict(value)


def _one_of(known: tuple[str, ...], value: Any, name: str, key: str) -> str:
    if isinstance(value, str) and value in known:
        return value
    raise ConfigError(f"{name} must be one of {', '.join(known)}, not {brief(value)}", key=key)


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
