"""The modules that a strategy file imports from beside it, found without running anything."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from supervisor.errors import ConfigError
from supervisor.system.small_file import read_small

_MOST_FILES = 300
_MOST_BYTES = 16 * 2**20


def beside(file: Path) -> dict[str, Path]:
    """Find what a file needs of its own folder: modules, and packages whole.

    What these import from the same folder is included.

    Returns
    -------
    dict of str to Path
        The files, by their paths relative to the folder; without ``file`` itself.

    Raises
    ------
    ConfigError
        If that is too much to be copied.
    """
    folder = file.parent
    found: dict[str, Path] = {}
    open_ends = [file]
    size = 0
    while open_ends:
        for name in _imported(open_ends.pop()):
            for other in _files_of(folder, name):
                key = other.relative_to(folder).as_posix()
                if key in found or other == file:
                    continue
                found[key] = other
                size += other.stat().st_size
                if len(found) > _MOST_FILES or size > _MOST_BYTES:
                    raise ConfigError(
                        f"{file} imports more from beside it than is copied to a cluster "
                        f"({_MOST_FILES} files, {_MOST_BYTES >> 20} MB): install it there",
                        key="strategy",
                    )
                open_ends.append(other)
    return found


def _imported(file: Path) -> Iterator[str]:
    """Yield the top names that a file imports, wherever in it; none if it is not Python."""
    try:
        tree = ast.parse(read_small(file, _MOST_BYTES, pipe=False))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return  # the worker that imports it says so
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _files_of(folder: Path, name: str) -> list[Path]:
    package = folder / name
    if package.is_dir():
        return sorted(path for path in package.rglob("*.py") if path.is_file())
    module = folder / f"{name}.py"
    return [module] if module.is_file() else []
