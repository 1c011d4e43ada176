"""What a cluster needs of this machine, and getting it where that may be done."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SLURM = {"slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client", "munged": "munge"}
"""Programs of a lab, and Debian's packages that have them."""

SSH = {"sshd": "openssh-server", "ssh": "openssh-client", "ssh-keygen": "openssh-client"}
"""Programs of an sshd with its client."""

SLURMRAY_HOME = Path(sys.prefix) / "slurmray"
"""Where slurmray lies with what it is pinned to, which clashes with what allstop uses."""

_SLURMRAY = ("slurmray==9.11.2", "dill>=0.3.7,<0.4", "paramiko>=3.3.1,<4", "python-dotenv>=1,<2")

_SERVICES = {
    "munge": ["munge.service"],
    "slurmctld": ["slurmctld.service"],
    "slurmd": ["slurmd.service"],
    "openssh-server": ["ssh.service", "ssh.socket"],
}
_POLICY = Path("/usr/sbin/policy-rc.d")
_POLICY_TEXT = "#!/bin/sh\n# written while allstop installs a test cluster\nexit 101\n"
_APT_S = 300.0


def missing(programs: dict[str, str]) -> list[str]:
    """Packages that are not here."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return sorted({pkg for name, pkg in programs.items() if shutil.which(name, path=path) is None})


def why_not(programs: dict[str, str]) -> str:
    """One line that says what is missing, and the fix; empty: nothing is."""
    packages = " ".join(missing(programs))
    return packages and f"not installed: {packages} (as root: apt-get install {packages})"


def install() -> str:
    """Install what is missing; return why that is not possible, or nothing."""
    packages = missing(SLURM | SSH)
    if not packages:
        return ""
    if shutil.which("apt-get") is None:
        return "there is no apt-get here"
    if os.geteuid() != 0:
        return "apt-get needs root"
    try:
        with _services_kept_off(packages):
            _apt("update", "-qq")
            _apt("install", "-qq", "-y", "--no-install-recommends", *packages)
    except subprocess.CalledProcessError as error:
        last = error.stderr.strip().splitlines()[-1:] or [f"exit status {error.returncode}"]
        return f"apt-get {error.cmd[3]}: {last[0]}"
    except subprocess.TimeoutExpired as error:
        return f"apt-get {error.cmd[3]}: not within {error.timeout:g} s"
    return ""


def install_slurmray() -> str:
    """Install slurmray, but not Ray and torch: it only submits; return why not, or nothing."""
    if SLURMRAY_HOME.is_dir():
        return ""
    made = SLURMRAY_HOME.with_suffix(".new")
    shutil.rmtree(made, ignore_errors=True)
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    said = subprocess.run(
        [*argv, "--no-deps", "--target", str(made), *_SLURMRAY],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    if said.returncode != 0:
        shutil.rmtree(made, ignore_errors=True)
        return (said.stderr.strip() or f"pip: exit status {said.returncode}").splitlines()[-1]
    made.rename(SLURMRAY_HOME)
    return ""


def _apt(*arguments: str) -> None:
    subprocess.run(
        ["apt-get", "-o", "DPkg::Lock::Timeout=60", *arguments], check=True,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
        timeout=_APT_S, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
    )  # fmt: skip


@contextlib.contextmanager
def _services_kept_off(packages: list[str]) -> Iterator[None]:
    """Keep the packages' own services from starting, now and at the next boot.

    A cluster has daemons of its own; an sshd on port 22 was not asked for.
    """
    if _POLICY.exists() and _POLICY.read_text(errors="replace") == _POLICY_TEXT:
        _POLICY.unlink()  # left by an installation that was killed
    ours = not _POLICY.exists()
    if ours:
        _POLICY.write_text(_POLICY_TEXT)
        _POLICY.chmod(0o755)
    try:
        yield
    finally:
        if ours:
            _POLICY.unlink(missing_ok=True)
        if shutil.which("systemctl"):
            units = [unit for package in packages for unit in _SERVICES.get(package, [])]
            subprocess.run(["systemctl", "--quiet", "disable", *units], capture_output=True)
