"""The words that say which rows of an indicator bank are written."""

from __future__ import annotations

from workers.poll import load_acquire, store_release


def publish(written, slot):  # type: ignore[no-untyped-def]
    """Mark a row as written: a process that sees the word sees the row."""
    store_release(written, slot, 1)


def unwritten(written, slots, missing):  # type: ignore[no-untyped-def]
    """Mark in `missing` which of the `slots` are not written yet.

    Parameters
    ----------
    written : ndarray of int64, shape (n_slots,)
        A word per slot, 0 until :func:`publish`.
    slots : ndarray of int64, shape (n,)
        Those that are wanted.
    missing : ndarray of bool, shape (n,)
        Output.

    Returns
    -------
    bool
        Whether any is missing.
    """
    some = False
    for i in range(len(slots)):
        missing[i] = load_acquire(written, slots[i]) == 0
        some |= missing[i]
    return some
