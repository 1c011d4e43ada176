"""``python -m tests.support.optional``: large packages that some tests compare with.

Too large to be asked of everybody who runs the tests: where one cannot be installed, or would
bring gigabytes, a line says which tests are left out, and the others run.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import sysconfig
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 600
_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
_OPTIONS = ("--only-binary", ":all:", "--retries", "1", "--timeout", "60")


@dataclass(frozen=True)
class Package:
    """A package, what is installed with it, and the tests that need it."""

    module: str
    requirements: tuple[str, ...]
    tests: str

    @property
    def missing(self) -> bool:
        return importlib.util.find_spec(self.module) is None


def pinned(extra: str) -> tuple[str, ...]:
    """What an extra of ours asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return tuple(project["optional-dependencies"][extra])


OPTIONAL = (
    Package("torch", pinned("torch"), "tests of the PyTorch backtests"),
    # 70 MB, without CUDA's own libraries
    Package("cupy", pinned("cuda13")[:1], "tests that import CuPy"),
    # 150 MB: the compiler and what it needs without a toolkit
    Package(
        "numba_cuda",
        ("numba-cuda>=0.30", "nvidia-nvvm>=13,<14", "nvidia-cuda-nvrtc>=13,<14"),
        "tests that compile with numba-cuda",
    ),
)


def main() -> int:
    """Install what is missing; never fails."""
    for package in OPTIONAL:
        if package.missing and (why := install(package)):
            print(f"{package.tests} are left out: {why}")
    return 0


def install(package: Package) -> str:
    """Install one; return why it was not, or nothing."""
    try:
        if package.module == "torch" and (why := _with_cuda(package)):
            return why
        why = _pip("install", *package.requirements)
    except subprocess.TimeoutExpired:
        return f"{package.module} was not installed within {TIMEOUT_S} s"
    if not why and package.module == "numba_cuda":
        _only_when_asked()
    return why


def _with_cuda(package: Package) -> str:
    """Why PyTorch should not be installed: only a build for the CPU is small enough."""
    versions, why = _found(package.requirements)
    if why or versions["torch"].endswith("+cpu"):
        return why
    return (
        f"pip finds torch {versions['torch']} with CUDA's libraries, some gigabytes, "
        "and no build for the CPU alone"
    )


def _found(requirements: tuple[str, ...]) -> tuple[dict[str, str], str]:
    """Versions that pip would install, by name; or why it would not."""
    report = subprocess.run(
        [*_PIP, "install", *_OPTIONS, "--dry-run", "--report", "-", *requirements],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    if report.returncode:
        return {}, _last_line(report.stderr)
    found = [item["metadata"] for item in json.loads(report.stdout)["install"]]
    return {item["name"]: item["version"] for item in found}, ""


def _pip(do: str, *requirements: str) -> str:
    ended = subprocess.run(
        [*_PIP, do, *_OPTIONS, *requirements], capture_output=True, text=True, timeout=TIMEOUT_S
    )
    return _last_line(ended.stderr) if ended.returncode else ""


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["pip failed and did not say why"])[-1]


def _only_when_asked() -> None:
    """Keep numba-cuda from being looked for at every start of Python, 40 ms each time.

    Its `.pth` file makes ``numba.cuda`` mean numba-cuda; a test imports
    ``_numba_cuda_redirector`` for that.
    """
    for path in Path(sysconfig.get_path("purelib")).glob("*numba_cuda*.pth"):
        path.unlink()


if __name__ == "__main__":
    sys.exit(main())
