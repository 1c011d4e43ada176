"""How to install this very package again, or with an extra.

The name on PyPI may be a stranger's project, so advice never names the bare
distribution. It names where the running package came from: the source tree it
lies in, or what pip recorded when it installed it.

References
----------
PEP 610, ``direct_url.json``; PEP 508, ``name[extra] @ url``.
"""

from __future__ import annotations

import json
import shlex
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

DISTRIBUTION = "allstop"

HOME = Path(__file__).resolve().parents[2]
"""The directory our packages are imported from: a source tree, or ``site-packages``."""


def advice(extra: str = "", *, again: bool = False, home: Path = HOME) -> str:
    """Return what to type to install this package, with an extra or anew.

    Parameters
    ----------
    extra : str
        An extra of ours, such as ``plots``; empty for none.
    again : bool
        Whether to replace all files of an installation that is damaged.
    home : Path
        The directory our packages are imported from.

    Returns
    -------
    str
        A shell command for the running interpreter. Where the origin is not
        known, or is no longer there, a sentence that says what to put in its place.
    """
    extras = f"[{extra}]" if extra else ""
    if is_source_tree(home):
        if again:
            return f"restore the files of {home} ('git status' there shows which differ)"
        return _pip("install", "--editable", f"{home}{extras}")
    options = ["--force-reinstall", "--no-deps"] if again else []
    origin = _origin(home, extras)
    if origin is not None:
        return _pip("install", *options, origin)
    command = _pip("install", *options, f"WHEEL_OR_SOURCE_DIRECTORY{extras}")
    return f"{command}, naming the wheel or source directory that you have"


def remove(*distributions: str) -> str:
    """Return what to type to uninstall distributions from the running interpreter."""
    return _pip("uninstall", *distributions)


def is_source_tree(home: Path = HOME) -> bool:
    """Whether our packages lie in a source tree of ours: an editable installation, or none."""
    try:
        project = tomllib.loads((home / "pyproject.toml").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return bool(project.get("project", {}).get("name") == DISTRIBUTION)


def _origin(home: Path, extras: str) -> str | None:
    """Where pip took an installed package from, as pip takes it again; None if unknown."""
    # by path: another copy of ours may be earlier on sys.path
    for found in metadata.distributions(name=DISTRIBUTION, path=[str(home)]):
        try:
            return _requirement(json.loads(found.read_text("direct_url.json") or "{}"), extras)
        except (ValueError, TypeError, KeyError, AttributeError):
            return None  # not what PEP 610 describes
    return None


def _requirement(direct: dict[str, Any], extras: str) -> str | None:
    url = str(direct.get("url", ""))
    parts = urlsplit(url)
    if parts.scheme == "file" and "vcs_info" not in direct:
        place = Path(unquote(parts.path))
        return f"{place}{extras}" if place.exists() else None
    if not parts.scheme:
        return None
    if vcs := direct.get("vcs_info"):
        url = f"{vcs['vcs']}+{url}@{vcs['commit_id']}"
    if inner := direct.get("subdirectory"):
        url += f"#subdirectory={inner}"
    return f"{DISTRIBUTION}{extras} @ {url}"


def _pip(*words: str) -> str:
    return shlex.join([sys.executable or "python3", "-m", "pip", *words])
