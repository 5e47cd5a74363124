from __future__ import annotations

import os
import signal
import threading

import pytest

from hessgnn.processes import uninterrupted


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
