"""The main job in one process: what it leaves behind, resumed, refused and failing."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hessgnn.cli import app
from hessgnn.data.store.store import Store
from hessgnn.errors import ConfigError, NothingTrained, TrainingError, UserError
from hessgnn.evaluation.evaluate import evaluate
from hessgnn.evaluation.record import Record, read_record
from hessgnn.experiments import job as job_module
from hessgnn.experiments.folder import locked
from hessgnn.experiments.job import Event, JobProgress, Note
from hessgnn.leaderboard.trials import check_rankings, read_trials
from hessgnn.runtime.config import load
from hessgnn.sweep.config import SweepConfig
from hessgnn.sweep.sweep import TrialFinished, sweep
from hessgnn.training.config import RunConfig
from hessgnn.training.run import Run
from hessgnn.training.trainer import train

MakeSweep = Callable[..., SweepConfig]

TIMES = {"device_seconds"}
KINDS = ("E-F", "E-F-H")


@pytest.fixture(scope="module")
def content(content: dict[str, Any]) -> dict[str, Any]:
    return {**content, "workers": 0}  # no processes, so that what a job uses can be replaced


def run(config: SweepConfig, folder: Path, reports: list[Event] | None = None) -> list[Path]:
    return sweep(config, folder, (lambda report: None) if reports is None else reports.append)


@pytest.fixture(scope="module")
def done(make_sweep: MakeSweep, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    """The folder of a finished sweep, and what it reported. Only to be read."""
    folder, events = tmp_path_factory.mktemp("done") / "sweep", []
    assert sorted(run(make_sweep(), folder, events)) == finals_of(folder)
    return folder, events


@pytest.fixture
def finished(done: tuple[Path, list[Event]], tmp_path: Path) -> Path:
    """A copy of that folder."""
    return shutil.copytree(done[0], tmp_path / "sweep")


def finals_of(folder: Path) -> list[Path]:
    return [path.parent for path in sorted(folder.glob("final/*/record.json"))]


def table(folder: Path, without: set[str] = TIMES) -> list[dict[str, str]]:
    with (folder / "trials.csv").open() as file:
        return [{key: value for key, value in row.items() if key not in without} for row in csv.DictReader(file)]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def event_labels(event: Event) -> bool:
    return isinstance(event, JobProgress) and event.title.stage == "labels"


def records_of(paths: list[Path]) -> dict[str, Record]:
    return {path.name: read_record(path / "record.json") for path in paths}


def test_a_sweep_tunes_retrains_judges_and_compares(make_sweep: MakeSweep, done: tuple[Path, list[Event]]) -> None:
    config, (folder, events) = make_sweep(), done
    reports = [event for event in events if isinstance(event, JobProgress)]

    rows = table(folder, without=set())
    assert [(row["architecture"], row["regime"], row["trial"], row["state"]) for row in rows] == [
        (label, regime, str(slot), "complete")
        for label in config.architectures
        for regime in config.regimes
        for slot in range(3)  # as many for each kind of labels
    ]
    assert all((row["loss.hessian"] == "") == (row["regime"] == "E-F") for row in rows)
    for row in rows:  # the score is that of the trial's own run folder
        name = row["architecture"].replace(":", "-")
        curve = Run(folder / "trials" / name / row["regime"] / f"{int(row['trial']):03d}").curve()
        assert float(row["score"]) == min(point.score for point in curve)
    ended = [event.row for event in events if isinstance(event, TrialFinished)]
    assert {(row.subject, row.trial, str(row.score)) for row in ended} == {
        (f"{row['architecture']} {row['regime']}", int(row["trial"]), row["score"]) for row in rows
    }

    records = records_of(finals_of(folder))
    names = {
        f"{name}-{regime}" for name in ("schnet", "examples.my_potential-MyPotential") for regime in config.regimes
    }
    assert {name.partition("-trial")[0] for name in records} == {"mean-predictor", *names}
    judged = [record for record in records.values() if record.regime != "mean"]
    assert {record.status for record in judged} == {"ok"}
    assert {split for record in judged for split in record.metrics} == {"test", "nms"}
    assert {record.cost.steps for record in judged} == {config.final_steps}  # the twin takes as many
    assert {record.cost.sweep_trials for record in judged} == {3}
    assert {record.seed for record in judged} == set(config.seeds)
    for record in judged:  # each kind of labels has its own best values
        tuned = [row for row in rows if (row["architecture"], row["regime"]) == (record.architecture, record.regime)]
        best = min(tuned, key=lambda row: float(row["score"]))
        assert record.weights["forces"] == float(best["loss.forces"])
        assert record.weights["hessian"] == float(best["loss.hessian"] or 0.0)
        assert record.config["training"]["schedule"]["lr"] == float(best["training.schedule.lr"])
        assert record.cost.sweep_device_seconds == pytest.approx(sum(float(row["device_seconds"]) for row in tuned))
        assert record.cost.label_gradients is not None
        assert record.cost.tuning_gradients == 0  # the same labels
        assert not record.demonstration

    assert {report.title.architecture for report in reports} == {str(subject) for subject in config.subjects}
    final_steps = {report.title.folder: report.step for report in reports if report.task is None}
    assert sum(final_steps.values()) == config.count_runs().steps == 2 * 2 * (3 * 8 + 10)


def test_the_best_settings_train_as_they_are(done: tuple[Path, list[Event]], tmp_path: Path) -> None:
    folder, _ = done
    records = records_of(finals_of(folder))
    files = sorted((folder / "best").iterdir())
    names = [f"{name} {regime}" for name in ("examples.my_potential-MyPotential", "schnet") for regime in KINDS]
    assert {file.stem for file in files} == set(names)
    for file in files:
        result = train(load(RunConfig, file), tmp_path / file.stem)
        (again,) = (r for name, r in records.items() if name.startswith(f"{file.stem.replace(' ', '-')}-trial"))
        assert result.score == min(point.score for point in again.curve)


def test_the_leaderboard_is_made_from_the_folders_of_a_sweep(done: tuple[Path, list[Event]], tmp_path: Path) -> None:
    paths = finals_of(done[0])
    arguments = ["leaderboard", *map(str, paths), "-o", str(tmp_path / "board")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "board" / "leaderboard.csv").read_text()
    for entry in ("mean predictor", "schnet E-F", "schnet E-F-H", "examples.my_potential:MyPotential E-F-H"):
        assert entry in text
    assert (tmp_path / "board" / "index.html").stat().st_size > 10_000


def test_a_finished_sweep_does_nothing_new(
    make_sweep: MakeSweep, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finished
    before = snapshot(folder)

    def judged_twice(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the test splits are touched once")

    monkeypatch.setattr(job_module, "evaluate", judged_twice)
    reports: list[Event] = []
    run(make_sweep(workers=1), folder, reports)
    after = snapshot(folder)
    runs = make_sweep().count_runs().runs
    assert reports == [Note("resumed", f"{runs} of {runs} runs were finished")]  # not a step was taken
    # The journal notes that studies were opened again; the number of workers is no result.
    expected = {path for path in before if path not in ("sweep.yaml", "study.journal")}
    assert {path for path in expected if after[path] != before[path]} == set()
    assert after.keys() == before.keys()


def test_a_larger_budget_goes_on_and_counts_what_was_spent(
    make_sweep: MakeSweep, finished: Path, tmp_path: Path
) -> None:
    folder = finished
    earlier = table(folder)
    paths = run(make_sweep(budget={"trials": 4}), folder)
    rows = table(folder)
    assert [row for row in rows if row["trial"] != "3"] == earlier
    assert len(rows) == 16
    assert {r.cost.sweep_trials for r in records_of(paths).values() if r.regime != "mean"} == {4}
    at_once = tmp_path / "at-once"
    run(make_sweep(budget={"trials": 4}), at_once)
    assert table(at_once) == rows


def test_another_configuration_in_the_same_folder_is_refused(make_sweep: MakeSweep, finished: Path) -> None:
    folder = finished
    before = snapshot(folder)
    with pytest.raises(ConfigError, match=r"other settings \(seeds.*budget\.steps: 8 became 9") as caught:
        run(make_sweep(budget={"steps": 9}, seeds=[4]), folder)
    assert "trials" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert snapshot(folder) == before


def test_a_study_keeps_its_folder_to_itself_and_a_sweep_does_not_join_it(
    make_sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hessgnn.experiments.folder._PATIENCE", 0.2)
    with locked(tmp_path), pytest.raises(ConfigError, match="another process keeps this folder to itself"):
        run(make_sweep(), tmp_path)


def test_what_cannot_start_leaves_no_settings_behind(make_sweep: MakeSweep, tmp_path: Path) -> None:
    folder, small = tmp_path / "sweep", {"budget": {"trials": 2, "steps": 2}, "final_steps": 2}
    for changes in (
        {"storage": "sqlite:////no/such/folder/x.db"},
        {"base": {"data": {"path": str(tmp_path / "missing.h5")}}},
        {"base": {"data": {"train": "trian"}}},
    ):
        with pytest.raises(UserError) as caught:
            run(make_sweep(**small, **changes), folder)
        assert "\n" not in str(caught.value)
        assert not (folder / "sweep.yaml").exists()
    run(make_sweep(**small), folder)  # so the corrected command is no other sweep


def test_a_folder_that_cannot_be_made_is_told(make_sweep: MakeSweep, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot write here"):
        run(make_sweep(), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


DIVERGES = {"data": {"energy_scale": 1e30}}


def test_one_architecture_that_fails_does_not_stop_the_other(make_sweep: MakeSweep, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    records = records_of(run(make_sweep(architectures={"schnet": DIVERGES}), folder))
    rows = table(folder)
    failed = [row for row in rows if row["architecture"] == "schnet"]
    assert {row["state"] for row in failed} == {"failed"}
    assert all("not finite" in row["reason"] and row["score"] == "" for row in failed)
    assert {row["state"] for row in rows if row["architecture"] != "schnet"} == {"complete"}
    status = {(r.architecture, r.regime): r.status for r in records.values() if r.regime != "mean"}
    assert {key[0]: value for key, value in status.items()}["schnet"] == "failed"
    assert len(status) == 4  # a failure is counted, not left out
    reasons = [r.reason for r in records.values() if r.status == "failed"]
    assert all("no trial could be trained" in (reason or "") for reason in reasons)
    assert not list((folder / "best").glob("schnet*"))
    arguments = ["leaderboard", *(str(folder / "final" / name) for name in records), "-o", str(tmp_path / "board")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "schnet E-F-H" in (tmp_path / "board" / "leaderboard.csv").read_text()


def test_a_sweep_in_which_everything_fails_lists_the_reasons(make_sweep: MakeSweep, tmp_path: Path) -> None:
    folder, config = tmp_path / "sweep", make_sweep(base=DIVERGES)
    for _ in range(2):  # and again when it is resumed
        with pytest.raises(TrainingError, match="no architecture could be trained"):
            run(config, folder)
        rows = table(folder)
        assert len(rows) == 12
        assert all("not finite" in row["reason"] for row in rows)


def test_a_validation_that_is_never_finite_is_a_failure(
    make_sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An infinite score would be the best of its study if all were infinite."""
    original = job_module.train

    def infinite(*arguments: Any, **options: Any) -> Any:
        result = original(*arguments, **options)
        return type(result)(result.run, float("inf"), result.errors, result.progress)

    monkeypatch.setattr(job_module, "train", infinite)
    with pytest.raises(TrainingError, match="no architecture could be trained"):
        run(make_sweep(), tmp_path / "sweep")
    assert all("no validation had finite errors" in row["reason"] for row in table(tmp_path / "sweep"))


def test_a_retraining_that_breaks_down_is_not_passed_over(
    make_sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **options: Any) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(job_module, "evaluate", broken)
    with pytest.raises(NothingTrained):
        run(make_sweep(), tmp_path / "sweep")
    finals = [read_record(path) for path in (tmp_path / "sweep" / "final").glob("*/record.json")]
    assert len(finals) == 4
    for record in finals:
        assert record.status == "failed"
        assert "ValueError: a bug (traceback in " in (record.reason or "")
    logs = [path.read_text() for path in (tmp_path / "sweep" / "final").glob("*/error.log")]
    assert len(logs) == 4
    assert all("in broken" in text for text in logs)


def test_more_seeds_are_retrained_each_with_its_twin(make_sweep: MakeSweep, tmp_path: Path) -> None:
    config = make_sweep(budget={"trials": 2, "steps": 4}, final_steps=4, seeds=[3, 5], regimes=["E", "E-F", "E-F-H"])
    records = records_of(run(config, tmp_path / "sweep"))
    found = {(r.architecture, r.regime, r.seed) for r in records.values() if r.regime != "mean"}
    assert found == {(a, regime, seed) for a in config.architectures for regime in config.regimes for seed in (3, 5)}


def test_a_sweep_sees_validation_only(make_sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the retraining is done no structure outside training and validation is read."""
    judged: list[bool] = []
    original, evaluate = Store.__getitem__, job_module.evaluate

    def read(self: Store, index: int) -> Any:
        structure = original(self, index)
        assert judged or structure.split in ("train", "validation"), structure.name
        return structure

    def judge(folder: Path, **options: Any) -> Any:
        judged.append(True)
        return evaluate(folder, **options)

    monkeypatch.setattr(Store, "__getitem__", read)
    monkeypatch.setattr(job_module, "evaluate", judge)
    run(make_sweep(architectures={}, budget={"trials": 2}), tmp_path / "sweep")
    assert len(judged) == 4


def test_weights_of_the_others_are_tried_and_equal_time_is_given(make_sweep: MakeSweep, tmp_path: Path) -> None:
    config, folder = make_sweep(transfer=True, equal_seconds=True), tmp_path / "sweep"
    records = records_of(run(config, folder))
    names = sorted(path.name for path in (folder / "transfer").iterdir())
    assert len(names) == 2  # for the kind of labels with Hessians
    assert names[1].startswith("schnet E-F-H-with-examples.my_potential-MyPotential-")
    given = load(RunConfig, folder / "transfer" / names[1] / "config.yaml").loss
    (theirs,) = (r.weights for r in records.values() if r.architecture != "schnet" and r.regime == "E-F-H")
    assert (given.forces, given.hessian) == (theirs["forces"], theirs["hessian"])
    assert "weights of schnet" in (folder / "sweep.html").read_text()
    timed = {name: record for name, record in records.items() if record.budget == "seconds"}
    assert len(timed) == 2
    costs = json.loads((folder / "data" / "step-costs.json").read_text())["costs"]
    for name, record in timed.items():
        (twin,) = (r for r in records.values() if r.entry == record.entry.removesuffix(", equal time"))
        label = name.partition("-E-F-")[0].replace("examples.my_potential-", "examples.my_potential:")
        assert record.entry == f"{twin.entry}, equal time"
        expected = config.final_steps * costs[label]["E-F-H"] / costs[label]["E-F"]
        assert record.cost.steps == max(1, round(expected))
    assert run(config, folder)  # and again: nothing is trained for another length
    assert json.loads((folder / "data" / "step-costs.json").read_text())["costs"] == costs


def test_frames_of_the_tuned_displacement_are_trained_on_and_each_seed_draws_its_part(
    make_sweep: MakeSweep, tmp_path: Path
) -> None:
    config = make_sweep(
        regimes=["E-F+", "E-F+H"],
        space={"labels.displacement": {"choices": [0.02, 0.05]}},
        labels={"hessian_gradients": 0.5},
        fraction=0.5,
        seed=7,
        seeds=[1, 5],
        budget={"trials": 3, "steps": 4},
        final_steps=4,
    )
    folder, events = tmp_path / "sweep", []
    records = records_of(run(config, folder, events))
    rows = table(folder)
    assert {row["labels.displacement"] for row in rows} <= {"0.02", "0.05"}
    best = {
        key: min((row for row in rows if (row["architecture"], row["regime"]) == key), key=lambda r: float(r["score"]))
        for key in {(row["architecture"], row["regime"]) for row in rows}
    }
    trained = {}
    for record in records.values():
        if record.regime == "mean":
            continue
        path = Path(record.config["data"]["path"])
        structures = [s for s in Store.open(path) if s.split == "train"]
        frames = [s for s in structures if s.kind == "displaced"]
        assert frames
        assert f"-draw{record.seed}-" in path.name
        assert path.stem.endswith(f"-{best[record.architecture, record.regime]['labels.displacement']}")
        with_hessian = [s for s in structures if s.hessian is not None]
        assert bool(with_hessian) == (record.regime == "E-F+H")
        assert (record.weights["hessian"] > 0) == (record.regime == "E-F+H")
        trained[record.seed] = {s.name for s in structures if s.kind != "displaced"}
        assert record.cost.label_gradients > len(trained[record.seed])
        assert record.cost.tuning_gradients > 0  # trials had a part and frames of draw 7
    assert trained[1] != trained[5]  # seed and part of the data vary together
    first = next(k for k, event in enumerate(events) if isinstance(event, JobProgress) and event.task is None)
    labelled = {event.title.folder for event in events[:first] if isinstance(event, JobProgress)}
    # All frames that trials need are labelled before anything is trained; those of E-F+H are among those of E-F+.
    assert {Path(path).stem for path in labelled} >= {f"train-0.5-draw7-frames-{spread}" for spread in (0.02, 0.05)}
    assert not any("-draw7-" in event.title.folder for event in events[first:] if event_labels(event))


def test_the_ranking_of_trials_is_checked_at_the_final_length(make_sweep: MakeSweep, tmp_path: Path) -> None:
    config = make_sweep(check_ranking={"trials": 1}, budget={"trials": 3, "steps": 4}, final_steps=12)
    folder = tmp_path / "sweep"
    run(config, folder)
    rows = read_trials(folder / "trials.csv")
    checks = check_rankings(rows)
    assert set(checks) == {str(subject) for subject in config.subjects}
    for subject in config.subjects:
        own = [row for row in rows if row.subject == str(subject)]
        longer = [row for row in own if row.final_score is not None]
        ranked = sorted(own, key=lambda row: row.score or 0.0)
        assert sorted(row.trial for row in longer) == sorted([ranked[0].trial, ranked[-1].trial])
        for row in longer:
            where = folder / "ranking" / subject.folder / f"{row.trial:03d}"
            assert row.final_score == min(point.score for point in Run(where).curve())
            given, short = (
                load(RunConfig, folder / place / subject.folder / f"{row.trial:03d}" / "config.yaml")
                for place in ("ranking", "trials")
            )
            assert given.training.steps == 12
            assert given.model_copy(update={"training": short.training}) == short  # all else is that of the trial
        check = checks[str(subject)]
        assert check is not None
        assert check.chosen == ranked[0].trial
        assert check.kendall in (-1.0, 1.0)
    text = (folder / "sweep.md").read_text()
    assert "## Ranking at the final length" in text
    assert "Trials have 4 steps, the retraining at most 12." in text


def test_a_demonstration_says_so_in_its_records(make_sweep: MakeSweep, tmp_path: Path) -> None:
    config = make_sweep(demonstration=True, budget={"trials": 1, "steps": 2}, final_steps=2, architectures={})
    folders = run(config, tmp_path / "sweep")
    records = records_of(folders)
    assert all(record.demonstration for record in records.values() if record.regime != "mean")
    (trained,) = (folder for folder in folders if folder.name.startswith("schnet-E-F-H"))
    evaluate(trained)  # and when it is evaluated again
    assert read_record(trained / "record.json").demonstration


@pytest.mark.parametrize("trouble", [{"trial_hours": 1e-9}, {"hours": 1e-9}])
def test_a_trial_that_takes_too_long_has_failed_and_a_spent_budget_ends_the_tuning(
    make_sweep: MakeSweep, tmp_path: Path, trouble: dict[str, float]
) -> None:
    folder = tmp_path / "sweep"
    config = make_sweep(budget={"trials": 4, **trouble})
    with pytest.raises(NothingTrained) if "trial_hours" in trouble else nullcontext():
        run(config, folder)
    rows = [row for row in table(folder) if row["architecture"] == "schnet" and row["regime"] == "E-F"]
    if "hours" in trouble:
        assert [row["state"] for row in rows] == ["complete"]
    else:
        assert {row["state"] for row in rows} == {"failed"}
        assert all("longer than budget.trial_hours" in row["reason"] for row in rows)
