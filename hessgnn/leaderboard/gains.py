"""What labels buy: ratios of the errors with two kinds of them, with intervals over families and trainings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from hessgnn.evaluation.tasks.base import Task, task_of
from hessgnn.leaderboard.board import Change, Gain, Ratio, Row, Score
from hessgnn.leaderboard.collect import Families, RunFiles
from hessgnn.leaderboard.comparisons import (
    BUDGETS,
    COMPARISONS,
    STATIONARY,
    differences,
    finite,
    is_counterpart,
    paired,
    scale_of,
)
from hessgnn.leaderboard.inference import FEWEST_FAMILIES, FEWEST_TRAININGS, contrast
from hessgnn.training.regimes import UNTRAINED

RESAMPLES = 2000
CONFIDENCE = 0.95
SEED = 20250307
"""Of the resamples, so that the same records give the same page."""
Array = NDArray[np.float64]


def gains(
    rows: Sequence[Row],
    splits: Iterable[str],
    metrics: Iterable[str],
    loaded: Sequence[RunFiles] = (),
    families: Families | None = None,
    zero_force: Mapping[str, float | None] | None = None,
) -> list[Gain]:
    """Divide each architecture's errors with one kind of labels by those with another, the main comparison first.

    Several entries of one architecture and regime are compared pair by pair. A ratio is None where one of the two
    regimes is missing or has no number, and for forces where one of the two is not a force field. It has intervals
    where the errors of each structure are in ``loaded``. Comparisons that an architecture does not have are left out,
    but for the control where it has no other.
    """
    splits, metrics, families, zero_force = list(splits), list(metrics), families or Families(loaded), zero_force or {}
    table = []
    rows = [row for row in rows if row.origin != "trained elsewhere"]  # its labels are of other data
    for comparison, budget in product(COMPARISONS, BUDGETS):
        for architecture in sorted({row.lineage for row in rows if row.regime in comparison[:2]}):
            mine = [row for row in rows if row.lineage == architecture]
            without: list[Row | None] = [
                row for row in mine if row.regime == comparison.without and row.budget == budget
            ]
            having: list[Row | None] = [
                row
                for row in mine
                if row.regime == comparison.having and is_counterpart(budget, budget, row.budget, row.regime)
            ]
            alone = comparison.control and budget == "steps" and not any(row.regime == "E-F+" for row in mine)
            if not (without or having) or not (alone or (without and having)):
                continue
            for new, old in product(having or [None], without or [None]):
                withheld = {
                    split: why for split in splits if (why := _withheld(new, old, split, zero_force.get(split)))
                }
                table.append(
                    Gain(
                        architecture=architecture,
                        budget=budget,
                        regimes=(comparison.without, comparison.having),
                        control=comparison.control,
                        with_hessian=None if new is None else new.entry,
                        without_hessian=None if old is None else old.entry,
                        ratios={
                            split: {
                                name: None
                                if name.startswith("forces_") and split in withheld
                                else _with_interval(new, old, split, name, loaded, families)
                                for name in metrics
                            }
                            for split in splits
                        },
                        withheld=withheld,
                        device_seconds=_cost_ratio(new, old),
                        n_failed=sum(row.n_failed for row in (new, old) if row is not None),
                    )
                )
    return table


def changes(
    rows: Sequence[Row],
    splits: Iterable[str],
    metrics: Iterable[str],
    loaded: Sequence[RunFiles] = (),
    families: Families | None = None,
) -> list[Change]:
    """Divide the errors of each fine-tuned entry by those of what it started from, where that is an entry too.

    The start is an entry with the weights of before, evaluated on the same data. Ratios are those of :func:`gains`.
    """
    splits, metrics, families = list(splits), list(metrics), families or Families(loaded)
    found = []
    for row in rows:
        before = start_of(row, rows) if row.origin == "fine-tuned" else None
        if before is not None:
            ratios = {
                split: {name: _with_interval(row, before, split, name, loaded, families) for name in metrics}
                for split in splits
            }
            found.append(Change(entry=row.entry, before=before.entry, ratios=ratios))
    return found


def start_of(row: Row, rows: Sequence[Row]) -> Row | None:
    """The entry that a fine-tuned one started from: one that kept the same weights untrained, or by its name.

    The former has reference energies that were fitted to these data, as the fine-tuned one had at first.
    """
    others = [other for other in rows if other.architecture == row.architecture and other is not row]
    named = [other for other in others if other.entry == row.start]
    kept = [other for other in others if other.origin == "published" and other.start == row.start]
    return next(iter([*kept, *named]), None)


def _withheld(new: Row | None, old: Row | None, split: str, zero: float | None) -> str:
    """Why there is no ratio of forces; empty where there is one."""
    if zero is not None and zero < STATIONARY:
        return "no forces there"
    return "not a force field" if any(row is not None and split in row.not_force_field for row in (new, old)) else ""


def gain_label(gain: Gain, gains: Sequence[Gain]) -> str:
    """Name a comparison: by its architecture, or by its two entries where it has several; ``*`` marks failed seeds."""
    single = sum(other.architecture == gain.architecture for other in gains) <= 1
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


def _with_interval(
    new: Row | None, old: Row | None, split: str, name: str, loaded: Sequence[RunFiles], families: Families
) -> Ratio | None:
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
    fixed = len(without) == 1 and sides[1][0].record.regime in UNTRAINED  # no other training would differ
    without = without * len(having) if fixed else without
    definition = task.definitions[name]
    update: dict[str, float | int | None] = {}
    trainings = paired(sides[1], sides[0])
    values = [tuple(_errors(item, task, split, name) for item in two) for two in trainings]
    found = differences([(a, b) for a, b in values], partial(families.of, task.name, split)) if trainings else None
    if found is not None and scale_of(definition) == "ratio" and (geometric := contrast(found.table)) is not None:
        update |= {"geometric": geometric.estimate, "geometric_low": geometric.low, "geometric_high": geometric.high}
        update |= {"n_families": geometric.families, "n_trainings": geometric.trainings}
    of = families.of(task.name, split, {name for side in (*having, *without) for name in side})
    same = fixed or [item.record.seed for item in sides[0]] == [item.record.seed for item in sides[1]]
    square = definition.root_mean_square
    if (
        interval := ratio_interval(having, without, of, ratio=ratio.value, square=square, same_trainings=same)
    ) is not None:
        update |= interval._asdict()
    return ratio.model_copy(update=update)


def _errors(item: RunFiles, task: type[Task], split: str, name: str) -> dict[str, float]:
    """Structure by structure; empty where they are not saved, or one failed: means over different ones are no pair."""
    found = item.values(task.name, split).get(name, {})
    known = {subject: value for subject, value in finite(found).items() if value is not None}
    return known if len(known) == len(found) else {}


def _cost_ratio(new: Row | None, old: Row | None) -> float | None:
    if new is None or old is None or new.device_seconds is None or not old.device_seconds:
        return None
    return new.device_seconds / old.device_seconds


class Interval(NamedTuple):
    """A percentile interval of the bootstrap."""

    low: float
    high: float
    n_families: int


def ratio_interval(
    having: Sequence[Mapping[str, float]],
    without: Sequence[Mapping[str, float]],
    families: Mapping[str, str],
    *,
    ratio: float,
    square: bool = False,
    same_trainings: bool = True,
) -> Interval | None:
    """Bootstrap a ratio of mean errors over families, then trainings, then frames; both sides are resampled alike.

    All structures of a family are drawn together, since they are not independent; those of a family that was drawn are
    then drawn anew (A. C. Davison, D. V. Hinkley, Bootstrap Methods and their Application (1997), section 3.8). Few
    trainings that are drawn anew vary less than new ones would: their deviations are widened by :func:`_widening`.

    Parameters
    ----------
    having, without
        For each training, structure -> error; numerator and denominator.
    families
        Structure -> family.
    ratio
        The leaderboard's value. There is no interval where the errors do not reproduce it, as for a number that is
        no mean over structures.
    square
        Whether the means are root mean squares.
    same_trainings
        Whether trainings of both sides are pairs, in the same order, and so are drawn together.

    Returns
    -------
    Interval or None
        None also with fewer families than :data:`FEWEST_FAMILIES`, or fewer trainings than :data:`FEWEST_TRAININGS`.
    """
    sides = [*having, *without]
    if min(len(having), len(without)) < FEWEST_TRAININGS:
        return None
    names = list(sides[0])
    if any(set(side) != set(names) for side in sides):
        return None
    groups, membership = np.unique([families.get(name, name) for name in names], return_inverse=True)
    if len(groups) < FEWEST_FAMILIES:
        return None
    errors = np.array([[side[name] for name in names] for side in sides])  # (runs, structures)
    if square:
        errors = errors**2
    n = len(having)
    trainings = _trainings(n, len(without), same_trainings and n == len(without))

    def ratios(weights: Array, chosen: tuple[Array, Array] | None = None) -> Array:
        """Of draws ``(n, structures)``, with what each training counts beyond its mean share ``(n, trainings)``."""
        means = weights @ errors.T / weights.sum(axis=1, keepdims=True)
        means = np.sqrt(means) if square else means
        parts = [means[:, :n], means[:, n:]]
        top, below = (part.mean(axis=1) for part in parts)
        if chosen is None:
            return np.asarray(top / below)
        # Relative deviations are added to the logarithm, as widened ones could make a mean negative.
        first, second = ((part * share).sum(axis=1) for part, share in zip(parts, chosen, strict=True))
        return np.asarray(top / below * np.exp(first / top - second / below))

    with np.errstate(divide="ignore", invalid="ignore"):
        if not np.isclose(ratios(np.ones((1, len(names))))[0], ratio, rtol=1e-3):
            return None
        found = ratios(_draws(tuple(membership.ravel().tolist())), trainings)
    if not np.isfinite(found).all():
        return None
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(found, [tail, 100 - tail])
    return Interval(float(low), float(high), len(groups))


@lru_cache(maxsize=8)
def _draws(membership: tuple[int, ...]) -> Array:
    """How often each structure is drawn, ``(resamples, structures)``: the same for every ratio.

    ``membership`` is the number of each structure's family. ``scipy.stats.bootstrap`` has no levels.
    """
    rng = np.random.default_rng(SEED)
    family = np.array(membership)
    sizes = np.bincount(family)
    drawn = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), RESAMPLES)
    weights = np.zeros((RESAMPLES, len(family)))
    for k, size in enumerate(sizes):
        weights[:, family == k] = rng.multinomial(drawn[:, k] * size, np.full(size, 1 / size))
    return weights


@lru_cache(maxsize=8)
def _trainings(having: int, without: int, same: bool) -> tuple[Array, Array]:
    """What each training counts in each resample beyond its mean share; ``same`` for pairs, drawn together."""
    rng = np.random.default_rng(SEED + 1)
    first, second = (
        _widening(n) * (rng.multinomial(n, np.full(n, 1 / n), RESAMPLES) - 1) / n for n in (having, without)
    )
    return first, first if same else second


def _widening(trainings: int) -> float:
    """Of deviations of few trainings: their variance is that of a sample, and Student's t has longer tails.

    Deviations hold the scatter of single structures as well, so half of the latter, on a logarithmic scale: in
    simulations with three trainings intervals then hold the truth in 94 to 99 %.
    """
    reach = special.stdtrit(trainings - 1, (1 + CONFIDENCE) / 2) / special.ndtri((1 + CONFIDENCE) / 2)
    return float(math.sqrt(trainings / (trainings - 1) * reach))
