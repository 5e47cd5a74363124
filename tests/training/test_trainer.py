from __future__ import annotations

import csv
import math
import multiprocessing
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interrupted import train_until_killed
from springs import spring_structure

import hessgnn
from hessgnn.curvature.probes.modes import ReferenceModes
from hessgnn.data.store.store import Store, write_store
from hessgnn.errors import ConfigError, DataError, TrainingError
from hessgnn.potentials.saved import load_checkpoint
from hessgnn.runtime.config import load, save
from hessgnn.training.build import build
from hessgnn.training.config import RunConfig
from hessgnn.training.run import Run
from hessgnn.training.step import TrainingStep
from hessgnn.training.trainer import Trainer, train
from hessgnn.training.validation import Errors, validate

MakeConfig = Callable[..., RunConfig]

COSTS = {"device_seconds"}
"""Columns of metrics.csv that measure time, and so differ between equal runs."""


def numbers(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [{key: value for key, value in row.items() if key not in COSTS} for row in csv.DictReader(file)]


def weights(folder: Path, file: str = "last.pt") -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / file)["potential"]


def assert_same_run(one: Path, other: Path) -> None:
    assert numbers(one) == numbers(other)
    for file in ("last.pt", "best.pt"):
        for name, value in weights(one, file).items():
            assert torch.equal(value, weights(other, file)[name]), (file, name)


def test_training_on_the_bundled_data_learns_the_hessian(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(
        potential={"width": 32, "n_interactions": 2},
        data={"path": "rtp-mini"},
        loss={"forces": 8.0, "hessian": 2.6, "probes": {"every": 1}},
        training={"steps": 120, "batch_size": 20, "schedule": {"lr": 5e-3, "warmup": 10}},
        validation={"every": 30, "hessian": "probes", "weights": {"energy": 1, "forces": 1, "hessian": 1}},
    )
    result = train(config, tmp_path / "run")
    curve = Run(tmp_path / "run").curve()
    assert [point.step for point in curve] == [30, 60, 90, 120]
    assert curve[-1].loss_hessian < 0.3 * curve[0].loss_hessian
    assert curve[-1].hessian_rmse < 0.9 * curve[0].hessian_rmse
    assert result.score == min(point.score for point in curve)
    assert result.progress.products == 120
    assert hessgnn.load(tmp_path / "run").elements == (1, 6, 7, 8)


def test_the_loaded_potential_is_the_one_that_was_judged(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(training={"dtype": "float64"})
    setup = build(config)
    result = Trainer(setup, Run(tmp_path / "run")).fit()
    errors = validate(hessgnn.load(tmp_path / "run"), setup.validation, config.validation)
    assert errors == result.errors


@pytest.mark.parametrize("potential", ["ani", "schnet", "nequip"])
@pytest.mark.parametrize("kind", ["plateau", "cosine"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    make_config: MakeConfig, tmp_path: Path, potential: str, kind: str
) -> None:
    config = make_config(
        training={"schedule": {"kind": kind, "warmup": 2, "patience": 1}},
        loss={"probes": {"kind": "rademacher", "fraction": 0.5}, "ramp": {"start": 2, "stop": 9}},
    )
    config = config.model_copy(update={"potential": {"name": potential}})
    train(config, tmp_path / "whole")

    for _ in range(2):  # in mid-epoch, two steps after a checkpoint and three after resumption
        train_until_killed(config, tmp_path / "parts", 6, 7, resume=True)
    train(config, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_other_data_are_noticed_when_a_run_is_resumed(make_config: MakeConfig, tmp_path: Path) -> None:
    shutil.copy(make_config().data.path, tmp_path / "data.h5")
    config = make_config(data={"path": str(tmp_path / "data.h5")}, training={"steps": 4})
    train(config, tmp_path / "run")
    structures = list(Store.open(tmp_path / "data.h5"))
    changed = [replace(one, energy=None if one.energy is None else one.energy + 1.0) for one in structures]
    write_store(tmp_path / "data.h5", changed, level_of_theory="GFN2-xTB")
    with pytest.raises(DataError, match="has other structures, labels or splits"):
        train(config, tmp_path / "run", resume=True)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12 on fork
@pytest.mark.parametrize("limits", [{}, {"max_atoms": 12}, {"max_edges": 60}])
def test_workers_change_no_number_also_where_a_run_is_resumed(
    make_config: MakeConfig, tmp_path: Path, limits: dict[str, int]
) -> None:
    train(make_config(training=limits), tmp_path / "alone")
    helped = make_config(training={**limits, "workers": 1})
    train_until_killed(helped, tmp_path / "helped", 6)
    train(helped, tmp_path / "helped", resume=True)
    assert_same_run(tmp_path / "alone", tmp_path / "helped")


def test_a_structure_beyond_a_limit_is_told_before_the_first_step(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(hessgnn.UserError, match="max_atoms: a batch may hold 2 atoms"):
        train(make_config(training={"max_atoms": 2}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def resume(config: Path, folder: Path) -> None:
    """The same command each time, in a process of its own."""
    torch.set_num_threads(1)
    train(load(RunConfig, config), folder, resume=True)


def test_kill_9_in_mid_epoch_and_the_same_command_give_the_same_numbers(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(training={"steps": 150}, validation={"every": 7})
    train(config, tmp_path / "whole")
    save(config, tmp_path / "config.yaml")
    command = {"target": resume, "args": (tmp_path / "config.yaml", tmp_path / "killed")}
    context = multiprocessing.get_context("spawn")
    process = context.Process(**command)
    process.start()
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / "last.pt").exists():
        assert process.exitcode is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert load_checkpoint(tmp_path / "killed" / "last.pt")["progress"]["step"] < config.training.steps
    process = context.Process(**command)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_without_a_folder_nothing_is_written_and_the_numbers_are_the_same(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    config = make_config(training={"dtype": "float64"}, validation={"every": 2})
    before = sorted(tmp_path.rglob("*"))
    result = hessgnn.train(config)
    assert sorted(tmp_path.rglob("*")) == before
    assert result.run is None
    kept = train(config, tmp_path / "run")
    assert (result.score, result.errors, result.progress.products) == (kept.score, kept.errors, kept.progress.products)
    assert [point.score for point in result.progress.curve] == [point.score for point in kept.progress.curve]
    saved = weights(tmp_path / "run", "best.pt")
    for potential in (result.potential, kept.potential):
        assert not potential.training
        assert all(torch.equal(value, saved[name]) for name, value in potential.state_dict().items())
    assert result.potential is result.potential


def test_the_best_potential_is_kept_in_memory_not_the_last(make_config: MakeConfig) -> None:
    config = make_config(
        training={"steps": 50, "ema": None, "schedule": {"lr": 0.3, "kind": "constant", "warmup": 0}},
        validation={"every": 1},
    )
    result = train(config)
    assert result.progress.best_step < result.progress.step
    errors = validate(result.potential, build(config).validation, config.validation)
    assert errors == result.errors


@pytest.mark.parametrize("potential", ["ani", "nequip"])
def test_every_architecture_is_kept_in_memory(make_config: MakeConfig, potential: str) -> None:
    config = make_config(training={"steps": 2}).model_copy(update={"potential": {"name": potential}})
    result = train(config)
    assert validate(result.potential, build(config).validation, config.validation) == result.errors


def test_a_configuration_is_an_object_a_mapping_or_a_file(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(training={"steps": 3})
    save(config, tmp_path / "config.yaml")
    scores = {train(given).score for given in (config, config.model_dump(), tmp_path / "config.yaml")}
    assert len(scores) == 1
    with pytest.raises(ConfigError, match="config, key 'trainin': unknown key"):
        train({"potential": {"name": "schnet"}, "trainin": {}})
    with pytest.raises(ConfigError, match="a run without a folder cannot be resumed"):
        train(config, resume=True)


def test_building_and_stepping_need_no_trainer(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config()
    setup = build(config)
    losses = [float(setup.step(number).total) for number in range(config.training.steps)]
    errors = validate(setup.average.potential, setup.validation, config.validation)
    assert train(config).progress.curve[-1].loss == pytest.approx(sum(losses[-4:]) / 4, rel=1e-12)
    assert train(config).progress.curve[-1].forces_rmse == errors.forces


def test_another_seed_gives_another_run(make_config: MakeConfig, tmp_path: Path) -> None:
    train(make_config(training={"seed": 1}), tmp_path / "one")
    train(make_config(training={"seed": 2}), tmp_path / "two")
    assert numbers(tmp_path / "one") != numbers(tmp_path / "two")


def test_early_stopping_waits_for_its_patience(make_config: MakeConfig, tmp_path: Path) -> None:
    schedule = {"lr": 1e-12, "kind": "constant", "warmup": 0}
    config = make_config(training={"steps": 100, "schedule": schedule}, validation={"every": 2, "patience": 3})
    result = train(config, tmp_path / "run")
    assert result.progress.step < 100
    assert result.progress.step == result.progress.best_step + 6
    assert result.converged
    assert result.progress.ending == f"converged: validation flat since step {result.progress.best_step}"


@pytest.mark.parametrize(
    ("scores", "schedule", "ends", "ending"),
    [
        ([1.0], {"kind": "constant"}, 6, "converged: validation flat since step 2"),
        ([1.0], {"kind": "cosine"}, 6, "not converged: validation.patience ended it before the schedule had"),
        ([1.0], {"kind": "plateau", "patience": 9}, 6, "not converged: validation.patience ended it before"),
        ([1.0], {"kind": "plateau", "patience": 1, "final": 0.4}, 6, "converged: validation flat since step 2"),
        ([1.0], {"kind": "constant", "warmup": 9}, 14, "converged: validation flat since step 10"),
        ([1.0, math.nan], {"kind": "constant"}, 6, "not converged: its last validation errors"),
        ([1.0, math.nan], {"kind": "plateau", "patience": 1, "final": 0.4}, 6, "not converged: its last validation"),
        ([math.nan, 2.0], {"kind": "constant"}, 8, "converged: validation flat since step 4"),
    ],
)
def test_a_run_has_converged_where_no_lower_rate_and_no_error_is_in_the_way(
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    scores: list[float],
    schedule: dict[str, Any],
    ends: int,
    ending: str,
) -> None:
    told = chain(scores, repeat(scores[-1]))
    monkeypatch.setattr("hessgnn.training.trainer.validate", lambda *_: Errors(next(told), 0.01, None))
    training = {"steps": 20, "schedule": {"warmup": 0, **schedule}}
    result = train(make_config(training=training, validation={"every": 2, "patience": 2}))
    assert result.progress.step == ends
    assert result.progress.ending.startswith(ending)
    assert result.converged == ending.startswith("converged")


def test_small_decreases_do_not_count_where_a_least_improvement_is_set(make_config: MakeConfig) -> None:
    slow = {"training": {"steps": 20, "schedule": {"lr": 1e-7, "kind": "constant", "warmup": 0}}}
    patient = train(make_config(**slow, validation={"every": 2, "patience": 3}))
    assert (patient.progress.step, patient.converged) == (20, False)
    scores = [point.score for point in patient.progress.curve]
    assert scores == sorted(set(scores), reverse=True)
    result = train(make_config(**slow, validation={"every": 2, "patience": 3, "min_improvement": 0.05}))
    assert (result.progress.step, result.progress.flat_since, result.converged) == (8, 2, True)
    assert result.progress.best_step == 8  # the checkpoint is the best one all the same


PLATEAU = {
    "training": {
        "steps": 400,
        "ema": 0.5,
        "schedule": {"lr": 0.05, "warmup": 4, "kind": "plateau", "patience": 2, "threshold": 0.01, "stop_below": 0.004},
    },
    "validation": {"every": 4},
}


def test_a_plateau_run_ends_by_itself_and_one_that_uses_up_its_steps_says_so(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    result = train(make_config(**PLATEAU), tmp_path / "flat")
    curve = result.progress.curve
    assert result.converged
    assert 40 <= result.progress.step < 400
    assert curve[-1].lr == pytest.approx(0.05 / 8)  # the last rate that is not below 0.004
    assert result.progress.ending.startswith("converged: validation flat since step ")
    assert result.progress.flat_since in [point.step for point in curve[:-2]]
    assert load_checkpoint(tmp_path / "flat" / "last.pt")["progress"]["converged"] is True
    again = train(make_config(**PLATEAU), tmp_path / "flat", resume=True)  # has nothing to do
    assert (again.progress, again.errors) == (result.progress, result.errors)

    short = {**PLATEAU, "training": {**PLATEAU["training"], "steps": 20}}
    used_up = train(make_config(**short), tmp_path / "short")
    assert not used_up.converged
    assert used_up.progress.step == 20
    assert used_up.progress.ending == "not converged: its steps were used up"
    assert load_checkpoint(tmp_path / "short" / "last.pt")["progress"]["converged"] is False


@pytest.mark.parametrize("rule", ["plateau", "patience"])
def test_a_resumed_run_ends_at_the_same_step(make_config: MakeConfig, tmp_path: Path, rule: str) -> None:
    config = make_config(**PLATEAU)
    if rule == "patience":
        validation = {"every": 4, "patience": 3, "min_improvement": 0.1}
        config = make_config(training={"steps": 400, "schedule": {"kind": "constant"}}, validation=validation)
    whole = train(config, tmp_path / "whole")
    assert whole.converged
    last = whole.progress.step

    class Killed(BaseException):
        pass

    def kill(step: int, point: object) -> None:
        if step in stops:
            stops.remove(step)
            raise Killed

    stops = [step for step in (6, last // 2 + 1, last - 4, last - 1, last) if step > 0]
    while stops:
        with pytest.raises(Killed):
            train(config, tmp_path / "parts", resume=True, observer=kill)
    parts = train(config, tmp_path / "parts", resume=True)
    assert (parts.progress.step, parts.progress.flat_since, parts.converged) == (last, whole.progress.flat_since, True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("limits", [{}, {"max_atoms": 8}])
def test_validation_after_each_epoch(make_config: MakeConfig, limits: dict) -> None:
    """Five structures in batches of two are three steps an epoch; batches that are limited vary."""
    config = make_config(training={"steps": 10, **limits}, validation={"every": "epoch"})
    curve = train(config).progress.curve
    assert all(point.epoch == round(point.epoch) for point in curve[:-1])
    assert [int(point.epoch) for point in curve] == [*range(1, len(curve)), int(curve[-1].epoch)]
    assert curve[-1].step == 10
    if not limits:
        assert [point.step for point in curve] == [3, 6, 9, 10]


def test_the_best_checkpoint_by_the_error_of_whole_molecules(make_config: MakeConfig) -> None:
    result = train(make_config(validation={"weights": {"energy_molecule": 1.0}}))
    errors = {point.step: point.energy_molecule_rmse for point in result.progress.curve}
    assert result.progress.best_step == min(errors, key=errors.__getitem__)
    assert result.errors.energy_molecule == min(errors.values())
    assert result.score == pytest.approx(result.errors.energy_molecule / 1e-2)


@pytest.mark.parametrize("kind", ["plateau", "constant"])
def test_a_run_that_used_up_its_steps_goes_on_with_more(make_config: MakeConfig, tmp_path: Path, kind: str) -> None:
    def config(steps: int, kind: str = kind) -> RunConfig:
        schedule = {"kind": kind, "warmup": 2, "patience": 9}
        return make_config(training={"steps": steps, "schedule": schedule}, validation={"every": 4})

    train(config(16), tmp_path / "whole")
    first = train(config(8), tmp_path / "parts")
    assert first.converged is False
    train(config(16), tmp_path / "parts", resume=True)
    assert Run(tmp_path / "parts").config().training.steps == 16
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    changed = {"steps is 8 here, 16 in": config(8), f"schedule.kind is cosine here, {kind}": config(16, "cosine")}
    for what, other in changed.items():  # fewer steps, or another path
        with pytest.raises(ConfigError, match=rf"differs from the one that the run was begun with: training\.{what}"):
            train(other, tmp_path / "parts", resume=True)


def test_a_run_is_not_overwritten(make_config: MakeConfig, tmp_path: Path) -> None:
    train(make_config(), tmp_path / "run")
    before = weights(tmp_path / "run")
    with pytest.raises(TrainingError, match="holds a run already"):
        train(make_config(), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"was begun with: training\.seed is 5 here, 0 in the run"):
        train(make_config(training={"seed": 5}), tmp_path / "run", resume=True)
    after = weights(tmp_path / "run")
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("label", ["forces", "hessian"])
def test_a_weighted_term_without_labels_is_refused_before_the_first_step(
    make_config: MakeConfig, tmp_path: Path, label: str
) -> None:
    structures = [spring_structure(name, "train", **{label: None}) for name in ("H2O", "CH4", "NH3", "CO2", "HCN")]
    path = tmp_path / "bare.h5"
    write_store(path, [*structures, spring_structure("H2CO", "validation")], level_of_theory="springs")
    with pytest.raises(TrainingError, match=rf"weighs {label} but no structure .*set loss\.{label}=0"):
        train(make_config(data={"path": str(path)}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    train(make_config(data={"path": str(path)}, loss={label: 0.0}), tmp_path / "run")


def test_a_loss_that_is_not_finite_names_the_structures_and_keeps_the_checkpoint(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = TrainingStep.__call__

    def poisoned(self: TrainingStep, step: int) -> object:
        if step == 6:
            with torch.no_grad():
                self.gradient.potential.get_parameter("embedding.weight")[2] = torch.nan  # nitrogen
        return original(self, step)

    monkeypatch.setattr(TrainingStep, "__call__", poisoned)
    message = r"loss of step \d+ is not finite for .*last good checkpoint is of step 4"
    with pytest.raises(TrainingError, match=message) as caught:
        train(make_config(training={"batch_size": 5}), tmp_path / "run")
    assert "NH3-train" in str(caught.value)
    assert "HCN-train" in str(caught.value)
    assert "H2O-train" not in str(caught.value)
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / "run").values())
    assert hessgnn.load(tmp_path / "run").n_parameters() > 0


def test_out_of_memory_says_what_to_lower(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(self: TrainingStep, step: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TrainingStep, "__call__", exhausted)
    with pytest.raises(TrainingError, match=r"out of memory.*raise training\.parts.*training\.batch_size"):
        train(make_config(), tmp_path / "run")


def test_an_element_the_potential_does_not_know_is_told(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(potential={"elements": [1, 6, 8]}, data={"reference_energies": {1: 0, 6: 0, 8: 0}})
    with pytest.raises(hessgnn.UserError, match="N"):
        train(config, tmp_path / "run")


def test_an_absent_device_is_told(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such device"):
        train(make_config(training={"device": "cuda:77"}), tmp_path / "run")


def test_unsound_data_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    structures = [spring_structure(name, "train") for name in ("H2O", "CH4", "NH3", "CO2", "HCN")]
    flipped = [type(s)(**{**vars(s), "hessian": -np.asarray(s.hessian)}) for s in structures]
    path = tmp_path / "flipped.h5"
    write_store(path, [*flipped, spring_structure("H2CO", "validation")], level_of_theory="springs")
    with pytest.raises(hessgnn.UserError, match="negative trace: looks like −H"):
        train(make_config(data={"path": str(path)}), tmp_path / "run")


def test_the_objective_does_not_depend_on_the_loss_weights(make_config: MakeConfig, tmp_path: Path) -> None:
    """Two losses whose weights differ but whose steps are equal (none) have the same score."""
    scores = []
    for hessian in (0.01, 1.0):
        config = make_config(loss={"hessian": hessian}, training={"steps": 1, "schedule": {"lr": 1e-12}})
        scores.append(train(config, tmp_path / f"run-{hessian}").score)
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)


def test_training_on_hessians_that_jump_warns(make_config: MakeConfig) -> None:
    config = make_config().model_copy(update={"potential": {"name": "ani", "activation": "celu"}})
    with pytest.warns(UserWarning, match=r"the Hessian of 'ani' jumps \(CELU"):
        build(config)
    build(config.model_copy(update={"loss": config.loss.model_copy(update={"hessian": 0.0})}))


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_modes_are_computed_once_for_the_run(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, fraction: float
) -> None:
    config = make_config(loss={"probes": {"kind": "modes", "number": 2, "fraction": fraction, "every": 1}})
    setup = build(config)
    for step in range(len(setup.loader)):
        setup.loader.batch(step)
    monkeypatch.setattr(ReferenceModes, "of_structure", lambda *_: pytest.fail("computed again"))
    assert Trainer(setup).fit().progress.products == 2 * config.training.steps
    without = make_config(loss={"hessian": 0.0, "probes": {"kind": "modes"}})
    assert build(without).loader.collator.preparation is None
