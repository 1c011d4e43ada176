"""Indicators: computed once per run, shared by all combinations and all workers."""
