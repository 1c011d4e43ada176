"""The environment that processes of ours are started with."""

from __future__ import annotations

import os

import supervisor

RUN_ID = "ALLSTOP_RUN_ID"
"""The variable by which a run's processes are told from others, see
:mod:`supervisor.containment.cookie`."""

ROOM = "-" * 64
"""What stands in its place, in a process that is to belong to a run later."""

_ONE_THREAD = {
    # The warden must have one thread (PR_SET_PDEATHSIG follows the thread that forks, and a
    # forked child has only that one); a worker is one core's worth of work.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
}


def child_environment() -> dict[str, str]:
    """Environment for another process of this package's: it finds the package, and one thread."""
    env = dict(os.environ) | _ONE_THREAD
    # in pathlib's stead, which takes longer to load than all else that a launch needs
    root = os.path.dirname(os.path.dirname(os.path.abspath(supervisor.__file__)))  # noqa: PTH100, PTH120
    if os.path.basename(root) not in ("site-packages", "dist-packages"):  # noqa: PTH119
        # run from a checkout: -P keeps the current directory off the path, so say where we are
        env["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [env.get("PYTHONPATH")])])
    return env


def with_room(environment: dict[str, str]) -> dict[str, str]:
    """Add room for a run's id to the environment that a warden is started with."""
    return environment | {RUN_ID: ROOM}
