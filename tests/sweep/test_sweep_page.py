"""The page of a sweep, what it compares, and the estimate before it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest

from hessgnn.leaderboard.trials import TrialResult, read_trials, write_trials
from hessgnn.sweep.config import SweepConfig
from hessgnn.sweep.measure import Estimate, estimates
from hessgnn.sweep.report import Transferred, compared, importances, sections, write_report

MakeSweep = Callable[..., SweepConfig]


def row(architecture: str, trial: int, score: float | None, kind: str = "sampled", hessian: float = 0.1) -> TrialResult:
    values = {"loss.forces": 0.3} | ({} if kind == "baseline" else {"loss.hessian": hessian})
    state, reason = ("complete", None) if score is not None else ("failed", "the loss is <b>not</b> finite")
    regime = "E-F" if kind == "baseline" else "E-F-H"
    return TrialResult(architecture, trial, kind, regime, values, score, 1.5, 8, 1, state, reason)


ROWS = [
    row("schnet", 0, 1.0, "baseline"),
    row("schnet", 1, 0.8, "paper", 0.09),
    row("schnet", 2, 0.9, "balance", 0.001),
    row("schnet", 3, 0.7, hessian=0.02),
    row("schnet", 4, None),
    *(row("schnet", 5 + k, 0.75 + 0.01 * k, hessian=0.01 * (k + 1)) for k in range(6)),
]
TRANSFERRED = [Transferred("schnet", "ani", {"loss.forces": 2.0, "loss.hessian": 0.5}, 0.85)]


@pytest.fixture
def study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    study.optimize(lambda trial: (trial.suggest_float("a", -1, 1) - 0.5) ** 2 + 0 * trial.suggest_float("b", 0, 1), 40)
    return study


def test_known_own_and_foreign_weights_stand_beside_each_other() -> None:
    assert compared(ROWS, TRANSFERRED) == [
        ["schnet", "paper", "0.3", "0.09", "0.800"],
        ["schnet", "balance", "0.3", "0.001", "0.900"],
        ["schnet", "its own best", "0.3", "0.02", "0.700"],
        ["schnet", "the best of ani", "2", "0.5", "0.850"],
    ]


def test_what_matters_is_important(study: optuna.Study) -> None:
    found = importances(study)
    assert found["a"] > found["b"]
    assert importances(optuna.create_study()) == {}


def test_the_page_shows_what_there_is_and_escapes_it(
    make_sweep: MakeSweep, tmp_path: Path, study: optuna.Study
) -> None:
    config = make_sweep(architectures={})
    page = write_report(config, ROWS, TRANSFERRED, dict.fromkeys(config.architectures, study), tmp_path).read_text()
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert headings[:2] == ["Weights compared", "History"]
    assert {"Importance", "Cost", "Failures"} < set(headings)
    assert any("schnet" in heading for heading in headings)  # its landscape
    assert "the loss is &lt;b&gt;not&lt;/b&gt; finite" in page
    assert "<b>not" not in page
    for text in re.findall(r'<script type="application/json">(.*?)</script>', page, re.S):
        assert json.loads(text)["data"]
    text = (tmp_path / "sweep.md").read_text()
    assert re.findall("^## (.*)$", text, re.M) == ["Weights compared", "Importance", "Failures"]
    assert "| schnet | the best of ani | 2 | 0.5 | 0.850 |" in text
    assert "the loss is &lt;b&gt;not&lt;/b&gt; finite" in text


def test_a_second_objective_has_its_front(make_sweep: MakeSweep) -> None:
    config = make_sweep(objective={"cost": "products"})
    study = SimpleNamespace(
        best_trials=[SimpleNamespace(values=[0.7, 8.0])], directions=[0, 0], get_trials=lambda **_: []
    )
    found = sections(config, ROWS, [], dict.fromkeys(config.architectures, study))  # type: ignore[arg-type]
    (front,) = [section for section in found if section.heading == "Pareto front"]
    assert [trace["name"] for trace in front.panels[0].figure["data"] if "name" in trace] == ["schnet"]


def test_the_table_has_a_column_for_each_tuned_key(make_sweep: MakeSweep, tmp_path: Path) -> None:
    write_trials(ROWS, make_sweep().space, tmp_path / "trials.csv")
    lines = (tmp_path / "trials.csv").read_text().splitlines()
    assert lines[0].startswith("architecture,trial,kind,regime,loss.forces,loss.hessian,score,device_seconds")
    assert len(lines) == 1 + len(ROWS)
    assert "failed,the loss is <b>not</b> finite" in lines[5]
    assert read_trials(tmp_path / "trials.csv") == ROWS


def test_the_plan_counts_every_run(make_sweep: MakeSweep) -> None:
    config = make_sweep(transfer=True, equal_seconds=True, seeds=[1, 2], regimes=["E", "E-F", "E-F-H"])
    counted = config.count_runs()
    assert (counted.trials, counted.transfers, counted.finals, counted.equal_seconds) == (6, 2, 12, 8)
    assert counted.steps == (6 + 2) * 8 + (12 + 8) * 10


def test_an_estimate_adds_up(make_sweep: MakeSweep) -> None:
    config = make_sweep(transfer=True, equal_seconds=True)  # 3 trials of 8 steps, 10 steps at the end
    item = Estimate("schnet", plain_step=1.0, hessian_step=2.0, validation=0.5, every=4)
    trials = (8 * 1.0 + 2 * 0.5) + (2 + 1) * (8 * 2.0 + 2 * 0.5)
    final = 10 * 2.0 + 3 * 0.5
    assert item.seconds(config) == pytest.approx(trials + final + (10 * 1.0 + 3 * 0.5) + final)


def test_a_few_steps_are_measured_and_nothing_is_written(make_sweep: MakeSweep, tmp_path: Path) -> None:
    config = make_sweep(
        architectures={"examples.my_potential:MyPotential": {"training": {"device": "cuda:9"}}}, threads=1
    )
    good, bad = estimates(config)
    assert good.reason is None
    assert 0 < good.plain_step < 60
    assert 0 < good.hessian_step < 60
    assert good.validation > 0
    assert good.memory > 2**20
    assert good.every == 4
    assert bad.reason is not None
    assert "cuda:9" in bad.reason
    assert list(tmp_path.iterdir()) == []
