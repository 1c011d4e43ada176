"""What a function that travels needs of the program it comes from: where modules are found.

A worker is a process of the warden's. Modules beside the caller's script, notebook or app are
found there only if the caller's ``sys.path`` travels too.
"""

from __future__ import annotations

import os
import sys


def search_path(cwd: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what ``sys.path`` has before and after the interpreter's own directories.

    Those are left out: a worker has them itself, maybe of another interpreter (on a cluster).
    Relative entries become absolute; the empty one stands for the working directory.

    Parameters
    ----------
    cwd : str
        The working directory.
    """
    own = {os.path.join(prefix, *_LIBRARY) for prefix in (sys.prefix, sys.base_prefix)}  # noqa: PTH118
    before: list[str] = []
    after: list[str] = []
    entries = before
    # importlib passes over what is no text
    for entry in (entry for entry in list[object](sys.path) if isinstance(entry, str)):
        if any(entry == home or entry.startswith(f"{home}/") for home in own) or _is_zip(entry):
            entries = after
        else:
            entries.append(_absolute(entry, cwd))
    return tuple(dict.fromkeys(before)), tuple(dict.fromkeys(after))


def program(cwd: str) -> str:
    """Return the file of the caller's program; empty where it has none, as in a notebook."""
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    return _absolute(file, cwd) if isinstance(file, str) and file else ""


_VERSION = sys.version_info
_LIBRARY = ("lib", f"python{_VERSION.major}.{_VERSION.minor}")
_ZIP = f"python{_VERSION.major}{_VERSION.minor}.zip"


def _is_zip(entry: str) -> bool:
    return entry.endswith(f"/{_ZIP}")


def _absolute(entry: str, cwd: str) -> str:
    whole = os.path.normpath(os.path.join(cwd, entry))  # noqa: PTH118
    # a name that an import hook knows is no path, and stays as it is
    return whole if not entry or os.path.exists(whole) else entry  # noqa: PTH110
