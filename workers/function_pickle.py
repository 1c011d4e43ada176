"""A callable on its way from the caller's process to the workers.

cloudpickle carries what is defined in a script or notebook by value, Enums, abstract and
generic classes and functions that call one another included; what it does not know, dill may.
Anything from a module that a worker can import travels as a name.
"""

from __future__ import annotations

import io
import os
import pickle
import sys
import threading
from collections.abc import Callable
from importlib.machinery import BuiltinImporter, FrozenImporter, ModuleSpec, PathFinder
from types import CodeType, FunctionType, ModuleType
from typing import Any

from supervisor.errors import ConfigError, UserFunctionError
from supervisor.records.plan import Provenance
from workers.failure import describe
from workers.function_home import Strategy, settle
from workers.pickle_kinds import BY_VALUE, NAMED, left_in_main
from workers.untransferable import culprit

_SWITCHES = threading.Lock()
"""Held while modules are registered with cloudpickle, which keeps one list per process."""


def pickle_function(function: Strategy) -> bytes:
    """Pickle a callable, closures and notebook functions included.

    Raises
    ------
    ConfigError
        If it, or something it refers to, cannot be pickled; names that and where it is.
    """
    try:
        return dumps(function)
    except Exception as error:
        where, what = culprit(function, dumps)
        raise ConfigError(
            f"the function cannot be sent to a worker: {where} is {what}, which cannot be "
            f"pickled ({describe(error, place=False)}): make it inside the function",
            key="strategy",
        ) from error


def dumps(thing: object) -> bytes:
    """Pickle by cloudpickle, and by dill where that fails.

    Raises
    ------
    Exception
        cloudpickle's, if neither can do it.
    """
    with _SWITCHES:
        pickler = _pickler(io.BytesIO())
        try:
            data = bytes(pickler.whole(thing))
            _check_whole(data)
            return data  # noqa: TRY300
        except Exception as error:  # noqa: BLE001 - a class's own __reduce__ may raise anything
            import dill

            try:
                data = bytes(dill.dumps(thing, recurse=True))
                _check_whole(data)
            except Exception:  # noqa: BLE001 - the first one says more, and of more kinds
                raise error from None
            return data
        finally:
            pickler.end()


def _check_whole(data: bytes) -> None:
    """Refuse what refers to the caller's main module by name: no worker has that."""
    names = left_in_main(data)
    if names:
        raise pickle.PicklingError(f"{', '.join(names)} of the main module travels by name only")


def unpickler(fd: int, home: Provenance) -> Callable[[], Strategy]:
    """Loader of a callable that was pickled into the file behind ``fd``."""

    def load() -> Strategy:
        settle(home, home.main)
        data = os.pread(fd, os.fstat(fd).st_size, 0)
        try:
            strategy: Strategy = loads(data)
        except BaseException as error:
            raise UserFunctionError(
                f"the function cannot be rebuilt in a worker: {describe(error)}"
            ) from error
        _fill_main(strategy)
        return strategy

    return load


def loads(data: bytes) -> Any:
    """Undo :func:`dumps`."""
    if b"dill._dill" in data:
        import dill

        return dill.loads(data)
    return pickle.loads(data)


def _fill_main(strategy: Strategy) -> None:
    """Make what the function's program has defined, as far as it travelled, be in ``__main__``.

    A pool that the function starts finds its own functions by name there.
    """
    function = getattr(strategy, "function", strategy)  # of a grid with values of its own
    names = getattr(function, "__globals__", {})
    if names.get("__name__") == "__main__":
        main = vars(sys.modules["__main__"])
        main.update({name: value for name, value in names.items() if name[:2] != "__"})


def _pickler(file: io.BytesIO) -> Any:
    """Make a pickler; cloudpickle is imported only where something is pickled."""
    import cloudpickle

    class ByNameWhereFound(cloudpickle.Pickler):  # type: ignore[misc]
        """Sends by value what is defined in a module that a fresh process does not find.

        Such are ``__mp_main__``, the main module in a spawned process; a test file that pytest
        has imported by its path; a module made by hand.
        """

        def __init__(self) -> None:
            super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
            self._seen: set[str] = set()
            self._by_value: list[ModuleType] = []

        def reducer_override(self, thing: Any) -> Any:
            if isinstance(thing, (type, FunctionType)):
                self._look_at(getattr(thing, "__module__", None))
            elif isinstance(thing, ModuleType):
                self._look_at(thing.__name__)
            if isinstance(thing, CodeType):
                return self._with_its_file(thing)
            make = BY_VALUE.get(type(thing))
            if make is not None and (type(thing) not in NAMED or self._is_ours(thing)):
                return make(thing)
            return super().reducer_override(thing)

        def _with_its_file(self, code: CodeType) -> Any:
            """Keep the name of its file, which cloudpickle leaves out: errors name it."""
            make, values = self.dispatch_table[CodeType](code)
            return make, tuple(
                code.co_filename if isinstance(v, str) and v == "<dynamic-code>" else v
                for v in values
            )

        def _is_ours(self, thing: Any) -> bool:
            """Whether something travels by value because its module does."""
            name = getattr(thing, "__module__", None)
            self._look_at(name)
            return name == "__main__" or name in cloudpickle.list_registry_pickle_by_value()

        def _look_at(self, name: object) -> None:
            if not isinstance(name, str) or name in self._seen:
                return
            self._seen.add(name)
            module = sys.modules.get(name)
            if module is None or name == "__main__" or _is_found(name):
                return
            if name not in cloudpickle.list_registry_pickle_by_value():
                cloudpickle.register_pickle_by_value(module)
                self._by_value.append(module)

        def whole(self, thing: object) -> bytes:
            self.dump(thing)
            return file.getvalue()

        def end(self) -> None:
            for module in self._by_value:
                cloudpickle.unregister_pickle_by_value(module)

    return ByNameWhereFound()


def _is_found(name: str) -> bool:
    """Whether a fresh process with the same search path would find a module; imports nothing."""
    if name == "__mp_main__":
        return False
    top, *rest = name.split(".")
    if BuiltinImporter.find_spec(top) or FrozenImporter.find_spec(top):
        return True
    spec = _find(top, None)
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            break
        spec = _find(f"{spec.name}.{part}", spec.submodule_search_locations)
    file = getattr(sys.modules[name], "__file__", None)
    if spec is None:  # a library may put modules of its own making beside those it has as files
        return _is_of_library(file or getattr(sys.modules.get(top), "__file__", None))
    return not (file and spec.origin) or os.path.realpath(file) == os.path.realpath(spec.origin)


def _find(name: str, path: Any) -> ModuleSpec | None:
    """Find a module as every process does; hooks of pytest, IPython … are the caller's alone."""
    hooks: list[Any] = [finder for finder in sys.meta_path if "editable" in _origin(finder)]
    for finder in (PathFinder, *hooks):
        try:
            spec: ModuleSpec | None = finder.find_spec(name, path)
        except Exception:  # noqa: BLE001 - a hook is foreign code
            continue
        if spec is not None:
            return spec
    return None


def _origin(finder: object) -> str:
    kind = finder if isinstance(finder, type) else type(finder)
    return str(kind.__module__)


def _is_of_library(file: object) -> bool:
    return isinstance(file, str) and f"{os.sep}site-packages{os.sep}" in file
