"""How figures are put into words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hessgnn.errors import DataError

ARCHITECTURES = {"ani": "ANI", "nequip": "NequIP", "schnet": "SchNet"}
"""Name in tables -> name in sentences."""

NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()  # noqa: SIM905


def require(condition: bool, otherwise: str) -> str:
    """Let a page be written only as long as what it says is true.

    Parameters
    ----------
    condition
        What a sentence takes for granted.
    otherwise
        Which sentence is to be written anew.

    Returns
    -------
    str
        Nothing, so that it may stand anywhere in a template.

    Raises
    ------
    DataError
        When the condition does not hold.
    """
    if not condition:
        raise DataError(f"no longer true: {otherwise}", hint="write that sentence anew, after looking at the results")
    return ""


def span(values: Iterable[float], digits: int = 0) -> str:
    """From the smallest to the largest, such as ``0.14 to 0.22``."""
    values = list(values)
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def joined(items: Sequence[object]) -> str:
    """A list in a sentence."""
    parts = [str(item) for item in items]
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def word(value: int) -> str:
    """A small number as a word."""
    return NUMBERS[value] if value < len(NUMBERS) else f"{value:,}"
