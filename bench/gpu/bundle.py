"""What a GPU machine without a package index lacks: a few wheels, and the expected rows.

Made on a machine that has both; the directory travels with the checkout.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from bench.gpu import expected
from bench.gpu.plan import EXPECTED
from bench.harness.report import say
from supervisor.errors import ConfigError

LACKING = ("cloudpickle", "dill", "multiprocess", "pydantic")
"""What the image lacks, and with it what these need; pydantic is what newer releases of Typer
read their options with."""

PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")

SITE = "site"


def make_bundle(directory: Path) -> None:
    """Collect wheels, unpacked as they are imported, and compute the expected rows.

    Raises
    ------
    ConfigError
        If a wheel cannot be downloaded; the message is pip's.
    """
    site = directory / SITE
    site.mkdir(parents=True, exist_ok=True)
    say(f"downloading {', '.join(LACKING)} for Python {PYTHON} …")
    with tempfile.TemporaryDirectory() as place:
        download(Path(place))
        for wheel in sorted(Path(place).glob("*.whl")):
            unpack(wheel, site)
    say("computing the expected rows …")
    expected.compute(directory / EXPECTED)
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    say(f"{directory}: {size / 1e6:.1f} MB. With it on the GPU machine, from the checkout:")
    say(command_line(directory))


def command_line(directory: Path) -> str:
    """Return the command that measures from a plain checkout with this directory."""
    return (
        f"PYTHONPATH=$PWD:$PWD/{directory / SITE} python3 -m bench gpu "
        f"--expected {directory / EXPECTED} --out OUT"
    )


def download(place: Path) -> None:
    """Have pip fetch wheels for the GPU machine's Python, whatever runs here."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp"]
    command += [word for platform in PLATFORMS for word in ("--platform", platform)]
    done = subprocess.run(
        [*command, "--dest", str(place), *LACKING], capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        raise ConfigError(f"no wheels: {last}", key="bundle")


def unpack(wheel: Path, site: Path) -> None:
    """Unpack a wheel where PYTHONPATH finds it."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
