"""Judging a run task by task: what is known is kept, what fails is counted, the rest goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.calculators.calculator import CalculationFailed
from ase.calculators.emt import EMT
from surfaces import minima
from tiny_store import TINY, write_tiny_store

from hessgnn.data.store.store import write_store
from hessgnn.errors import ConfigError, DataError
from hessgnn.evaluation.evaluate import evaluate, evaluate_calculator, record_mean_predictor
from hessgnn.evaluation.predictions import CURVATURE, mean_errors
from hessgnn.evaluation.record import read_record, read_results, write_record
from hessgnn.evaluation.run import TaskSettings
from hessgnn.evaluation.tasks.accuracy import METRICS, POOLED
from hessgnn.leaderboard.collect import collect
from hessgnn.leaderboard.report import write_report
from hessgnn.potentials.saved import load_checkpoint, save_checkpoint
from hessgnn.training.config import RunConfig
from hessgnn.training.trainer import train


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_store(tmp_path_factory.mktemp("data") / "tiny.h5")


@pytest.fixture
def run(store: Path, tmp_path: Path) -> Path:
    content = {
        "potential": TINY,
        "data": {"path": str(store)},
        "training": {"steps": 4, "batch_size": 3, "schedule": {"warmup": 2}, "device": "cpu", "threads": 1},
        "validation": {"every": 4, "hessian": "probes", "n_probes": 2},
    }
    train(RunConfig.model_validate(content), tmp_path / "run")
    return tmp_path / "run"


def forbid(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    def called(*_: object, **__: object) -> None:
        raise AssertionError(f"{what} was called again")

    monkeypatch.setattr(what, called)


def test_tasks_join_the_record_one_after_the_other(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluate(run)
    assert set(first.metrics) == {"test", "nms"}
    assert first.metrics["test"].keys() == {*METRICS, *POOLED, *CURVATURE}
    forbid(monkeypatch, "hessgnn.evaluation.tasks.accuracy.predict_split")
    second = evaluate(run, tasks=["vibrations"])
    assert second.metrics["nms"] == first.metrics["nms"]
    assert {**first.metrics["test"]}.items() <= second.metrics["test"].items()
    assert "vibrations_failed" in second.metrics["test"]
    assert second.results["vibrations test"].path == "vibrations-test.jsonl"
    assert len(read_results(run / "vibrations-test.jsonl")) == 1
    forbid(monkeypatch, "hessgnn.evaluation.tasks.vibrations.VibrationsTask.run")
    assert evaluate(run, tasks=["accuracy", "vibrations"]) == second == read_record(run / "record.json")


def test_other_weights_or_settings_are_judged_anew(run: Path) -> None:
    first = evaluate(run, tasks=["accuracy,vibrations"])
    journal = run / "vibrations-test.jsonl"
    before = journal.read_text()
    evaluate(run, tasks=["vibrations"], settings=TaskSettings.model_validate({"vibrations": {"fmax": 0.5}}))
    assert journal.read_text() != before
    checkpoint = load_checkpoint(run / "best.pt")
    checkpoint["potential"]["scale"] *= 2
    save_checkpoint(run / "best.pt", checkpoint)
    again = evaluate(run, tasks=["vibrations"])
    assert again.fingerprint != first.fingerprint
    assert not METRICS.keys() & again.metrics["test"].keys()  # those were of the other weights


def test_predictions_that_were_damaged_are_made_again(run: Path) -> None:
    first = evaluate(run, splits=["test"])
    (run / "predictions-test.npz").write_bytes(b"damaged")
    second = evaluate(run, splits=["test"])
    assert second.metrics == first.metrics
    assert mean_errors(collect([run])[0].predictions("test")).keys() == METRICS.keys()


def test_a_sample_is_recorded_with_the_size_of_its_split(run: Path) -> None:
    whole = evaluate(run, splits=["nms"])
    n = whole.split_sizes["nms"]
    assert n == whole.metrics["nms"]["energy_mae"].n > 1
    some = evaluate(run, splits=["nms"], settings=TaskSettings(sample=1))
    assert (some.metrics["nms"]["energy_mae"].n, some.split_sizes["nms"]) == (1, n)
    assert len(collect([run])[0].predictions("nms").name) == 1  # type: ignore[union-attr]
    assert evaluate(run, splits=["nms"], settings=TaskSettings(sample=None)).metrics == whole.metrics
    mean = record_mean_predictor(run.parent / "mean", RunConfig.model_validate(whole.config).data, ["nms"], 1)
    assert (mean.metrics["nms"]["energy_mae"].n, mean.split_sizes) == (1, {"nms": n})


def test_the_curvature_of_each_structure_is_saved_and_found_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluate(run, splits=["test"])
    found = collect([run])[0].values("accuracy", "test")
    each = found["curvature_eigenvalue_mae"]
    assert each.keys() == found["hessian_mae"].keys()
    assert np.mean(list(each.values())) == pytest.approx(first.metrics["test"]["curvature_eigenvalue_mae"].value)
    (run / "curvature-test.jsonl").write_text("damaged")
    with pytest.raises(DataError, match=r"curvature-test\.jsonl.*SHA-256 differs"):
        collect([run])
    forbid(monkeypatch, "hessgnn.evaluation.tasks.accuracy.predict_split")  # the predictions are there
    assert evaluate(run, splits=["test"]) == first
    assert collect([run])[0].values("accuracy", "test") == found


def test_predictions_outlive_an_evaluation_that_was_killed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluate(run, splits=["test"])
    (run / "record.json").unlink()
    with monkeypatch.context() as patch:
        forbid(patch, "hessgnn.evaluation.tasks.accuracy.predict_split")
        second = evaluate(run, splits=["test"])
    assert second.predictions == first.predictions
    assert second.metrics == first.metrics
    checkpoint = load_checkpoint(run / "best.pt")
    checkpoint["potential"]["scale"] *= 2
    save_checkpoint(run / "best.pt", checkpoint)
    (run / "record.json").unlink()
    assert evaluate(run, splits=["test"]).predictions != first.predictions


def test_a_split_without_minima_fails_the_task_alone(run: Path) -> None:
    record = evaluate(run, tasks=["accuracy", "vibrations"], splits=["test", "nms"])
    assert record.status == "ok"
    assert METRICS.keys() <= record.metrics["nms"].keys()
    (failure,) = [f for f in record.failures if f.structure is None]
    assert (failure.task, failure.split) == ("vibrations", "nms")
    assert "no minimum" in failure.reason
    assert not [f for f in evaluate(run, tasks=["vibrations"]).failures if f.structure is None and f.split != "nms"]


class FailsOnMethane(EMT):
    def calculate(self, atoms=None, *args, **kwargs):
        if len(atoms) == 5:
            raise CalculationFailed("no convergence\nin many lines")
        super().calculate(atoms, *args, **kwargs)


def test_any_calculator_is_judged_and_its_failures_are_counted(tmp_path: Path) -> None:
    path = f"{__name__}:FailsOnMethane"
    settings = TaskSettings.model_validate(
        {"md": {"rise": 500.0, "rung": 0.025, "highest": 505.0, "nve": 0.025}, "relaxation": {"max_steps": 5}}
    )
    store = tmp_path / "two.h5"
    write_store(store, minima("CH4", "O3"), level_of_theory="GFN2-xTB")
    record = evaluate_calculator(path, store, tmp_path, tasks=["all"], settings=settings)
    assert record.status == "failed"  # its accuracy is not known
    assert "not finite for 1 structures of 'test', first 'CH4'" in (record.reason or "")
    assert (record.entry, record.regime) == ("FailsOnMethane", "external")
    reasons = {f.task: f.reason for f in record.failures if f.structure == "CH4"}
    assert reasons.keys() == {"vibrations", "relaxation", "md", "cost"}
    groups = {name: row["group"] for name, row in read_results(tmp_path / "relaxation-test.jsonl").items()}
    assert groups == {s.name: s.group for s in minima("CH4", "O3")}
    assert all("no convergence" in reason and "lines" not in reason for reason in reasons.values())
    metrics = record.metrics["test"]
    assert metrics["vibrations_failed"].n == 2
    assert metrics["vibrations_reference_stiff_order_mae"].n == 1


def test_processes_change_no_number(tmp_path: Path) -> None:
    store = tmp_path / "two.h5"
    write_store(store, minima("CH4", "O3"), level_of_theory="GFN2-xTB")
    found = [
        evaluate_calculator("surfaces:tight_gfn2", store, tmp_path / str(n), tasks=["relaxation"], processes=n).metrics
        for n in (1, 2)
    ]
    one, two = (metrics["test"]["relaxation_newton_rmsd"] for metrics in found)
    assert two.value == pytest.approx(one.value, abs=1e-9)
    assert one.n == two.n == 2


def test_a_board_takes_records_with_other_tasks(run: Path, tmp_path: Path, store: Path) -> None:
    evaluate(run, tasks=["accuracy", "vibrations"])
    evaluate_calculator("ase.calculators.emt:EMT", store, tmp_path / "emt", tasks=["accuracy", "vibrations"])
    record = read_record(run / "record.json")
    fewer = {
        name: m.model_copy(update={"n": 0, "value": None} if "own" in name else {"n": m.n + 5})
        for name, m in record.metrics["test"].items()
        if name not in METRICS
    }
    metrics = {**record.metrics, "test": {**record.metrics["test"], **fewer}}
    write_record(record.model_copy(update={"metrics": metrics}), run / "record.json")
    page = write_report(collect([run, tmp_path / "emt"]), tmp_path / "board")
    assert page.is_file()
    csv = (tmp_path / "board" / "leaderboard.csv").read_text()
    assert "test vibrations_reference_stiff_order_mae [cm⁻¹]" in csv
    text = (tmp_path / "board" / "leaderboard.md").read_text()
    assert "different numbers of structures" not in text  # that is said of accuracy
    assert "| test | RMSD of the own minimum, Å |" in text
    assert "RMSD of the own minimum" in page.read_text()
    assert "Infrared spectrum of" in page.read_text()


def test_what_is_unknown_is_told(run: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'accuracy'"):
        evaluate(run, tasks=["acuracy"])


def test_a_run_of_a_sweep_is_evaluated_again_as_what_it_was(run: Path, store: Path) -> None:
    """Its own data hold no test split, and its loss does not tell E-F+ from E-F."""
    made = evaluate(run, splits=["test"], regime="E-F+", budget="seconds", demonstration=True)
    again = evaluate(run, data=store, splits=["test"])
    assert (
        (again.regime, again.budget, again.demonstration)
        == (made.regime, made.budget, True)
        == (
            "E-F+",
            "seconds",
            True,
        )
    )
