"""Signals as a process finds them when it starts: what its parent had blocked or ignored.

Both outlive ``exec``. Some job runners and launchers start their children with signals
blocked; a stop would then wait for ever, in each process below. A blocked signal means nothing
on purpose: it is unblocked. SIGHUP that is ignored was meant (``nohup``), and stays so.
"""

from __future__ import annotations

import signal

_ignored: set[int] = set()


def settle() -> None:
    """Unblock every signal, and let the deaths of children be seen; call it first of all.

    Ignored SIGCHLD would have the kernel reap our children before we have seen how they ended.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        _ignored.add(signal.SIGHUP)
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def was_ignored(number: int) -> bool:
    """Whether this process was started with a signal ignored that should stay so below it."""
    return number in _ignored
