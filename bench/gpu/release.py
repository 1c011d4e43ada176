"""Stub."""

from bench.gpu.step import Bench


def measure(bench: Bench) -> None:
    """Stub."""
