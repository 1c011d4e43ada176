"""Chaos: random kills at random instants over random workloads, from a seed.

``python -m tests.chaos --rounds 1000 --seed 1`` runs a thousand rounds; what a round
does is told entirely by its seed, see :mod:`tests.chaos.scenario`.
"""
