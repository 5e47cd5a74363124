"""Comparisons generalise over families and trainings: false verdicts are as rare as they claim to be.

``tests/stored/null-experiments.npz`` holds logarithms of error ratios (E-F-H over E-F) of a real sweep
(``sweeps/quickstart.yaml`` of version 0.1.0): ``architecture split metric`` -> (seeds, compositions).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from null_experiments import DISTRIBUTIONS, experiments
from scipy import stats

from hessgnn.leaderboard import inference
from hessgnn.leaderboard.inference import by_family, contrast, decide, false_verdicts, log_ratios, share_of_verdicts

STORED = dict(np.load(Path(__file__).parents[1] / "stored" / "null-experiments.npz"))


@pytest.mark.parametrize("name", STORED)
def test_signs_flipped_by_family_give_a_verdict_as_rarely_as_the_level_says(name: str) -> None:
    assert false_verdicts(STORED[name].astype(float), draws=2000) <= 0.06


def test_the_null_experiment_counts_what_contrast_says() -> None:
    drawn, _ = experiments(20, 3, 0.5, "normal", draws=300)
    found = [contrast(d) for d in drawn]
    assert np.mean([c is not None and c.p < inference.LEVEL for c in found]) == share_of_verdicts(drawn)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize(("families", "trainings"), [(6, 3), (10, 5), (20, 3), (80, 3)])
def test_false_verdicts_are_rare_where_trainings_matter_as_much_as_families(
    families: int, trainings: int, distribution: str
) -> None:
    for ratio in (0.0, 0.5, 1.0, 2.0):
        drawn, error = experiments(families, trainings, ratio, distribution, draws=4000)
        assert share_of_verdicts(drawn) <= 0.06 + 0.007  # two standard errors of 4,000 draws
        assert share_of_verdicts(drawn + 6 * error) > 0.6
        assert share_of_verdicts(drawn - 6 * error) > 0.6


def test_trainings_that_differ_are_part_of_the_null_experiment() -> None:
    """Families that agree and trainings that do not: Student's test over families alone finds a difference."""
    rng = np.random.default_rng(7)
    d = 0.1 * rng.normal(size=(3, 40)) + np.array([[-0.3], [0.0], [0.3]])
    assert 0.0 < false_verdicts(d) <= 0.06


def test_all_or_nothing_is_tested_by_signs_of_families() -> None:
    found = contrast(np.ones((3, 21)), "difference")
    assert found is not None
    assert (found.p, found.estimate, found.high) == (2.0**-20, 1.0, 1.0)
    # With a chance of 2.5 %, none of 21 is among the 16 % of families that may be the opposite.
    assert found.low == pytest.approx(1 - 2 * (1 - 0.025 ** (1 / 21)))
    assert [d and d.verdict for d in decide([found], ["higher"])] == ["better"]
    same = [contrast(np.zeros((3, n)), "difference") for n in (21, 40)]
    assert [d and d.verdict for d in decide(same[:1], ["higher"])] == ["undecided"]  # 0.9^21 is more than 5 %
    assert [d and d.verdict for d in decide(same[1:], ["higher"])] == ["no difference larger than 10 %"]
    halved = contrast(np.full((3, 20), math.log(0.5)))
    assert halved is not None
    assert (halved.p, halved.p_same, halved.estimate, halved.low) == (2.0**-19, 1.0, pytest.approx(0.5), None)
    infinite = np.ones((3, 20))
    infinite[0, 0] = math.inf
    assert contrast(infinite) is None


def test_intervals_and_tests_say_the_same() -> None:
    rng = np.random.default_rng(8)
    for _ in range(200):
        d = 0.5 * (rng.exponential(size=12) - 0.6) + 0.1 * rng.normal(size=(3, 12))
        found = contrast(d)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        assert (found.low < 1 < found.high) == (found.p >= inference.LEVEL)


def test_counting_frames_or_seeds_alone_would_find_differences_that_are_not_there() -> None:
    """The null experiment can fail: the tests that this replaces do."""
    d = STORED["nequip irc hessian_mae"].astype(float)
    rng = np.random.default_rng(0)
    centred = d - d.mean()
    signs = rng.choice([-1.0, 1.0], size=(500, 1, d.shape[1]))
    frames = np.repeat(centred * signs, 12, axis=2).mean(axis=1)  # each family's twelve frames as if independent
    assert np.mean(stats.ttest_1samp(frames, 0.0, axis=1).pvalue < 0.05) > 0.3
    seeds = (centred * signs).mean(axis=2)
    assert np.mean(stats.ttest_1samp(seeds, 0.0, axis=1).pvalue < 0.05) > 0.1


@pytest.mark.parametrize("families", [8, 40])
@pytest.mark.parametrize("between_trainings", [0.0, 0.1, 0.4])
def test_intervals_cover_the_truth_for_new_families_and_new_trainings(families: int, between_trainings: float) -> None:
    rng = np.random.default_rng(1)
    truth, covered, n = 0.3, 0, 800
    for _ in range(n):
        d = truth + 0.5 * rng.standard_t(5, families)
        d = d + between_trainings * rng.normal(size=(3, 1)) + 0.2 * rng.normal(size=(3, families))
        found = contrast(d)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        covered += math.log(found.low) < truth < math.log(found.high)
    assert covered / n > 0.92


@pytest.mark.parametrize("between_folds", [0.0, 0.2])
def test_intervals_cover_the_truth_where_each_family_is_tested_in_its_fold(between_folds: float) -> None:
    rng = np.random.default_rng(2)
    covered, n = 0, 600
    for _ in range(n):
        d = np.full((6, 50), np.nan)
        effects = between_folds * rng.normal(size=5)
        for k in range(50):
            d[k % 5, k] = effects[k % 5] + 0.5 * rng.normal()
            if k % 5 == 0:  # the first fold was trained twice
                d[5, k] = d[0, k] + 0.1 * rng.normal()
        found = contrast(d)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        covered += found.low < 1 < found.high
    assert covered / n > 0.92


def test_other_patterns_of_missing_values_are_refused() -> None:
    d = np.random.default_rng(0).normal(size=(3, 10))
    d[0, 3] = np.nan
    with pytest.raises(ValueError, match="one fold"):
        contrast(d)


def test_a_real_difference_is_found_and_a_small_one_is_told_as_none() -> None:
    rng = np.random.default_rng(3)
    noise = 0.02 * rng.normal(size=(3, 60))
    halved, same = contrast(math.log(0.5) + noise), contrast(math.log(1.01) + noise)
    unsure = contrast(math.log(0.9) + 10 * noise + rng.normal(size=60))
    one = contrast(math.log(0.5) + noise[:1])
    found = decide([halved, same, unsure, None, halved, one], ["lower", "lower", "lower", "lower", "higher", "lower"])
    verdicts = [None if decision is None else decision.verdict for decision in found]
    # The last has one training only: nobody knows what the next would give.
    assert verdicts == ["better", "no difference larger than 10 %", "undecided", None, "worse", "undecided"]
    assert found[0] is not None
    assert found[0].contrast.estimate == pytest.approx(0.5, rel=0.02)


def test_verdicts_use_the_corrected_p() -> None:
    rng = np.random.default_rng(4)
    weak = contrast(math.log(0.7) + rng.normal(size=40) + 0.01 * rng.normal(size=(3, 40)))
    assert weak is not None
    assert 0.001 < weak.p < inference.LEVEL
    alone, beside_others = decide([weak], ["lower"])[0], decide([weak] * 60, ["lower"] * 60)[0]
    assert alone is not None
    assert beside_others is not None
    assert alone.verdict == "better"
    assert beside_others.verdict == "undecided"
    assert beside_others.p == pytest.approx(min(1.0, 60 * weak.p))


def test_families_needed_give_the_power_they_promise() -> None:
    rng = np.random.default_rng(5)
    spread = 0.5
    pilot = contrast(rng.normal(size=(1, 4000)) * spread)
    assert pilot is not None
    experiments = [contrast(math.log(1.1) + spread * rng.normal(size=(1, pilot.families_needed))) for _ in range(400)]
    assert 0.75 < np.mean([found is not None and found.p < 0.05 for found in experiments]) < 0.86


def test_too_few_families_say_nothing() -> None:
    assert contrast(np.zeros((3, 5))) is None


def test_frames_are_averaged_over_their_family() -> None:
    values = {"a1": 1.0, "a2": 3.0, "b": 5.0, "c": 7.0}
    found = by_family(values, {"a1": "a", "a2": "a"}, ["a", "b", "missing"])
    assert found[:2].tolist() == [2.0, 5.0]
    assert np.isnan(found[2])


def test_an_error_of_zero_has_a_logarithm_in_any_unit() -> None:
    having, without = np.array([0.0, 1.0]), np.array([1.0, 0.0])
    found = log_ratios(having, without)
    assert found.tolist() == pytest.approx([math.log(1e-6), -math.log(1e-6)])
    assert log_ratios(1e-9 * having, 1e-9 * without).tolist() == pytest.approx(found.tolist())
    assert log_ratios(np.zeros(2), np.zeros(2)).tolist() == [0.0, 0.0]
