"""Data as its sources write it, read with the right values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support import formats
from tests.support.formats import FORMATS, Format


@pytest.mark.parametrize("each", FORMATS, ids=lambda each: f"{each.source}: {each.what}")
def test_the_same_bars_from_every_source(each: Format, tmp_path: Path) -> None:
    bars = each.load(tmp_path)
    assert bars.close.tolist() == formats.CLOSE
    wanted = (formats.OPEN, formats.HIGH, formats.LOW) if each.prices else (formats.CLOSE,) * 3
    for name, right in zip(("open", "high", "low"), wanted, strict=True):
        assert getattr(bars, name).tolist() == right, name
    assert bars.volume.tolist() == each.volume
    assert np.array_equal(bars.time, each.time.astype(np.int64))
    assert bars.notes[0].startswith("columns: time from ")


def test_the_table_of_the_docs_is_that_of_the_tests() -> None:
    """``make docs-data`` writes it anew."""
    assert formats.PAGE.read_text() == formats.page_with(formats.table())
