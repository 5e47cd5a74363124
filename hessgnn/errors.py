"""Errors that a user can fix.

Everything raised as :class:`UserError` is printed as one line and ends the command with exit status 2. Any other
exception is a bug of this package: exit status 1, with the traceback in ``error.log``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class UserError(Exception):
    """Wrong input, reported in one line: what, where, and how to fix it.

    Parameters
    ----------
    what
        What is wrong, as a sentence without its full stop.
    where
        The file, key or structure concerned.
    hint
        What the user can do about it, in the imperative.
    """

    status: ClassVar[int] = 2
    """Exit status of the command."""

    def __init__(self, what: str, *, where: object | None = None, hint: str | None = None) -> None:
        self.what, self.where, self.hint = what, where, hint
        line = what if where is None else f"{where}: {what}"
        if hint is not None:
            line = f"{line}. Hint: {hint}"
        super().__init__(" ".join(line.split()))  # names and reasons come from files, and may hold line breaks


class DataError(UserError):
    """A data set that is missing, damaged, or fails a check."""


class ConfigError(UserError):
    """A configuration file or key that cannot be used."""


class TrainingError(UserError):
    """A training run that cannot start or continue."""


class NothingTrained(TrainingError):
    """All of many runs failed: the input was right, but there is no result."""

    status = 1


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggest the known names closest to ``name``, or list them all when none is close.

    Parameters
    ----------
    name
        What the user wrote.
    known
        The names that exist.

    Returns
    -------
    str
        A sentence that can stand as the hint of a :class:`UserError`.
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(match) for match in close) + "?"
    return "choose one of " + ", ".join(names) if names else "leave it out, since there is nothing to choose from"
