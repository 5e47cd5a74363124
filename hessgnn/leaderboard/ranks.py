"""Ranks with ties within noise, and how they change with the labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from hessgnn.leaderboard.board import RegimeRanks, Row
from hessgnn.training.regimes import Regime

COMPARED: tuple[Regime, ...] = ("E", "E-F", "E-F+", "E-H", "E-F-H")
"""Regimes that ranks are given within."""


def ranked(rows: Iterable[Row]) -> list[Row]:
    """Sort rows by their overall score and number them; those within noise of the best of a rank share it.

    Parameters
    ----------
    rows
        In any order.

    Returns
    -------
    list of Row
        Best first; rows without an overall score last, without a rank.
    """
    ordered = sorted(rows, key=lambda row: (math.inf if row.overall is None else row.overall.mean, row.entry))
    found: list[Row] = []
    leader: Row | None = None
    for position, row in enumerate(ordered, start=1):
        if row.overall is None:
            found.append(row)
            continue
        if leader is None or not _touch(leader, row):
            leader = row.model_copy(update={"rank": position})
        found.append(row.model_copy(update={"rank": leader.rank}))
    return found


def _touch(better: Row, worse: Row) -> bool:
    (_, upper), (lower, _) = _interval(better), _interval(worse)
    return lower <= upper


def _interval(row: Row) -> tuple[float, float]:
    """Return mean ± std of the overall score; a spread that comes from failures is no noise and earns no tie."""
    if row.overall is None:
        return math.inf, math.inf
    spread = 0.0 if row.n_failed else row.overall.std or 0.0
    return row.overall.mean - spread, row.overall.mean + spread


def regime_ranks(rows: Sequence[Row]) -> list[RegimeRanks]:
    """Rank architectures among themselves, once for each kind of labels.

    Parameters
    ----------
    rows
        Of a leaderboard. Of several entries of an architecture and regime the best one counts, of those for equal
        steps.

    Returns
    -------
    list of RegimeRanks
        By architecture; empty unless two architectures share two regimes, since nothing could change then.
    """
    found: dict[Regime, dict[str, Row]] = {}
    for regime in COMPARED:
        first: dict[str, Row] = {}
        for row in ranked(row for row in rows if row.regime == regime and row.budget == "steps"):
            if row.overall is not None:
                first.setdefault(row.architecture, row)
        found[regime] = {row.architecture: row for row in ranked(first.values())}
    kept = [regime for regime in COMPARED if len(found[regime]) > 1]
    if len(kept) < 2:
        return []
    return [
        RegimeRanks(
            architecture=architecture,
            ranks={regime: _rank(found[regime].get(architecture)) for regime in kept},
            overall={
                regime: None if (best := found[regime].get(architecture)) is None else best.overall for regime in kept
            },
            places_gained=_places(found, architecture),
        )
        for architecture in sorted({name for regime in kept for name in found[regime]})
    ]


def _rank(row: Row | None) -> int | None:
    return None if row is None else row.rank


def _places(found: dict[Regime, dict[str, Row]], architecture: str) -> int | None:
    before, after = (_rank(found[regime].get(architecture)) for regime in ("E-F", "E-F-H"))
    return None if before is None or after is None else before - after
