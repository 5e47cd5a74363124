"""Intervals from resampled molecules, and p-values corrected for how many tests were done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES = 2000
CONFIDENCE = 0.95
SEED = 20250307
"""Of the resamples, so that the same records give the same page."""
FEWEST_MOLECULES = 6
"""Resampling fewer tells more of the method than of the molecules."""


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
        For each seed, structure -> error; above and below the line.
    molecules
        Structure -> molecule or reaction that it belongs to.
    ratio
        What the leaderboard says. An interval is given only of what it is a ratio of: where the errors do not
        reproduce it (a number that is no mean over structures), there is none.
    square
        Whether the means are root mean squares.

    Returns
    -------
    Interval or None
        None with fewer molecules than :data:`FEWEST_MOLECULES`, too.
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


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Correct p-values for their number, so that the chance of any false one stays at the level.

    S. Holm, Scand. J. Stat. 6, 65 (1979).

    Parameters
    ----------
    ps
        Of one family of tests; those that could not be done are None and do not count.

    Returns
    -------
    list of float or None
        In the same order.
    """
    known = sorted((p, position) for position, p in enumerate(ps) if p is not None)
    corrected: list[float | None] = [None] * len(ps)
    largest = 0.0
    for rank, (p, position) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        corrected[position] = largest
    return corrected
