"""Runs parameter sweeps that stop at once, completely, and lose nothing.

The public names below are loaded on first use: every worker process executes
this file, so it imports next to nothing itself.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from supervisor.version import __version__ as __version__

if TYPE_CHECKING:
    from supervisor.api import Run as Run
    from supervisor.api import resume as resume
    from supervisor.api import sweep as sweep
    from supervisor.ipc.device_flag import CUDA_INCLUDE as CUDA_INCLUDE
    from supervisor.ipc.stopflag import StopFlag as StopFlag
    from supervisor.market.bars import Bars as Bars
    from supervisor.market.bars import load_bars as load_bars
    from supervisor.rows.grid import Grid as Grid

_HOMES = {
    "Bars": "supervisor.market.bars",
    "CUDA_INCLUDE": "supervisor.ipc.device_flag",
    "Grid": "supervisor.rows.grid",
    "Run": "supervisor.api",
    "StopFlag": "supervisor.ipc.stopflag",
    "load_bars": "supervisor.market.bars",
    "resume": "supervisor.api",
    "sweep": "supervisor.api",
}

__all__ = ["CUDA_INCLUDE", "Bars", "Grid", "Run", "StopFlag", "load_bars", "resume", "sweep"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'supervisor' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
