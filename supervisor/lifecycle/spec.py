"""A sweep written down in a TOML file.

::

    strategy = "sma_cross"
    data = "bars.csv"          # relative to the file's own directory
    workers = 4

    [grid]
    fast = "5:50:5"            # start:stop:step, the stop included
    slow = [60, 90, 120]

    [stop]
    grace = 2.0

    [slurm]                    # on a cluster instead of here
    tasks = 50
    job = { partition = "cpu", time_limit = "2:00:00", cpus = 8 }
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from supervisor.errors import ConfigError
from supervisor.lifecycle.prepare import Order
from supervisor.rows.grid import Value, parse_axis

_STRICT = ConfigDict(extra="forbid", strict=True)

Scalar = bool | int | float | str


class StopSection(BaseModel):
    """Timers of the escalation, in s."""

    model_config = _STRICT

    grace: float | None = None
    terminate: float | None = None
    verify: float | None = None


class SlurmSection(BaseModel):
    """How the sweep is spread over a cluster; ``job`` is checked where jobs are."""

    model_config = _STRICT

    cluster: str = "local"
    tasks: int = 4
    lease: int | None = None
    python: str = ""
    job: dict[str, Any] = Field(default_factory=dict)


class Spec(BaseModel):
    """The keys of a spec file."""

    model_config = _STRICT

    strategy: str
    grid: Annotated[dict[str, list[Scalar] | Scalar], Field(min_length=1)]
    data: str | None = None
    workers: int | None = None
    device: str | None = None
    fee: float | None = None
    run_dir: str | None = None
    containment: str | None = None
    stop: StopSection = Field(default_factory=StopSection)
    slurm: SlurmSection | None = None


def read_spec(path: Path) -> tuple[Order, dict[str, float]]:
    """Read a spec file.

    Returns
    -------
    order : Order
        What it asks for; ``times`` is left at the defaults.
    times : dict
        The timers it sets, by the names of :class:`~supervisor.records.plan.StopTimes`.

    Raises
    ------
    ConfigError
        If it cannot be read; names the file, the key, and the keys there are.
    """
    try:
        plain = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"spec {path}: {error.strerror}", key="spec") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"spec {path}: not TOML: {error}", key="spec") from None
    try:
        spec = Spec.model_validate(plain)
    except ValidationError as error:
        raise _first_complaint(path, error) from None
    order = Order(strategy=_beside(path, spec.strategy), grid=_axes(path, spec.grid))
    if spec.data is not None:
        order.data = str(path.parent / spec.data)
    if spec.slurm is not None:
        order.cluster = _cluster(spec.slurm)
    if spec.run_dir is not None:
        order.run_dir = path.parent / spec.run_dir
    for name in ("workers", "device", "fee", "containment"):
        value = getattr(spec, name)
        if value is not None:
            setattr(order, name, value)
    times = spec.stop.model_dump(exclude_none=True)
    return order, {f"{name}_s": value for name, value in times.items()}


def _cluster(section: SlurmSection) -> dict[str, Any]:
    asked: dict[str, Any] = {
        "address": section.cluster, "tasks": section.tasks, "job": section.job,
        "python": section.python,
    }  # fmt: skip
    return asked if section.lease is None else asked | {"lease_s": section.lease}


def _axes(path: Path, grid: dict[str, list[Scalar] | Scalar]) -> dict[str, Sequence[Value]]:
    axes: dict[str, Sequence[Value]] = {}
    for name, values in grid.items():
        if isinstance(values, str):
            try:
                axes[name] = parse_axis(f"{name}={values}")[1]
            except ConfigError as error:
                raise ConfigError(f"spec {path}: {error}", key=f"grid.{name}") from None
        else:
            axes[name] = values if isinstance(values, list) else [values]
    return axes


def _beside(path: Path, strategy: str) -> str:
    """Take ``file.py:function`` relative to the spec file, as its author sees it."""
    home, colon, name = strategy.rpartition(":")
    return f"{path.parent / home}:{name}" if colon and home.endswith(".py") else strategy


def _first_complaint(path: Path, error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    where = [str(part) for part in first["loc"]]
    model = StopSection if where[0] == "stop" and len(where) > 1 else Spec
    keys = ", ".join(model.model_fields)
    if first["type"] == "extra_forbidden":
        what = f"unknown key {'.'.join(where)!r}; the keys are: {keys}"
    elif first["type"] == "missing":
        what = f"key {'.'.join(where)!r} is missing; the keys are: {keys}"
    else:
        what = f"key {'.'.join(where[:2])!r}: {first['msg'].lower()}, not {first['input']!r}"
    return ConfigError(f"spec {path}: {what}", key=".".join(where))
