"""What signals do, as a terminal's programs have it, whatever started the tests.

A shell starts what it puts in the background with SIGINT and SIGQUIT ignored, ``nohup``
ignores SIGHUP, and what is ignored stays so in every program below. Ctrl+C in a test would
reach no process, and the test would wait for its effect.
"""

from __future__ import annotations

import signal


def as_from_a_terminal() -> None:
    """Ignore nothing that a terminal sends; block nothing."""
    for number, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGQUIT, signal.SIG_DFL),
        (signal.SIGHUP, signal.SIG_DFL),
        (signal.SIGTERM, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
