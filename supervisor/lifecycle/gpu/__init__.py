"""A run's GPUs: which it computes on, and whether their memory is back afterwards.

:mod:`~supervisor.lifecycle.gpu.place` chooses, with :mod:`~supervisor.lifecycle.gpu.choice` and
:mod:`~supervisor.lifecycle.gpu.speed`. :mod:`~supervisor.lifecycle.gpu.observer` reads VRAM,
:mod:`~supervisor.lifecycle.gpu.release` judges the readings, and
:mod:`~supervisor.lifecycle.gpu.dead_run` does both for a run whose front has died.
"""
