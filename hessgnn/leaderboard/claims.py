"""What Hessian labels are said to change, held against the records.

A claim is about one number. For each architecture its runs with two kinds of labels are paired by seed (and so by draw
of the training data) and by what was evaluated, and a mixed model over families and trainings says whether the
difference is more than noise, see :mod:`hessgnn.leaderboard.inference`. The p-values of all tests are corrected
together.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from hessgnn.evaluation.tasks.base import Claim, MetricDefinition, all_tasks, task_of
from hessgnn.leaderboard.board import ClaimResult, Score, Support
from hessgnn.leaderboard.collect import Families, RunFiles
from hessgnn.leaderboard.comparisons import (
    COMPARISONS,
    Comparison,
    Differences,
    Pair,
    Values,
    differences,
    finite,
    is_force_field,
    pairs,
    scale_of,
    zero_force,
)
from hessgnn.leaderboard.inference import (
    FEWEST_FAMILIES,
    FEWEST_TRAININGS,
    SAME,
    Contrast,
    Decision,
    contrast,
    decide,
)

TRAINING = "training"
"""Not a task: what the record says of the training itself."""
TRAINING_COST = Claim(
    "a training step costs more", "seconds_per_step", "", "T10", "time per step", "s", "higher", task=TRAINING
)
OWN = "hessgnn"
"""Source of what nobody claims: a question of this project."""
STUDY = ("E-F", "E-F-H")
"""What claims of others are about: labels on stationary points, without and with Hessians."""


def all_claims() -> list[Claim]:
    """The claims of all tasks and that on the cost of training, T1 to T10 first, then those of other sources.

    T4, data efficiency, is a matter of many trainings: ``hessgnn study`` tests it.
    """
    claims = [TRAINING_COST, *(claim for task in all_tasks() for claim in task.claims)]
    return sorted(claims, key=lambda claim: int(claim.source[1:]) if re.fullmatch(r"T\d+", claim.source) else math.inf)


ClaimTest = tuple[ClaimResult, Contrast | None]
"""What is known of a claim before it is decided, and the test that was done, if one could be."""


def judge_claims(
    loaded: Sequence[RunFiles],
    claims: Sequence[Claim] | None = None,
    regimes: Sequence[Comparison] = COMPARISONS,
    *,
    families: Families | None = None,
) -> list[ClaimResult]:
    """Hold the records against the claims: :func:`claim_tests`, decided together by :func:`decide_claims`."""
    return decide_claims(claim_tests(loaded, claims, regimes, families=families))


def claim_tests(
    loaded: Sequence[RunFiles],
    claims: Sequence[Claim] | None = None,
    regimes: Sequence[Comparison] = COMPARISONS,
    *,
    families: Families | None = None,
) -> list[ClaimTest]:
    """Test the claims on the records.

    A subject that failed counts with the value that its metric's definition fixes; where there is none, it is left out
    of the ratio, and the share of subjects with a value is tested besides. Forces are left out on splits where one of
    the two entries is worse than predicting no force.

    Parameters
    ----------
    loaded
        Runs on the same data.
    claims
        :func:`all_claims` by default.
    regimes
        What is compared with what.
    families
        Of the subjects; made from ``loaded`` by default.

    Returns
    -------
    list of ClaimTest
        A line for each claim and pair of entries that have a number, the main comparison first.
    """
    families = families or Families(loaded)
    claims = all_claims() if claims is None else claims
    no_force = {claim.split: zero_force(loaded, claim.split) for claim in claims if _is_of_forces(claim)}
    return [
        test
        for pair in pairs(loaded, regimes)
        for claim in claims
        if not _is_of_forces(claim) or _are_force_fields(pair, claim.split, no_force[claim.split])
        for test in _tests(claim, pair, families)
    ]


def decide_claims(tests: Sequence[ClaimTest]) -> list[ClaimResult]:
    """Give verdicts, by p-values that are corrected for all of the tests."""
    decisions = decide([test for _, test in tests], [result.better for result, _ in tests])
    return [_decided(result, found) for (result, _), found in zip(tests, decisions, strict=True)]


def _is_of_forces(claim: Claim) -> bool:
    return claim.metric.startswith("forces_")


def _are_force_fields(pair: Pair, split: str, zero: float | None) -> bool:
    """Whether the mean force MAE of both entries is not above that of no force."""
    for side in (pair.without, pair.having):
        metrics = [run.record.metrics.get(split, {}).get("forces_mae") for run in side]
        known = [metric.value for metric in metrics if metric is not None and metric.value is not None]
        if known and not is_force_field(statistics.fmean(known), zero):
            return False
    return True


def _decided(result: ClaimResult, found: Decision | None) -> ClaimResult:
    if found is None:
        return result
    claimed = result.regimes == STUDY and result.source != OWN and result.budget == "steps" and not result.fine_tuned
    support: Support = "not decided"
    if found.verdict in ("better", "worse"):
        support = "supported" if (found.verdict == "better") == (result.direction == result.better) else "contradicted"
    update = {"p": found.p, "p_same": found.p_same, "verdict": found.verdict, "reason": ""}
    if found.verdict.startswith("no difference") and _at_an_end(result):
        update |= {"verdict": "undecided", "reason": "both are near 0 or 100 %: too easy or too hard to tell"}
    return result.model_copy(update=update | ({"support": support} if claimed else {}))


def _at_an_end(result: ClaimResult) -> bool:
    """Whether shares are so near to none or all that they could hardly differ by ten of a hundred."""
    if result.scale == "ratio" or result.without is None or result.having is None:
        return False
    shares = [score.mean / (100.0 if result.unit == "%" else 1.0) for score in (result.without, result.having)]
    return max(shares) < SAME["difference"] or min(shares) > 1 - SAME["difference"]


def _tests(claim: Claim, pair: Pair, families: Families) -> list[ClaimTest]:
    """A line for the number itself, and where subjects failed another for the share that did not."""
    trainings = pair.trainings(lambda run: _gave_nothing(claim, run) or _is_known(claim, run))
    if not any(_is_known(claim, run) for two in trainings for run in two):
        return []
    owner = task_of(claim.metric)
    definition = None if owner is None else owner.definitions[claim.metric]
    reason = _untestable(claim, trainings)
    single = claim.task == TRAINING or not all(_by_subject(claim, run) for two in trainings for run in two)
    values = [tuple({} if single else _by_subject(claim, run) for run in two) for two in trainings]
    sides = [(a, b) for a, b in values]
    worst = None if definition is None else definition.worst
    found = [_line(claim, pair, trainings, sides, definition, worst, families, reason)]
    if worst is None and any(value is None for two in sides for side in two for value in side.values()):
        shares = [
            tuple({name: 100.0 * (value is not None) for name, value in side.items()} for side in two) for two in sides
        ]
        known = replace(claim, text=f"{claim.text}: more have a result", title=f"{claim.title}: with a result")
        share = MetricDefinition(known.title, "%", "higher")
        found.append(_line(known, pair, trainings, [(a, b) for a, b in shares], share, None, families, reason))
    return found


def _line(
    claim: Claim,
    pair: Pair,
    trainings: Sequence[tuple[RunFiles, RunFiles]],
    sides: Sequence[tuple[Values, Values]],
    definition: MetricDefinition | None,
    worst: float | None,
    families: Families,
    reason: str,
) -> ClaimTest:
    scale = scale_of(definition)
    unit = claim.unit if definition is None else definition.unit
    subjects = any(side for two in sides for side in two)
    made = differences(
        sides,
        partial(families.of, claim.task, claim.split),
        scale=scale,
        percent=unit == "%",
        worst=worst,
    )
    estimated = contrast(made.table, scale) if made.families else None
    without, having = (
        _score(
            [
                _mean(claim, two[k], values[k] if subjects else {}, worst)
                for two, values in zip(trainings, sides, strict=True)
            ]
        )
        for k in (0, 1)
    )
    names = {name for two in sides for side in two for name in side}
    reason = reason or _without_family(families.missing(claim.task, claim.split, names), names)
    tested = estimated if not reason and len(trainings) >= FEWEST_TRAININGS else None
    result = ClaimResult(
        claim=claim.text,
        source=claim.source,
        split=claim.split,
        metric=claim.metric,
        title=claim.title,
        unit=unit,
        direction=claim.direction,
        better="lower" if definition is None else definition.better,
        architecture=pair.label,
        budget=pair.budget,
        regimes=(pair.comparison.without, pair.comparison.having),
        fine_tuned=pair.fine_tuned,
        control=pair.comparison.control,
        without=without,
        having=having,
        scale=scale,
        estimate=None if estimated is None else estimated.estimate,
        low=None if estimated is None else estimated.low,
        high=None if estimated is None else estimated.high,
        ratio_of_means=None if not (without and having and without.mean) else having.mean / without.mean,
        p=None,
        p_same=None,
        n_families=len(made.families),
        n_trainings=len(trainings),
        families_needed=None if estimated is None else estimated.families_needed,
        failed=made.failed,
        verdict="not converged" if reason.startswith("not converged") else "not known",
        reason=reason or _too_little(claim, trainings, subjects, made),
    )
    return result, tested


def _without_family(missing: set[str], names: set[str]) -> str:
    """Frames of one family would count as independent."""
    return f"the families of {len(missing)} of {len(names)} subjects are not known" if missing else ""


def _untestable(claim: Claim, trainings: Sequence[tuple[RunFiles, RunFiles]]) -> str:
    """Why trainings cannot be compared; empty if they can."""
    runs = [run for two in trainings for run in two]
    if any(run.record.demonstration for run in runs):
        return "runs of a demonstration"
    failed = [f"{run.record.entry}, seed {run.record.seed}" for run in runs if _gave_nothing(claim, run)]
    if failed:
        return f"{len(failed)} of {len(runs)} runs failed, such as {failed[0]}"
    n_open = sum(run.record.converged is not True for run in runs)
    return f"not converged, or not known to be: {n_open} of {len(runs)} runs" if n_open else ""


def _gave_nothing(claim: Claim, run: RunFiles) -> bool:
    """Whether the run, or the whole task, failed."""
    record = run.record
    return record.status == "failed" or any(
        (failure.task, failure.split, failure.structure) == (claim.task, claim.split, None)
        for failure in record.failures
    )


def _too_little(claim: Claim, trainings: Sequence[tuple[RunFiles, RunFiles]], subjects: bool, made: Differences) -> str:
    if claim.task == TRAINING:
        return "one number for each training: nothing is sampled over families"
    if not subjects:
        return "numbers of single structures are not saved"
    if len(trainings) < FEWEST_TRAININGS:
        return f"fewer than {FEWEST_TRAININGS} trainings"
    if len(made.families) < FEWEST_FAMILIES:
        return f"fewer than {FEWEST_FAMILIES} families"
    return "a number is infinite"


def _by_subject(claim: Claim, run: RunFiles) -> Values:
    """The number subject by subject; empty where these were not saved. What is not finite has failed."""
    if claim.task == TRAINING:
        return {}
    return finite(run.values(claim.task, claim.split).get(claim.metric, {}))


def _is_known(claim: Claim, run: RunFiles) -> bool:
    """Whether the run was evaluated by this number at all."""
    return bool(_by_subject(claim, run)) or _recorded(claim, run) is not None


def _recorded(claim: Claim, run: RunFiles) -> float | None:
    if claim.task == TRAINING:
        return run.record.cost.seconds_per_step
    metric = run.record.metrics.get(claim.split, {}).get(claim.metric)
    return None if metric is None else metric.value


def _mean(claim: Claim, run: RunFiles, values: Values, worst: float | None) -> float | None:
    """Of one training, over the subjects that have a value; as the record has it where none are saved."""
    if not values:
        return _recorded(claim, run)
    known = [number for value in values.values() if (number := worst if value is None else value) is not None]
    return statistics.fmean(known) if known else None


def _score(means: Sequence[float | None]) -> Score | None:
    known = [mean for mean in means if mean is not None and math.isfinite(mean)]
    if not known:
        return None
    return Score(mean=statistics.fmean(known), std=statistics.stdev(known) if len(known) > 1 else None, n=len(known))
