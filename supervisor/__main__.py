"""``python -m supervisor`` and ``fullstop``."""

from __future__ import annotations

import sys


def main() -> None:
    """Start the warden first, if there will be a run, and the command line meanwhile.

    The warden takes a third of a second to load numba; the command line and
    the data take about as long, on another core.
    """
    arguments = sys.argv[1:]
    if sys.platform == "linux" and arguments[:1] == ["run"] and "--help" not in arguments:
        from supervisor.link import prewarm

        prewarm()
    from supervisor.cli.main import main as run_command_line

    run_command_line(arguments)


if __name__ == "__main__":
    main()
