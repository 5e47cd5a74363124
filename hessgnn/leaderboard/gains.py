"""What Hessian labels buy: errors with them over errors without them, per architecture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import product

from hessgnn.leaderboard.board import Gain, Ratio, Row, Score


def gains(rows: Sequence[Row], splits: Iterable[str], metrics: Iterable[str]) -> list[Gain]:
    """Divide each architecture's E-F-H errors by its E-F errors.

    Parameters
    ----------
    rows
        The leaderboard's rows. Several entries of one architecture and regime are compared pair by pair.
    splits, metrics
        For which ratios are wanted.

    Returns
    -------
    list of Gain
        By architecture. Where one of the two regimes is missing or has no number, the ratio is None.
    """
    splits, metrics = list(splits), list(metrics)
    table = []
    for architecture in sorted({row.architecture for row in rows if row.regime in ("E-F", "E-F-H")}):
        mine = [row for row in rows if row.architecture == architecture]
        with_hessian: list[Row | None] = [row for row in mine if row.regime == "E-F-H"]
        without: list[Row | None] = [row for row in mine if row.regime == "E-F"]
        for new, old in product(with_hessian or [None], without or [None]):
            table.append(
                Gain(
                    architecture=architecture,
                    with_hessian=None if new is None else new.entry,
                    without_hessian=None if old is None else old.entry,
                    ratios={
                        split: {name: _ratio(_score(new, split, name), _score(old, split, name)) for name in metrics}
                        for split in splits
                    },
                    device_seconds=_cost_ratio(new, old),
                    n_failed=sum(row.n_failed for row in (new, old) if row is not None),
                )
            )
    return table


def _score(row: Row | None, split: str, name: str) -> Score | None:
    return None if row is None else row.scores.get(split, {}).get(name)


def _ratio(new: Score | None, old: Score | None) -> Ratio | None:
    if new is None or old is None or old.mean == 0:
        return None
    value = new.mean / old.mean
    std = None
    if new.std is not None and old.std is not None:
        # d(a/b) = da/b - a/b · db/b, with a and b independent
        std = math.hypot(new.std, value * old.std) / old.mean
    return Ratio(value=value, std=std)


def _cost_ratio(new: Row | None, old: Row | None) -> float | None:
    if new is None or old is None or new.device_seconds is None or not old.device_seconds:
        return None
    return new.device_seconds / old.device_seconds
