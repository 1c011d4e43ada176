"""CuPy, PyTorch and numba-cuda: whether what is installed fits the driver; none is imported."""

from __future__ import annotations

import importlib.util
import re
from importlib import metadata
from pathlib import Path

from supervisor.doctor.finding import Finding, Status
from supervisor.doctor.gpu import driver_present, survey
from supervisor.system.install import advice, remove

_CUPY = re.compile(r"cupy-cuda(\d+)x")
_TORCH_CUDA = re.compile(r"^cuda\b[^=]*=\s*'(\d+)\.", re.MULTILINE)
_NAME = "GPU packages"


def packages() -> Finding | None:
    """Check that CuPy and PyTorch were built for a CUDA that the driver runs."""
    if not driver_present():
        return None
    return judge(int(survey().cuda.partition(".")[0] or 0), cupys(), torch_build())


def judge(driver: int, cupy: dict[str, str], torch: str | None) -> Finding:
    """Compare what is installed with the driver.

    Parameters
    ----------
    driver : int
        Newest major version of CUDA that the driver runs; 0: not known.
    cupy : dict of str
        Versions by distribution's name, such as ``cupy-cuda12x``.
    torch : str or None
        What PyTorch was built for, as :func:`torch_build` says.
    """
    extra = "cuda13" if driver >= 13 else "cuda12"
    if len(cupy) > 1:
        what = f"{', '.join(sorted(cupy))} are installed: each overwrites files of the others"
        return Finding(_NAME, Status.PROBLEM, what, f"{remove(*cupy)}; then {advice(extra)}")
    facts, fixes = [], []
    wants = {name: int(found[1]) for name in cupy if (found := _CUPY.fullmatch(name))}
    if torch and torch.isdigit():
        wants["torch"] = int(torch)
    for name, version in cupy.items():
        facts.append(f"{name} {version}")
    if torch is not None:
        facts.append(f"torch for {f'CUDA {torch}' if torch.isdigit() else 'the CPU only'}")
    for name, wanted in wants.items():
        if driver and wanted > driver:
            facts.append(f"{name} needs CUDA {wanted}, and the driver runs {driver}")
            fixes.append(
                f"update the driver, or {remove(name)}; then {advice(extra)}"
                if name != "torch"
                else f"update the driver, or install a torch built for CUDA {driver}"
            )
    if fixes:
        return Finding(_NAME, Status.WARNING, "; ".join(facts), "; ".join(fixes))
    if not cupy:
        facts.append("CuPy is not installed")
        fix = f"for strategies on the GPU: {advice(extra)}"
        return Finding(_NAME, Status.INFO, "; ".join(facts), fix)
    return Finding(_NAME, Status.OK, "; ".join(facts))


def cupys() -> dict[str, str]:
    """Return the installed distributions of CuPy, and their versions."""
    found = {}
    for one in metadata.distributions():
        name = str(one.metadata["Name"] or "").lower()
        if name == "cupy" or _CUPY.fullmatch(name):
            found[name] = one.version
    return found


def torch_build() -> str | None:
    """Return the major version of the CUDA that PyTorch was built for.

    ``cpu``: for none; None: it is not installed. Read from its ``version.py``: an import takes
    seconds.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    try:
        text = (Path(next(iter(spec.submodule_search_locations))) / "version.py").read_text("utf-8")
    except OSError:
        return "cpu"
    built = _TORCH_CUDA.search(text)
    return built[1] if built else "cpu"
