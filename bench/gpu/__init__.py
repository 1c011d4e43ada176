"""``python -m bench gpu``: what only an NVIDIA GPU can show, in one call of seven minutes.

One step a file; :mod:`bench.gpu.plan` lists them in the order of their value. Each runs in a
process of its own under a time limit and writes what it finds at once, so a step that fails,
hangs or is killed costs itself and nothing else.

Nothing here changes a device's settings, and signals go only to processes started here.
"""
