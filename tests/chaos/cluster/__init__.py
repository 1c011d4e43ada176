"""Rounds with a cluster: random kills and faults of runs that have jobs there."""
