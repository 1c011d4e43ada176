"""Whether ``supervisor``, ``workers``, ``slurm`` and ``bench`` are ours here.

PyPI's ``supervisor`` (supervisord) installs into the same folder as our
package. pip does not object: whichever comes second overwrites files of the
first, and uninstalling one removes files of the other.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from supervisor.doctor.finding import Finding, Status

DISTRIBUTION = "allstop"
PACKAGES = ("supervisor", "workers", "slurm", "bench")

_HOME = Path(__file__).resolve().parents[2]
_AGAIN = f"pip install --force-reinstall --no-deps {DISTRIBUTION}"
_OWN_VENV = "if you need supervisord, give it an environment of its own (pipx install supervisor)"


def installation() -> Finding:
    """Our files are there, and as they were installed."""
    ours = next(iter(_distributions(DISTRIBUTION)), None)
    if ours is None:
        return Finding("installation", Status.INFO, f"run from {_HOME}, not installed")
    what = f"{DISTRIBUTION} {ours.version} in {_HOME}"
    changed, missing = _damage(ours)
    if not changed and not missing:
        return Finding("installation", Status.OK, what)
    facts = [
        f"{len(changed)} of our files overwritten ({_some(changed)})" if changed else "",
        f"{len(missing)} missing ({_some(missing)})" if missing else "",
    ]
    return Finding(
        "installation", Status.PROBLEM, f"{what}: {', '.join(filter(None, facts))}", _AGAIN
    )


def clashes() -> Finding:
    """No other distribution installs into our packages."""
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
    mend = f"pip uninstall {' '.join(names)}, then {_AGAIN}"
    return Finding(
        "name clashes",
        Status.PROBLEM,
        f"{facts}: each overwrites files of the other",
        f"{mend}; {_OWN_VENV}" if "supervisor" in names else mend,
    )


def local_folders() -> Finding:
    """No folder of the user's is imported instead of a package of ours."""
    elsewhere = {name: place for name in PACKAGES if (place := _imported_from(name)) is not None}
    if elsewhere:
        facts = ", ".join(f"{name} from {place}" for name, place in elsewhere.items())
        return Finding(
            "local folders",
            Status.PROBLEM,
            f"Python imports {facts} instead of ours",
            "start from another directory, rename yours, or use the command 'allstop'",
        )
    here = [entry.name for name in PACKAGES for entry in _local(name)]
    if here:
        return Finding(
            "local folders",
            Status.WARNING,
            f"{', '.join(here)} in this directory would be imported instead of ours by "
            "'python -m supervisor'",
            "use the command 'allstop' here, start from another directory, or rename yours",
        )
    return Finding("local folders", Status.OK, "nothing hides our packages")


def first_aid(error: ImportError) -> str:
    """One line for a start that failed on an import: what is wrong here, and the mend.

    For ``__main__``: it must not end in a traceback when files of ours were
    overwritten.
    """
    for finding in (clashes(), local_folders(), installation()):
        if finding.status is Status.PROBLEM:
            return f"{finding.what}: {finding.mend}"
    return f"the installation is damaged ({error}): {_AGAIN}"


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
    """Normalised name, or empty where a removal left broken metadata behind."""
    facts: metadata.PackageMetadata | None = distribution.metadata
    if not facts or "Name" not in facts:
        return ""
    return re.sub(r"[-_.]+", "-", facts["Name"]).lower()


def _our_packages_in(distribution: metadata.Distribution) -> list[str]:
    """Packages of ours that a distribution installs into."""
    tops = {path.parts[0] for path in distribution.files or () if path.suffix == ".py"}
    tops |= set((distribution.read_text("top_level.txt") or "").split())
    tops |= {top.removesuffix(".py") for top in tops}
    return [name for name in PACKAGES if name in tops]


def _damage(ours: metadata.Distribution) -> tuple[list[str], list[str]]:
    """Files of ours that differ from what was installed, and those that are missing."""
    changed: list[str] = []
    missing: list[str] = []
    for path in ours.files or ():
        if path.parts[0] not in PACKAGES or path.suffix != ".py" or path.hash is None:
            continue
        try:
            content = Path(str(path.locate())).read_bytes()
        except OSError:
            missing.append(str(path))
            continue
        digest = hashlib.new(path.hash.mode, content).digest()
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != path.hash.value:
            changed.append(str(path))
    return changed, missing


def _imported_from(name: str) -> Path | None:
    """Where Python finds a package of ours, if not where it should."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return None
    places = [Path(place).resolve() for place in spec.submodule_search_locations or ()]
    if not places and spec.origin:
        places = [Path(spec.origin).resolve()]
    return None if not places or _HOME / name in places else places[0]


def _local(name: str) -> Iterable[Path]:
    """Things in the current directory that 'python -m' would import by one of our names."""
    here = Path.cwd().resolve()
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
