"""``python -m supervisor.doctor``: the findings of ``doctor`` as plain lines.

It needs the standard library only, for installations too damaged for
``python -m supervisor doctor``.
"""

from __future__ import annotations

import os
import sys

from supervisor.doctor.examine import examine
from supervisor.doctor.finding import Status
from supervisor.doctor.text import plain_lines
from supervisor.system.printable import make_encodable, printable


def main() -> int:
    """Print the findings; return the exit code."""
    findings = examine()
    for line in plain_lines(findings):
        print(printable(line))
    return int(any(finding.status is Status.PROBLEM for finding in findings))


if __name__ == "__main__":
    make_encodable(sys.stdout)
    code = main()
    sys.stdout.flush()
    os._exit(code)  # do not wait for the thread of a check that hangs
