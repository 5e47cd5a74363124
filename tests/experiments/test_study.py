"""A study trains every regime on every part, and says what came of it."""

from __future__ import annotations

import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from hessgnn.cli.study import study as study_command
from hessgnn.data.store.store import Store, write_store
from hessgnn.errors import ConfigError, DataError, NothingTrained
from hessgnn.evaluation.evaluate import evaluate
from hessgnn.evaluation.record import read_record
from hessgnn.experiments.config import StudyConfig
from hessgnn.experiments.job import Event, JobProgress, Note
from hessgnn.experiments.label_value import LabelValue
from hessgnn.experiments.study import Cell, cells_of, report, study
from hessgnn.experiments.study_report import StudyRuns, read_points, summary
from hessgnn.leaderboard.collect import collect
from hessgnn.leaderboard.scores import score
from hessgnn.runtime.config import load, save
from hessgnn.runtime.files import find_resource
from hessgnn.training.run import Run

MakeStudy = Callable[..., StudyConfig]


def silent(_: object) -> None:
    pass


STEP_COSTS = {"E": 1.0, "E-F": 1.0, "E-F+": 1.0, "E-F+H": 1.2, "E-F-H": 1.5}


def test_a_study_compares_labels_on_parts_of_the_data(make_study: MakeStudy, tmp_path: Path) -> None:
    config = make_study(
        regimes=["E", "E-F", "E-F+", "E-F+H", "E-F-H"],
        fractions=[1.0, 0.4],
        seeds=[1],
        equal_seconds=True,
        step_costs={"schnet": STEP_COSTS},
        labels={"hessian_gradients": 1.0},
        tasks=["vibrations"],
    )
    assert len(cells_of(config)) == 2 * 5 + 2 * 4
    records = study(config, tmp_path, silent)
    points = StudyRuns.model_validate_json((tmp_path / "points.json").read_text())
    assert len(points.points) == 18
    assert {point.status for point in points.points} == {"ok"}
    by_kind = {(p.regime, p.fraction, p.budget): p for p in points.points}
    costs = {by_kind[kind, 0.4, "steps"].label_gradients for kind in ("E-F+", "E-F+H", "E-F-H")}
    assert len(costs) == 1  # the same bill for all that know more than energies and forces of the structures
    assert by_kind["E-F", 0.4, "steps"].label_gradients < costs.pop()
    assert by_kind["E-F", 0.4, "steps"].structures < by_kind["E-F", 1.0, "steps"].structures == 6
    assert {p.steps for p in points.points if p.budget == "steps"} == {6}
    # Of fixed costs of a step, not of the clock.
    assert {(p.regime, p.steps) for p in points.points if p.budget == "seconds"} == {
        ("E", 9),
        ("E-F", 9),
        ("E-F+", 9),
        ("E-F+H", 8),
    }
    cost = read_record(tmp_path / by_kind["E-F-H", 1.0, "steps"].run / "record.json").cost
    point = by_kind["E-F-H", 1.0, "steps"]
    assert (cost.label_gradients, cost.validation_gradients) == (point.label_gradients, point.validation_gradients)
    assert point.total_gradients == point.label_gradients + (point.validation_gradients or 0) > point.label_gradients
    assert evaluate(tmp_path / point.run).cost == cost  # an evaluation by hand forgets nothing

    # Judged on the whole data, and with its own name for what it saw.
    plus = read_record(tmp_path / by_kind["E-F+", 1.0, "steps"].run / "record.json")
    assert (plus.regime, plus.data.name) == ("E-F+", "tiny")
    assert plus.config["data"]["path"].endswith("train-1-draw1-frames-0.1.h5")
    assert "vibrations_failed" in plus.metrics["test"]
    assert "vibrations_failed" not in read_record(tmp_path / by_kind["E", 0.4, "steps"].run / "record.json").metrics

    board = score(collect(records))
    assert [row.entry for row in board.rows if row.regime == "E-F+"] == ["schnet E-F+, 100 %"]
    assert len(board.rows) == 6
    text = (tmp_path / "study.md").read_text()
    for title in ("T4: Hessians on 40 % against none on 100 %", "Hessians or displaced frames, equal steps"):
        assert title in text
    page = (tmp_path / "study.html").read_text()
    assert "Data efficiency, equal device-seconds" in page
    assert "Hessians or more forces, equal steps" in page
    assert "Half of each or displaced frames, equal device-seconds" in page
    assert "not known to be converged" in page
    assert "circle-open" in page
    assert "Validation labels / gradients" in text


def test_a_redirected_study_prints_a_line_for_each_finished_unit(
    make_study: MakeStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_study(regimes=["E-F+", "E-F-H"], seeds=[1], labels={"hessian_gradients": 1.0})
    save(config, tmp_path / "study.yaml")
    study_command(tmp_path / "study.yaml", [], output=tmp_path / "out", dry_run=False)
    printed, log = capsys.readouterr().out, (tmp_path / "out" / "study.log").read_text()
    units = [
        r"labels train-1-draw1-frames-0\.1\] labelling structure 6/6$",
        r"report\] .*leaderboard written$",
    ]
    for regime in (r"E-F\+", "E-F-H"):
        run = rf"run schnet {regime}, 100 %, seed 1\]"
        units += [rf"{run} 6/6 steps  E \d", rf"{run} finished: score .* device-seconds$"]
        units += [rf"{run} evaluating accuracy on {split} (\d+)/\1$" for split in ("test", "nms")]
    for unit in units:
        assert re.search(rf"^\[{unit}", printed, re.M), (unit, printed)
        assert re.search(rf"^[-\d]+ [:\d]+ \[{unit}", log, re.M), unit


def test_a_study_goes_on_and_another_is_refused(
    make_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_study()
    first = study(config, tmp_path, silent)
    before = (tmp_path / "points.json").read_text()
    (Cell("schnet", "E-F", 1.0, 2).folder(tmp_path) / "record.json").unlink()
    trained = []
    # Nothing is trained again.
    monkeypatch.setattr("hessgnn.training.step.TrainingStep.__call__", lambda self, step: trained.append(step))
    events: list[Event] = []
    assert study(config, tmp_path, events.append) == first
    assert trained == []
    number = len(cells_of(config))
    assert Note("resumed", f"{number - 1} of {number} runs were finished") in events
    points, again = json.loads(before)["points"], json.loads((tmp_path / "points.json").read_text())["points"]
    assert [p["errors"] for p in again] == [p["errors"] for p in points]
    with pytest.raises(ConfigError, match=r"steps: 6 became 7"):
        study(make_study(steps=7), tmp_path, silent)


def test_a_run_that_fails_is_counted(make_study: MakeStudy, tmp_path: Path) -> None:
    config = make_study(base={"loss": {"hessian": 1e38}}, seeds=[1])
    study(config, tmp_path, silent)
    points = StudyRuns.model_validate_json((tmp_path / "points.json").read_text()).points
    assert {p.regime: p.status for p in points} == {"E-F": "ok", "E-F-H": "failed"}
    assert "is not finite" in (tmp_path / "study.md").read_text()


def test_a_study_of_which_nothing_could_be_trained_has_no_page(make_study: MakeStudy, tmp_path: Path) -> None:
    with pytest.raises(NothingTrained, match=r"no run could be trained.*record\.json"):
        study(make_study(base={"loss": {"hessian": 1e38}}, seeds=[1], regimes=["E-F-H"]), tmp_path, silent)
    assert not (tmp_path / "study.md").exists()
    assert [read_record(path).status for path in tmp_path.glob("runs/*/record.json")] == ["failed"]


def test_equal_steps_can_be_looked_at_while_equal_seconds_run(make_study: MakeStudy, tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, JobProgress) and "seconds" in event.title.folder:
            raise KeyboardInterrupt

    config = make_study(seeds=[1], equal_seconds=True, step_costs={"schnet": STEP_COSTS})
    with pytest.raises(KeyboardInterrupt):
        study(config, tmp_path, stop)
    points = StudyRuns.model_validate_json((tmp_path / "points.json").read_text()).points
    assert {point.budget for point in points} == {"steps"}
    assert (tmp_path / "study.html").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fractions": [0.0, 1.0]}, "above 0 and up to 1"),
        ({"fractions": [1.0, 1.0]}, r"1\.0 is there twice"),
        ({"seeds": [3, 3]}, "3 is there twice"),
        ({"tasks": ["vibration"]}, "did you mean 'vibrations'"),
        ({"regimes": ["E-F"], "equal_seconds": True}, "needs the regime E-F-H"),
        ({"base": {"loss": {"hessian": 0.0}}}, "there is no regime E-F-H"),
        ({"regimes": ["E-F+H"], "base": {"loss": {"hessian": 0.0}}}, r"there is no regime E-F\+H"),
        ({"fraction": 0.5}, r"write fractions: \[0.5\]"),
        ({"step_costs": {"ani": STEP_COSTS}}, "'ani' is none of the architectures"),
        ({"step_costs": {"schnet": {"E-F": 1.0}}}, "schnet lacks E-F-H"),
        ({"base": {"potential": {"name": "ani"}}}, "base holds no potential"),
        ({"base": {"training": {"stps": 3}}}, "did you mean 'steps'"),
    ],
)
def test_what_makes_no_study_is_told(make_study: MakeStudy, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_study(**changes)


def test_the_steps_of_equal_time_are_kept_when_a_study_goes_on(make_study: MakeStudy, tmp_path: Path) -> None:
    config = make_study(seeds=[1], equal_seconds=True)
    study(config, tmp_path, silent)
    costs = json.loads((tmp_path / "data" / "step-costs.json").read_text())["costs"]["schnet"]
    assert costs["E-F"] == 1
    assert set(costs) == {"E-F", "E-F-H"}
    folder = Cell("schnet", "E-F", 1.0, 1, "seconds").folder(tmp_path)
    steps = Run(folder).config().training.steps
    (folder / "record.json").unlink()
    study(config, tmp_path, silent)
    assert Run(folder).config().training.steps == steps == read_record(folder / "record.json").cost.steps
    assert steps == max(1, round(6 * costs["E-F-H"]))


def test_a_part_that_is_no_good_fails_its_run_and_such_data_end_the_study(
    make_study: MakeStudy, tiny_store: Path, tmp_path: Path
) -> None:
    config = make_study(regimes=["E-F"], fractions=[0.2, 1.0], seeds=[1])
    study(config, tmp_path / "out", silent)
    points = StudyRuns.model_validate_json((tmp_path / "out" / "points.json").read_text()).points
    assert {p.fraction: p.status for p in points} == {0.2: "failed", 1.0: "ok"}
    assert "the model cannot learn this element" in (points[0].reason or "")

    write_store(tmp_path / "bad.h5", [s for s in Store.open(tiny_store) if s.name != "HCN"], level_of_theory="GFN2-xTB")
    with pytest.raises(DataError, match="N in validation, but not in train"):
        study(make_study(base={"data": {"path": str(tmp_path / "bad.h5")}}), tmp_path / "bad", silent)
    assert not list((tmp_path / "bad").glob("runs/*"))


def test_seeds_draw_parts_of_their_own(make_study: MakeStudy, tmp_path: Path) -> None:
    config = make_study(regimes=["E-F"], fractions=[0.7], seeds=[1, 2])
    study(config, tmp_path, silent)
    names = []
    for seed in config.seeds:
        store = Store.open(Run(Cell("schnet", "E-F", 0.7, seed).folder(tmp_path)).config().data.path)
        names.append({store.names[i] for i in store.indices("train")})
    assert names[0] != names[1]


def test_an_unfinished_study_of_older_rules_is_refused(make_study: MakeStudy, tmp_path: Path) -> None:
    config = make_study(seeds=[1])
    save(config, tmp_path / "study.yaml")
    written = (tmp_path / "study.yaml").read_text()
    assert "rules: 3\n" in written
    (tmp_path / "study.yaml").write_text(written.replace("rules: 3\n", "of_old: 1\n"))
    with pytest.raises(ConfigError, match=r"begun under other rules of comparison.*can still be compared"):
        study(config, tmp_path, silent)
    assert not list(tmp_path.glob("runs/*"))


def test_points_of_version_0_1_0_are_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(Path(__file__).parents[1] / "stored" / "version-0.1.0.zip") as archive:
        archive.extract("study/points.json", tmp_path)
    points = read_points(tmp_path / "study")
    assert {(point.validation_gradients, point.converged) for point in points.points} == {(None, None)}
    assert all(point.total_gradients == point.label_gradients for point in points.points)
    assert "2 not known to be converged" in summary(points)


@pytest.mark.parametrize("name", ["claims", "efficiency"])
def test_shipped_studies_compare_labels_of_equal_cost_fairly(name: str) -> None:
    config = load(StudyConfig, find_resource(f"sweeps/{name}.yaml"))
    assert config.regimes == ("E-F", "E-F+", "E-F+H", "E-F-H")
    for architecture in config.architectures:
        runs = [config.run_config(architecture, {}, steps=config.steps, seed=1, regime=r) for r in config.regimes]
        assert {run.loss.energy_form for run in runs} == {"per_sqrt_atom"}
        assert {run.validation.weights["hessian"] for run in runs} == {0.0}
        assert {(run.training.schedule.kind, run.training.schedule.stop_below) for run in runs} == {("plateau", 1e-4)}


@pytest.mark.parametrize("name", ["paper", "claims", "efficiency"])
def test_shipped_studies_can_be_run(name: str) -> None:
    config = load(StudyConfig, find_resource(f"sweeps/{name}.yaml"))
    assert config.name == name
    assert {"train", "validation", "test", "nms"} <= Store.open(config.data.path).splits.keys()


def test_a_demonstration_has_no_verdicts_and_says_so(make_study: MakeStudy, tmp_path: Path) -> None:
    config = make_study(regimes=["E-F", "E-F-H"], fractions=[0.4, 1.0], seeds=[1], demonstration=True)
    study(config, tmp_path, silent)
    assert read_points(tmp_path).demonstration
    for name in ("study.md", "study.html"):
        assert "demonstration of the tool, not evidence" in (tmp_path / name).read_text()
    text = (tmp_path / "study.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| Hessian labels:")]
    assert lines
    assert all("| not known (runs of a demonstration) |" in line for line in lines)
    _, _, with_less = text.partition("T4: Hessians on 40 % against none on 100 %")
    table, _, _ = with_less.partition("##")
    sources = {line.split(" | ")[1] for line in table.splitlines() if line.startswith("| Hessian labels:")}
    assert sources == {"–"}  # the study's claims on errors are about equal data


def test_an_unfinished_study_compares_like_with_like(make_study: MakeStudy) -> None:
    """All architectures have had a kind of labels, and all kinds a seed, before the next one begins."""
    small = {"potential": {"name": "schnet", "width": 8, "n_interactions": 1, "n_basis": 8}}
    config = make_study(
        architectures={"schnet": small, "other": small},
        regimes=["E-F", "E-F-H", "E-F-P1", "E-F-H/2"],
        equal_seconds=["E-F", "E-F-H/2"],
        seeds=[1, 2, 3],
    )
    cells = cells_of(config)
    steps = [cell for cell in cells if cell.budget == "steps"]
    assert cells[: len(steps)] == steps
    for done in range(len(steps) + 1):
        per_seed = Counter(cell.seed for cell in steps[:done])
        assert all(per_seed[seed] == 8 for seed in (1, 2, 3) if per_seed[seed + 1])
        kinds = Counter(cell.regime for cell in steps[:done])
        assert max(kinds.values(), default=0) - min(kinds[kind] for kind in config.regimes) <= 2
        architectures = Counter(cell.architecture for cell in steps[:done])
        assert architectures["schnet"] - architectures["other"] in (0, 1)
    assert {cell.regime for cell in cells[len(steps) :]} == {"E-F", "E-F-H/2"}
    assert len({cell.folder(Path()) for cell in cells}) == len(cells) == 24 + 12


def test_equal_seconds_are_trained_where_a_step_costs_something_else(make_study: MakeStudy) -> None:
    regimes = ["E-F", "E-F+2", "E-F-P1", "E-F-S1", "E-F-H/2", "E-F-P2/2", "E-F-H"]
    config = make_study(regimes=regimes, equal_seconds=True)
    assert config.retrained == ["E-F", "E-F+2", "E-F-H/2", "E-F-P2/2"]
    assert make_study(regimes=regimes).retrained == []
    assert make_study(regimes=regimes, equal_seconds=["E-F-H", "E-F"]).timed == ["E-F", "E-F-H"]
    with pytest.raises(ConfigError, match="equal_seconds: E-F-P2 is none of the regimes"):
        make_study(regimes=regimes, equal_seconds=["E-F-P2"])


def test_a_study_of_products_says_what_labels_buy(make_study: MakeStudy, tmp_path: Path) -> None:
    config = make_study(regimes=["E-F", "E-F-P1", "E-F-S1", "E-F-H/2", "E-F-H"], seeds=[1])
    with pytest.raises(DataError, match="no run is finished"):
        report(config, tmp_path)
    study(config, tmp_path, silent)
    value = LabelValue.model_validate_json((tmp_path / "labels.json").read_text())
    assert (value.finished, value.planned, value.steps, value.structures) == (5, 5, 6, 6)
    by_labels = {point.labels: point for point in value.points}
    assert by_labels.keys() == set(config.regimes)
    record = read_record(Cell("schnet", "E-F-P1", 1.0, 1).folder(tmp_path) / "record.json")
    assert record.regime == "E-F-P1"
    assert record.config["loss"]["probes"]["kind"] == "stored"
    assert by_labels["E-F-P1"].label_gradients == record.cost.label_gradients
    assert by_labels["E-F-P1"].label_gradients - by_labels["E-F"].label_gradients == 2 * 6
    error = by_labels["E-F-P1"].errors["nms"]["hessian_rmse"]
    assert error.value == pytest.approx(record.metrics["nms"]["hessian_rmse"].value)
    without, some, full = (by_labels[name].errors["nms"]["hessian_rmse"].value for name in ("E-F", "E-F-P1", "E-F-H"))
    assert without is not None
    assert some is not None
    assert full is not None
    share = next(one.share.value for one in value.kept if one.labels == "E-F-P1")
    assert share == (pytest.approx((without - some) / (without - full)) if without > full else None)
    page = (tmp_path / "study.html").read_text()
    assert "What to buy with the next gradients" in page
    assert "products with random directions of every structure" in page

    # What is finished can be looked at; nothing is trained for it.
    (Cell("schnet", "E-F-S1", 1.0, 1).folder(tmp_path) / "record.json").unlink()
    assert len(report(config, tmp_path).points) == 4
    assert LabelValue.model_validate_json((tmp_path / "labels.json").read_text()).finished == 4
