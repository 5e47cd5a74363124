"""A task of another package: one file, found without an edit of hessgnn."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_store import TINY, write_tiny_store

import hessgnn
from hessgnn import cli
from hessgnn.errors import ConfigError
from hessgnn.evaluation.record import read_journal
from hessgnn.evaluation.run import TaskSettings, chosen_tasks
from hessgnn.evaluation.tasks import base
from hessgnn.evaluation.tasks.base import TASKS, all_tasks, task_of
from hessgnn.leaderboard.collect import collect
from hessgnn.leaderboard.report import write_report
from hessgnn.leaderboard.scores import score
from hessgnn.runtime.config import load, override, parse
from hessgnn.sweep.config import SweepConfig
from hessgnn.training.config import RunConfig
from hessgnn.training.trainer import train

MODULE, NAME = "my_tasks", "force_norm"
PATH = f"{MODULE}:ForceNormTask"
SOURCE = '''
"""Mean norm of the forces at the reference minima, where there should be none."""

import numpy as np
from pydantic import PositiveFloat

from hessgnn.evaluation.tasks.base import Claim, MetricDefinition, task
from hessgnn.evaluation.tasks.subjects import MoleculeTask
from hessgnn.runtime.config import Settings


class ForceNormSettings(Settings):
    scale: PositiveFloat = 1.0


@task("force_norm")
class ForceNormTask(MoleculeTask[ForceNormSettings]):
    """The forces that a surface has where the reference has none."""

    title = "Forces at minima"
    caption = "Norm of the forces at the reference minima, where there should be none."
    Settings = ForceNormSettings
    definitions = {"force_norm_mean": MetricDefinition("mean force norm", "eV/Å")}
    claims = (Claim("minima stay where they are", "force_norm_mean", source="my paper"),)

    def run(self, surface, subjects, unfinished):
        for structure in subjects:
            _, forces = surface.force_field([structure])(structure.positions)
            yield structure.name, {"norm": self.settings.scale * float(np.linalg.norm(forces, axis=1).mean())}

    def values(self, results):
        return {"force_norm_mean": {name: row["norm"] for name, row in results.items()}}
'''


def forget() -> None:
    TASKS._found.pop(NAME, None)
    base._OWNERS.pop("force_norm_mean", None)
    sys.modules.pop(MODULE, None)


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the file, from which commands are run."""
    (tmp_path / f"{MODULE}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    forget()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs, without and with Hessian labels."""
    folder = tmp_path_factory.mktemp("runs")
    store = write_tiny_store(folder / "tiny.h5")
    content = {
        "potential": TINY,
        "data": {"path": str(store)},
        "training": {"steps": 4, "batch_size": 3, "schedule": {"warmup": 2}, "device": "cpu", "threads": 1},
        "validation": {"every": 4, "hessian": "probes", "n_probes": 2},
    }
    for name, weight in (("E-F", 0.0), ("E-F-H", 0.1)):
        train(RunConfig.model_validate(content | {"loss": {"hessian": weight}}), folder / name)
    return [folder / "E-F", folder / "E-F-H"]


def test_one_file_is_run_recorded_tabulated_and_claimed(outside: Path, runs: list[Path]) -> None:
    for run in runs:
        record = hessgnn.evaluate(run, tasks=["accuracy", PATH])
        metric = record.metrics["test"]["force_norm_mean"]
        assert (metric.title, metric.unit, metric.n) == ("mean force norm", "eV/Å", 1)
        assert metric.value is not None
        assert metric.value > 0
        assert read_journal(run / "force_norm-test.jsonl")[0]["task"] == NAME
    assert [task.name for task in all_tasks()][-1] == NAME
    loaded = collect(runs)
    (claim,) = [claim for claim in score(loaded).claims if claim.source == "my paper"]
    assert (claim.metric, claim.title, claim.unit, claim.direction) == (
        "force_norm_mean",
        "mean force norm",
        "eV/Å",
        "lower",
    )
    assert list(loaded[0].values(NAME, "test")["force_norm_mean"].values()) == [pytest.approx(claim.without.mean)]
    page = write_report(loaded, outside / "board").read_text()
    assert f"--tasks accuracy,{PATH}" in page
    assert "Forces at minima" in page
    assert "Norm of the forces at the reference minima" in page
    assert "minima stay where they are" in (outside / "board" / "leaderboard.md").read_text()

    forget()  # as on a machine that has not got it
    board = score(collect(runs))
    assert any(f"the task {NAME} is not installed here" in note for note in board.notes)
    assert board.rows[0].scores["test"]["force_norm_mean"] is not None
    page = write_report(collect(runs), outside / "without").read_text()
    assert "Other tasks" in page
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments=["leaderboard", *map(str, runs), "-o", "with", "--tasks", PATH])
    assert not ended.value.code
    assert "Forces at minima" in (outside / "with" / "index.html").read_text()


def test_its_settings_are_taken_on_the_command_line(outside: Path, runs: list[Path]) -> None:
    run, values = runs[0], []
    for scale in ("1.0", "2.0"):
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments=["evaluate", str(run), f"force_norm.scale={scale}", "--tasks", PATH, "--splits", "test"])
        assert not ended.value.code
        key, results = read_journal(run / "force_norm-test.jsonl")
        assert key["settings"] == {"scale": float(scale)}
        (result,) = results.values()
        values.append(result["norm"])
    assert values[1] == pytest.approx(2 * values[0])


def test_it_is_found_by_its_entry_point(outside: Path) -> None:
    assert NAME not in TASKS
    installed = outside / "my_tasks-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: my-tasks\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(f"[hessgnn.tasks]\n{NAME} = {PATH}\n")
    assert chosen_tasks([NAME, "accuracy"]) == ["accuracy", NAME]
    assert chosen_tasks(["all"])[-1] == NAME
    assert TaskSettings.model_validate({NAME: {"scale": 3}}).task(NAME).settings.scale == 3
    found = task_of("force_norm_mean")
    assert found is not None
    assert found.name == NAME


def test_a_sweep_names_it(outside: Path) -> None:
    content = {
        "name": "mine",
        "architectures": {"schnet": {"potential": {"name": "schnet"}}},
        "tasks": ["accuracy", PATH],
        "evaluate": {NAME: {"scale": 2.0}, "md": {"preset": "full"}},
    }
    (outside / "mine.yaml").write_text(json.dumps(content))
    config = load(SweepConfig, outside / "mine.yaml")
    assert config.tasks == ("accuracy", PATH)
    assert config.evaluate.task(PATH).settings.scale == 2.0
    assert config.evaluate.task("md").settings.preset == "full"
    dumped = config.identity()
    assert dumped["evaluate"][NAME] == {"scale": 2.0}
    assert SweepConfig.model_validate(dumped).identity() == dumped
    again = pickle.loads(pickle.dumps(config.evaluate))  # as it goes to a worker
    assert again == config.evaluate
    with pytest.raises(ConfigError, match=r"mine\.yaml, key 'force_norm', key 'scal': unknown key.*'scale'"):
        load(SweepConfig, outside / "mine.yaml", ["evaluate.force_norm.scal=1"])


def test_what_is_no_task_is_told(outside: Path) -> None:
    with pytest.raises(ConfigError, match=r"my_tasks:ForceNormSettings: is not a task.*@task"):
        chosen_tasks([f"{MODULE}:ForceNormSettings"])
    with pytest.raises(ConfigError, match=r"evaluate, key 'force_nrm': no such task.*did you mean 'force_norm'"):
        parse(TaskSettings, override({}, ["force_nrm.scale=1"]), where="evaluate")
    with pytest.raises(ConfigError, match=r"evaluate, key 'md\.presett': unknown key.*'preset'"):
        parse(TaskSettings, override({}, ["md.presett=full"]), where="evaluate")
    (outside / "again.py").write_text(SOURCE.replace('"force_norm")', '"other")'))
    with pytest.raises(ConfigError, match=r"force_norm_mean: the metric belongs to the task 'force_norm' already"):
        chosen_tasks(["again:ForceNormTask"])
