"""Whether ``supervisor``, ``workers``, ``slurm`` and ``bench`` are ours here.

PyPI's ``supervisor`` (supervisord) installs into the same folder as our
package. pip does not object: the one installed second overwrites files of the
first, and uninstalling one removes files of the other.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from supervisor.doctor.finding import Finding, Status
from supervisor.system.install import DISTRIBUTION, advice, is_source_tree, remove
from supervisor.system.install import HOME as _HOME

PACKAGES = ("supervisor", "workers", "slurm", "bench")

_OTHER_START = "use 'python -P -m supervisor', or start from another directory"

_OWN_VENV = "if you need supervisord, install it into an environment of its own"


def installation() -> Finding:
    """Check that our files are present and unchanged since they were installed."""
    ours = next(iter(_distributions(DISTRIBUTION)), None)
    if ours is None:
        return Finding("installation", Status.INFO, f"runs from {_HOME}, not installed")
    what = f"{DISTRIBUTION} {ours.version} in {_HOME}"
    changed, missing = _damage(ours)
    if not changed and not missing:
        return Finding("installation", Status.OK, what)
    facts = [
        f"{len(changed)} of our files overwritten ({_some(changed)})" if changed else "",
        f"{len(missing)} missing ({_some(missing)})" if missing else "",
    ]
    return Finding(
        "installation",
        Status.PROBLEM,
        f"{what}: {', '.join(filter(None, facts))}",
        advice(again=True),
    )


def clashes() -> Finding:
    """Check that no other distribution installs into our packages."""
    owners = {
        f"{name} {distribution.version}": packages
        for name, distribution in _others()
        if (packages := _our_packages_in(distribution))
    }
    if not owners:
        return Finding("name clashes", Status.OK, f"only {DISTRIBUTION} owns {', '.join(PACKAGES)}")
    facts = "; ".join(
        f"{owner} also installs {', '.join(packages)}" for owner, packages in owners.items()
    )
    names = sorted({owner.split()[0] for owner in owners})
    fix = remove(*names)
    if not is_source_tree():  # in a source tree nothing of ours was overwritten
        fix = f"{fix}; then {advice(again=True)}"
    return Finding(
        "name clashes",
        Status.PROBLEM,
        f"{facts}: each overwrites files of the other",
        f"{fix}; {_OWN_VENV}" if "supervisor" in names else fix,
    )


def local_folders() -> Finding:
    """Check that no folder of the user is imported instead of a package of ours."""
    elsewhere = {name: place for name in PACKAGES if (place := _imported_from(name)) is not None}
    if elsewhere:
        facts = ", ".join(f"{name} from {place}" for name, place in elsewhere.items())
        return Finding(
            "local folders",
            Status.PROBLEM,
            f"Python imports {facts} instead of allstop's own",
            f"{_OTHER_START}, or rename yours"
            if all(Path.cwd().resolve() in place.parents for place in elsewhere.values())
            else "rename yours, or take its directory off PYTHONPATH",
        )
    here = [entry.name for name in PACKAGES for entry in _local(name)]
    if here:
        return Finding(
            "local folders",
            Status.WARNING,
            f"{', '.join(here)} in this directory would be imported instead of allstop's by "
            "'python -m supervisor'",
            f"{_OTHER_START}, or rename yours",
        )
    return Finding("local folders", Status.OK, "none hides a package of allstop")


def first_aid(error: ImportError) -> str:
    """Return one line for a start that failed on an import: what is wrong, and the fix.

    ``__main__`` prints it instead of a traceback when files of ours were
    overwritten.
    """
    for finding in (clashes(), local_folders(), installation()):
        if finding.status is Status.PROBLEM:
            return f"{finding.what}: {finding.fix}"
    return ": ".join(broken_import(error))


def broken_import(error: ImportError) -> tuple[str, str]:
    """Return what an import that failed says about the installation, and the fix."""
    missing = (error.name or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and missing and missing not in PACKAGES:
        return f"{missing} is not installed", advice()  # pip adds the dependencies that lack
    why = " ".join(str(error).split())
    return f"the installation is damaged ({why})", advice(again=True)


def _others() -> Iterator[tuple[str, metadata.Distribution]]:
    seen = {DISTRIBUTION}
    for distribution in metadata.distributions():
        name = _name(distribution)
        if name and name not in seen:
            seen.add(name)
            yield name, distribution


def _distributions(name: str) -> Iterator[metadata.Distribution]:
    return (d for d in metadata.distributions(name=name) if _name(d) == name)


def _name(distribution: metadata.Distribution) -> str:
    """Return the normalised name; empty where a removal left broken metadata behind."""
    facts: metadata.PackageMetadata | None = distribution.metadata
    if not facts or "Name" not in facts:
        return ""
    return re.sub(r"[-_.]+", "-", facts["Name"]).lower()


def _our_packages_in(distribution: metadata.Distribution) -> list[str]:
    """Return the packages of ours that a distribution installs into."""
    tops = {path.split("/")[0] for path, _ in _recorded(distribution) if path.endswith(".py")}
    tops |= set((distribution.read_text("top_level.txt") or "").split())
    tops |= {top.removesuffix(".py") for top in tops}
    return [name for name in PACKAGES if name in tops]


def _damage(ours: metadata.Distribution) -> tuple[list[str], list[str]]:
    """Return our files that differ from what was installed, and those that are missing."""
    changed: list[str] = []
    missing: list[str] = []
    for path, recorded in _recorded(ours):
        if path.split("/")[0] not in PACKAGES or not path.endswith(".py") or not recorded:
            continue
        try:
            content = Path(str(ours.locate_file(path))).read_bytes()
        except OSError:
            missing.append(path)
            continue
        algorithm, _, expected = recorded.partition("=")
        digest = hashlib.new(algorithm, content).digest()
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != expected:
            changed.append(path)
    return changed, missing


def _recorded(distribution: metadata.Distribution) -> Iterator[tuple[str, str]]:
    """Yield each file of a distribution's ``RECORD`` and its hash.

    ``Distribution.files`` leaves out missing files from Python 3.12 on, and
    those are what we look for.
    """
    for row in csv.reader((distribution.read_text("RECORD") or "").splitlines()):
        if row:
            yield row[0], "".join(row[1:2])


def _imported_from(name: str) -> Path | None:
    """Return where Python finds a package of ours, if not in our own directory."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return None
    places = [Path(place).resolve() for place in spec.submodule_search_locations or ()]
    if not places and spec.origin:
        places = [Path(spec.origin).resolve()]
    return None if not places or _HOME / name in places else places[0]


def _local(name: str) -> Iterable[Path]:
    """Return what 'python -m' would import from the current directory by one of our names."""
    try:
        here = Path.cwd().resolve()
    except FileNotFoundError:  # it was deleted: there is nothing in it
        return []
    if here == _HOME:
        return []
    # a folder without __init__.py hides nothing: a real package found later wins
    candidates = [here / f"{name}.py", here / name / "__init__.py"]
    return [
        path.parent if path.name == "__init__.py" else path
        for path in candidates
        if os.path.lexists(path)
    ]


def _some(names: list[str], shown: int = 3) -> str:
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")
