"""A real SLURM of several nodes and a real sshd on this machine, each in a directory of its own.

``python -m tests.cluster up`` starts both for trying things out; the fixtures in
``conftest.py`` start them for tests.
"""
