"""Rounds on this machine: random kills at random instants over random workloads."""
