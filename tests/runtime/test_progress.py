import io
import sys

import pytest

from hessgnn.runtime.terminal import tracked


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    def begin():
        """In the test itself: between fixtures and test, pytest sets the stream anew."""
        monkeypatch.setattr(sys, "stderr", Terminal())
        return sys.stderr

    monkeypatch.setenv("TERM", "xterm")
    return begin


def test_quiet_where_it_is_fast(terminal):
    screen = terminal()
    assert list(tracked([1, 2, 3], "reading")) == [1, 2, 3]
    assert screen.getvalue() == ""


def test_quiet_where_nobody_looks(monkeypatch, capsys):
    monkeypatch.setattr("hessgnn.runtime.terminal.PATIENCE", -1.0)
    assert list(tracked([1, 2, 3], "reading")) == [1, 2, 3]
    assert capsys.readouterr().err == ""


def test_a_bar_where_it_is_slow(terminal, monkeypatch):
    monkeypatch.setattr("hessgnn.runtime.terminal.PATIENCE", -1.0)
    screen = terminal()
    assert list(tracked(range(3), "reading x.h5")) == [0, 1, 2]
    assert "reading x.h5" in screen.getvalue()
