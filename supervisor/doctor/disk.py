"""Directories: where runs are registered, and where compiled kernels are cached."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from supervisor.doctor.finding import Finding, Status
from supervisor.system import private_dir

_LONGEST_SOCKET_PATH = 107  # unix(7): sun_path holds 108 bytes with the final zero
_SOME_RUN_ID = "20000101-000000-abcdef"
_MOST_NAMED = 3
_CACHES = ("bars", "indicators", "cupy")
_VARIABLES = ("XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "ALLSTOP_CACHE_DIR")
_KERNEL = re.compile(r'= Kernel\("(\w+)", "(\w+)"\)')


def registry_dir() -> Finding:
    """Check the directory in which runs are registered."""
    from supervisor.records import registry

    finding = _private("registry", registry.state_dir, "XDG_STATE_HOME")
    if finding.status is Status.OK and (why := private_dir.why_not(registry.state_dir())):
        return Finding(
            "registry", Status.WARNING, f"{finding.what}, but {why.path} {why.why}", why.fix
        )
    return finding


def dead_runs() -> Finding:
    """Check for runs that died before they could clean up after themselves."""
    from supervisor.records import registry

    dead = [entry.run_id for entry in registry.entries() if entry.dead]
    if not dead:
        return Finding("dead runs", Status.OK, "none")
    listed = ", ".join(dead[:_MOST_NAMED]) + (", …" if len(dead) > _MOST_NAMED else "")
    return Finding(
        "dead runs",
        Status.WARNING,
        f"{len(dead)} died before they could clean up, or could not end all processes: {listed}",
        "allstop reap cleans up and writes their results; allstop resume resumes one",
    )


def runtime_dir() -> Finding:
    """Check the directory of the wardens' control sockets."""
    from supervisor.records import registry

    finding = _private("runtime dir", registry.runtime_dir, "XDG_RUNTIME_DIR")
    if finding.status is Status.OK:
        length = len(os.fsencode(registry.socket_path(_SOME_RUN_ID)))
        if length > _LONGEST_SOCKET_PATH:
            return Finding(
                "runtime dir",
                Status.PROBLEM,
                f"{finding.what}, but the path of a socket there has {length} bytes; "
                f"the limit is {_LONGEST_SOCKET_PATH}",
                "set XDG_RUNTIME_DIR to a directory with a shorter path",
            )
        if taken := registry.taken_runtime_dir():
            return Finding(
                "runtime dir",
                Status.WARNING,
                f"{finding.what}; it is used because {taken} is not a directory of yours",
                f"remove {taken}, or set XDG_RUNTIME_DIR",
            )
    return finding


def kernel_cache() -> Finding:
    """Check the directory in which compiled kernels are cached."""
    places = _cache_places()
    for place in places:
        if _writable(place) and private_dir.why_not(place) is None:
            return Finding("kernel cache", Status.OK, f"{place} is writable")
    return Finding(
        "kernel cache",
        Status.WARNING,
        f"not writable by you alone: {', '.join(map(str, places))}; every run compiles its kernels "
        "again",
        "set ALLSTOP_CACHE_DIR to a directory that only you can write",
    )


def caches() -> Finding:
    """Check whether another user could have written what is cached: then it is not used."""
    try:
        base = private_dir.cache_home()
    except RuntimeError:
        return Finding(
            "caches", Status.WARNING, "no home directory: nothing is kept", "set XDG_CACHE_HOME"
        )
    places = [base, *(base / name for name in _CACHES), *_cache_places()]
    wrong = {str(why): why for place in places if (why := private_dir.why_not(place))}
    if not wrong:
        return Finding("caches", Status.OK, f"{base}: only you can write it")
    fixes = "; ".join(dict.fromkeys(why.fix for why in wrong.values()))
    what = "; ".join(dict.fromkeys(f"{why.path} {why.why}" for why in wrong.values()))
    return Finding("caches", Status.WARNING, f"not used: {what}", fixes)


def relative_paths() -> Finding:
    """Check for variables that name a directory relative to wherever one is."""
    relative = [
        name for name in _VARIABLES if os.environ.get(name) and private_dir.named(name) is None
    ]
    if not relative:
        return Finding("variables", Status.OK, "no directory is named by a relative path")
    return Finding(
        "variables",
        Status.WARNING,
        f"{', '.join(relative)}: not an absolute path, so ignored",
        f"set {relative[0]} to an absolute path",
    )


def kernels() -> Finding:
    """Count the kernels of built-in strategies that are compiled already."""
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
        f"{found}: the first run of a strategy takes some seconds longer",
    )


def _kernels_home() -> Path | None:
    spec = importlib.util.find_spec("workers")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / "kernels"


def _cache_places() -> list[Path]:
    """Return the directories for machine code, see ``workers/code_cache.py``."""
    named = private_dir.named("ALLSTOP_CACHE_DIR")
    if named:
        return [named / "kernels"]
    home = _kernels_home()
    installed = home is None or not {"site-packages", "dist-packages"}.isdisjoint(home.parts)
    beside = [] if home is None or installed else [home / "__pycache__"]
    beside = [place for place in beside if place.is_dir()]
    with contextlib.suppress(RuntimeError):
        return [*beside, private_dir.cache_home() / "kernels"]
    return beside


def _private(name: str, find: Callable[[], Path], variable: str) -> Finding:
    """Check a directory that only the user may enter; ``find`` creates it."""
    from supervisor.errors import ConfigError

    fix = f"set {variable} to a directory that you own"
    try:
        place = find()
    except ConfigError as error:
        return Finding(name, Status.PROBLEM, str(error), fix)
    except OSError as error:
        return Finding(name, Status.PROBLEM, f"{error.filename}: {error.strerror}", fix)
    if not _writable(place):
        return Finding(name, Status.PROBLEM, f"{place} is not writable", fix)
    return Finding(name, Status.OK, f"{place} is private and writable")


def _writable(place: Path) -> bool:
    """Whether files can be created in a directory, or in its nearest parent that exists."""
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place, buffering=0) as file:
            file.write(b"0")  # a full disk may have room for a name
            return True
    except OSError:
        return False
