"""The warden: forks workers, hands out chunks, performs the stop, reaps every process.

It runs in a session of its own with a single thread, and outlives the front. When the
front dies, the warden reads EOF on its lifeline (or the front's pidfd becomes readable,
should another process hold the lifeline open) and performs the same stop.

One wait covers the front, the workers, dead children, control-socket clients and the
deadline of the current rung. :mod:`supervisor.warden.escalation` and
:mod:`supervisor.warden.dispatch`, which are pure, decide what to do;
:mod:`supervisor.warden.run` does it.
"""
