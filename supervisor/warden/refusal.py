"""The record of a run that the warden could not start.

The front learns of a refusal by a message. A front that dies before it has written its
report leaves only the fact in ``events.jsonl``, so the fact is written first.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from supervisor.errors import UntrustedError
from supervisor.ipc import messages
from supervisor.records.events import EventLog
from supervisor.records.scribe_line import ScribeLine


def record_refusal(
    run_dir: Path, refusal: messages.RunRefused, scribe: ScribeLine | None = None
) -> None:
    """Write ``warden.run_refused`` to a run's facts.

    Only an existing file is appended to: the front removes the directory of a run that was
    refused for a mistake in its options, and must not find it filled again.
    """
    with contextlib.suppress(OSError, UntrustedError):  # the front must be told in any case
        log = EventLog(run_dir, "warden", create=False, scribe=scribe)
        try:
            log.emit("run_refused", **refusal._asdict())
        finally:
            log.close()
