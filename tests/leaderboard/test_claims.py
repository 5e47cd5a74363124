"""Claims: verdicts by the corrected p over families and trainings, and none where there is too little to go by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_runs import failed_record, make_record

from hessgnn.evaluation.predictions import SavedFamilies
from hessgnn.evaluation.record import Failure, Metric, read_record, write_record
from hessgnn.evaluation.tasks.base import Claim, MetricDefinition, all_tasks, task_of
from hessgnn.leaderboard.board import ClaimResult
from hessgnn.leaderboard.claims import OWN, all_claims, judge_claims
from hessgnn.leaderboard.collect import RunFiles, collect
from hessgnn.leaderboard.comparisons import COMPARISONS
from hessgnn.leaderboard.inference import holm
from hessgnn.leaderboard.report import write_report
from hessgnn.leaderboard.sections.claims import CLAIMS_NOTE

CLAIMS = {claim.metric: claim for claim in all_claims()}
BARRIERS, FOUND, HOLDS = (CLAIMS[name] for name in ("barriers_profile_mae", "saddle_success", "md_survival_share"))
STORED = dict(np.load(Path(__file__).parents[1] / "stored" / "null-experiments.npz"))
Values = Mapping[str, float | None]


def run(regime: str, seed: int, values: Values, claim: Claim = BARRIERS, **changes: Any) -> RunFiles:
    record = make_record("ani", regime, seed, **changes)  # type: ignore[arg-type]
    return RunFiles(
        Path("record.json"),
        record,
        {claim.split: Path("none")},
        _values={(claim.task, claim.split): {claim.metric: dict(values)}},
        _families={claim.split: SavedFamilies({name: name for name in values}, known=True)},
    )


def subjects(mean: float, seed: int, n: int = 10) -> dict[str, float | None]:
    noise = np.random.default_rng(seed).normal(size=n)
    return {f"reaction-{k}": float(mean * np.exp(0.05 * noise[k])) for k in range(n)}


def sides(before: float, after: float, n: int = 10, seeds: int = 3, **changes: Any) -> list[RunFiles]:
    return [
        run(regime, seed, subjects(mean, seed + offset, n), **changes)
        for regime, mean, offset in (("E-F", before, 0), ("E-F-H", after, 9))
        for seed in range(seeds)
    ]


def judged(*runs: RunFiles, claim: Claim = BARRIERS) -> ClaimResult:
    (result,) = judge_claims(runs, [claim])
    return result


def test_a_clear_change_is_better_or_worse_and_supports_or_contradicts() -> None:
    found = judged(*sides(100, 50))
    assert (found.verdict, found.support, found.control) == ("better", "supported", True)
    assert found.without is not None
    assert found.without.mean == pytest.approx(100, rel=0.03)
    assert (found.n_trainings, found.n_families) == (3, 10)
    assert found.estimate == pytest.approx(0.5, rel=0.05)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.5 < found.high
    assert found.ratio_of_means == pytest.approx(0.5, rel=0.05)
    turned = judged(*sides(50, 99))
    assert (turned.verdict, turned.support) == ("worse", "contradicted")


def test_a_small_change_is_no_difference_and_a_noisy_one_undecided() -> None:
    same = judged(*sides(100, 100.5, n=40))
    assert (same.verdict, same.support) == ("no difference larger than 10 %", "not decided")
    rng = np.random.default_rng(1)
    noisy = [
        run(regime, seed, {f"r{k}": float(np.exp(rng.normal())) for k in range(10)})
        for regime in ("E-F", "E-F-H")
        for seed in range(3)
    ]
    found = judged(*noisy)
    assert (found.verdict, found.support) == ("undecided", "not decided")
    assert found.families_needed is not None
    assert found.families_needed > 100


@pytest.mark.parametrize(("n", "seeds", "reason"), [(5, 3, "fewer than 6 families"), (10, 2, "fewer than 3 trainings")])
def test_too_little_data_is_not_known(n: int, seeds: int, reason: str) -> None:
    found = judged(*sides(100, 1, n=n, seeds=seeds))
    assert (found.verdict, found.reason, found.p, found.support) == ("not known", reason, None, None)
    assert found.having is not None  # the numbers stand


@pytest.mark.parametrize("state", [False, None])
def test_runs_that_are_not_converged_have_numbers_and_no_verdict(state: bool | None) -> None:
    found = judged(*sides(100, 50)[:-1], run("E-F-H", 2, subjects(50, 11), converged=state))
    assert (found.verdict, found.p, found.p_same, found.support) == ("not converged", None, None, None)
    assert "1 of 6 runs" in found.reason
    assert found.estimate == pytest.approx(0.5, rel=0.05)


def test_frames_of_one_family_count_once() -> None:
    """Twelve frames of five molecules are five families, however many frames they have."""
    runs = sides(100, 50, n=60)
    families = {f"reaction-{k}": f"family-{k % 5}" for k in range(60)}
    for item in runs:
        item._families["test"] = SavedFamilies(families, known=True)
    found = judged(*runs)
    assert (found.n_families, found.verdict) == (5, "not known")


def test_subjects_of_unknown_family_leave_no_verdict() -> None:
    runs = sides(100, 50)
    for item in runs:
        item._families["test"].of.pop("reaction-3")
    found = judged(*runs)
    assert (found.verdict, found.reason) == ("not known", "the families of 1 of 10 subjects are not known")
    assert found.estimate == pytest.approx(0.5, rel=0.05)
    for item in runs[1:2]:  # any run may tell
        item._families["test"].of["reaction-3"] = "reaction-3"
    assert judged(*runs).verdict == "better"


def test_all_or_nothing_is_a_verdict() -> None:
    names = [f"reaction-{k}" for k in range(21)]
    runs = [run(r, s, dict.fromkeys(names, v), FOUND) for r, v in (("E-F", 0.0), ("E-F-H", 100.0)) for s in range(3)]
    found = judged(*runs, claim=FOUND)
    assert (found.verdict, found.support, found.estimate) == ("better", "supported", 1.0)


@pytest.mark.parametrize("level", [0.0, 100.0])
def test_shares_at_an_end_are_undecided(level: float) -> None:
    """A search that finds 2 of 120 saddle points with both labels does not show that they are equally good."""
    one = {f"r{k}": level for k in range(120)}
    other = one | {f"r{k}": 100.0 - level for k in range(2)}
    found = judged(*(run(r, s, v, FOUND) for r, v in (("E-F", one), ("E-F-H", other)) for s in range(3)), claim=FOUND)
    assert found.p_same is not None
    assert found.p_same < 0.05
    assert (found.verdict, found.reason) == ("undecided", "both are near 0 or 100 %: too easy or too hard to tell")
    middle = {f"r{k}": 100.0 * (k % 2) for k in range(60)}
    same = judged(*(run(r, s, middle, FOUND) for r in ("E-F", "E-F-H") for s in range(3)), claim=FOUND)
    assert same.verdict == "no difference larger than 10 %"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_has_failed(value: float) -> None:
    broken = [run("E-F-H", s, subjects(50, s + 9, 40) | {"reaction-3": value}) for s in range(3)]
    number, share = judge_claims([*(run("E-F", s, subjects(100, s, 40)) for s in range(3)), *broken], [BARRIERS])
    assert (number.verdict, number.n_families, number.failed) == ("better", 39, (0, 3))
    assert number.having is not None
    assert number.having.mean == pytest.approx(50, rel=0.05)
    assert share.estimate == pytest.approx(-1 / 40)


def test_runs_of_a_demonstration_have_numbers_and_no_verdict() -> None:
    found = judged(*sides(100, 50, demonstration=True))
    assert (found.verdict, found.reason, found.p, found.support) == ("not known", "runs of a demonstration", None, None)
    assert found.estimate == pytest.approx(0.5, rel=0.05)


def test_runs_for_equal_time_say_nothing_of_the_studys_claim() -> None:
    slow = [run("E-F", s, subjects(100, s), budget="seconds", entry="ani E-F time") for s in range(3)]
    (found,) = judge_claims([*slow, *sides(100, 50)[3:]], [BARRIERS])
    assert (found.budget, found.verdict, found.support) == ("seconds", "better", None)


def test_molecules_that_fail_at_once_do_not_outweigh_those_that_last_longer() -> None:
    """Three of sixty fail at the first of 1005 K; the others outlast the ramp, and without Hessians none does."""
    rng = np.random.default_rng(0)
    runs = [
        run(
            regime,
            seed,
            {f"m{k}": 100.0 if regime == "E-F-H" and k > 2 else float(rng.uniform(60, 90)) for k in range(60)}
            | ({f"m{k}": 0.5 for k in range(3)} if regime == "E-F-H" else {}),
            HOLDS,
        )
        for regime in ("E-F", "E-F-H")
        for seed in range(3)
    ]
    found = judged(*runs, claim=HOLDS)
    assert (found.scale, found.verdict, found.support) == ("difference", "better", "supported")


def test_a_metric_may_fix_what_a_failure_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [run("E-F", s, {**subjects(100, s), "reaction-3": None, "reaction-4": None}) for s in range(3)]
    after = [run("E-F-H", s, subjects(50, s + 9)) for s in range(3)]
    number, share = judge_claims([*before, *after], [BARRIERS])
    # Without a value fixed in advance, what failed is left out of the ratio, and the share of successes is tested.
    assert (number.n_families, number.failed) == (8, (6, 0))
    assert (share.scale, share.unit, share.n_families) == ("difference", "%", 10)
    assert share.without is not None
    assert share.without.mean == pytest.approx(80)
    assert share.estimate == pytest.approx(0.2)
    owner = task_of("barriers_profile_mae")
    assert owner is not None
    fixed = replace(owner.definitions["barriers_profile_mae"], worst=1000.0)
    monkeypatch.setattr(owner, "definitions", {**owner.definitions, "barriers_profile_mae": fixed})
    found = judged(*before, *after)
    assert (found.n_families, found.failed) == (10, (6, 0))
    assert found.without is not None
    assert found.without.mean == pytest.approx(0.8 * 100 + 0.2 * 1000, rel=0.05)
    beside = [run("E-F", s, dict.fromkeys(subjects(1, 0), 9e9), entry="other") for s in range(3)]
    others = judge_claims([*before, *after, *beside], [BARRIERS])
    assert found.without in [other.without for other in others]  # nobody else's numbers fill it in


def test_a_training_in_which_all_failed_is_no_fold() -> None:
    """Two of three trainings gave nothing: one that is left says nothing of others."""
    nothing = dict.fromkeys(subjects(1, 0))
    after = [run("E-F-H", s, subjects(50, s) if s == 0 else nothing) for s in range(3)]
    number, share = judge_claims([*(run("E-F", s, subjects(100, s)) for s in range(3)), *after], [BARRIERS])
    assert (number.verdict, number.n_families, number.failed) == ("not known", 0, (0, 20))
    assert share.estimate == pytest.approx(-2 / 3)
    some = [dict(subjects(50, s)) | {f"reaction-{k}": None for k in range(10) if k % 3 == s} for s in range(3)]
    partly = [run("E-F-H", s, values) for s, values in enumerate(some)]
    assert judge_claims([*(run("E-F", s, subjects(100, s)) for s in range(3)), *partly], [BARRIERS])[0].n_families == 0


def test_folds_have_families_of_their_own() -> None:
    def fold(mean: float, s: int) -> dict[str, float | None]:
        return {f"fold {s} {name}": value for name, value in subjects(mean, s).items()}

    runs = [run(r, s, fold(m, s)) for r, m in (("E-F", 100), ("E-F-H", 50)) for s in range(3)]
    rng = np.random.default_rng(0)
    for item in runs[3:]:
        numbers = item._values["barriers", "test"]["barriers_profile_mae"]
        item._values["barriers", "test"]["barriers_profile_mae"] = {
            k: (v or 1) * rng.uniform(0.9, 1.1) for k, v in numbers.items()
        }
    found = judged(*runs)
    assert (found.n_families, found.n_trainings, found.verdict) == (30, 3, "better")


def test_shares_are_compared_by_their_difference() -> None:
    rng = np.random.default_rng(0)
    before = [run("E-F", s, {f"r{k}": 100.0 * (k % 4 == s % 4) for k in range(40)}, FOUND) for s in range(3)]
    after = [run("E-F-H", s, {f"r{k}": 100.0 * (rng.random() < 0.9) for k in range(40)}, FOUND) for s in range(3)]
    found = judged(*before, *after, claim=FOUND)
    assert (found.scale, found.verdict, found.support) == ("difference", "better", "supported")
    assert found.estimate == pytest.approx(0.65, abs=0.1)


@pytest.mark.parametrize("change", [0.0, 8.3])
def test_seeds_that_agree_to_the_last_digit_are_no_proof(change: float) -> None:
    """Each seed found the one same saddle point of two."""
    shares = {"a": 0.0, "b": change}
    before = [run("E-F", s, dict.fromkeys(shares, 0.0), FOUND) for s in range(3)]
    found = judged(*before, *(run("E-F-H", s, shares, FOUND) for s in range(3)), claim=FOUND)
    assert (found.p, found.verdict) == (None, "not known")


def test_a_run_that_failed_leaves_no_verdict_and_one_that_was_not_evaluated_is_left_out() -> None:
    good = sides(100, 50)
    failed = RunFiles(Path("x"), failed_record(architecture="ani", regime="E-F-H", seed=3))
    found = judged(*good, run("E-F", 3, subjects(20, 2)), failed)
    assert (found.n_trainings, found.verdict) == (4, "not known")
    assert "ani E-F-H, seed 3" in found.reason
    task_failed = make_record("ani", "E-F-H", 3).model_copy(
        update={"failures": [Failure(task="barriers", split="test", structure=None, reason="no engine")]}
    )
    assert judged(*good, run("E-F", 3, subjects(20, 2)), RunFiles(Path("x"), task_failed)).verdict == "not known"
    absent = RunFiles(Path("x"), make_record("ani", "E-F-H", 3))
    assert judged(*good, run("E-F", 3, subjects(20, 2)), absent).verdict == "better"
    assert judge_claims([failed, absent], [BARRIERS]) == []


def test_means_alone_are_printed_but_not_tested() -> None:
    def only_mean(regime: str, seed: int, value: float) -> RunFiles:
        record = make_record("ani", regime, seed)  # type: ignore[arg-type]
        metrics = {"test": {**record.metrics["test"], "barriers_profile_mae": Metric(value=value, unit="meV", n=9)}}
        return RunFiles(Path("x"), record.model_copy(update={"metrics": metrics}))

    means = {"E-F": (20.0, 21.0, 22.0), "E-F-H": (10.0, 11.5, 11.5)}
    found = judged(*(only_mean(regime, s, value) for regime, values in means.items() for s, value in enumerate(values)))
    assert found.without is not None
    assert found.having is not None
    assert (found.without.mean, found.having.mean, found.n_families) == (21, 11, 0)
    assert found.ratio_of_means == pytest.approx(11 / 21)
    assert (found.verdict, found.reason) == ("not known", "numbers of single structures are not saved")


def test_the_main_comparison_comes_first_and_the_studys_claim_is_about_the_control() -> None:
    runs = sides(100, 50)
    runs += [run("E-F+", s, subjects(60, s + 20)) for s in range(3)]
    runs += [run("E-F+H", s, subjects(45, s + 30)) for s in range(3)]
    found = judge_claims(runs, [BARRIERS])
    assert [result.regimes for result in found] == [comparison[:2] for comparison in COMPARISONS]
    assert [result.control for result in found] == [False, False, True]
    assert [result.verdict for result in found] == ["better"] * 3
    assert [result.support for result in found] == [None, None, "supported"]


def test_p_values_are_corrected_for_all_tests_of_the_page() -> None:
    rng = np.random.default_rng(4)

    def weak(regime: str, seed: int, name: str) -> RunFiles:
        factor = 0.7 if regime == "E-F-H" else 1.0
        common = np.random.default_rng(0).normal(size=40)
        values = {
            f"r{k}": float(factor * np.exp(common[k] * (regime == "E-F-H") + 0.1 * rng.normal())) for k in range(40)
        }
        record = make_record(name, regime, seed)  # type: ignore[arg-type]
        return replace(run(regime, seed, values), record=record)

    alone = [weak(regime, seed, "ani") for regime in ("E-F", "E-F-H") for seed in range(3)]
    (single,) = judge_claims(alone, [BARRIERS])
    assert single.p is not None
    many = judge_claims(
        [weak(regime, seed, f"net{n}") for n in range(20) for regime in ("E-F", "E-F-H") for seed in range(3)],
        [BARRIERS],
    )
    assert len(many) == 20
    first = many[0].p
    assert first is not None
    assert first > 5 * single.p
    assert holm([single.p] * 20)[0] == pytest.approx(min(1.0, 20 * single.p))


def test_forces_that_are_worse_than_none_are_not_claimed() -> None:
    claim = Claim("forces", "forces_mae", "nms", OWN, "F MAE", "meV/Å", "lower", task="accuracy")

    def of(scale: float) -> list[RunFiles]:
        mean = RunFiles(Path("x"), make_record("mean predictor", "mean", None, 1.0))
        return [mean, *(run(r, s, subjects(50, s), claim, scale=scale) for r in ("E-F", "E-F-H") for s in range(3))]

    assert len(judge_claims(of(0.1), [claim])) == 1
    assert judge_claims(of(1.1), [claim]) == []


def test_null_experiments_through_the_claims_themselves() -> None:
    """Signs flipped by family: a claim is decided as rarely as the level says, on the errors of real runs."""
    rng = np.random.default_rng(0)
    stored = STORED["ani irc hessian_mae"].astype(float)
    centred = stored - stored.mean()
    wrong = 0
    for _ in range(200):
        signed = centred * rng.choice([-1.0, 1.0], size=stored.shape[1])
        runs = [
            run(regime, seed, {f"r{k}": math.exp(value) if regime == "E-F-H" else 1.0 for k, value in enumerate(row)})
            for regime in ("E-F", "E-F-H")
            for seed, row in enumerate(signed)
        ]
        wrong += judged(*runs).verdict in ("better", "worse")
    assert wrong <= 18  # 5 % of 200 are 10; the binomial's upper percentile is 18


@pytest.mark.parametrize("kind", ["shares", "survival"])
def test_null_experiments_on_successes_and_on_censored_temperatures(kind: str) -> None:
    """No label is better: each side of a family is drawn from the same distribution, and many end at the ramp's end."""
    rng = np.random.default_rng(1)
    claim = FOUND if kind == "shares" else HOLDS
    wrong, draws = 0, 300
    for _ in range(draws):
        ability = rng.normal(size=24)

        def values(ability: np.ndarray = ability) -> dict[str, float | None]:
            drawn = ability + rng.normal(size=24)
            if kind == "shares":
                return {f"r{k}": 100.0 * (value > 0) for k, value in enumerate(drawn)}
            return {f"r{k}": float(min(100.0, 60.0 * np.exp(0.5 * value))) for k, value in enumerate(drawn)}

        runs = [run(regime, seed, values(), claim) for regime in ("E-F", "E-F-H") for seed in range(3)]
        (found,) = judge_claims(runs, [claim])
        wrong += found.verdict in ("better", "worse")
    assert wrong <= 0.08 * draws


def test_the_board_and_its_page_show_the_claims(save_run: Callable[..., Path], tmp_path: Path) -> None:
    paths = [save_run(make_record("mean predictor", "mean", None, 1.0))]
    for regime, scale in (("E-F", 0.3), ("E-F-H", 0.1)):
        for seed in range(3):
            noise = seed if regime == "E-F" else seed + 5
            paths.append(save_run(make_record("ani", regime, noise, scale * (1 + 0.1 * seed)), scale))
            record = read_record(paths[-1] / "record.json").model_copy(update={"seed": seed})
            write_record(record, paths[-1] / "record.json")
    loaded = collect(paths)
    found = {(claim.metric, claim.split): claim for claim in judge_claims(loaded)}
    hessian = found["hessian_mae", "nms"]
    assert (hessian.verdict, hessian.n_families) == ("better", 7)
    assert found["seconds_per_step", ""].verdict == "not known"  # one number for each training
    page = write_report(loaded, tmp_path / "board").read_text()
    assert 'id="claims"' in page
    text = (tmp_path / "board" / "leaderboard.md").read_text()
    assert CLAIMS_NOTE[:60] in text
    assert "| Hessian labels: they carry further off the paths | T3 | nms H MAE, eV/Å² | ani |" in text


def test_a_demonstration_says_so_and_claims_nothing(save_run: Callable[..., Path], tmp_path: Path) -> None:
    paths = [
        save_run(make_record("ani", regime, seed, 0.2, demonstration=regime == "E-F"), 0.2)
        for regime in ("E-F", "E-F-H")
        for seed in range(3)
    ]
    page = write_report(collect(paths), tmp_path / "board")
    for name in ("index.html", "leaderboard.md", "leaderboard.tex"):
        text = page.with_name(name).read_text()
        assert "demonstration of the tool, not evidence" in text
        assert "p corrected" not in text
    assert page.read_text().index("not evidence") < page.read_text().index("<main>")
    assert 'id="claims"' not in page.read_text()


def test_claims_stand_with_their_tasks_and_come_in_the_order_of_their_sources() -> None:
    claims = all_claims()
    texts = [claim.text for claim in claims]
    assert len(set(texts)) == len(texts)
    numbered = [int(claim.source[1:]) for claim in claims if claim.source.startswith("T")]
    assert numbered == sorted(numbered)
    assert {1, 2, 3, 5, 6, 7, 8, 9, 10} <= set(numbered)
    assert all(claim.source.startswith("T") for claim in claims[: len(numbered)])
    assert {claim.task for claim in claims} == {"training", *(task.name for task in all_tasks() if task.claims)}
    assert (BARRIERS.title, BARRIERS.unit, BARRIERS.direction) == ("profile MAE", "meV", "lower")
    assert (FOUND.title, FOUND.unit, FOUND.direction) == ("found", "%", "higher")


def test_a_definition_has_no_value_for_failures_unless_it_says_so() -> None:
    assert MetricDefinition("x", "meV").worst is None
