"""The study's claims, held against the records: what Hessian labels change, with paired tests.

A claim is about one number. For each architecture its runs with Hessian labels (E-F-H) and without (E-F) are paired,
by seed and by what was judged (molecule, reaction, path), and a two-sided test says whether the difference is more
than noise.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from hessgnn.evaluation.record import Better, Budget
from hessgnn.evaluation.tasks.base import Claim, all_tasks
from hessgnn.leaderboard.board import ClaimResult, Score, Verdict
from hessgnn.leaderboard.collect import RunFiles
from hessgnn.leaderboard.gains import BUDGETS, comparable
from hessgnn.training.regimes import Regime

LEVEL = 0.05
"""Of significance, of each test by itself."""
FEWEST_SEEDS = 3
FEWEST_SUBJECTS = 6
"""Pairs that a test needs: five that all agree have a two-sided p of 0.06 and could never be significant."""
TRAINING = "training"
"""Not a task: what the record says of the training itself."""
TRAINING_COST = Claim(
    "a training step costs more", "seconds_per_step", "", "T10", "time per step", "s", "higher", task=TRAINING
)
Array = NDArray[np.float64]


def all_claims() -> list[Claim]:
    """The claims of all tasks and that on the cost of training, T1 to T10 first, then those of other sources.

    T4, data efficiency, is a matter of many trainings: ``hessgnn study`` tests it.
    """
    claims = [TRAINING_COST, *(claim for task in all_tasks() for claim in task.claims)]
    return sorted(claims, key=lambda claim: int(claim.source[1:]) if re.fullmatch(r"T\d+", claim.source) else math.inf)


def judge_claims(
    loaded: Sequence[RunFiles],
    claims: Sequence[Claim] | None = None,
    regimes: tuple[Regime, Regime] = ("E-F", "E-F-H"),
) -> list[ClaimResult]:
    """Hold the records against the claims.

    A subject that failed counts with the worst value that any record has for any subject, in both regimes alike, and
    so does a run that failed for all of its subjects. ``claims`` are :func:`all_claims` by default; ``regimes`` are
    without Hessians and with them. Claims that no pair of runs says anything about are left out.
    """
    results = [
        result
        for claim in (all_claims() if claims is None else claims)
        for pair in _pairs(loaded, regimes)
        if (result := _judge(claim, pair, loaded)) is not None
    ]
    corrected: dict[Budget, Iterator[float | None]] = {
        budget: iter(holm([_decisive_p(result) for result in results if result.budget == budget])) for budget in BUDGETS
    }
    return [result.model_copy(update={"p_holm": next(corrected[result.budget])}) for result in results]


def _decisive_p(result: ClaimResult) -> float | None:
    """The larger p of the tests that could be done: a verdict needs them all."""
    return max((p for p in (result.p_seeds, result.p_subjects) if p is not None), default=None)


@dataclass(frozen=True)
class _Pair:
    """Entries without and with Hessians of one architecture, each with its seeds."""

    label: str
    budget: Budget
    without: list[RunFiles]
    having: list[RunFiles]


def _pairs(loaded: Iterable[RunFiles], regimes: tuple[Regime, Regime]) -> list[_Pair]:
    """What is compared with what: under equal steps, then for equal time where such runs are."""
    entries: dict[tuple[str, str], dict[str, list[RunFiles]]] = {}
    for item in loaded:
        record = item.record
        entries.setdefault((record.architecture, record.regime), {}).setdefault(record.entry, []).append(item)
    found = []
    for budget in BUDGETS:
        for architecture in dict.fromkeys(architecture for architecture, _ in entries):
            sides = [entries.get((architecture, regime), {}) for regime in regimes]
            pairs = [
                (old, new)
                for old, new in product(*(side.items() for side in sides))
                if comparable(budget, old[1][0].record.budget, new[1][0].record.budget)
            ]
            for (old, a), (new, b) in pairs:
                found.append(_Pair(f"{new} / {old}" if len(pairs) > 1 else architecture, budget, a, b))
    return found


def _judge(claim: Claim, pair: _Pair, loaded: Sequence[RunFiles]) -> ClaimResult | None:
    without, having = pair.without, pair.having
    before, after = ({item.record.seed: item for item in items if _tried(claim, item)} for items in (without, having))
    seeds = [seed for seed in before if seed in after]
    runs = [(before[seed], after[seed]) for seed in seeds]
    done = [item for pair in runs for item in pair if not _failed(claim, item)]
    if not done:
        return None
    # Where one run has saved nothing but its mean, there are only means to compare.
    values = _by_subject if all(_by_subject(claim, item) for item in done) else _by_run
    trained = [item for item in loaded if item.record.regime not in ("mean", "external")]
    known = [value for item in trained for value in values(claim, item).values() if value is not None]
    subjects = sorted({name for item in done for name in values(claim, item)})
    if not known:
        return None
    worst = min(known) if claim.direction == "higher" and claim.task != TRAINING else max(known)

    def filled(item: RunFiles) -> list[float]:
        found = {} if _failed(claim, item) else values(claim, item)
        return [worst if (value := found.get(name)) is None else value for name in subjects]

    numbers = np.array([[filled(item) for item in pair] for pair in runs])  # (seeds, regimes, subjects)
    by_seed, by_subject = numbers.mean(axis=2), numbers.mean(axis=0)
    single = values is _by_run or claim.task == TRAINING
    p_subjects = None if single else _signed_rank(by_subject[1] - by_subject[0])
    p_seeds = _paired_t(by_seed[:, 1] - by_seed[:, 0])
    change = float(by_seed[:, 1].mean() - by_seed[:, 0].mean())
    return ClaimResult(
        claim=claim.text,
        source=claim.source,
        split=claim.split,
        metric=claim.metric,
        title=claim.title,
        unit=claim.unit,
        direction=claim.direction,
        architecture=pair.label,
        budget=pair.budget,
        without=_score(by_seed[:, 0]),
        having=_score(by_seed[:, 1]),
        n_seeds=len(seeds),
        p_seeds=p_seeds,
        n_subjects=0 if single else len(subjects),
        p_subjects=p_subjects,
        verdict=_verdict(claim.direction, change, by_subject[1] - by_subject[0], [p_seeds, p_subjects]),
    )


def _verdict(direction: Better, change: float, differences: Array, ps: Sequence[float | None]) -> Verdict:
    """What every test that could be done says; undecided where they differ, or none could be done."""
    done = [p for p in ps if p is not None]
    if not done or max(done) >= LEVEL:
        return "undecided"
    ranks = np.sign(differences) @ stats.rankdata(np.abs(differences))
    if len(differences) > 1 and np.sign(ranks) != np.sign(change):
        return "undecided"
    return "confirmed" if (change < 0) == (direction == "lower") else "not confirmed"


def _by_subject(claim: Claim, item: RunFiles) -> dict[str, float | None]:
    """The number subject by subject; empty where these were not saved."""
    return (
        _by_run(claim, item) if claim.task == TRAINING else item.values(claim.task, claim.split).get(claim.metric, {})
    )


def _by_run(claim: Claim, item: RunFiles) -> dict[str, float | None]:
    """The number as the record has it, as that of a single subject."""
    if claim.task == TRAINING:
        return {"": item.record.cost.seconds_per_step}
    metric = item.record.metrics.get(claim.split, {}).get(claim.metric)
    return {} if metric is None else {"": metric.value}


def _failed(claim: Claim, item: RunFiles) -> bool:
    """Whether the run, or the whole task, gave nothing."""
    record = item.record
    return record.status == "failed" or any(
        (failure.task, failure.split, failure.structure) == (claim.task, claim.split, None)
        for failure in record.failures
    )


def _tried(claim: Claim, item: RunFiles) -> bool:
    """Whether the run was judged by this number at all."""
    return _failed(claim, item) or bool(_by_subject(claim, item) or _by_run(claim, item))


def _score(values: Array) -> Score:
    std = float(values.std(ddof=1)) if len(values) > 1 else None
    return Score(mean=float(values.mean()), std=std, n=len(values))


def _paired_t(differences: Array) -> float | None:
    """Two-sided p of a paired t-test over seeds; none where there is no spread to hold the change against."""
    # Shares of a few molecules may agree to the last digit. That is a coarse number, not one without noise.
    if len(differences) < FEWEST_SEEDS or np.ptp(differences) == 0:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of differences that are nearly the same
        return float(stats.ttest_1samp(differences, 0.0).pvalue)


def _signed_rank(differences: Array) -> float | None:
    """Two-sided p of Wilcoxon's signed-rank test over subjects (F. Wilcoxon, Biometrics Bull. 1, 80 (1945))."""
    if np.count_nonzero(differences) < FEWEST_SUBJECTS:
        return None
    return float(stats.wilcoxon(differences).pvalue)


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
