from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from synthetic_runs import DATA, MEAN_ERRORS, failed_record, make_record

from hessgnn.errors import ConfigError, DataError
from hessgnn.evaluation.record import Metric, Record, read_record, write_record
from hessgnn.leaderboard.board import Leaderboard, Row
from hessgnn.leaderboard.collect import RunFiles, collect
from hessgnn.leaderboard.scores import read_weights, score

MEAN = make_record("mean predictor", "mean", None, 1.0)


def board_of(*records: Record) -> Leaderboard:
    return score([RunFiles(Path(f"{position}.json"), record) for position, record in enumerate(records)])


def rows_of(*records: Record) -> dict[str, Row]:
    return {row.entry: row for row in board_of(*records).rows}


def without(record: Record, split: str, name: str, value: float | None = None) -> Record:
    """The record with one number missing, or replaced by ``value``."""
    metric = record.metrics[split][name].model_copy(update={"value": value})
    return record.model_copy(update={"metrics": {**record.metrics, split: {**record.metrics[split], name: metric}}})


def test_seeds_are_joined_with_the_sample_standard_deviation() -> None:
    rows = rows_of(MEAN, make_record(seed=0, scale=0.1), make_record(seed=1, scale=0.2))
    found = rows["ani E-F"].scores["test"]["forces_mae"]
    assert found is not None
    values = np.array([0.1, 0.2]) * MEAN_ERRORS["forces_mae"]
    assert (found.mean, found.std, found.n) == (pytest.approx(values.mean()), pytest.approx(values.std(ddof=1)), 2)


def test_one_seed_has_no_spread() -> None:
    found = rows_of(MEAN, make_record())["ani E-F"].scores["nms"]["hessian_rmse"]
    assert found is not None
    assert found.std is None
    assert found.n == 1


def test_overall_is_the_weighted_geometric_mean_of_its_parts() -> None:
    record = make_record(scale=0.1)
    record = without(record, "nms", "energy_rmse", 0.9 * MEAN_ERRORS["energy_rmse"] * 1.5)
    row = rows_of(MEAN, record)["ani E-F"]
    assert row.overall is not None
    assert row.parts == pytest.approx({"energy": math.sqrt(0.09), "forces": 0.1, "hessian": 0.1})
    assert row.overall.mean == pytest.approx(math.sqrt(0.3 * 0.1))  # energy and forces alike, the Hessian not at all
    assert rows_of(MEAN, record)["mean predictor"].overall.mean == pytest.approx(1.0)  # type: ignore[union-attr]
    loaded = [RunFiles(Path(f"{k}.json"), one) for k, one in enumerate((MEAN, record))]
    weighted = score(loaded, weights=read_weights("energy=2,hessian=1"))
    assert weighted.weights == {"energy": 2.0, "forces": 0.0, "hessian": 1.0}
    assert weighted.rows[0].overall is not None
    assert weighted.rows[0].overall.mean == pytest.approx((0.3**2 * 0.1) ** (1 / 3))


@pytest.mark.parametrize("text", ["energy", "energy=much", "mass=1", "energy=-1", "energy=0,forces=0"])
def test_weights_that_make_no_score_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        score([RunFiles(Path("x.json"), MEAN)], weights=read_weights(text))


def test_a_missing_part_leaves_no_overall_score_and_no_rank() -> None:
    row = rows_of(MEAN, make_record(seed=0), without(make_record(seed=1), "test", "energy_rmse"))["ani E-F"]
    assert row.overall is None
    assert row.rank is None
    assert row.parts["energy"] is None
    found = row.scores["test"]["energy_rmse"]
    assert found is not None
    assert found.n == 1  # the other seed's number still stands
    no_hessian = rows_of(MEAN, without(make_record(), "test", "hessian_rmse"))["ani E-F"]
    assert no_hessian.overall is not None  # it does not count
    assert no_hessian.parts["hessian"] is None


def test_a_number_that_nobody_has_is_null() -> None:
    row = rows_of(MEAN, without(make_record(), "test", "energy_mae"))["ani E-F"]
    assert row.scores["test"]["energy_mae"] is None


def test_without_the_mean_predictor_nothing_is_ranked_and_a_note_says_so() -> None:
    board = board_of(make_record())
    assert board.rows[0].rank is None
    assert any("mean predictor" in note for note in board.notes)


def test_a_failed_seed_counts_with_the_worst_score() -> None:
    records = [MEAN, make_record("e3nn", seed=0, scale=0.1), failed_record(architecture="e3nn", seed=1)]
    board = board_of(*records, make_record("ani", scale=0.3), make_record("bad", scale=2.0))
    rows = {row.entry: row for row in board.rows}
    overall = rows["e3nn E-F"].overall
    assert overall is not None
    assert overall.mean == pytest.approx((0.1 + 2.0) / 2)  # the worst is worse than the mean predictor
    assert overall.n == 2
    assert rows["e3nn E-F"].scores["test"]["forces_mae"].n == 1  # type: ignore[union-attr]
    assert rows["e3nn E-F"].status == "partly failed"
    assert [row.entry for row in board.rows] == ["ani E-F", "mean predictor", "e3nn E-F", "bad E-F"]
    assert [(failure.entry, failure.seed) for failure in board.failures] == [("e3nn E-F", 1)]
    assert "NaN" in board.failures[0].reason


def test_an_entry_that_failed_altogether_stays_with_the_worst() -> None:
    rows = rows_of(MEAN, make_record(), failed_record(architecture="bad"))
    failed = rows["bad E-F"]
    assert failed.status == "failed"
    assert failed.rank == 2  # as bad as the worst that finished
    assert all(found is None for scores in failed.scores.values() for found in scores.values())


def test_only_failures_make_a_board_too() -> None:
    board = board_of(failed_record())
    assert board.rows[0].overall is None
    assert board.splits == []


def pair(architecture: str, *scales: float) -> list[Record]:
    return [make_record(architecture, seed=seed, scale=scale) for seed, scale in enumerate(scales)]


def noisy_pair(save_run: Callable[..., Path], name: str, scale: float, seeds: int = 3) -> list[Path]:
    """Runs whose predictions are ``scale`` off, structure by structure."""
    return [save_run(make_record(name, "E-F", seed, scale * (1 + 0.01 * seed)), scale) for seed in range(seeds)]


def test_entries_tie_unless_one_is_shown_to_be_worse_over_families(save_run: Callable[..., Path]) -> None:
    paths = [save_run(MEAN), *noisy_pair(save_run, "a", 0.10), *noisy_pair(save_run, "b", 0.102)]
    paths += noisy_pair(save_run, "c", 0.5)
    rows = {row.entry: row for row in score(collect(paths)).rows}
    assert [rows[f"{name} E-F"].rank for name in "abc"] == [1, 1, 3]


@pytest.mark.parametrize("change", [{"converged": False}, {"converged": None}, {"demonstration": True}])
def test_runs_that_may_not_be_judged_are_never_shown_to_be_worse(
    save_run: Callable[..., Path], change: dict[str, bool | None]
) -> None:
    paths = [save_run(MEAN), *noisy_pair(save_run, "a", 0.10), *noisy_pair(save_run, "c", 0.5)]
    assert {row.entry: row.rank for row in score(collect(paths)).rows}["c E-F"] == 2
    record = read_record(paths[-1] / "record.json").model_copy(update=change)
    write_record(record, paths[-1] / "record.json")
    assert {row.entry: row.rank for row in score(collect(paths)).rows}["c E-F"] == 1


def test_two_seeds_or_no_saved_errors_show_nothing(save_run: Callable[..., Path]) -> None:
    two = [save_run(MEAN), *noisy_pair(save_run, "a", 0.1, seeds=2), *noisy_pair(save_run, "c", 0.5, seeds=2)]
    assert {row.rank for row in score(collect(two)).rows} == {1}
    assert {row.rank for row in board_of(MEAN, *pair("a", 0.1, 0.1, 0.1), *pair("b", 0.5, 0.5, 0.5)).rows} == {1}


def test_failures_do_not_buy_a_tie() -> None:
    records = [*pair("a", 0.10, 0.11), *pair("b", 0.10), failed_record(architecture="b", seed=1)]
    rows = rows_of(MEAN, *records)
    assert rows["b E-F"].overall.std > rows["b E-F"].overall.mean  # type: ignore[union-attr, operator]
    assert [rows["a E-F"].rank, rows["b E-F"].rank] == [1, 2]


def test_a_potential_whose_forces_are_worse_than_none_is_called_that() -> None:
    bad = [make_record("bad", regime, seed, 1.2) for regime in ("E-F", "E-F-H") for seed in range(3)]  # type: ignore[arg-type]
    board = board_of(MEAN, *bad, make_record("good", "E-F", 0, 0.1))
    rows = {row.entry: row for row in board.rows}
    assert rows["bad E-F"].not_force_field == ["test", "nms"]
    assert rows["good E-F"].not_force_field == rows["mean predictor"].not_force_field == []
    gain = next(gain for gain in board.gains if gain.architecture == "bad")
    assert gain.withheld == {"test": "not a force field", "nms": "not a force field"}
    assert gain.ratios["nms"]["forces_mae"] is None
    assert gain.ratios["nms"]["energy_mae"] is not None
    assert not [claim for claim in board.claims if claim.metric.startswith("forces")]
    assert [claim for claim in board.claims if claim.metric == "energy_mae"]
    assert any("bad E-F: not a force field on nms. Its force MAE, 1,620 meV/Å" in note for note in board.notes)


def test_stationary_points_have_no_ratios_of_forces_and_nobody_is_called_names() -> None:
    def still(record: Record) -> Record:
        for name in ("forces_mae", "forces_rmse"):
            record = without(record, "test", name, 1.0 if record.regime == "mean" else 50.0)
        return record

    board = board_of(*map(still, (MEAN, make_record("ani", "E-F"), make_record("ani", "E-F-H"))))
    assert board.gains[0].withheld == {"test": "no forces there"}
    assert all(row.not_force_field == [] for row in board.rows)
    assert any("Forces on test" in note for note in board.notes)


def test_the_main_comparison_comes_before_the_control() -> None:
    regimes = ("E-F", "E-F+", "E-F+H", "E-F-H")
    board = board_of(MEAN, *(make_record("ani", regime, 0, 0.1) for regime in regimes))  # type: ignore[arg-type]
    assert [(gain.regimes, gain.control) for gain in board.gains] == [
        (("E-F+", "E-F-H"), False),
        (("E-F+", "E-F+H"), False),
        (("E-F", "E-F-H"), True),
    ]


def test_costs_are_means_over_seeds_and_null_for_the_mean_predictor() -> None:
    rows = rows_of(MEAN, make_record(seed=0, scale=0.1), make_record(seed=1, scale=0.2))
    assert rows["ani E-F"].device_seconds == pytest.approx((400 + 200) / 2)
    assert rows["ani E-F"].products == 0
    assert rows["mean predictor"].device_seconds is None


def test_gains_are_ratios_with_propagated_spread() -> None:
    records = [make_record("ani", "E-F", seed, 0.1 * (1 + seed)) for seed in (0, 1)]
    records += [make_record("ani", "E-F-H", seed, 0.05 * (1 + seed)) for seed in (0, 1)]
    (gain,) = board_of(MEAN, *records).gains
    ratio = gain.ratios["test"]["forces_rmse"]
    assert ratio is not None
    assert ratio.value == pytest.approx(0.5)
    relative = math.sqrt(0.5) / 1.5  # std/mean of each part
    assert ratio.std == pytest.approx(0.5 * math.sqrt(2) * relative)
    assert gain.device_seconds == pytest.approx(6.0)


def test_a_gain_without_its_counterpart_is_null() -> None:
    (gain,) = board_of(MEAN, make_record("ani", "E-F-H")).gains
    assert gain.without_hessian is None
    assert all(ratio is None for ratios in gain.ratios.values() for ratio in ratios.values())


def test_equal_steps_and_equal_time_are_compared_apart() -> None:
    records = [make_record("ani", "E-F-H", seed, 0.05) for seed in (0, 1, 2)]
    records += [make_record("ani", "E-F", seed, 0.2) for seed in (0, 1, 2)]
    records += [make_record("ani", "E-F", s, 0.1, entry="ani E-F, equal time", budget="seconds") for s in (0, 1, 2)]
    board = board_of(MEAN, *records)
    found = {gain.budget: gain for gain in board.gains}
    assert {budget: gain.without_hessian for budget, gain in found.items()} == {
        "steps": "ani E-F",
        "seconds": "ani E-F, equal time",
    }
    ratios = {budget: gain.ratios["test"]["forces_mae"] for budget, gain in found.items()}
    assert {budget: ratio.value for budget, ratio in ratios.items() if ratio} == pytest.approx(
        {"steps": 0.25, "seconds": 0.5}
    )
    claims = [claim for claim in board.claims if (claim.metric, claim.split) == ("forces_mae", "nms")]
    assert [(claim.budget, claim.architecture) for claim in claims] == [("steps", "ani"), ("seconds", "ani")]
    means = [claim.without.mean for claim in claims if claim.without]
    assert means[1] == pytest.approx(means[0] / 2)


def test_no_gain_for_equal_time_where_no_run_had_it() -> None:
    board = board_of(MEAN, make_record("ani", "E-F"), make_record("ani", "E-F-H"))
    assert [gain.budget for gain in board.gains] == ["steps"]


@pytest.mark.parametrize("key", ["content_hash", "split_hash", "level_of_theory"])
def test_unlike_data_are_refused(key: str) -> None:
    other = make_record(seed=1, data=DATA.model_copy(update={key: "different"}))
    with pytest.raises(DataError, match=f"(?s)1.json: {key} is 'different'.*separate leaderboard"):
        board_of(make_record(), other)


def test_the_same_seed_twice_is_refused() -> None:
    with pytest.raises(DataError, match="seed 0 of 'ani E-F' is already there"):
        board_of(make_record(), make_record())


def test_one_entry_for_two_architectures_is_refused() -> None:
    with pytest.raises(DataError, match="different architectures"):
        board_of(make_record("ani", entry="x"), make_record("schnet", entry="x", seed=1))


def test_a_metric_in_another_unit_is_refused() -> None:
    record = make_record()
    metrics = {"test": {"energy_mae": Metric(value=1.0, unit="kcal/mol", n=6)}}
    with pytest.raises(DataError, match="energy_mae is given in 'kcal/mol'"):
        board_of(MEAN, record.model_copy(update={"metrics": metrics}))


def test_unlike_budgets_and_seeds_that_differ_in_weights_are_noted() -> None:
    longer = make_record("schnet").cost.model_copy(update={"steps": 9000})
    board = board_of(MEAN, make_record(), make_record(seed=1, weights={"energy": 2.0}), make_record("x", cost=longer))
    assert any("budgets differ: 2000, 9000" in note for note in board.notes)
    assert any("more than the seed" in note for note in board.notes)


def test_rows_come_from_run_folders(runs: Sequence[Path]) -> None:
    board = score(collect(runs))
    assert [row.rank for row in board.rows] == [1, 1, 1, 1, 1, 6, 6]  # two seeds show nothing; one failed
    assert board.structures == {"test": 7, "nms": 7}


def test_json_reads_back(save_run: Callable[..., Path]) -> None:
    board = score(collect([save_run(MEAN), save_run(make_record())]))
    assert Leaderboard.model_validate_json(board.model_dump_json()) == board
