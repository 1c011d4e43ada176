"""Where a user's function finds itself: the search path, ``sys.argv`` and ``__main__``.

A worker is a fork of the warden, whose own of these would mislead the function: a program that
reads ``sys.argv`` when it is imported would be given a descriptor's number.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from supervisor.errors import ConfigError
from supervisor.ipc.stopflag import StopFlag
from supervisor.market.bars import Bars
from supervisor.records.plan import Provenance
from supervisor.rows.grid import Value
from workers.failure import describe

Strategy = Callable[[Bars, Mapping[str, Value], StopFlag], Mapping[str, Any] | None]


def settle(home: Provenance, file: str) -> None:
    """Make this process look like the caller's program to what is imported from now on.

    Parameters
    ----------
    home : Provenance
        Where the function comes from.
    file : str
        Its file: what ``sys.argv`` and ``__main__.__file__`` say. Empty: it has none.
    """
    own = [entry for entry in sys.path if entry not in (*home.path_before, *home.path_after)]
    here = [] if not home.cwd or home.cwd in (*home.path_before, *own) else [home.cwd]
    sys.path[:] = [*home.path_before, *here, *own, *home.path_after]
    sys.argv[:] = [file]
    main = ModuleType("__main__")
    # processes that the function spawns would import a main module by its file, and so run the
    # user's script again; one of this name they pass over, as they do a package's
    main.__spec__ = ModuleSpec("allstop.__main__", None)
    if file:
        main.__file__ = file
    sys.modules["__main__"] = main


def importer(spec: str, home: Provenance) -> Callable[[], Strategy]:
    """Loader of ``module:function`` or ``path/to/file.py:function``.

    Raises
    ------
    ConfigError
        (from the loader) if the module, file or function is not there.
    """

    def load() -> Strategy:
        place, _, name = spec.rpartition(":")
        if place.endswith(".py"):
            settle(home, str(Path(place).resolve()))
            module = _import_file(place)
        else:
            settle(home, "")
            module = _import_module(place)
        target: Any = module
        for part in name.split("."):
            target = getattr(target, part, None)
        if not callable(target):
            known = sorted(
                n for n, v in vars(module).items() if callable(v) and not n.startswith("_")
            )
            raise ConfigError(
                f"strategy {spec!r}: {place} has no function {name!r}; "
                f"it has: {', '.join(known) or 'none'}",
                key="strategy",
            )
        strategy: Strategy = target
        return strategy

    return load


def _import_module(name: str) -> Any:
    try:
        found = importlib.util.find_spec(name)
        if found is not None and found.origin:
            sys.argv[:] = [found.origin]
            sys.modules["__main__"].__file__ = found.origin
        return importlib.import_module(name)
    except BaseException as error:
        raise ConfigError(
            f"strategy module {name!r} cannot be imported: {describe(error)}{_mend(error)}",
            key="strategy",
        ) from error


def _import_file(path: str) -> Any:
    file = Path(path).resolve()
    if not file.is_file():
        raise ConfigError(f"strategy file {path} does not exist", key="strategy")
    # its neighbours are importable, as they are when Python runs the file itself
    sys.path.insert(0, str(file.parent))
    name = file.stem
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"strategy file {path} is not a Python file", key="strategy")
    if isinstance(spec.loader, SourceFileLoader):
        spec.loader = _AsItIs(name, str(file))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        raise ConfigError(
            f"strategy file {path} cannot be imported: {describe(error)}{_mend(error)}",
            key="strategy",
        ) from error
    return module


def _mend(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return (
            ": it ends when it is imported; put what only a program does under "
            "`if __name__ == '__main__':`"
        )
    return ""


class _AsItIs(SourceFileLoader):
    """Compiles a file as it is, and keeps no bytecode of it.

    Python tells bytecode from that of an earlier version by the file's size and the second
    it was written in: a number edited twice in one second would be computed with as it was.
    """

    def path_stats(self, path: object) -> NoReturn:
        """Without the time there is nothing to compare, and nothing to write."""
        raise OSError(f"{path}: bytecode is not used")
