"""Where the entries of a leaderboard learned: which are ranked against each other, and what is said of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from hessgnn.leaderboard.board import Row
from hessgnn.training.regimes import OriginKind

PUBLISHED = (
    "Published entries have the weights that they came with; only the energy of each element was fitted to these data. "
    "They were trained on other data, at other levels of theory and at a cost that is not known here. So they have no "
    "rank, and there is no verdict between them and entries that were trained on these data."
)

ELSEWHERE = (
    "{entries}: trained on data at another level of theory than these. They have no rank, and their errors of "
    "energies cannot be compared. A run of zero steps that starts from one (training.start=RUN "
    "training.steps=0) has the energy of each element fitted to these data."
)

RANKED: Mapping[OriginKind, int] = {
    **dict.fromkeys(("trained here", "external", "baseline"), 0),
    "fine-tuned": 1,
    "trained elsewhere": 2,
    "published": 3,
}
"""Entries of different numbers are not ranked against each other. Lower numbers stand first."""
UNRANKED: tuple[OriginKind, ...] = ("trained elsewhere", "published")
"""They learned from other data than these, so they have no rank."""


def ranked_by_origin(rows: Sequence[Row], rank: Callable[[Iterable[Row]], list[Row]]) -> list[Row]:
    """Rank those that learned from the same data alike; where a baseline is alone, nothing is ranked."""
    groups = [rank(row for row in rows if RANKED[row.origin] == place) for place in sorted(set(RANKED.values()))]
    return [
        row.model_copy(update={"rank": None})
        if row.origin in UNRANKED or all(other.origin == "baseline" for other in group)
        else row
        for group in groups
        for row in group
    ]
