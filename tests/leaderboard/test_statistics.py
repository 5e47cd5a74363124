"""Intervals hold what they should, corrections are Holm's, ranks are those within a regime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from synthetic_runs import failed_record, make_record

from hessgnn.evaluation.predictions import curvature_values
from hessgnn.evaluation.record import PredictionFile, write_record
from hessgnn.evaluation.tasks.accuracy import AccuracyTask, save_curvature
from hessgnn.leaderboard.board import Gain
from hessgnn.leaderboard.collect import collect
from hessgnn.leaderboard.gains import RESAMPLES, ratio_interval
from hessgnn.leaderboard.inference import holm
from hessgnn.leaderboard.scores import score


def sides(ratio: float, n: int, noise: float, seed: int = 0) -> tuple[dict[str, float], dict[str, float]]:
    random = np.random.default_rng(seed)
    without = random.lognormal(size=n)
    having = ratio * without * np.exp(noise * random.normal(size=n))
    names = [f"m{k}" for k in range(n)]
    return dict(zip(names, having, strict=True)), dict(zip(names, without, strict=True))


def quotient(having: dict[str, float], without: dict[str, float]) -> float:
    return float(np.mean(list(having.values())) / np.mean(list(without.values())))


def test_a_paired_interval_is_narrow_where_molecules_differ_but_their_ratio_does_not() -> None:
    having, without = sides(0.5, 40, 0.0)
    found = ratio_interval([having] * 3, [without] * 3, {}, ratio=0.5)
    assert found is not None
    assert (found.low, found.high, found.n_families) == (pytest.approx(0.5), pytest.approx(0.5), 40)


def test_nineteen_of_twenty_intervals_hold_the_true_ratio() -> None:
    held = 0
    for seed in range(100):
        having, without = sides(0.5, 60, 0.3, seed)
        true = 0.5 * np.exp(0.3**2 / 2)
        found = ratio_interval([having] * 3, [without] * 3, {}, ratio=quotient(having, without))
        assert found is not None
        held += found.low <= true <= found.high
    assert 88 <= held <= 99  # binomial, and 60 molecules are few for a percentile interval


def test_structures_of_one_molecule_are_drawn_together() -> None:
    having, without = sides(0.5, 8, 0.5)
    copies = [{f"{name}-{k}": value for name, value in side.items() for k in range(20)} for side in (having, without)]
    molecules = {name: name.split("-")[0] for name in copies[0]}
    alone = ratio_interval([having] * 3, [without] * 3, {}, ratio=quotient(having, without))
    together = ratio_interval([copies[0]] * 3, [copies[1]] * 3, molecules, ratio=quotient(having, without))
    assert alone is not None
    assert together is not None
    # Its copies say nothing new, and families are drawn alike.
    assert together[:2] == pytest.approx(alone[:2], rel=0.15)
    apart = ratio_interval([copies[0]] * 3, [copies[1]] * 3, {}, ratio=quotient(having, without))
    assert apart is not None
    assert apart.high - apart.low < 0.5 * (together.high - together.low)


def test_no_interval_of_few_molecules_or_trainings_or_of_another_number() -> None:
    def interval(having: dict[str, float], without: dict[str, float], ratio: float, trainings: int = 3) -> object:
        return ratio_interval([having] * trainings, [without] * trainings, {}, ratio=ratio)

    having, without = sides(0.5, 5, 0.1)
    assert interval(having, without, quotient(having, without)) is None
    having, without = sides(0.5, 20, 0.1)
    assert interval(having, without, quotient(having, without)) is not None
    assert interval(having, without, quotient(having, without), trainings=2) is None
    assert interval(having, without, 0.9) is None
    fewer = dict(list(without.items())[1:])
    assert interval(having, fewer, quotient(having, fewer)) is None


@pytest.mark.parametrize("between_trainings", [0.0, 0.1, 0.3])
def test_intervals_of_ratios_of_means_hold_the_truth_for_new_trainings(between_trainings: float) -> None:
    rng = np.random.default_rng(9)
    held, n, names = 0, 150, [f"m{k}" for k in range(40)]
    for _ in range(n):
        without = np.exp(0.3 * rng.normal(size=40)) * np.ones((3, 1))
        factor = np.exp(0.2 * rng.normal(size=40) - 0.02) + between_trainings * rng.normal(size=(3, 1))
        pair = [[dict(zip(names, row, strict=True)) for row in side.tolist()] for side in (factor * without, without)]
        found = ratio_interval(*pair, {}, ratio=float((factor * without).mean() / without.mean()))
        assert found is not None
        held += found.low <= 1 <= found.high
    assert held / n >= 0.88


def test_holm_is_the_textbooks() -> None:
    assert holm([0.01, 0.04, 0.03, None, 0.005]) == pytest.approx([0.03, 0.06, 0.06, None, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def board_gain(paths: list[Path]) -> Gain:
    (gain,) = score(collect(paths)).gains
    return gain


def test_ratios_of_saved_predictions_have_an_interval(save_run: Callable[..., Path]) -> None:
    """The records say what the predictions do, as those of real runs."""
    paths = []
    for regime, scale, seeds in (("E-F", 0.2, (0, 1, 2)), ("E-F-H", 0.1, (3, 4, 5))):
        for seed in seeds:
            folder = save_run(make_record("ani", regime, seed, scale), scale)  # type: ignore[arg-type]
            (item,) = collect([folder])
            metrics, results = {}, {}
            for split in item.files:
                predictions = item.predictions(split)
                assert predictions is not None
                curvature = curvature_values(predictions)
                save_curvature(curvature, folder / f"curvature-{split}.jsonl", "")
                results[f"accuracy {split}"] = PredictionFile.of(folder / f"curvature-{split}.jsonl")
                metrics[split] = AccuracyTask().metrics(predictions, curvature)
            changes = {"metrics": metrics, "results": results, "seed": seed % 3}  # noise differs, the draw does not
            judged = item.record.model_copy(update=changes)
            write_record(judged, folder / "record.json")
            paths.append(folder)
    ratios = board_gain(paths).ratios["nms"]
    for name in ("forces_mae", "hessian_mae", "hessian_rmse", "curvature_eigenvalue_mae"):
        ratio = ratios[name]
        assert ratio is not None
        assert ratio.low is not None
        assert ratio.high is not None
        assert 0.35 < ratio.low < ratio.value < ratio.high < 0.8
        assert ratio.geometric is not None
        assert (ratio.n_families, ratio.n_trainings) == (7, 3)
    assert RESAMPLES >= 1000


def test_ranks_are_within_a_regime_and_say_who_gained(save_run: Callable[..., Path]) -> None:
    scales = {"a": (0.10, 0.09), "b": (0.20, 0.02), "c": (0.40, 0.04)}
    paths = [save_run(make_record("mean predictor", "mean", None, 1.0))]
    for name, both in scales.items():
        for regime, scale in zip(("E-F", "E-F-H"), both, strict=True):
            paths += [save_run(make_record(name, regime, s, scale), scale) for s in range(3)]  # type: ignore[arg-type]
        paths.append(save_run(make_record(name, "E-F", 0, 0.001, entry=f"{name} equal time", budget="seconds")))
    paths.append(save_run(failed_record(architecture="d", regime="E-F")))
    board = score(collect(paths))
    found = {ranks.architecture: ranks for ranks in board.ranks}
    assert {name: ranks.ranks for name, ranks in found.items()} == {
        "a": {"E-F": 1, "E-F-H": 3},
        "b": {"E-F": 2, "E-F-H": 1},
        "c": {"E-F": 3, "E-F-H": 2},
        "d": {"E-F": 4, "E-F-H": None},
    }
    assert [found[name].places_gained for name in "abcd"] == [-2, 1, 1, None]


def test_an_interval_is_wider_where_trainings_differ() -> None:
    """Families, then trainings, then frames: what a training is worth is a sample too."""
    having, without = sides(0.5, 30, 0.1)
    apart = [{name: factor * value for name, value in having.items()} for factor in (0.6, 1.0, 1.4)]
    same = ratio_interval([having] * 3, [without] * 3, {}, ratio=quotient(having, without))
    varied = ratio_interval(apart, [without] * 3, {}, ratio=quotient(having, without))
    assert same is not None
    assert varied is not None
    assert varied.high - varied.low > 1.5 * (same.high - same.low)


def test_an_interval_of_trainings_that_differ_much_stays_positive() -> None:
    """Times of a call on a busy machine differ tenfold between trainings."""
    rng = np.random.default_rng(0)
    names = {f"m{k}": f"m{k}" for k in range(12)}
    runs = [[{name: float(scale * rng.uniform(0.9, 1.1)) for name in names} for scale in (1, 1, 30)] for _ in range(2)]
    means = [np.mean([value for run in side for value in run.values()]) for side in runs]
    found = ratio_interval(*runs, names, ratio=float(means[0] / means[1]), same_trainings=False)
    assert found is not None
    assert 0 < found.low < found.high
