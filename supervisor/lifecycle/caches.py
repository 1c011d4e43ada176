"""Caches that are kept on disk between runs: bars and indicators."""

from __future__ import annotations


def purge_caches() -> int:
    """Delete the caches of bars and indicators.

    Returns
    -------
    int
        Bytes freed.
    """
    from supervisor.market import cache
    from workers.indicators import disk

    return cache.clear() + disk.clear(disk.default_directory())
