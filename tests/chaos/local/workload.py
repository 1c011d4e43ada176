"""What the workers compute, and what they do besides: one strategy file, told how to behave.

Every process that a strategy starts can be found again whatever it does to hide. It
inherits the test's token in its environment, the write end of a FIFO (whose EOF proves
that no process has it any more) and the mapping of a file named after the round. Closing
descriptors leaves the mapping, another environment too; a program that is executed with
an empty environment has the token among its arguments.
"""

from __future__ import annotations

from enum import StrEnum


class Behaviour(StrEnum):
    """What a worker does at one combination of the grid, besides computing it."""

    STEADY = "steady"
    FORK = "fork"
    DAEMON = "daemon"
    EXEC = "exec"
    CHAIN = "chain"
    FREEZE = "freeze"
    CLOSE = "close"
    SCRUB = "scrub"
    CRASH = "crash"


class Hold(StrEnum):
    """How a worker stays in that combination: not at all, or until it is stopped."""

    NONE = "none"
    POLITE = "polite"
    DEAF = "deaf"
    STUBBORN = "stubborn"


AT = 7
"""The combination at which a worker behaves: late enough for some rows before it."""

FIFO, MARK, ARMED = "held.fifo", "held.map", "armed"

STRATEGY = """
import ctypes, mmap, os, signal, sys, time
from pathlib import Path

HERE = Path(__file__).parent

# inherited by whatever is forked or executed below
HELD = os.open(HERE / FIFO, os.O_WRONLY | os.O_NONBLOCK)
os.set_inheritable(HELD, True)
with open(HERE / MARK, "r+b") as file:
    MAPPED = mmap.mmap(file.fileno(), 4096)


def first(name):
    try:
        (HERE / f"{name}.once").open("x").close()
    except FileExistsError:
        return False
    return True


def deaf():
    '''The GIL is kept: no Python signal handler runs, no other thread does.'''
    ctypes.PyDLL(None).sleep(LIFE_S)


def linger():
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).sleep(LIFE_S)
    os._exit(0)


def child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def daemon(work):
    '''Fork twice, with a session of its own in between: it has no parent of ours.'''
    def middle():
        os.setsid()
        child(work)
    os.waitpid(child(middle), 0)


def execute(environment):
    name = f"lingers-{os.environ[COOKIE]}"
    # as long as it runs Python still, it is not what it is meant to be: exec closes the pipe
    started, starting = os.pipe()
    daemon(lambda: os.execve("/bin/sleep", [name, str(LIFE_S)], environment))
    os.close(starting)
    os.read(started, 1)
    os.close(started)


def chain(left=100):
    '''Every link lives for some ms only: each look finds another process.'''
    while left and child(lambda: None):
        time.sleep(0.01)
        pid = os.fork()
        if pid:
            os._exit(0)
        left -= 1


def closed():
    os.closerange(0, 256)
    linger()


def behave():
    if BEHAVIOUR == "fork":
        child(linger), child(linger)
    elif BEHAVIOUR == "daemon":
        daemon(linger)
    elif BEHAVIOUR == "exec":
        execute(dict(os.environ))
    elif BEHAVIOUR == "chain":
        daemon(chain)
    elif BEHAVIOUR == "freeze":
        os.kill(child(linger), signal.SIGSTOP)
    elif BEHAVIOUR == "close":
        daemon(closed)
    elif BEHAVIOUR == "scrub":
        execute({})
    elif BEHAVIOUR == "crash" and first("crash"):
        os._exit(3)


def hold(stop):
    if HOLD == "polite":
        stop.wait()
    elif HOLD == "deaf":
        deaf()
    elif HOLD == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            deaf()


def f(bars, params, stop):
    a = params["a"]
    if FAILS and a % 10 == 3:
        raise ValueError(f"no result for {a}")
    if a == AT:
        behave()
        if (HERE / ARMED).exists():
            hold(stop)
            if stop.is_set():
                return None
    time.sleep(STEP_S)
    return {"sharpe": a ** 0.5 * float(bars.close[-1]), "trades": a % 7, "twice": 2.0 * a}
"""

LIFE_S = 60
"""What a broken driver leaves behind ends by itself."""


def source(behaviour: Behaviour, hold: Hold, step_s: float, *, fails: bool, cookie: str) -> str:
    """Text of the strategy file."""
    constants = {
        "FIFO": FIFO, "MARK": MARK, "ARMED": ARMED, "AT": AT, "LIFE_S": LIFE_S, "COOKIE": cookie,
        "BEHAVIOUR": str(behaviour), "HOLD": str(hold), "STEP_S": step_s, "FAILS": fails,
    }  # fmt: skip
    return "".join(f"{name} = {value!r}\n" for name, value in constants.items()) + STRATEGY
