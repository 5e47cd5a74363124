"""What may go wrong with one structure without ending a task: it is counted, with the reason."""

from __future__ import annotations

from hessgnn.data.neighbors import CoincidentAtoms
from hessgnn.errors import UserError

FAILURES = (UserError, ArithmeticError, ValueError, RuntimeError, OSError)
"""A surface that gives NaN, an optimisation or a self-consistent field that diverges, a missing engine. Other
exceptions are bugs, and end the command."""


class TaskFailure(Exception):
    """A structure, or a whole task, that gave no result; the message says why."""


def reason_of(error: BaseException) -> str:
    """What went wrong, in a line that is the same for all structures that fail alike, so that they can be counted."""
    if isinstance(error, CoincidentAtoms):  # of a simulation: which two, and where, says nothing
        return "two atoms fell onto each other"
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
