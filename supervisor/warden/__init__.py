"""The warden: forks workers, hands out chunks, carries out the stop, reaps everything.

It runs in a session of its own with a single thread, and outlives the front:
when the front dies the warden reads EOF on its line (or the front's pidfd turns
readable, whoever else still holds that line) and carries out the same stop.

One wait for everything: the front, workers, dead children, callers from outside
and the deadline of the present rung. What to do is decided by
:mod:`supervisor.warden.escalation` and :mod:`supervisor.warden.dispatch`, which are pure;
:mod:`supervisor.warden.run` performs it.
"""
