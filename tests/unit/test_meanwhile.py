"""A call that is made while its caller does something else."""

from __future__ import annotations

import threading

import pytest

from supervisor.system.meanwhile import Meanwhile
from tests.support.waiting import DEADLINE_S


def test_the_caller_goes_on_until_it_asks() -> None:
    go_on = threading.Event()
    meanwhile = Meanwhile(lambda: (go_on.wait(DEADLINE_S), threading.current_thread()))
    go_on.set()
    waited, thread = meanwhile.result()
    assert waited and thread is not threading.current_thread()
    assert meanwhile.result() == (waited, thread), "it may be asked for again"


@pytest.mark.parametrize("threads", [True, False])
def test_what_goes_wrong_is_raised_where_the_result_is_asked_for(
    threads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_to_be_had(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    if not threads:
        monkeypatch.setattr(threading.Thread, "start", none_to_be_had)
    meanwhile = Meanwhile(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        meanwhile.result()
