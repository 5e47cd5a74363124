"""Claims are confirmed by what is significant in their direction, and by nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from synthetic_runs import failed_record, make_record

from hessgnn.evaluation.record import Failure, Metric
from hessgnn.evaluation.tasks.base import Claim, all_tasks
from hessgnn.leaderboard.board import ClaimResult
from hessgnn.leaderboard.claims import all_claims, judge_claims
from hessgnn.leaderboard.collect import RunFiles, collect
from hessgnn.leaderboard.report import write_report
from hessgnn.leaderboard.sections.claims import CLAIMS_NOTE

CLAIMS = {claim.metric: claim for claim in all_claims()}
BARRIERS, FOUND, HOLDS = (
    CLAIMS[name] for name in ("barriers_forward_mae", "saddle_success", "md_survival_temperature")
)


def run(regime: str, seed: int, values: dict[str, float | None], claim: Claim = BARRIERS) -> RunFiles:
    record = make_record("ani", regime, seed)  # type: ignore[arg-type]
    return RunFiles(Path("record.json"), record, _values={(claim.task, claim.split): {claim.metric: values}})


def subjects(mean: float, seed: int, n: int = 10) -> dict[str, float | None]:
    noise = np.random.default_rng(seed).normal(size=n)
    return {f"reaction-{k}": float(mean + noise[k]) for k in range(n)}


def judged(*runs: RunFiles, claim: Claim = BARRIERS) -> ClaimResult:
    (result,) = judge_claims(runs, [claim])
    return result


def test_what_every_test_says_is_confirmed_or_not() -> None:
    worse = [run("E-F", seed, subjects(100, seed)) for seed in range(3)]
    better = [run("E-F-H", seed, subjects(50, seed + 9)) for seed in range(3)]
    found = judged(*worse, *better)
    assert found.verdict == "confirmed"
    assert found.without.mean == pytest.approx(100, abs=1)
    assert (found.n_seeds, found.n_subjects) == (3, 10)
    assert found.p_subjects == pytest.approx(2 * 0.5**10)  # ten that all agree
    assert found.p_seeds is not None
    assert found.p_seeds < 0.01
    assert judged(*worse, *better, claim=BARRIERS).direction == "lower"
    turned = [run("E-F", s, subjects(50, s)) for s in range(3)] + [run("E-F-H", s, subjects(99, s)) for s in range(3)]
    assert judged(*turned).verdict == "not confirmed"


def test_noise_is_undecided_and_so_is_one_seed_of_few_molecules() -> None:
    same = [run(regime, s, subjects(50, s + 7 * (regime == "E-F"))) for regime in ("E-F", "E-F-H") for s in range(3)]
    assert judged(*same).verdict == "undecided"
    few = [run("E-F", 0, subjects(100, 0, n=5)), run("E-F-H", 0, subjects(1, 0, n=5))]
    found = judged(*few)
    assert (found.verdict, found.p_seeds, found.p_subjects) == ("undecided", None, None)
    enough = [run("E-F", 0, subjects(100, 0)), run("E-F-H", 0, subjects(1, 0))]
    assert judged(*enough).verdict == "confirmed"  # by its molecules, of one seed


def test_a_few_large_errors_do_not_outweigh_the_rest() -> None:
    """Most reactions got worse, one so much better that the mean did too: no verdict."""
    before = {f"r{k}": 10.0 for k in range(12)} | {"outlier": 1000.0}
    after = {f"r{k}": 11.0 + 0.1 * k for k in range(12)} | {"outlier": 1.0}
    assert judged(run("E-F", 0, before), run("E-F-H", 0, after)).verdict == "undecided"


def test_what_failed_counts_with_the_worst() -> None:
    before = [run("E-F", 0, {**subjects(100, 0), "reaction-3": None, "reaction-4": 400.0})]
    after = [run("E-F-H", 0, subjects(50, 1))]
    expected = np.mean([400.0 if k in (3, 4) else subjects(100, 0)[f"reaction-{k}"] for k in range(10)])
    assert judged(*before, *after).without.mean == pytest.approx(expected)
    hot = [run("E-F", 0, {"a": 100.0, "b": None}, HOLDS), run("E-F-H", 0, {"a": 900.0, "b": 500.0}, HOLDS)]
    assert judged(*hot, claim=HOLDS).without.mean == pytest.approx(100.0)  # the worst is the lowest


def test_a_run_that_failed_counts_and_one_that_was_not_judged_does_not() -> None:
    good = [run(regime, s, subjects(50, s)) for regime in ("E-F", "E-F-H") for s in range(2)]
    failed = RunFiles(Path("x"), failed_record(architecture="ani", regime="E-F-H", seed=2))
    found = judged(*good, run("E-F", 2, subjects(20, 2)), failed)
    assert found.n_seeds == 3
    assert found.having.mean > found.without.mean
    task_failed = make_record("ani", "E-F-H", 2).model_copy(
        update={"failures": [Failure(task="barriers", split="test", structure=None, reason="no engine")]}
    )
    assert judged(*good, run("E-F", 2, subjects(20, 2)), RunFiles(Path("x"), task_failed)).n_seeds == 3
    absent = RunFiles(Path("x"), make_record("ani", "E-F-H", 2))
    assert judged(*good, run("E-F", 2, subjects(20, 2)), absent).n_seeds == 2
    assert judge_claims([failed, absent], [BARRIERS]) == []


def test_means_are_compared_where_nothing_else_was_saved() -> None:
    def only_mean(regime: str, seed: int, value: float) -> RunFiles:
        record = make_record("ani", regime, seed)  # type: ignore[arg-type]
        metrics = {"test": {**record.metrics["test"], "barriers_forward_mae": Metric(value=value, unit="meV", n=9)}}
        return RunFiles(Path("x"), record.model_copy(update={"metrics": metrics}))

    means = {"E-F": (20.0, 21.0, 22.0), "E-F-H": (10.0, 11.5, 11.5)}
    found = judged(*(only_mean(regime, s, value) for regime, values in means.items() for s, value in enumerate(values)))
    assert (found.without.mean, found.having.mean, found.n_subjects) == (21, 11, 0)
    assert found.p_seeds == pytest.approx(stats.ttest_rel(*means.values()).pvalue)
    assert found.verdict == "confirmed"


@pytest.mark.parametrize("change", [0.0, 8.3])
def test_seeds_that_agree_to_the_last_digit_are_no_proof(change: float) -> None:
    """Each seed found the one same saddle point of twelve."""
    shares = {"a": 0.0, "b": change}
    before = [run("E-F", s, dict.fromkeys(shares, 0.0), FOUND) for s in range(3)]
    found = judged(*before, *(run("E-F-H", s, shares, FOUND) for s in range(3)), claim=FOUND)
    assert (found.p_seeds, found.p_subjects, found.p_holm, found.verdict) == (None, None, None, "undecided")


def test_the_board_and_its_page_show_the_claims(save_run: Callable[..., Path], tmp_path: Path) -> None:
    paths = [save_run(make_record("mean predictor", "mean", None, 1.0))]
    for regime, scale in (("E-F", 0.3), ("E-F-H", 0.1)):
        paths += [save_run(make_record("ani", regime, seed, scale * (1 + 0.1 * seed)), scale) for seed in range(3)]
    loaded = collect(paths)
    found = {(claim.metric, claim.split): claim for claim in judge_claims(loaded)}
    hessian = found["hessian_mae", "nms"]
    assert (hessian.verdict, hessian.n_subjects) == ("confirmed", 7)
    assert found["seconds_per_step", ""].verdict == "confirmed"
    page = write_report(loaded, tmp_path / "board").read_text()
    assert 'id="claims"' in page
    text = (tmp_path / "board" / "leaderboard.md").read_text()
    assert CLAIMS_NOTE[:60] in text
    assert "| Hessian labels: they carry further off the paths | T3 | nms H MAE, eV/Å² | ani |" in text


def test_claims_stand_with_their_tasks_and_come_in_the_order_of_their_sources() -> None:
    claims = all_claims()
    texts = [claim.text for claim in claims]
    assert len(set(texts)) == len(texts)
    assert [claim.source for claim in claims] == [
        *("T1", "T2", "T3", "T3", "T3", "T5", "T6", "T6", "T7", "T8", "T9", "T10"),
        *("arXiv 2603.04523", "hessgnn", "arXiv 2603.04523", "hessgnn", "hessgnn"),
    ]
    assert {claim.task for claim in claims} == {"training", *(task.name for task in all_tasks() if task.claims)}
    assert (BARRIERS.title, BARRIERS.unit, BARRIERS.direction) == ("barrier MAE", "meV", "lower")
    assert (FOUND.title, FOUND.unit, FOUND.direction) == ("found", "%", "higher")
