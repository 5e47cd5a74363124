"""What is compared with what, how much they differ training by training and family by family, and who is better."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hessgnn.evaluation.predictions import zero_force_mae
from hessgnn.evaluation.record import Budget, Record
from hessgnn.evaluation.tasks.base import MetricDefinition
from hessgnn.leaderboard.board import RegimeRanks, Row
from hessgnn.leaderboard.collect import Families, RunFiles
from hessgnn.leaderboard.inference import Contrast, Scale, by_family, contrast, decide, log_ratios
from hessgnn.training.regimes import UNTRAINED, Regime

BUDGETS: dict[Budget, str] = {"steps": "equal steps", "seconds": "equal device-seconds"}
"""What may be equal for both sides of a comparison."""
COMPARED: tuple[Regime, ...] = ("E", "E-F", "E-F+", "E-F+H", "E-H", "E-F-H")
"""Regimes that ranks are given within."""
QUANTITIES = ("energy", "forces", "hessian")
"""Parts of the overall score, and of what ranks are tested by."""
STATIONARY = 10.0
"""meV/Å: a split on which predicting no force at all does better than this holds stationary points."""

Array = NDArray[np.float64]
Values = Mapping[str, float | None]
"""Subject -> its number; ``None`` where it failed."""


class Comparison(NamedTuple):
    """Labels that are compared with, and labels that are compared."""

    without: Regime
    having: Regime
    control: bool = False
    """Whether it repeats the study: there, labels without Hessians cost less."""

    @property
    def title(self) -> str:
        """For headings."""
        name = f"{self.having} against {self.without}"
        return f"{name} (control: repeats the study)" if self.control else name


COMPARISONS = (Comparison("E-F+", "E-F-H"), Comparison("E-F+", "E-F+H"), Comparison("E-F", "E-F-H", control=True))
"""The main comparison, whose labels cost the same, first."""


def is_counterpart(budget: Budget, without: Budget, having: Budget, regime: Regime) -> bool:
    """Whether two entries are a pair under ``budget``.

    Runs for equal time were given the device-seconds that E-F-H took for its steps, so that same E-F-H is their
    counterpart. ``regime`` is that of the second entry.
    """
    if budget == "steps":
        return without == having == "steps"
    return without == "seconds" and having == ("steps" if regime == "E-F-H" else "seconds")


@dataclass(frozen=True)
class Pair:
    """Two entries of one architecture that are compared, each with its runs."""

    label: str
    budget: Budget
    comparison: Comparison
    without: Sequence[RunFiles]
    having: Sequence[RunFiles]
    fine_tuned: bool = False

    def trainings(self, wanted: Callable[[RunFiles], bool]) -> list[tuple[RunFiles, RunFiles]]:
        """Runs of the same seed, and so of the same draw of training data, of those that are wanted on both sides."""
        return paired(*([run for run in side if wanted(run)] for side in (self.without, self.having)))


def paired(without: Sequence[RunFiles], having: Sequence[RunFiles]) -> list[tuple[RunFiles, RunFiles]]:
    """Runs of the same seed. A predictor that is not trained, and so has one run, is compared with each."""
    for fixed, others, turned in ((without, having, False), (having, without, True)):
        if len(fixed) == 1 and fixed[0].record.regime in UNTRAINED:
            return [(other, fixed[0]) if turned else (fixed[0], other) for other in others]
    found = {run.record.seed: run for run in having}
    return [(run, found[run.record.seed]) for run in without if run.record.seed in found]


def pairs(loaded: Iterable[RunFiles], comparisons: Sequence[Comparison]) -> list[Pair]:
    """Return what is compared: the main comparison first, under equal steps, then for equal time."""
    entries: dict[tuple[tuple[str, str], str], dict[str, list[RunFiles]]] = {}
    for run in loaded:
        record = run.record
        if record.origin == "trained elsewhere":  # its labels are of other data
            continue
        entries.setdefault((lineage(record), record.regime), {}).setdefault(record.entry, []).append(run)
    lineages = list(dict.fromkeys(found for found, _ in entries))
    found: list[Pair] = []
    for comparison, budget, one in product(comparisons, BUDGETS, lineages):
        sides = [entries.get((one, regime), {}) for regime in comparison[:2]]
        matching = [
            (old, new)
            for old, new in product(*(side.items() for side in sides))
            if is_counterpart(budget, old[1][0].record.budget, new[1][0].record.budget, comparison.having)
        ]
        for (old, a), (new, b) in matching:
            architecture, start = one
            name = f"{architecture} from {start}" if start else architecture
            label = f"{new} / {old}" if len(matching) > 1 else name
            found.append(Pair(label, budget, comparison, a, b, fine_tuned=bool(start)))
    return found


def lineage(record: Record) -> tuple[str, str]:
    """Architecture and start of a run: labels are compared where both are the same."""
    return record.architecture, "" if record.start is None else record.start.title


def zero_force(loaded: Sequence[RunFiles], split: str) -> float | None:
    """Force MAE (meV/Å) of predicting no force on a split.

    The mean predictor's, or else from the references beside any saved predictions; None where neither is known.
    """
    for run in loaded:
        metric = run.record.metrics.get(split, {}).get("forces_mae")
        if run.record.regime == "mean" and metric is not None and metric.value is not None:
            return metric.value
    return next((zero_force_mae(run.files[split]) for run in loaded if split in run.files), None)


def is_force_field(forces_mae: float | None, zero: float | None) -> bool:
    """Whether forces are not known to be worse than none, on a split where there are forces."""
    return forces_mae is None or zero is None or zero < STATIONARY or forces_mae <= zero


def scale_of(definition: MetricDefinition | None) -> Scale:
    """Errors are compared by their ratio; shares and cosines, which may be zero, by their difference."""
    if definition is None:
        return "ratio"
    return (
        "difference" if definition.unit == "%" or (definition.unit, definition.better) == ("1", "higher") else "ratio"
    )


def finite(values: Values) -> dict[str, float | None]:
    """Values of subjects, with ``None`` for what is not a finite number."""
    return {name: value if value is not None and math.isfinite(value) else None for name, value in values.items()}


@dataclass(frozen=True)
class Differences:
    """How two kinds of labels differ, training by training and family by family.

    Attributes
    ----------
    table
        ``(trainings, families)``: logarithms of ratios, or differences of shares between 0 and 1.
    families
        Its columns.
    failed
        Subjects without a value on either side, over all trainings.
    """

    table: Array
    families: list[str]
    failed: tuple[int, int]


def differences(
    values: Sequence[tuple[Values, Values]],
    family: Callable[[Iterable[str]], Mapping[str, str]],
    *,
    scale: Scale = "ratio",
    percent: bool = False,
    worst: float | None = None,
) -> Differences:
    """Compare the numbers of two kinds of labels.

    Parameters
    ----------
    values
        For each training, those without and those with the labels.
    family
        Gives the family of each subject.
    scale, percent
        What is compared, and whether the numbers are percentages.
    worst
        Counts for a subject that failed. Where it is absent, a subject that failed in either is left out.

    Returns
    -------
    Differences
        Families that are not known in every training are left out, unless no family is: then trainings are folds, each
        with families of its own.
    """
    subjects = sorted({name for sides in values for side in sides for name in side})
    of = family(subjects)
    families = list(dict.fromkeys(of[name] for name in subjects))
    rows, failed = [], [0, 0]
    for sides in values:
        known = [np.array([_number(side, name, worst) for name in subjects], dtype=float) for side in sides]
        for k, side in enumerate(sides):
            failed[k] += sum(value is None for value in side.values())
        if scale == "ratio":
            change = log_ratios(known[1], known[0])
        else:
            change = (known[1] - known[0]) / (100.0 if percent else 1.0)
        given = {name: value for name, value in zip(subjects, change.tolist(), strict=True) if not math.isnan(value)}
        rows.append(by_family(given, of, families))
    table = np.array(rows).reshape(len(rows), len(families))
    complete: NDArray[np.bool_] = np.all(~np.isnan(table), axis=0)
    kept = complete
    if not complete.any() and _are_folds(table, values, [of[name] for name in subjects], subjects, families):
        kept = np.any(~np.isnan(table), axis=0)
    names = [name for name, keep in zip(families, kept, strict=True) if keep]
    return Differences(table[:, kept], names, (failed[0], failed[1]))


def _are_folds(
    table: Array,
    values: Sequence[tuple[Values, Values]],
    of: Sequence[str],
    subjects: Sequence[str],
    families: Sequence[str],
) -> bool:
    """Whether values are missing because each training was tested on families of its own, not because some failed."""
    place = {name: k for k, name in enumerate(families)}
    tested = np.zeros(table.shape, dtype=bool)
    for row, (a, b) in zip(tested, values, strict=True):
        row[[place[family] for name, family in zip(subjects, of, strict=True) if name in a and name in b]] = True
    apart = np.unique(tested.T, axis=0).sum(axis=0).max() == 1
    return bool(apart and (tested == ~np.isnan(table)).all() and tested.any(axis=1).all())


def _number(side: Values, name: str, worst: float | None) -> float:
    if name not in side:
        return math.nan
    value = side[name] if side[name] is not None else worst
    return math.nan if value is None else value


def ranked(
    rows: Iterable[Row],
    loaded: Sequence[RunFiles] = (),
    families: Families | None = None,
    weights: Mapping[str, float] | None = None,
    zero_force: Mapping[str, float | None] | None = None,
) -> list[Row]:
    """Sort rows by their overall score and number them; those that are not shown to be worse than the best tie with it.

    The best of a rank is compared with every entry behind it by the mixed model over families and trainings: the mean
    over the splits of the logarithm of the ratio of their errors of energy, forces and Hessian, weighted as in the
    overall score. The p-values are corrected by Holm's method for the number of these comparisons. An entry starts the
    next rank where it is worse; it also does where more of its seeds failed. With fewer than three trainings or six
    families, without saved predictions, with runs that are not converged or those of a demonstration, nothing is shown,
    and entries tie. Rows without an overall score come last, without a rank.

    Parameters
    ----------
    rows
        To be ranked.
    loaded, families
        Their runs, and the families of what they predicted.
    weights
        Of energy, forces and Hessian.
    zero_force
        Force MAE (meV/Å) of predicting no force on each split; forces do not count where it is nearly zero.
    """
    ordered = sorted(rows, key=lambda row: (math.inf if row.overall is None else row.overall.mean, row.entry))
    runs: dict[str, list[RunFiles]] = {}
    for run in loaded:
        if run.record.status == "ok":
            runs.setdefault(run.record.entry, []).append(run)
    found: list[Row] = []
    leader: Row | None = None
    worse: set[str] = set()
    for position, row in enumerate(ordered, start=1):
        if row.overall is None:
            found.append(row)
            continue
        if leader is None or row.entry in worse:
            leader = row.model_copy(update={"rank": position})
            behind = [other for other in ordered[position:] if other.overall is not None]
            contrasts = [
                _between(runs.get(row.entry, []), runs.get(other.entry, []), families, weights or {}, zero_force or {})
                for other in behind
            ]
            decisions = decide(contrasts, ["lower"] * len(behind))
            worse = {
                other.entry
                for other, decision in zip(behind, decisions, strict=True)
                if other.n_failed > row.n_failed or (decision is not None and decision.verdict == "worse")
            }
        found.append(row.model_copy(update={"rank": leader.rank}))
    return found


def _between(
    best: Sequence[RunFiles],
    other: Sequence[RunFiles],
    families: Families | None,
    weights: Mapping[str, float],
    zero_force: Mapping[str, float | None],
) -> Contrast | None:
    """By how much the errors of an entry are larger than those of the best."""
    trainings = paired(best, other)
    if families is None or not trainings or not all(_may_be_ranked(run) for two in trainings for run in two):
        return None
    splits = [split for split in trainings[0][0].files if all(split in run.files for two in trainings for run in two)]
    parts: list[tuple[float, Differences]] = []
    for split, quantity in product(splits, QUANTITIES):
        weight = weights.get(quantity, 0.0)
        if not weight or (quantity == "forces" and (zero_force.get(split) or 0.0) < STATIONARY):
            continue
        values = [
            tuple(finite(run.values("accuracy", split).get(f"{quantity}_mae", {})) for run in two) for two in trainings
        ]
        if all(side for two in values for side in two):
            made = differences([(a, b) for a, b in values], partial(families.of, "accuracy", split))
            parts.append((weight, made))
    names = sorted({name for _, made in parts for name in made.families})
    total = np.zeros((len(trainings), len(names)))
    share = np.zeros(len(names))
    for weight, made in parts:
        columns = [names.index(name) for name in made.families]
        total[:, columns] += weight * made.table
        share[columns] += weight
    return contrast(total / share) if names and not np.isnan(total).any() else None


def _may_be_ranked(run: RunFiles) -> bool:
    """Whether a run is what its entry can do: converged, if it was trained, and no demonstration."""
    record = run.record
    return not record.demonstration and (record.converged is True or record.regime in UNTRAINED)


def regime_ranks(rows: Sequence[Row], rank: Callable[[Iterable[Row]], list[Row]]) -> list[RegimeRanks]:
    """Rank architectures among themselves, once for each kind of labels.

    Only entries that started from nothing and were trained for equal steps count; of several of an architecture and
    regime, the best one. The list is empty unless two architectures share two regimes, since nothing could change then.
    ``rank`` ranks rows.
    """
    found: dict[Regime, dict[str, Row]] = {}
    rows = [row for row in rows if row.origin == "trained here"]
    for regime in COMPARED:
        first: dict[str, Row] = {}
        mine = [row for row in rows if row.regime == regime and row.budget == "steps" and row.overall is not None]
        for row in sorted(mine, key=lambda row: (row.overall.mean if row.overall else math.inf, row.entry)):
            first.setdefault(row.architecture, row)
        found[regime] = {row.architecture: row for row in rank(first.values())}
    kept = [regime for regime in COMPARED if len(found[regime]) > 1]
    if len(kept) < 2:
        return []
    start: Regime = "E-F+" if "E-F+" in kept and "E-F-H" in kept else "E-F"

    def place(regime: Regime, architecture: str) -> int | None:
        row = found[regime].get(architecture)
        return None if row is None else row.rank

    table = []
    for architecture in sorted({name for regime in kept for name in found[regime]}):
        before, after = place(start, architecture), place("E-F-H", architecture)
        best = {regime: found[regime].get(architecture) for regime in kept}
        table.append(
            RegimeRanks(
                architecture=architecture,
                ranks={regime: place(regime, architecture) for regime in kept},
                overall={regime: None if row is None else row.overall for regime, row in best.items()},
                places_from=start,
                places_gained=None if before is None or after is None else before - after,
            )
        )
    return table
