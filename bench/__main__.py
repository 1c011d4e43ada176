"""``python -m bench [NAME…]`` measures on the CPU, ``python -m bench gpu`` on a GPU."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line that was given."""
    # decided by hand: a GPU machine may lack what the other command line is made with
    if sys.argv[1:2] == ["gpu"]:
        from bench.gpu.command import main as measure_gpu

        sys.exit(measure_gpu(sys.argv[2:]))
    from bench.harness.command import main as measure

    measure()


if __name__ == "__main__":
    main()
