"""What lies on disk: where runs are found, and compiled kernels."""

from __future__ import annotations

import importlib.util
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from supervisor.doctor.finding import Finding, Status

_LONGEST_SOCKET_PATH = 107  # unix(7): sun_path holds 108 bytes with the final zero
_SOME_RUN_ID = "20000101-000000-abcdef"
_MOST_NAMED = 3
_KERNEL = re.compile(r'= Kernel\("(\w+)", "(\w+)"\)')


def registry_dir() -> Finding:
    """Where runs are written down."""
    from supervisor.records import registry

    return _private("registry", registry.state_dir, "XDG_STATE_HOME")


def dead_runs() -> Finding:
    """Runs that died with nobody left to finish them."""
    from supervisor.records import registry

    dead = [entry.run_id for entry in registry.entries() if not entry.alive]
    if not dead:
        return Finding("dead runs", Status.OK, "none")
    listed = ", ".join(dead[:_MOST_NAMED]) + (", …" if len(dead) > _MOST_NAMED else "")
    return Finding(
        "dead runs",
        Status.WARNING,
        f"{len(dead)} died with front and warden, or could not end all, and left something "
        f"behind: {listed}",
        "allstop reap clears them away and writes their results; allstop resume carries one on",
    )


def runtime_dir() -> Finding:
    """Where the wardens' sockets lie."""
    from supervisor.records import registry

    finding = _private("runtime dir", registry.runtime_dir, "XDG_RUNTIME_DIR")
    if finding.status is Status.OK:
        length = len(os.fsencode(registry.socket_path(_SOME_RUN_ID)))
        if length > _LONGEST_SOCKET_PATH:
            return Finding(
                "runtime dir",
                Status.PROBLEM,
                f"{finding.what}, but a socket's path there has {length} bytes; "
                f"at most {_LONGEST_SOCKET_PATH} are possible",
                "set XDG_RUNTIME_DIR to a shorter directory",
            )
    return finding


def kernel_cache() -> Finding:
    """Where compiled kernels are kept between runs."""
    places = _cache_places()
    for place in places:
        if _writable(place):
            return Finding("kernel cache", Status.OK, f"{place} can be written")
    return Finding(
        "kernel cache",
        Status.WARNING,
        f"{', '.join(map(str, places))} cannot be written: every run compiles its kernels anew",
        "set ALLSTOP_CACHE_DIR to a directory that can be written",
    )


def kernels() -> Finding:
    """How many of the built-in strategies' kernels are compiled already."""
    home = _kernels_home()
    sources = [*home.glob("*.py"), *home.glob("source/*.py")] if home else []
    # one kernel inlines helpers of several files: a cached one older than any of them is stale
    newest = max((source.stat().st_mtime for source in sources), default=0.0)
    entries = "".join(path.read_text("utf-8") for path in sources if path.name == "entries.py")
    wanted = {".".join(names) for names in _KERNEL.findall(entries)}
    cached = {
        code.name.partition("-")[0]
        for place in _cache_places()
        for code in place.glob("*.o")
        if code.stat().st_mtime >= newest
    }
    found = f"{len(wanted & cached)} of {len(wanted)} compiled and cached"
    if wanted <= cached:
        return Finding("kernels", Status.OK, found)
    return Finding(
        "kernels",
        Status.INFO,
        f"{found}: a strategy's first run takes some seconds longer",
    )


def _kernels_home() -> Path | None:
    spec = importlib.util.find_spec("workers")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / "kernels"


def _cache_places() -> list[Path]:
    """Where machine code is kept, see ``workers/kernels/kernel.py``."""
    named = os.environ.get("ALLSTOP_CACHE_DIR")
    if named:
        return [Path(named) / "kernels"]
    home = _kernels_home()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    beside = [home / "__pycache__"] if home else []
    return [*beside, Path(base) / "allstop" / "kernels"]


def _private(name: str, find: Callable[[], Path], variable: str) -> Finding:
    """Look at a directory that is the user's alone; ``find`` makes it."""
    from supervisor.errors import ConfigError

    mend = f"set {variable} to a directory of your own"
    try:
        place = find()
    except ConfigError as error:
        return Finding(name, Status.PROBLEM, str(error), mend)
    except OSError as error:
        return Finding(name, Status.PROBLEM, f"{error.filename}: {error.strerror}", mend)
    if not _writable(place):
        return Finding(name, Status.PROBLEM, f"{place} cannot be written", mend)
    return Finding(name, Status.OK, f"{place} is private and can be written")


def _writable(place: Path) -> bool:
    """Whether files can be made in a directory, or below the nearest one that exists."""
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            return True
    except OSError:
        return False
