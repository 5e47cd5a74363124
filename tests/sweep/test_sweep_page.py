"""The page of a sweep, what it compares, and the estimate before it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from rich.console import Console
from rich.table import Table

from hessgnn.data.store.store import Store
from hessgnn.experiments.config import StudyConfig
from hessgnn.experiments.job import JobProgress, JobTitle
from hessgnn.leaderboard.sections.landscape import landscapes
from hessgnn.leaderboard.trials import TrialResult, check_rankings, read_trials, write_trials
from hessgnn.runtime.terminal import ProgressLog
from hessgnn.sweep.config import SweepConfig
from hessgnn.sweep.measure import Estimate, estimates, labelling
from hessgnn.sweep.report import Transferred, compared, importances, sections, write_report
from hessgnn.sweep.sweep import TrialFinished
from hessgnn.sweep.view import _plan_table, _View, estimate_table

MakeSweep = Callable[..., SweepConfig]


def row(
    architecture: str,
    trial: int,
    score: float | None,
    kind: str = "sampled",
    hessian: float | None = 0.1,
    final: float | None = None,
) -> TrialResult:
    values = {"loss.forces": 0.3} | ({} if hessian is None else {"loss.hessian": hessian})
    state, reason = ("complete", None) if score is not None else ("failed", "the loss is <b>not</b> finite")
    regime = "E-F" if hessian is None else "E-F-H"
    return TrialResult(architecture, trial, kind, regime, values, score, 1.5, 8, 1, state, reason, final)


ROWS = [
    row("schnet", 0, 1.1, "paper", None),
    row("schnet", 1, 0.8, "paper", 0.09),
    row("schnet", 2, 0.9, "balance", 0.001),
    row("schnet", 3, 0.7, hessian=0.02),
    row("schnet", 4, None),
    *(row("schnet", 5 + k, 0.75 + 0.01 * k, hessian=0.01 * (k + 1)) for k in range(6)),
]
TRANSFERRED = [Transferred("schnet E-F-H", "ani", {"loss.forces": 2.0, "loss.hessian": 0.5}, 0.85)]


@pytest.fixture
def study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    study.optimize(lambda trial: (trial.suggest_float("a", -1, 1) - 0.5) ** 2 + 0 * trial.suggest_float("b", 0, 1), 40)
    return study


def test_known_own_and_foreign_weights_stand_beside_each_other() -> None:
    assert compared(ROWS, TRANSFERRED) == [
        ["schnet E-F", "paper", "0.3", "–", "1.1"],
        ["schnet E-F", "its own best", "0.3", "–", "1.1"],
        ["schnet E-F-H", "paper", "0.3", "0.09", "0.8"],
        ["schnet E-F-H", "balance", "0.3", "0.001", "0.9"],
        ["schnet E-F-H", "its own best", "0.3", "0.02", "0.7"],
        ["schnet E-F-H", "weights of ani", "2", "0.5", "0.85"],
    ]


def test_the_ranking_is_compared_at_both_lengths() -> None:
    scores = [(1.0, 3.0), (2.0, 2.0), (3.0, 5.0), (4.0, None)]  # the second is the best at the end
    rows = [row("ani", k, short, final=final) for k, (short, final) in enumerate(scores)]
    (found,) = check_rankings(rows).values()
    assert found is not None
    assert (found.subject, found.trials, found.chosen, found.best) == ("ani E-F-H", 3, 0, 1)
    assert found.excess == 1.5
    assert not found.holds
    assert found.kendall == pytest.approx(1 / 3)
    assert found.spearman == pytest.approx(0.5)
    (same,) = check_rankings([row("ani", k, 1.0 + k, final=2.0) for k in range(3)]).values()
    assert same is not None
    assert same.holds  # of equals the chosen one
    assert same.kendall is same.spearman is None
    assert check_rankings(rows[3:]) == {"ani E-F-H": None}
    (group,) = landscapes(rows)
    assert "At the final length trial 1 is better: the chosen one has 1.50 times its score." in group.text
    assert "not known" in landscapes(rows[3:])[0].text


def test_the_page_says_both_lengths_and_what_is_not_known(make_sweep: MakeSweep, study: optuna.Study) -> None:
    config = make_sweep(check_ranking={"trials": 2}, final_steps=77)
    studies = {str(subject): study for subject in config.subjects}
    rows = [row("schnet", 0, 1.1, "paper", None), *(row("schnet", k, 1.0 + k, final=2.0 + k) for k in (0, 1))]
    (section,) = [s for s in sections(config, rows, [], studies) if s.heading == "Ranking at the final length"]
    assert "Trials have 8 steps, the retraining at most 77." in section.text
    assert "still the best for 1 of 1" in section.text
    assert section.table is not None
    assert section.table.lines == [
        ["schnet E-F", "–", "–", "–", "–", "–", "not known"],
        ["schnet E-F-H", "2", "1", "1", "0 / 0", "1.000", "yes"],
    ]
    (section,) = [s for s in sections(config, rows[:1], [], studies) if s.heading == "Ranking at the final length"]
    assert "ranked alike after both is not known" in section.text


def test_what_matters_is_important(study: optuna.Study) -> None:
    found = importances(study)
    assert found["a"] > found["b"]
    assert importances(optuna.create_study()) == {}


def test_the_page_shows_what_there_is_and_escapes_it(
    make_sweep: MakeSweep, tmp_path: Path, study: optuna.Study
) -> None:
    config = make_sweep(architectures={})
    page = write_report(
        config, ROWS, TRANSFERRED, dict.fromkeys(map(str, config.subjects), study), tmp_path
    ).read_text()
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert headings[:3] == ["Best settings", "Ranking at the final length", "History"]
    assert {"Importance", "Cost", "Failures"} < set(headings)
    assert any("schnet" in heading for heading in headings)  # its landscape
    assert "the loss is &lt;b&gt;not&lt;/b&gt; finite" in page
    assert "<b>not" not in page
    for text in re.findall(r'<script type="application/json">(.*?)</script>', page, re.S):
        assert json.loads(text)["data"]
    text = (tmp_path / "sweep.md").read_text()
    assert re.findall("^## (.*)$", text, re.M) == [
        "Best settings",
        "Ranking at the final length",
        "Importance",
        "Failures",
    ]
    assert "| schnet E-F-H | weights of ani | 2 | 0.5 | – | 0.85 |" in text
    assert "the loss is &lt;b&gt;not&lt;/b&gt; finite" in text


def test_a_second_objective_has_its_front(make_sweep: MakeSweep) -> None:
    config = make_sweep(objective={"cost": "products"})
    study = SimpleNamespace(
        best_trials=[SimpleNamespace(values=[0.7, 8.0])], directions=[0, 0], get_trials=lambda **_: []
    )
    found = sections(config, ROWS, [], dict.fromkeys(map(str, config.subjects), study))  # type: ignore[arg-type]
    (front,) = [section for section in found if section.heading == "Pareto front"]
    names = [trace["name"] for trace in front.panels[0].figure["data"] if "name" in trace]
    assert names == ["schnet E-F", "schnet E-F-H"]


def test_the_table_has_a_column_for_each_tuned_key(make_sweep: MakeSweep, tmp_path: Path) -> None:
    write_trials(ROWS, make_sweep().space, tmp_path / "trials.csv")
    lines = (tmp_path / "trials.csv").read_text().splitlines()
    assert lines[0].startswith(
        "architecture,trial,kind,regime,training.schedule.lr,loss.forces,loss.hessian,score,device_seconds"
    )
    assert lines[0].endswith(",state,reason,final_score")
    assert len(lines) == 1 + len(ROWS)
    assert "failed,the loss is <b>not</b> finite" in lines[5]
    assert read_trials(tmp_path / "trials.csv") == ROWS


def test_the_plan_counts_every_run(make_sweep: MakeSweep) -> None:
    config = make_sweep(
        transfer=True, equal_seconds=True, seeds=[1, 2], regimes=["E", "E-F", "E-F-H"], check_ranking={"trials": 1}
    )
    counted = config.count_runs()
    assert (counted.trials, counted.transfers, counted.checks) == (2 * 3 * 3, 2, 2 * 3 * 2)
    assert (counted.finals, counted.equal_seconds) == (12, 8)
    assert counted.steps == (18 + 2) * 8 + (12 + 12 + 8) * 10


def test_an_estimate_adds_up(make_sweep: MakeSweep) -> None:
    config = make_sweep(transfer=True, equal_seconds=True, check_ranking={"trials": 1})  # 3 of 8 steps, 10 at the end
    item = Estimate("schnet", plain_step=1.0, hessian_step=2.0, validation=0.5, every=4)
    plain = 3 * (8 * 1.0 + 2 * 0.5) + (2 + 1) * (10 * 1.0 + 3 * 0.5)
    curved = (3 + 1) * (8 * 2.0 + 2 * 0.5) + (2 + 1) * (10 * 2.0 + 3 * 0.5)
    assert item.seconds(config) == pytest.approx(plain + curved + 10 * 2.0 + 3 * 0.5)


def test_an_estimate_of_a_study_adds_up() -> None:
    content = {"name": "s", "architectures": {"schnet": {}, "ani": {}}, "regimes": ["E-F", "E-F-P1", "E-F+2", "E-F-H"]}
    config = StudyConfig.model_validate(content | {"steps": 10, "seeds": [1, 2], "equal_seconds": ["E-F"]})
    item = Estimate("schnet", plain_step=1.0, hessian_step=2.0, validation=0.5, every=4)
    # E-F and E-F+2 of two seeds, and E-F-P1, E-F-H, and E-F again for as long as E-F-H
    parts = len(config.fractions)
    assert item.seconds(config) == pytest.approx(parts * (4 * (10 * 1.0 + 3 * 0.5) + 6 * (10 * 2.0 + 3 * 0.5)))


def test_the_plan_says_what_is_tuned(make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(table: Table) -> str:
        console = Console(width=300, record=True, file=io.StringIO())
        console.print(table)
        return " ".join(console.export_text().split())

    config = make_sweep(check_ranking={"trials": 1})
    plan = shown(_plan_table(config, Path("x")))
    assert "tuned for E-F-H" in plan
    assert "the best and the worst trial of each" in plan
    plan = shown(_plan_table(make_sweep(budget={"trials": 1}), Path("x")))
    assert "nothing: the only trial of each has the paper's weights" in plan
    assert "tuned for" not in plan
    monkeypatch.setattr("os.getloadavg", lambda: (99.5, 0.0, 0.0))
    cost = shown(estimate_table(config, [Estimate("schnet", 1e-3, 1e-3, 1e-3, 4)], None))
    assert "less than a minute of training" in cost
    assert "The machine is busy (load 99.5" in cost
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    assert "busy" not in shown(estimate_table(config, [], None))


def test_frames_to_be_labelled_are_counted(make_sweep: MakeSweep) -> None:
    assert labelling(make_sweep()) is None
    config = make_sweep(regimes=["E-F+", "E-F-H"], space={"labels.displacement": {"choices": [0.02, 0.05, 0.1]}})
    store = Store.open(config.data.path)
    whole = sum(6 * int(store.n_atoms[i]) for i in store.indices("train"))
    found = labelling(config)
    assert found is not None
    assert (
        found.gradients == (3 + 2) * whole
    )  # with every displacement; with the best of both, for the seed of the retraining
    assert found.seconds > 0
    half = labelling(make_sweep(regimes=["E-F+H"]))
    assert half is not None
    assert half.gradients == (1 + len(config.seeds)) * whole // 2  # each draw has its own
    products = labelling(make_sweep(regimes=["E-F-P3", "E-F+2", "E-F-H"]))
    assert products is not None
    assert products.gradients == (1 + len(config.seeds)) * (2 * 3 + 2) * len(store.indices("train"))


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


def test_the_live_table_has_a_row_for_each_study_and_one_while_frames_are_labelled(
    make_sweep: MakeSweep, tmp_path: Path
) -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    view = _View(make_sweep(), console, ProgressLog(console, tmp_path / "log"))
    title = JobTitle("labels", "", "train-1-frames-0.1", "data/train-1-frames-0.1.h5")
    view.observe(JobProgress(title, 3, 6, task="labelling frames of structure"))
    view.observe(TrialFinished(ROWS[3], "trial schnet E-F-H 3"))
    console.print(view.render())
    shown = console.export_text()
    assert "labels train-1-frames-0.1: labelling frames of structure 3/6" in shown
    assert re.search(r"schnet E-F-H +1/3 +0.7 \(trial 3\)", shown)
    assert re.search(r"schnet E-F +0/3", shown)
    assert "sampled complete: score 0.7 (forces 0.3, hessian 0.02), 1.5 device-seconds" in shown
    view.observe(JobProgress(title, 6, 6, task="labelling frames of structure"))
    assert view._running == {}
