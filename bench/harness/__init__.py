"""Shared parts of the measurements: sizes, processes, turns, statistics, tables."""
