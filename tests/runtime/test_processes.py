from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from hessgnn.runtime.processes import uninterrupted


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """As in the foreground; a shell lets what it runs in the background ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_waits_for_what_is_short() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        done.append("the whole of it")
    assert done == ["the whole of it"]
    with uninterrupted():
        done.append("nothing was pressed")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert len(done) == 2


def test_an_error_inside_is_told_rather_than_the_key() -> None:
    with pytest.raises(ValueError, match="mine"), uninterrupted():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        raise ValueError("mine")


def test_other_threads_are_left_alone() -> None:
    seen = []

    def work() -> None:
        with uninterrupted():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


def test_what_ignores_ctrl_c_goes_on_ignoring_it() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with uninterrupted():
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
