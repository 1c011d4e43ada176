"""``python -m tests.cluster``: a real SLURM and a real sshd on this machine, to try things out."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

from tests.cluster.daemon import ClusterError, Home, base_directory
from tests.cluster.install import SLURM, SSH, install, install_slurmray, why_not
from tests.cluster.lab import Lab
from tests.cluster.sshd import ALIAS, Sshd


def main() -> int:
    options = _options()
    try:
        return {"up": _up, "down": _down, "env": _env, "status": _status, "install": _install}[
            options.do
        ](options)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _up(options: argparse.Namespace) -> int:
    """Start what is not up yet, and say how to speak to it."""
    why = install()
    if lacking := why_not(SLURM | SSH):
        raise ClusterError(f"{lacking}; not done here, because {why}")
    if not _is_up(options.dir):
        lab, sshd = _both(options)
        lab.up()
        try:
            sshd.up()
        except BaseException:
            lab.down()
            raise
    return _env(options)


def _down(options: argparse.Namespace) -> int:
    Home(options.dir).clear()
    return 0


def _env(options: argparse.Namespace) -> int:
    """Print what ``eval`` understands: only the first line is for the shell."""
    if not _is_up(options.dir):
        raise ClusterError(f"there is no cluster in {options.dir}: python -m tests.cluster up")
    lab, sshd = _both(options)
    print(f"export SLURM_CONF={shlex.quote(str(lab.slurm_conf))}")
    print(f"# ssh -F {shlex.quote(str(sshd.ssh_config))} {ALIAS} sinfo")
    print(f"# or a first line in ~/.ssh/config: Include {sshd.ssh_config}")
    return 0


def _status(options: argparse.Namespace) -> int:
    """Print what is installed, which daemons live and what the nodes do."""
    for name, programs in (("SLURM", SLURM), ("ssh", SSH)):
        print(f"{name}: {why_not(programs) or 'installed'}")
    if not _is_up(options.dir):
        print(f"{options.dir}: down")
        return 3
    lab, sshd = _both(options)
    for daemon in (*lab.daemons(), sshd.listener):
        print(f"{daemon.name}: {f'pid {daemon.identity.pid}' if daemon.identity else 'dead'}")
    subprocess.run(["sinfo", "-N", "-p", "main"], env=lab.environment, timeout=60)
    return 0


def _install(_options: argparse.Namespace) -> int:
    """Never fails: tests that lack something are left out, and say so."""
    why = install()
    for name, programs in (("slurm", SLURM), ("ssh", SSH)):
        if lacking := why_not(programs):
            print(f"tests marked {name} are left out: {lacking}; {why}")
    if not why_not(SLURM) and (why := install_slurmray()):
        print(f"tests with slurmray are left out: {why}")
    return 0


def _is_up(directory: Path) -> bool:
    return bool(Home(directory).processes())


def _both(options: argparse.Namespace) -> tuple[Lab, Sshd]:
    lab = Lab(options.dir, nodes=options.nodes, cpus=options.cpus)
    return lab, Sshd(options.dir / "ssh", env={"SLURM_CONF": str(lab.slurm_conf)})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("do", choices=["up", "down", "env", "status", "install"])
    parser.add_argument("--dir", type=Path, metavar="DIR", help="where it lives [%(default)s]",
                        default=base_directory() / f"allstop-cluster-{os.getuid()}")  # fmt: skip
    parser.add_argument("--nodes", type=int, default=4, metavar="N", help="[%(default)s]")
    parser.add_argument("--cpus", type=int, default=8, metavar="N", help="of each [%(default)s]")
    options = parser.parse_args()
    options.dir = options.dir.absolute()
    return options


if __name__ == "__main__":
    sys.exit(main())
