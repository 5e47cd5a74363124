"""What a comparison says of new molecules and new trainings: intervals, p-values, equivalence and power.

The unit is the *family*: molecules or reactions that a split keeps together. Frames of one family are averaged first,
since they are not independent. Families and trainings (a seed together with its draw of the training data) are both
samples of what one wants to know about, so both are random effects of a mixed model,

    ``d_fr = μ + a_f + b_r + e_fr``,

with ``d`` the difference of two kinds of labels, for errors the logarithm of their ratio. Variances are estimated by
moments (analysis of variance), and the degrees of freedom of their sum by F. E. Satterthwaite, Biometrics Bull. 2, 110
(1946). Counting frames or seeds alone, as if families were fixed, finds differences in a third to two thirds of
comparisons where there are none; :func:`false_verdicts` measures that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]
Verdict = Literal["better", "worse", "no difference larger than 10 %", "undecided"]
Scale = Literal["ratio", "difference"]
"""Errors are compared by their ratio, shares of successes by their difference."""

LEVEL = 0.05
CONFIDENCE = 0.95
POWER = 0.8
FEWEST_FAMILIES = 6
"""Fewer say more about themselves than about others."""
SAME: Mapping[Scale, float] = {"ratio": math.log(1.1), "difference": 0.1}
"""Half-width of what counts as no difference: 10 %, or ten of a hundred attempts."""
FEWEST_TRAININGS = 3
"""Of one training nobody knows how much another would differ."""
FLOOR = 1e-12
"""Of an error whose logarithm is taken."""


@dataclass(frozen=True)
class Contrast:
    """How two kinds of labels differ.

    Attributes
    ----------
    scale
        What the numbers below are: of a ratio they are ratios, of a difference differences.
    estimate, low, high
        Mean over families and trainings with its 95 % interval.
    p
        Two-sided, of no difference.
    p_same
        Of a difference larger than :data:`SAME`: small where the two are the same (two one-sided tests, D. J.
        Schuirmann, J. Pharmacokinet. Biopharm. 15, 657 (1987)).
    families, trainings
        How many there are.
    families_needed
        For a difference as small as :data:`SAME` to be seen in four of five experiments, at this spread.
    """

    scale: Scale
    estimate: float
    low: float
    high: float
    p: float
    p_same: float
    families: int
    trainings: int
    families_needed: int


class _Mean(NamedTuple):
    """Mean of the model, its standard error, degrees of freedom, and standard deviation between families."""

    value: Array
    error: Array
    degrees: Array
    spread: Array


def contrast(differences: Array, scale: Scale = "ratio") -> Contrast | None:
    """Estimate a difference and how sure it is.

    Parameters
    ----------
    differences
        ``(trainings, families)``: logarithms of ratios for ``scale="ratio"``. NaN where a family was not tested in a
        training. Either every family is tested in every training, or, with folds, each in those of its own fold.
    scale
        See :data:`Scale`.

    Returns
    -------
    Contrast or None
        None with fewer families than :data:`FEWEST_FAMILIES`, or where they do not differ at all from each other.

    Raises
    ------
    ValueError
        When the pattern of missing values is neither of the two.
    """
    known = ~np.isnan(differences).all(axis=0)
    given = differences[:, known]
    n = given.shape[1]
    if n < FEWEST_FAMILIES:
        return None
    mean = _crossed(given) if not np.isnan(given).any() else _nested(given)
    if not mean.error > 0:
        return None
    p, p_same, reach = (float(number) for number in _tests(mean, SAME[scale]))
    value = float(mean.value)
    needed = math.ceil(((special.ndtri(1 - LEVEL / 2) + special.ndtri(POWER)) * float(mean.spread) / SAME[scale]) ** 2)
    low, middle, high = value - reach, value, value + reach
    if scale == "ratio":
        low, middle, high = math.exp(low), math.exp(middle), math.exp(high)
    return Contrast(scale, middle, low, high, p, p_same, n, len(given), max(needed, FEWEST_FAMILIES))


def _tests(mean: _Mean, width: float) -> tuple[Array, Array, Array]:
    """Two-sided p of no difference, p of one larger than ``width``, and half the width of the interval."""
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * special.stdtr(mean.degrees, -np.abs(mean.value) / mean.error)
        p_same = np.maximum(
            special.stdtr(mean.degrees, -(width + mean.value) / mean.error),
            special.stdtr(mean.degrees, -(width - mean.value) / mean.error),
        )
    return p, p_same, special.stdtrit(mean.degrees, (1 + CONFIDENCE) / 2) * mean.error


def _crossed(d: Array) -> _Mean:
    """Every family in every training, ``(..., trainings, families)``."""
    trainings, families = d.shape[-2:]
    value = d.mean(axis=(-2, -1))
    by_family = trainings * d.mean(axis=-2).var(axis=-1, ddof=1)
    if trainings == 1:
        return _Mean(value, np.sqrt(by_family / families), np.full(value.shape, families - 1.0), np.sqrt(by_family))
    by_training = families * d.mean(axis=-1).var(axis=-1, ddof=1)
    rest = d - d.mean(axis=-1, keepdims=True) - d.mean(axis=-2, keepdims=True) + value[..., None, None]
    residual = np.square(rest).sum(axis=(-2, -1)) / ((trainings - 1) * (families - 1))
    # A variance of trainings below that of the residual is estimated as none; then only families are left.
    varied = by_training > residual
    total = np.where(varied, by_family + by_training - residual, by_family)
    squares = by_family**2 / (families - 1)
    squares = squares + np.where(
        varied, by_training**2 / (trainings - 1) + residual**2 / ((trainings - 1) * (families - 1)), 0.0
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        degrees = np.where(squares > 0, total**2 / squares, families - 1.0)
    return _Mean(value, np.sqrt(total / (trainings * families)), degrees, np.sqrt(by_family / trainings))


def _nested(d: Array) -> _Mean:
    """Each family in the trainings of its own fold, ``(trainings, families)`` with NaN elsewhere."""
    tested = ~np.isnan(d)
    patterns, fold = np.unique(tested.T, axis=0, return_inverse=True)
    if (patterns.sum(axis=0) > 1).any():
        raise ValueError("families must be tested in all trainings, or in those of one fold")
    y = np.nanmean(d, axis=0)
    sizes = np.bincount(fold.ravel()).astype(float)
    means = np.bincount(fold.ravel(), weights=y) / sizes
    n, folds = len(y), len(sizes)
    within = float(np.square(y - means[fold.ravel()]).sum() / max(1, n - folds))
    between = float((sizes * np.square(means - y.mean())).sum() / max(1, folds - 1))
    typical = (n - (sizes**2).sum() / n) / max(1, folds - 1)
    varied = folds > 1 and between > within
    of_folds = (between - within) / typical if varied else 0.0
    share = float(np.square(sizes / n).sum())
    total = of_folds * share + within / n
    a, b = share / typical if varied else 0.0, 1 / n - (share / typical if varied else 0.0)
    squares = (a * between) ** 2 / max(1, folds - 1) + (b * within) ** 2 / max(1, n - folds)
    degrees = total**2 / squares if squares > 0 else n - 1.0
    return _Mean(*(np.asarray(x, dtype=float) for x in (y.mean(), math.sqrt(total), degrees, math.sqrt(within))))


def log_ratios(having: Array, without: Array) -> Array:
    """Logarithms of the ratios of two sets of errors of the same shape."""
    return np.log(np.maximum(having, FLOOR)) - np.log(np.maximum(without, FLOOR))


def by_family(values: Mapping[str, float], family: Mapping[str, str], families: Sequence[str]) -> Array:
    """Average what is known of single frames over each family.

    Parameters
    ----------
    values
        Name of a frame -> its number.
    family
        Name of a frame -> its family; a frame that is not there is one of its own.
    families
        Those wanted, in order.

    Returns
    -------
    (families,) float64
        NaN for one without a frame.
    """
    place = {name: k for k, name in enumerate(families)}
    total, count = np.zeros(len(families)), np.zeros(len(families))
    for name, value in values.items():
        if (k := place.get(family.get(name, name))) is not None:
            total[k] += value
            count[k] += 1
    with np.errstate(invalid="ignore"):
        return total / count


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Correct p-values for their number, so that the chance of any false one stays at the level.

    S. Holm, Scand. J. Stat. 6, 65 (1979). Tests that could not be done are None and do not count.
    """
    known = sorted((p, position) for position, p in enumerate(ps) if p is not None)
    corrected: list[float | None] = [None] * len(ps)
    largest = 0.0
    for rank, (p, position) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        corrected[position] = largest
    return corrected


@dataclass(frozen=True)
class Decision:
    """A contrast with its p-values corrected for all tests that were done, and what they say."""

    contrast: Contrast
    p: float
    p_same: float
    verdict: Verdict


def decide(contrasts: Sequence[Contrast | None], better: Sequence[Literal["lower", "higher"]]) -> list[Decision | None]:
    """Correct a family of tests for their number and say what each shows.

    Both kinds of tests are corrected by Holm's method, each among its own kind.

    Parameters
    ----------
    contrasts
        Of all tests that were done together; None where there was too little data.
    better
        Which values of the metric are better, for each.

    Returns
    -------
    list of Decision or None
        In the same order.
    """
    ps = holm([None if c is None else c.p for c in contrasts])
    same = holm([None if c is None else c.p_same for c in contrasts])
    found: list[Decision | None] = []
    for c, p, p_same, good in zip(contrasts, ps, same, better, strict=True):
        if c is None or p is None or p_same is None:
            found.append(None)
            continue
        neutral = 1.0 if c.scale == "ratio" else 0.0
        verdict: Verdict = "undecided"
        if c.trainings < FEWEST_TRAININGS:
            pass
        elif p_same < LEVEL:  # a difference that is real, but too small to matter, is told as that
            verdict = "no difference larger than 10 %"
        elif p < LEVEL:
            verdict = "better" if (c.estimate < neutral) == (good == "lower") else "worse"
        found.append(Decision(c, p, p_same, verdict))
    return found


def false_verdicts(differences: Array, draws: int = 2000, seed: int = 0) -> float:
    """How often a difference is found where there is none, at :data:`LEVEL`.

    The null experiment: differences are centred, and in each draw the sign of every family is random, so that no
    direction is right.

    Parameters
    ----------
    differences
        ``(trainings, families)``, without missing values.
    draws
        Experiments.
    seed
        Of the signs.

    Returns
    -------
    float
        Share of the draws, between 0 and 1.
    """
    rng = np.random.default_rng(seed)
    centred = differences - differences.mean()
    signs = rng.choice([-1.0, 1.0], size=(draws, 1, differences.shape[1]))
    return float(np.mean(_tests(_crossed(centred * signs), SAME["ratio"])[0] < LEVEL))
