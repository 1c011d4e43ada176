"""Damage to everything that is read back: never a traceback, a wrong row, or a foreign effect.

``make fuzz`` plays rounds, as many as ``FUZZ_ROUNDS`` says for each target, from ``FUZZ_SEED``
on; ``make test`` plays a few hundred. A round damages the bytes of one file of a finished or a
killed run, reads it back by the code that reads it in earnest, and looks. ``control.py`` fuzzes
the control socket, with a tool that has to be installed first.
"""
