"""What Hessian labels buy: errors with them over errors without them, and intervals from resampled molecules."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hessgnn.evaluation.record import Budget
from hessgnn.evaluation.tasks.base import Task, task_of
from hessgnn.leaderboard.board import Gain, Ratio, Row, Score
from hessgnn.leaderboard.collect import RunFiles

BUDGETS: dict[Budget, str] = {"steps": "equal steps", "seconds": "equal device-seconds"}
"""What may be equal for both sides of a comparison."""
RESAMPLES = 2000
CONFIDENCE = 0.95
SEED = 20250307
"""Of the resamples, so that the same records give the same page."""
FEWEST_MOLECULES = 6
"""Resampling fewer tells more of the method than of the molecules."""

Array = NDArray[np.float64]


def comparable(budget: Budget, without: Budget, having: Budget) -> bool:
    """Whether entries without and with Hessians are a pair under ``budget``.

    Runs for equal time were given the device-seconds that E-F-H took for its steps, so that same E-F-H is their
    counterpart.
    """
    return without == having == "steps" if budget == "steps" else without == "seconds"


def gains(
    rows: Sequence[Row], splits: Iterable[str], metrics: Iterable[str], loaded: Sequence[RunFiles] = ()
) -> list[Gain]:
    """Divide each architecture's E-F-H errors by its E-F errors.

    Several entries of one architecture and regime are compared pair by pair. A ratio is None where one of the two
    regimes is missing or has no number. It has an interval where the errors of each structure are in ``loaded``.
    """
    splits, metrics = list(splits), list(metrics)
    table = []
    names = sorted({row.architecture for row in rows if row.regime in ("E-F", "E-F-H")})
    for budget, architecture in product(BUDGETS, names):
        mine = [row for row in rows if row.architecture == architecture]
        without: list[Row | None] = [row for row in mine if row.regime == "E-F" and row.budget == budget]
        having: list[Row | None] = [
            row for row in mine if row.regime == "E-F-H" and comparable(budget, budget, row.budget)
        ]
        if budget != "steps" and not without:
            continue
        for new, old in product(having or [None], without or [None]):
            if new is None and old is None:
                continue
            table.append(
                Gain(
                    architecture=architecture,
                    budget=budget,
                    with_hessian=None if new is None else new.entry,
                    without_hessian=None if old is None else old.entry,
                    ratios={
                        split: {name: _with_interval(new, old, split, name, loaded) for name in metrics}
                        for split in splits
                    },
                    device_seconds=_cost_ratio(new, old),
                    n_failed=sum(row.n_failed for row in (new, old) if row is not None),
                )
            )
    return table


def gain_label(gain: Gain, gains: Sequence[Gain]) -> str:
    """Name a comparison: by its architecture, or by its two entries where it has several; ``*`` marks failed seeds."""
    single = sum(other.architecture == gain.architecture for other in gains) == 1
    name = gain.architecture if single else f"{gain.with_hessian} over {gain.without_hessian}"
    return f"{name} *" if gain.n_failed else name


def _ratio(new: Score | None, old: Score | None) -> Ratio | None:
    if new is None or old is None or old.mean == 0:
        return None
    value = new.mean / old.mean
    std = None
    if new.std is not None and old.std is not None:
        # d(a/b) = da/b - a/b · db/b, with a and b independent
        std = math.hypot(new.std, value * old.std) / old.mean
    return Ratio(value=value, std=std)


def _with_interval(new: Row | None, old: Row | None, split: str, name: str, loaded: Sequence[RunFiles]) -> Ratio | None:
    if new is None or old is None:
        return None
    ratio, task = _ratio(*(row.scores.get(split, {}).get(name) for row in (new, old))), task_of(name)
    if ratio is None or task is None:
        return ratio
    sides = [
        [item for item in loaded if item.record.entry == row.entry and item.record.status == "ok"] for row in (new, old)
    ]
    having, without = ([_errors(item, task, split, name) for item in side] for side in sides)
    if not all([*having, *without]):
        return ratio  # of one run at least, nothing but its mean is known
    molecules = sides[0][0].molecules(split)
    square = task.definitions[name].root_mean_square
    interval = ratio_interval(having, without, molecules, ratio=ratio.value, square=square)
    return ratio if interval is None else ratio.model_copy(update=interval._asdict())


def _errors(item: RunFiles, task: type[Task], split: str, name: str) -> dict[str, float]:
    """Structure by structure; empty where they are not saved, or one failed: means over different ones are no pair."""
    found = item.values(task.name, split).get(name, {})
    known = {subject: value for subject, value in found.items() if value is not None}
    return known if len(known) == len(found) else {}


def _cost_ratio(new: Row | None, old: Row | None) -> float | None:
    if new is None or old is None or new.device_seconds is None or not old.device_seconds:
        return None
    return new.device_seconds / old.device_seconds


class Interval(NamedTuple):
    """A percentile interval of the bootstrap."""

    low: float
    high: float
    n_molecules: int


def ratio_interval(
    having: Sequence[Mapping[str, float]],
    without: Sequence[Mapping[str, float]],
    molecules: Mapping[str, str],
    *,
    ratio: float,
    square: bool = False,
) -> Interval | None:
    """Bootstrap a ratio of mean errors over molecules, paired: both sides are resampled alike.

    All structures of one molecule or reaction are drawn together, since they are not independent
    (A. C. Davison, D. V. Hinkley, Bootstrap Methods and their Application (1997), section 3.8). Seeds are averaged, not
    resampled.

    Parameters
    ----------
    having, without
        For each seed, structure -> error; numerator and denominator.
    molecules
        Structure -> molecule or reaction that it belongs to.
    ratio
        The leaderboard's value. There is no interval where the errors do not reproduce it, as for a number that is
        no mean over structures.
    square
        Whether the means are root mean squares.

    Returns
    -------
    Interval or None
        None also with fewer molecules than :data:`FEWEST_MOLECULES`.
    """
    sides = [*having, *without]
    if not having or not without:
        return None
    names = list(sides[0])
    if any(set(side) != set(names) for side in sides):
        return None
    groups, membership = np.unique([molecules.get(name, name) for name in names], return_inverse=True)
    if len(groups) < FEWEST_MOLECULES:
        return None
    errors = np.array([[side[name] for name in names] for side in sides])  # (runs, structures)
    if square:
        errors = errors**2
    sums = np.zeros((len(sides), len(groups)))
    for row, values in zip(sums, errors, strict=True):
        np.add.at(row, membership, values)
    counts = np.bincount(membership, minlength=len(groups)).astype(float)

    def ratios(weights: Array) -> Array:
        """Of draws ``(n, groups)``."""
        means = weights @ sums.T / (weights @ counts)[:, None]
        means = np.sqrt(means) if square else means
        return np.asarray(means[:, : len(having)].mean(axis=1) / means[:, len(having) :].mean(axis=1))

    with np.errstate(divide="ignore", invalid="ignore"):
        if not np.isclose(ratios(np.ones((1, len(groups))))[0], ratio, rtol=1e-3):
            return None
        found = ratios(_draws(len(groups)))
    if not np.isfinite(found).all():
        return None
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(found, [tail, 100 - tail])
    return Interval(float(low), float(high), len(groups))


@lru_cache(maxsize=8)
def _draws(n: int) -> Array:
    """How often each of n molecules is drawn, ``(resamples, n)``: the same for every ratio.

    ``scipy.stats.bootstrap`` would draw other samples, and so move the last digits of every interval ever printed.
    """
    return np.random.default_rng(SEED).multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(float)
