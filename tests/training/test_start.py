"""Runs that start from weights: which ones, what is taken from them, what is refused, and reference energies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ase.build import molecule
from interrupted import train_until_killed
from springs import TINY, spring_structure, write_springs

import hessgnn
from hessgnn.data.batch import Batch
from hessgnn.data.store.store import write_store
from hessgnn.errors import ConfigError, TrainingError, UserError
from hessgnn.evaluation.evaluate import evaluate
from hessgnn.potentials.saved import load_checkpoint
from hessgnn.runtime.config import load
from hessgnn.runtime.files import find_resource
from hessgnn.surface.calculator import HessGNNCalculator
from hessgnn.training.build import build
from hessgnn.training.config import RunConfig
from hessgnn.training.run import Run
from hessgnn.training.start import hash_of
from hessgnn.training.trainer import train

MakeConfig = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that several tests start from; nobody changes it."""
    folder = tmp_path_factory.mktemp("pretrained")
    content: dict[str, Any] = {
        "potential": TINY,
        "data": {"path": str(write_springs(folder / "springs.h5")), "energy_scale": 0.5},
        "training": {"steps": 8, "batch_size": 2, "schedule": {"warmup": 2}, "device": "cpu", "threads": 1},
        "validation": {"every": 4},
    }
    train(RunConfig.model_validate(content), folder / "run")
    return folder / "run"


@pytest.fixture
def make(make_config: MakeConfig, pretrained: Path) -> MakeConfig:
    """Configurations of runs that start from it, and name nothing but the architecture."""

    def started(*, potential: dict[str, Any] | None = None, **sections: dict[str, Any]) -> RunConfig:
        training = {"start": str(pretrained), **sections.pop("training", {})}
        content = make_config(training=training, **sections).model_dump(exclude_unset=True)
        return RunConfig.model_validate({**content, "potential": potential or {"name": "schnet"}})

    return started


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(path)["potential"])


def refusal(config: RunConfig, folder: Path) -> str:
    """The one line that a configuration is refused with, before anything is written."""
    with pytest.raises(UserError) as caught:
        train(config, folder)
    assert not folder.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_settings_weights_and_scale_are_those_of_the_start(make: MakeConfig, pretrained: Path) -> None:
    setup = build(make(data={"reference_energies": "keep"}))
    start = hessgnn.load(pretrained)
    assert setup.config.potential == {"name": "schnet", **start.config.model_dump(mode="json")}
    assert setup.config.data.energy_scale == 0.5
    for name, value in setup.potential.state_dict().items():
        assert torch.equal(value, start.state_dict()[name]), name
    wider = build(make(data={"reference_energies": "keep"}, training={"dtype": "float64"}))
    assert wider.potential.embedding.weight.dtype == torch.float64
    assert wider.origin is not None
    assert wider.origin.weights_hash == hash_of(wider.potential.state_dict()) == hash_of(start.state_dict())


@pytest.mark.parametrize("name", ["", "best.pt", "last.pt", "plain.pt"])
def test_a_folder_a_checkpoint_and_plain_weights_start_alike(
    make: MakeConfig, pretrained: Path, tmp_path: Path, name: str
) -> None:
    path, plain = pretrained / name, tmp_path / "plain.pt"
    settings = {"potential": {"name": "schnet"}}
    if name == "plain.pt":  # without a config beside it
        torch.save(weights(pretrained / "best.pt"), plain)
        path, settings = plain, {"potential": TINY}
    config = make(**settings, training={"steps": 0, "start": str(path)}, data={"reference_energies": "keep"})
    potential = train(config).potential
    expected = weights(pretrained / "best.pt")
    if name == "last.pt":
        expected = {k[7:]: v for k, v in load_checkpoint(path)["averaged"].items() if k.startswith("module.")}
    for key, value in potential.state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_differences_are_named(make: MakeConfig, tmp_path: Path, pretrained: Path) -> None:
    folder = tmp_path / "run"
    several = make(potential={**TINY, "width": 16, "elements": [1, 6]}, data={"energy_scale": 1.0})
    text = refusal(several, folder)
    assert "potential.width is 16 here, 8 in the start" in text
    assert "potential.elements is H, C here, H, C, N, O in the start" in text
    assert "data.energy_scale is 1 here, 0.5 in the start" in text
    assert "potential.name is nequip here, schnet in the start" in refusal(make(potential={"name": "nequip"}), folder)
    rows = [spring_structure(name, split) for name in ("SH2", "H2O") for split in ("train", "validation")]
    write_store(tmp_path / "sulfur.h5", rows, level_of_theory="springs")
    text = refusal(make(data={"path": str(tmp_path / "sulfur.h5")}), folder)
    assert "the data hold S, which the start does not know" in text
    plain = tmp_path / "plain.pt"
    torch.save(weights(pretrained / "best.pt"), plain)
    text = refusal(make(potential={**TINY, "width": 16}, training={"start": str(plain)}), folder)
    assert "embedding.weight is 4 x 16 here, 4 x 8 in the start" in text
    assert "more)" in text
    text = refusal(make(potential={**TINY, "n_interactions": 2}, training={"start": str(plain)}), folder)
    assert "interactions.1.filter.0.weight is not in the start" in text


def test_what_is_no_start_is_one_line(make: MakeConfig, tmp_path: Path, pretrained: Path) -> None:
    folder = tmp_path / "run"

    def text(start: Path) -> str:
        return refusal(make(training={"start": str(start)}), folder)

    assert "no such run or file" in text(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert "is not a run folder" in text(tmp_path / "empty")
    shutil.copy(pretrained / "config.yaml", tmp_path / "empty")
    assert "was never validated" in text(tmp_path / "empty")
    (tmp_path / "empty" / "best.pt").write_bytes((pretrained / "best.pt").read_bytes()[:2000])
    assert "damaged" in text(tmp_path / "empty")
    torch.save({"potential": {"a": 1}}, tmp_path / "odd.pt")
    assert "holds no weights" in text(tmp_path / "odd.pt")
    fresh = make(training={"start": None}, data={"reference_energies": "keep"}, potential=TINY)
    assert "no reference energies to keep" in refusal(fresh, folder)


def test_reference_energies_are_refitted_and_the_shift_is_kept(
    make: MakeConfig, tmp_path: Path, pretrained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another level of theory, which differs by an energy of each element: the fit finds it beside the network."""
    start = hessgnn.load(pretrained).double()
    difference = {1: -1.5, 6: 20.0, 7: 3.0}  # no oxygen in these
    structures = []
    for name in ("CH4", "NH3", "HCN", "C2H6"):
        one = spring_structure(name, "validation" if name == "C2H6" else "train")
        batch = Batch.from_structures([one], start.cutoff)
        energy = float(start.energy(batch)) + sum(difference[int(z)] for z in one.numbers)
        structures.append(type(one)(**{**vars(one), "energy": energy}))
    write_store(tmp_path / "other.h5", structures, level_of_theory="other")
    config = make(
        data={"path": str(tmp_path / "other.h5")}, training={"steps": 0}, validation={"weights": {"energy": 1}}
    )
    with caplog.at_level("INFO", "hessgnn.training"):
        result = train(config, tmp_path / "run")
    assert result.errors.energy == pytest.approx(0.0, abs=1e-5)
    origin = Run(tmp_path / "run").origin()
    assert origin is not None
    assert origin.shift == pytest.approx({**difference, 8: 0.0}, abs=1e-4)
    assert (origin.kind, origin.step, origin.references) == ("run", 8, "fitted")
    assert origin.weights_hash == hash_of(weights(pretrained / "best.pt"))
    assert "H -1.5000  C +20.0000  N +3.0000; 1 elements absent from the data keep their old reference" in caplog.text
    calculator, water = HessGNNCalculator(tmp_path / "run"), molecule("H2O")
    calculator.get_potential_energy(molecule("CH4"))
    with pytest.warns(UserWarning, match="the training data held no O: reference energies"):
        calculator.get_potential_energy(water)
    calculator.get_potential_energy(molecule("H2O2"))  # once
    given = make(data={"reference_energies": {1: 0, 6: 0, 7: 0, 8: 0}}, training={"steps": 0})
    with pytest.warns(UserWarning, match="leave data.reference_energies out"):  # zero they are not
        train(given, tmp_path / "given")
    origin = Run(tmp_path / "given").origin()
    assert origin is not None
    assert origin.references == "given"
    assert origin.shift[1] == -float(start.reference_energies[0])


def shifted_store(path: Path, level_of_theory: str, shift: float = 1000.0) -> Path:
    """The springs with other energies of the free atoms."""
    rows = [spring_structure(name, "train") for name in ("H2O", "CH4", "NH3", "CO2", "HCN")]
    rows.append(spring_structure("H2CO", "validation"))
    rows = [replace(one, energy=(one.energy or 0.0) + shift * len(one)) for one in rows]
    write_store(path, rows, level_of_theory=level_of_theory)
    return path


def test_reference_energies_of_another_level_are_not_kept(make: MakeConfig, pretrained: Path, tmp_path: Path) -> None:
    other = shifted_store(tmp_path / "other.h5", "others")
    text = refusal(make(data={"path": str(other), "reference_energies": "keep"}), tmp_path / "run")
    assert "those of 'springs', and store other has energies of 'others'" in text
    shutil.copytree(pretrained, tmp_path / "older")
    (tmp_path / "older" / "sources.json").unlink()  # earlier versions wrote none
    training = {"start": str(tmp_path / "older"), "steps": 0}
    with pytest.warns(
        UserWarning, match=r"energies of store other are 1e\+03 eV an atom .*leave data.reference_energies"
    ):
        setup = build(make(data={"path": str(other), "reference_energies": "keep"}, training=training))
    assert setup.origin is not None
    assert setup.origin.level_of_theory is None
    setup = build(make(data={"path": str(other)}))  # fitted, and no warning
    assert setup.origin is not None
    assert setup.origin.level_of_theory == "springs"


def test_a_store_far_from_the_start_is_named(make: MakeConfig, tmp_path: Path) -> None:
    """The same text of the level of theory, and other constants."""
    same = shifted_store(tmp_path / "same.h5", "springs")
    with pytest.warns(UserWarning, match=r"energies of store same are 1e\+03 eV an atom .*give the store reference_en"):
        build(make(data={"also": [{"path": str(same)}]}))


def test_a_lost_start_is_named_when_a_run_is_resumed(make: MakeConfig, tmp_path: Path) -> None:
    config = make(data={"reference_energies": "keep"}, training={"steps": 8})
    train_until_killed(config, tmp_path / "run", 6)
    (tmp_path / "run" / "start.json").unlink()
    with pytest.raises(TrainingError, match=r"run: has no start\.json"):
        train(config, tmp_path / "run", resume=True)


def test_energies_that_determine_no_reference_are_refused(make: MakeConfig, tmp_path: Path) -> None:
    rows = [spring_structure(*row) for row in (("H2O", "train"), ("H2O2", "validation"))]
    write_store(tmp_path / "few.h5", rows, level_of_theory="springs")
    text = refusal(make(data={"path": str(tmp_path / "few.h5")}), tmp_path / "run")
    assert "determine only 1 of the 2 reference energies (H, O)" in text
    assert "keep: those of the start" in text


def test_without_steps_nothing_is_trained_and_the_run_is_complete(
    make: MakeConfig, pretrained: Path, tmp_path: Path
) -> None:
    config = make(training={"steps": 0, "average": {"kind": "swa", "start": 3}}, data={"reference_energies": "keep"})
    result = train(config, tmp_path / "run")
    assert (result.progress.step, result.progress.products, result.converged) == (0, 0, False)
    assert result.progress.ending.startswith("nothing trained")
    assert [point.step for point in Run(tmp_path / "run").curve()] == [0]
    for key, value in weights(tmp_path / "run" / "best.pt").items():
        assert torch.equal(value, weights(pretrained / "best.pt")[key])
    again = train(config, tmp_path / "run", resume=True)
    assert (again.score, again.progress) == (result.score, result.progress)
    with pytest.raises(ConfigError, match=r"nothing was trained in this run.*training\.start="):
        train(make(training={"steps": 4}, data={"reference_energies": "keep"}), tmp_path / "run", resume=True)
    record = evaluate(tmp_path / "run", splits=["test"])
    assert (record.status, record.cost.steps) == ("ok", 0)
    fresh = train(make(potential=TINY, training={"steps": 0, "start": None}), tmp_path / "fresh")
    assert fresh.potential.n_parameters() > 0
    assert not (tmp_path / "fresh" / "start.json").exists()


@pytest.mark.parametrize("lora", [None, {"rank": 2, "also_train": "*.bias"}])
def test_a_resumed_run_needs_its_start_no_longer(
    make: MakeConfig, pretrained: Path, tmp_path: Path, lora: dict[str, Any] | None
) -> None:
    start = tmp_path / "start"
    shutil.copytree(pretrained, start)
    training = {"start": str(start), "steps": 12, "lora": lora, "freeze": [] if lora else ["embedding.weight"]}
    config = make(training=training)
    whole = train(config, tmp_path / "whole")
    for step in (0, 2, 6):  # after the validation of the start, before the next one, after that
        train_until_killed(config, tmp_path / "parts", step, resume=True)
    begun = (tmp_path / "parts" / "start.json").read_text()
    shutil.rmtree(start)
    parts = train(config, tmp_path / "parts", resume=True)
    assert (parts.score, parts.errors) == (whole.score, whole.errors)
    assert [point.score for point in parts.progress.curve] == [point.score for point in whole.progress.curve]
    assert (tmp_path / "parts" / "start.json").read_text() == begun
    for name in ("best.pt", "last.pt"):
        ours, theirs = (load_checkpoint(tmp_path / run / name)["potential"] for run in ("parts", "whole"))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    train(Run(tmp_path / "whole").config(), tmp_path / "whole", resume=True)  # what the folder says is complete


def test_the_start_is_validated_and_kept_where_nothing_is_better(
    make: MakeConfig, make_config: MakeConfig, tmp_path: Path, pretrained: Path, store: Path
) -> None:
    """Neither patience nor the plateau rule waits for a score below that of the start."""
    keep = {"reference_energies": "keep"}
    as_it_is = train(make(training={"steps": 0}, data=keep))
    worse = {"steps": 12, "schedule": {"lr": 0.5, "warmup": 0, "kind": "plateau", "patience": 1}}
    data = {**keep, "also": [{"path": str(store), "weight": 0}]}
    result = train(make(training=worse, data=data, validation={"patience": 2}), tmp_path / "run")
    curve = result.progress.curve
    assert [point.step for point in curve][:2] == [0, 4]
    assert (curve[0].score, curve[0].loss, curve[0].products) == (as_it_is.score, None, 0)
    assert [point.step for point in curve] == [point.others["springs-2"].step for point in curve]
    assert result.progress.kept_start
    assert result.errors == as_it_is.errors
    assert curve[0].score < curve[1].score
    assert result.progress.flat_since >= 4
    for key, value in weights(tmp_path / "run" / "best.pt").items():
        assert torch.equal(value, weights(pretrained / "best.pt")[key]), key
    better = train(make(training={"steps": 24, "schedule": {"lr": 2e-3}, "average": {"kind": "none"}}))
    assert better.score < better.progress.curve[0].score
    assert not better.progress.kept_start
    fresh = train(make_config())
    assert [point.step for point in fresh.progress.curve] == [4, 8, 12]
    assert not fresh.progress.kept_start


def test_the_shipped_example_runs(pretrained: Path, store: Path, tmp_path: Path) -> None:
    here = [f"training.start={pretrained}", f"data.path={store}", "training.steps=2", "loss.probes.every=1"]
    config = load(RunConfig, find_resource("configs/finetune.yaml"), here)
    assert train(config, tmp_path / "run").progress.step == 2


def test_a_chain_of_starts_is_kept(make: MakeConfig, tmp_path: Path, pretrained: Path) -> None:
    train(make(training={"steps": 4}), tmp_path / "second")
    train(make(training={"steps": 0, "start": str(tmp_path / "second")}), tmp_path / "third")
    content = json.loads((tmp_path / "third" / "start.json").read_text())
    assert content["path"] == str(tmp_path / "second")
    assert content["before"]["path"] == str(pretrained)
    assert content["before"]["before"] is None
