"""What labels buy: errors against the gradients that were spent on them.

The error of a set of labels is the mean over trainings of the root mean square over structures. Its interval is a
bootstrap over families and trainings: in each draw all sets have the same families and trainings, so differences and
ratios of sets are paired.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from hessgnn.evaluation.record import Budget
from hessgnn.evaluation.tasks.accuracy import AccuracyTask
from hessgnn.leaderboard.collect import Families, RunFiles
from hessgnn.leaderboard.inference import Verdict
from hessgnn.runtime.config import Settings
from hessgnn.training.regimes import label_set

Array = NDArray[np.float64]

DRAWS, SEED, CONFIDENCE = 2000, 0, 0.95
"""Of the bootstrap."""
NEXT = 1000
"""Gradients that a user has left."""
SPLIT, METRIC = "nms", "hessian_rmse"
"""What the shares and ratios are about: Hessians off the minima."""
ERRORS = ("hessian_rmse", "energy_rmse", "forces_rmse")
WITHOUT, ONE, FULL = "E-F", "E-F-P1", "E-F-H"
GOALS = {"share": 0.9, "ratio": 0.15}
"""Share of the improvement that one product keeps, at least; gradients to reach full Hessians, at most."""


class Estimate(Settings):
    """A number with its 95 % interval over families and trainings; null where it is not known or infinite."""

    value: float | None
    low: float | None
    high: float | None
    trainings: int
    families: int
    reached: float = Field(default=1.0, description="share of the draws in which there is such a number")


class CurvePoint(Settings):
    """Errors of a set of labels for an architecture."""

    architecture: str
    labels: str
    budget: Budget
    label_gradients: float = Field(description="spent on the labels of the training set, mean over trainings")
    steps: float
    trainings: int
    errors: dict[str, dict[str, Estimate]] = Field(description="split -> metric -> error")


class Kept(Settings):
    """What products of every structure keep of what full Hessians give, on one split."""

    architecture: str
    labels: str
    share: Estimate


class Reached(Settings):
    """Gradients at which products are as good as full Hessians, over those of full Hessians.

    Only what is spent on curvature counts: energies and forces cost the same with both.
    """

    architecture: str
    directions: str = Field(default="rademacher", description="of the products: rademacher or modes")
    within: float = Field(description="1: as good; 1.1: an error at most 10 % larger")
    ratio: Estimate
    at_most: bool = Field(description="the fewest products of the study are enough already")


class Choice(Settings):
    """A candidate for the next gradients, beside the best one."""

    labels: str
    gradients: float = Field(description="beyond energies and forces")
    ratios: dict[str, float | None] = Field(description="metric -> its error over that of the best, a typical family")
    verdicts: dict[str, Verdict | None] = Field(description="metric -> whether it is better or worse than the best")


class Advice(Settings):
    """What to buy with the next gradients."""

    architecture: str
    best: str | None = Field(description="labels with the smallest Hessian errors off the minima in a typical family")
    trainings: int = Field(description="that all candidates and energies and forces alone have")
    rmse: dict[str, float] = Field(default_factory=dict, description="labels -> Hessian RMSE over all structures")
    others: list[Choice] = Field(default_factory=list)
    sentence: str


class LabelValue(Settings):
    """All that a study found out about labels: what ``labels.json`` holds."""

    name: str
    data: str
    level_of_theory: str
    split: str = SPLIT
    steps: int
    structures: int = Field(description="of the training set")
    hessian_gradients: float = Field(description="what a Hessian costs, mean over the training set")
    finished: int
    planned: int
    tested: dict[str, int] = Field(description="split -> structures that were tested")
    step_costs: dict[str, dict[str, float]] = Field(description="architecture -> labels -> cost of a step, E-F as 1")
    points: list[CurvePoint]
    kept: list[Kept]
    reached: list[Reached]
    advice: list[Advice]


@dataclass(frozen=True)
class Errors:
    """Errors of one architecture on a split, by set of labels, training and family.

    Attributes
    ----------
    labels, seeds, families
        Names of the three axes.
    squares, logs
        ``(labels, seeds, families)``: sum of squares and mean logarithm over the structures of a family; NaN where a
        run is missing.
    counts
        ``(families,)``: structures.
    power
        2: root mean squares are compared; 1: means, and ``squares`` holds sums of the errors themselves.
    """

    labels: tuple[str, ...]
    seeds: tuple[int, ...]
    families: tuple[str, ...]
    squares: Array
    logs: Array
    counts: Array
    power: int = 2

    @classmethod
    def of(
        cls, values: Mapping[tuple[str, int], Mapping[str, float]], family: Mapping[str, str], power: int = 2
    ) -> Errors:
        """Sum up what is known of each structure: (labels, seed) -> structure -> error."""
        labels = tuple(dict.fromkeys(name for name, _ in values))
        seeds = tuple(sorted({seed for _, seed in values}))
        structures = sorted(set.intersection(*(set(found) for found in values.values())) if values else ())
        families = tuple(sorted({family.get(name, name) for name in structures}))
        member = np.array([families.index(family.get(name, name)) for name in structures], dtype=np.intp)
        counts = np.bincount(member, minlength=len(families)).astype(np.float64)
        squares = np.full((len(labels), len(seeds), len(families)), np.nan)
        logs = squares.copy()
        for (name, seed), found in values.items():
            errors = np.array([found[structure] for structure in structures])
            place = labels.index(name), seeds.index(seed)
            squares[place] = np.bincount(member, weights=errors**power, minlength=len(families))
            smooth = np.log(np.maximum(errors, 1e-9))
            logs[place] = np.bincount(member, weights=smooth, minlength=len(families)) / counts
        return cls(labels, seeds, families, squares, logs, counts, power)

    def known(self, labels: Sequence[str]) -> NDArray[np.bool_]:
        """Trainings that all of some sets of labels have, ``(seeds,)``."""
        if not set(labels) <= set(self.labels):
            return np.zeros(len(self.seeds), dtype=bool)
        return np.asarray(np.isfinite(self.squares[self._places(labels)]).all(axis=(0, 2)))

    def _places(self, labels: Sequence[str]) -> list[int]:
        return [self.labels.index(name) for name in labels]

    def draws(self, labels: Sequence[str]) -> tuple[Array, Array] | None:
        """Root mean square errors of sets of labels ``(labels,)``, and those of bootstrap draws ``(draws, labels)``.

        The first is of all families and trainings. None where the sets have no training in common.
        """
        known = self.known(labels)
        if not known.any() or not self.families:
            return None
        squares = self.squares[self._places(labels)][:, known]
        rng = np.random.default_rng(SEED)
        n, trainings = len(self.families), squares.shape[1]
        weights = rng.multinomial(n, np.full(n, 1 / n), size=DRAWS).astype(np.float64)
        chosen = rng.multinomial(trainings, np.full(trainings, 1 / trainings), size=DRAWS) / trainings
        means = np.einsum("lsf,bf->bls", squares, weights) / (weights @ self.counts)[:, None, None]
        rmse, point = means, (squares.sum(-1) / self.counts.sum())
        if self.power == 2:
            rmse, point = np.sqrt(rmse), np.sqrt(point)
        point = point.mean(-1)
        return point, np.einsum("bls,bs->bl", rmse, chosen)

    def estimate(self, labels: Sequence[str], number: Callable[[Array], Array]) -> Estimate | None:
        """Estimate a number that is computed from the errors of sets of labels, ``(..., labels)``."""
        found = self.draws(labels)
        if found is None:
            return None
        value = float(number(found[0][None])[0])
        drawn = number(found[1])
        there = np.isfinite(drawn)
        ends: list[float | None] = [None, None]
        if there.any():
            # A number that a draw does not have, such as gradients that never suffice, is above all others.
            quantiles = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
            low, high = np.quantile(np.where(there, drawn, np.inf), quantiles, method="nearest")
            ends = [float(end) if np.isfinite(end) else None for end in (low, high)]
        return Estimate(
            value=value if np.isfinite(value) else None,
            low=ends[0],
            high=ends[1],
            trainings=int(self.known(labels).sum()),
            families=len(self.families),
            reached=float(there.mean()),
        )


def share_kept(rmse: Array) -> Array:
    """Share of an improvement: errors ``(..., 3)`` without, with some and with all labels of curvature."""
    without, some, full = np.moveaxis(rmse, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(without > full, (without - some) / (without - full), np.nan)


def gradients_to_reach(rmse: Array, target: Array, gradients: Sequence[float]) -> Array:
    """Find the gradients at which a curve of errors ``(..., points)`` falls to a target ``(...)``.

    Between two points the logarithm of the error is linear in that of the gradients. NaN where the curve does not fall
    so far; the gradients of the first point where that is low enough already.
    """
    x, y, goal = np.log(np.asarray(gradients, dtype=np.float64)), np.log(rmse), np.log(target)
    found = np.full(goal.shape, np.nan)
    for k in reversed(range(len(x))):
        enough = y[..., k] <= goal
        if k == 0:
            found = np.where(enough, x[0], found)
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            part = (y[..., k - 1] - goal) / (y[..., k - 1] - y[..., k])
        found = np.where(enough & (y[..., k - 1] > goal), x[k - 1] + part * (x[k] - x[k - 1]), found)
    return np.asarray(np.exp(found))


def load_errors(runs: Iterable[RunFiles], split: str, metric: str) -> Errors:
    """Gather the errors of one architecture's runs, one for each set of labels and seed; failed ones are left out."""
    loaded = [run for run in runs if run.record.status == "ok" and split in run.files]
    values: dict[tuple[str, int], Mapping[str, float]] = {}
    for run in loaded:
        found = run.values(AccuracyTask.name, split).get(metric, {})
        values[run.record.regime, int(run.record.seed or 0)] = {
            name: value for name, value in found.items() if value is not None
        }
    names = {name for found in values.values() for name in found}
    return Errors.of(values, Families(loaded).of(AccuracyTask.name, split, names) if loaded else {})


DIRECTIONS = {"rademacher": "random directions", "modes": "divided modes"}
"""Of products that are compared with full Hessians."""


def products_of_all(labels: Iterable[str], directions: str = "rademacher") -> list[str]:
    """Sets with products of every structure along one kind of directions, fewest first."""
    sets = [label_set(name) for name in labels]
    found = [one for one in sets if one.directions == directions and one.every == 1]
    return [one.name for one in sorted(found, key=lambda one: one.products)]


def kept_by(errors: Errors, architecture: str) -> list[Kept]:
    """Shares of the improvement of full Hessians that each set with curvature keeps."""
    found = []
    for name in errors.labels:
        if label_set(name).has_curvature and name != FULL:
            share = errors.estimate([WITHOUT, name, FULL], share_kept)
            if share is not None:
                found.append(Kept(architecture=architecture, labels=name, share=share))
    return found


def reached_by(errors: Errors, gradients: Mapping[str, float], architecture: str) -> list[Reached]:
    """Gradients that products need to be as good as full Hessians, or nearly, over those of full Hessians."""
    if FULL not in errors.labels:
        return []
    plain = gradients.get(WITHOUT, 0.0)
    found = []
    for directions in DIRECTIONS:
        curve = products_of_all(errors.labels, directions)
        costs = [(gradients[name] - plain) / (gradients[FULL] - plain) for name in curve]
        for within in (1.0, 1.1) if curve else ():
            ratio = errors.estimate(
                [*curve, FULL],
                lambda rmse, within=within, costs=costs: (  # type: ignore[misc]
                    gradients_to_reach(rmse[..., :-1], within * rmse[..., -1], costs)
                ),
            )
            if ratio is not None:
                first = ratio.value is not None and ratio.value <= costs[0] * (1 + 1e-9)
                one = Reached(
                    architecture=architecture, directions=directions, within=within, ratio=ratio, at_most=first
                )
                found.append(one)
    return found


def curve_points(
    runs: Sequence[RunFiles], gradients: Mapping[str, float], architecture: str, budget: Budget
) -> list[CurvePoint]:
    """Errors of each set of labels of an architecture on all splits."""
    splits = list(dict.fromkeys(split for run in runs for split in run.files))
    by_split = {(split, metric): load_errors(runs, split, metric) for split in splits for metric in ERRORS}
    found = []
    for name in dict.fromkeys(run.record.regime for run in runs):
        mine = [run.record for run in runs if run.record.regime == name and run.record.status == "ok"]
        errors: dict[str, dict[str, Estimate]] = {}
        for (split, metric), known in by_split.items():
            if (estimate := known.estimate([name], lambda rmse: rmse[..., 0])) is not None:
                errors.setdefault(split, {})[metric] = estimate
        if mine and errors:
            found.append(
                CurvePoint(
                    architecture=architecture,
                    labels=name,
                    budget=budget,
                    label_gradients=gradients[name],
                    steps=statistics.fmean(record.cost.steps for record in mine),
                    trainings=len(mine),
                    errors=errors,
                )
            )
    return found


def mean_gradients(runs: Iterable[RunFiles]) -> dict[str, float]:
    """What the labels of a training set cost, mean over trainings: set of labels -> gradients."""
    found: dict[str, list[int]] = {}
    for run in runs:
        if run.record.cost.label_gradients is not None:
            found.setdefault(run.record.regime, []).append(run.record.cost.label_gradients)
    return {name: statistics.fmean(values) for name, values in found.items()}
