"""What a comparison says of new molecules and new trainings: intervals, p-values, equivalence and power.

The unit is the *family*: molecules or reactions that a split keeps together. Frames of one family are averaged first,
since they are not independent. Families and trainings (a seed together with its draw of the training data) are both
samples of what one wants to know about, so both are random effects of a mixed model,

    ``d_fr = μ + a_f + b_r + e_fr``,

with ``d`` the difference of two kinds of labels, for errors the logarithm of their ratio. Variances are estimated by
moments (analysis of variance). The degrees of freedom of their sum are those of F. E. Satterthwaite, Biometrics Bull.
2, 110 (1946), but no more than the harmonic mean of both degrees, weighted by the shares of the variance: with three
trainings, Satterthwaite's are too many where trainings matter about as much as families. Skewed families shift
Student's t as N. J. Johnson, J. Am. Stat. Assoc. 73, 536 (1978) estimates; the shift counts where it makes a test more
careful. In simulations without a difference (6 to 80 families, 3 or 5 trainings, families normal, heavy-tailed or
exponential) 5 % tests then find one in about 6 %, at most 7 % for few exponential families. The simulations are in
``benchmarks/null_experiments.py``. Counting frames or seeds alone, as if families were fixed, finds differences in a
third to two thirds of comparisons: :func:`false_verdicts`.
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
FLOOR = 1e-6
"""Of an error whose logarithm is taken, relative to the median of all."""
SAME_NUMBER = 1e-9
"""A standard error below this is rounding: all families have the same value."""


@dataclass(frozen=True)
class Contrast:
    """How two kinds of labels differ.

    Attributes
    ----------
    scale
        What the numbers below are: of a ratio they are ratios, of a difference differences.
    estimate, low, high
        Mean over families and trainings with its 95 % interval; without one where the ratios of all families are the
        same, since nothing bounds that of the next.
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
    low: float | None
    high: float | None
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
    skewness: Array
    """Of the mean over families: third standardized moment of families, over the root of their number."""


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
        None with fewer families than :data:`FEWEST_FAMILIES`, or where a value is infinite. Where families do not
        differ at all from each other, p is that of the sign test over families.

    Raises
    ------
    ValueError
        When the pattern of missing values is neither of the two.
    """
    known = ~np.isnan(differences).all(axis=0)
    given = differences[:, known]
    n = given.shape[1]
    if n < FEWEST_FAMILIES or np.isinf(given).any():
        return None
    mean = _crossed(given) if not np.isnan(given).any() else _nested(given)
    if mean.error < SAME_NUMBER:
        return _without_spread(float(mean.value), n, len(given), scale)
    p, p_same, low, high = (float(number) for number in _tests(mean, SAME[scale]))
    value = float(mean.value)
    needed = math.ceil(((special.ndtri(1 - LEVEL / 2) + special.ndtri(POWER)) * float(mean.spread) / SAME[scale]) ** 2)
    if scale == "ratio":
        low, value, high = math.exp(low), math.exp(value), math.exp(high)
    return Contrast(scale, value, low, high, p, p_same, n, len(given), max(needed, FEWEST_FAMILIES))


def _without_spread(value: float, families: int, trainings: int, scale: Scale) -> Contrast:
    """What families say that all have the same value, such as a success with one kind of labels alone.

    Other families are not seen in ``families`` draws with the probability ``(1 - share)**families``. A difference of
    shares is at most 1 for them; a ratio has no bound, so only the sign test speaks and there is no interval.
    """
    p = 1.0 if abs(value) < SAME_NUMBER else 2.0 ** (1 - families)
    if scale == "ratio":
        p_same = 0.5**families if abs(value) < SAME[scale] else 1.0
        return Contrast(scale, math.exp(value), None, None, p, p_same, families, trainings, FEWEST_FAMILIES)
    others = 1 - ((1 - CONFIDENCE) / 2) ** (1 / families)
    low, high = (value + others * (end - value) for end in (-1.0, 1.0))
    unseen = (SAME[scale] - abs(value)) / (1 - abs(value)) if abs(value) < SAME[scale] else 0.0
    return Contrast(scale, value, low, high, p, (1 - unseen) ** families, families, trainings, FEWEST_FAMILIES)


def _tests(mean: _Mean, width: float) -> tuple[Array, Array, Array, Array]:
    """Two-sided p of no difference, p of one larger than ``width``, and both ends of the interval."""
    reach = special.stdtrit(mean.degrees, (1 + CONFIDENCE) / 2)

    def shift(t: Array) -> Array:
        """Johnson's, for t within the interval; beyond it, that of its end."""
        return mean.skewness * (1 / 6 + np.minimum(t**2, reach**2) / 3)

    def above(t: Array) -> Array:
        """Probability of a larger t."""
        return np.asarray(special.stdtr(mean.degrees, np.maximum(0.0, -shift(t)) - t))

    def below(t: Array) -> Array:
        """Probability of a smaller t."""
        return np.asarray(special.stdtr(mean.degrees, np.maximum(0.0, shift(t)) + t))

    with np.errstate(divide="ignore", invalid="ignore"):
        low, zero, high = ((mean.value - null) / mean.error for null in (-width, 0.0, width))
        p = np.minimum(1.0, 2 * np.minimum(above(zero), below(zero)))
        p_same = np.maximum(above(low), below(high))
    beyond = shift(reach)
    down, up = reach + np.maximum(0.0, -beyond), reach + np.maximum(0.0, beyond)
    return p, p_same, mean.value - down * mean.error, mean.value + up * mean.error


def _fewer(satterthwaite: Array, share: Array, trainings: int, families: int) -> Array:
    """Degrees of freedom: Satterthwaite's, at most the harmonic mean; ``share`` of the variance is of trainings.

    At least the smaller of both: a variance that is the difference of two can have Satterthwaite's near zero.
    """
    least, most = sorted((max(1, trainings - 1), max(1, families - 1)))
    harmonic = 1 / (share / max(1, trainings - 1) + (1 - share) / max(1, families - 1))
    return np.asarray(np.clip(np.fmin(satterthwaite, harmonic), least, most))


def _skewness(deviations: Array, share: Array) -> Array:
    """Of the mean over families, of whose variance ``share`` comes from families."""
    n = deviations.shape[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        moment = (deviations**3).mean(axis=-1) / np.square(deviations).mean(axis=-1) ** 1.5
    return np.asarray(np.nan_to_num(moment) * share**1.5 / math.sqrt(n))


def _crossed(d: Array) -> _Mean:
    """Every family in every training, ``(..., trainings, families)``."""
    trainings, families = d.shape[-2:]
    value = d.mean(axis=(-2, -1))
    of_family = d.mean(axis=-2)
    by_family = trainings * of_family.var(axis=-1, ddof=1)
    residual, by_training = np.zeros_like(by_family), np.zeros_like(by_family)
    if trainings > 1:
        by_training = families * d.mean(axis=-1).var(axis=-1, ddof=1)
        rest = d - d.mean(axis=-1, keepdims=True) - d.mean(axis=-2, keepdims=True) + value[..., None, None]
        residual = np.square(rest).sum(axis=(-2, -1)) / ((trainings - 1) * (families - 1))
    # A variance of trainings below that of the residual is estimated as none; then only families are left.
    more = np.maximum(by_training - residual, 0.0)
    total = by_family + more
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.nan_to_num(more / total)
        squares = by_family**2 / (families - 1)
        if trainings > 1:
            of_trainings = by_training**2 / (trainings - 1) + residual**2 / ((trainings - 1) * (families - 1))
            squares = squares + np.where(more > 0, of_trainings, 0.0)
        degrees = _fewer(total**2 / squares, share, trainings, families)
    return _Mean(
        value,
        np.sqrt(total / (trainings * families)),
        degrees,
        np.sqrt(by_family / trainings),
        _skewness(of_family - value[..., None], 1 - share),
    )


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
    of_trainings = np.asarray(of_folds * share / total if total > 0 else 0.0)
    degrees = _fewer(np.asarray(total**2 / squares if squares > 0 else n - 1.0), of_trainings, folds, n)
    skewness = _skewness(y - means[fold.ravel()], 1 - of_trainings)
    value, error, spread = (np.asarray(x, dtype=float) for x in (y.mean(), math.sqrt(total), math.sqrt(within)))
    return _Mean(value, error, degrees, spread, skewness)


def log_ratios(having: Array, without: Array) -> Array:
    """Logarithms of the ratios of two sets of errors of the same shape; zeros count as :data:`FLOOR`."""
    both = np.concatenate([np.ravel(having), np.ravel(without)])
    known = both[np.isfinite(both) & (both > 0)]
    floor = FLOOR * float(np.median(known)) if known.size else 1.0
    return np.log(np.maximum(having, floor)) - np.log(np.maximum(without, floor))


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
    direction is right. Trainings are too few to flip: their effects are drawn anew, from a normal distribution of the
    variance that they have.

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
    trainings, families = differences.shape
    effects = differences.mean(axis=1, keepdims=True)
    centred = differences - effects
    signs = rng.choice([-1.0, 1.0], size=(draws, 1, families))
    variance = 0.0
    if trainings > 1:
        rest = centred - centred.mean(axis=0)
        variance = effects.var(ddof=1) - np.square(rest).sum() / ((trainings - 1) * (families - 1) * families)
    drawn = math.sqrt(max(0.0, variance)) * rng.normal(size=(draws, trainings, 1))
    return share_of_verdicts(centred * signs + drawn)


def share_of_verdicts(experiments: Array) -> float:
    """Share of experiments, ``(experiments, trainings, families)``, in which a difference is found at :data:`LEVEL`."""
    return float(np.mean(_tests(_crossed(experiments), SAME["ratio"])[0] < LEVEL))
