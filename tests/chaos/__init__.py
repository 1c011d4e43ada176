"""Chaos: random kills at random instants over random workloads, from a seed.

``python -m tests.chaos --rounds 1000 --seed 1`` plays a thousand rounds on this machine,
``--cluster`` with jobs on a real SLURM, ``--client`` with a SLURM client that is killed
while it submits. A seed describes a round entirely, except for what the machine makes of it.
"""
