"""The environment of the processes that this package starts."""

from __future__ import annotations

import os

from supervisor.errors import ConfigError

RUN_ID = "ALLSTOP_RUN_ID"
"""The variable that identifies a run's processes, see
:mod:`supervisor.containment.cookie`."""

ROOM = "-" * 64
"""Placeholder for it in a process that will belong to a run later."""

_ONE_THREAD = {
    # The warden must have one thread (PR_SET_PDEATHSIG follows the thread that forks, and a
    # forked child has only that one); a worker is one core's worth of work.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
}


def working_directory() -> str:
    """Return the working directory.

    Raises
    ------
    ConfigError
        If it was deleted.
    """
    try:
        return os.getcwd()  # noqa: PTH109 - pathlib is not loaded yet
    except FileNotFoundError:
        raise ConfigError("the working directory was deleted: change to another one") from None


def child_environment() -> dict[str, str]:
    """Return the environment for another process of this package, limited to one thread."""
    env = dict(os.environ) | _ONE_THREAD
    # not pathlib, which takes longer to load than everything else that a launch needs
    root = os.path.abspath(f"{__file__}/../../..")  # noqa: PTH100
    if os.path.basename(root) not in ("site-packages", "dist-packages"):  # noqa: PTH119
        # run from a checkout: -P keeps the current directory off sys.path, so add the checkout
        env["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [env.get("PYTHONPATH")])])
    return env


def with_room(environment: dict[str, str]) -> dict[str, str]:
    """Add the placeholder for a run's id to the environment of a warden."""
    return environment | {RUN_ID: ROOM}
