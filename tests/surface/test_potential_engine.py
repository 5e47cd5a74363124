"""A potential as a label engine: labels are what it predicts, and a set gets another level of theory by its labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import yaml
from forty import Forty
from tiny_store import TINY, write_tiny_store
from typer.testing import CliRunner

import hessgnn
from hessgnn.cli.data import app
from hessgnn.data.store.store import Store
from hessgnn.data.store.summary import recorded_gradients
from hessgnn.data.store.writer import write_store
from hessgnn.errors import ConfigError
from hessgnn.potentials.saved import BEST, CONFIG, create_from, save_checkpoint
from hessgnn.runtime.config import parse
from hessgnn.runtime.registry import Registry
from hessgnn.surface.engines.base import make_engine
from hessgnn.surface.engines.potential import PotentialSettings, engine_settings
from hessgnn.surface.potential import PotentialSurface


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Store:
    return Store.open(write_tiny_store(tmp_path_factory.mktemp("tiny") / "tiny.h5"))


@pytest.fixture
def run(tmp_path):
    """A run folder as the trainer leaves it, as far as potentials are loaded from it."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / CONFIG).write_text(yaml.safe_dump({"potential": TINY, "training": {"dtype": "float64"}}))
    potential = create_from(TINY, "float64")
    save_checkpoint(folder / BEST, {"potential": potential.state_dict()})
    return folder


def of(**content):
    return make_engine(parse(PotentialSettings, {"name": "potential", **content}, where="test"))


def test_labels_are_what_the_potential_predicts(tiny, run):
    for engine, potential in (
        (of(run=str(run)), hessgnn.load(run)),
        (of(potential={"name": "forty:Forty"}), Forty(Forty.Config())),
    ):
        (answer,) = PotentialSurface(potential).answers([tiny[0]])
        atoms = tiny[0].to_atoms()
        energy, forces = engine.energy_forces(atoms)
        assert energy == pytest.approx(answer.energy, abs=1e-10)
        np.testing.assert_allclose(forces, answer.forces, atol=1e-10)
        np.testing.assert_allclose(engine.hessian(atoms).matrix, answer.hessian, atol=1e-10)
        assert engine.level_of_theory in ("mine", "forty")
    assert of(run=str(run), level_of_theory="teacher").level_of_theory == "teacher"


def test_weights_that_change_are_other_labels(run):
    before = of(run=str(run)).fingerprint
    assert of(run=str(run)).fingerprint == before
    other = create_from(TINY, "float64")
    save_checkpoint(run / BEST, {"potential": other.state_dict()})
    assert of(run=str(run)).fingerprint != before


def test_a_set_is_labelled_anew(tiny, tmp_path, monkeypatch):
    """The other labels are gone, the splits stay, and the stationary points are none any more."""
    monkeypatch.setattr("hessgnn.factory.labelling.each", lambda function, items, *_, **__: map(function, items))
    target = tmp_path / "forty.h5"
    command = ["label", str(tiny.path), "-o", str(target), "--engine", "forty:Forty", "--split", "train"]
    refused = CliRunner().invoke(app, [*command, "--hessian"])
    assert "is at GFN2-xTB, and the engine computes forty" in str(refused.exception)
    result = CliRunner().invoke(app, [*command, "--hessian", "--directions", "rademacher", "--relabel"])
    assert result.exit_code == 0, result.output
    store, chosen = Store.open(target), tiny.indices("train")
    assert store.attributes.level_of_theory == "forty"
    assert store.names == [tiny.names[i] for i in chosen]
    assert set(store.kinds) == {"relabelled"}
    structures = [replace(one, kind="relabelled") for one in store]
    for one, answer in zip(structures, PotentialSurface(Forty(Forty.Config())).answers(structures), strict=True):
        assert one.energy == pytest.approx(answer.energy, abs=1e-10)
        np.testing.assert_allclose(one.forces, answer.forces, atol=1e-10)
        np.testing.assert_allclose(one.hessian, answer.hessian, atol=1e-5)  # stored in float32
        product = answer.hessian @ one.directions.vectors[0].ravel()
        np.testing.assert_allclose(one.directions.products[0].ravel(), product, atol=1e-4)  # central differences
    told = yaml.safe_load(store.attributes.provenance)
    assert told["structures"]["level_of_theory"] == "GFN2-xTB"
    assert told["labelled"]["settings"]["engine"]["potential"] == {"name": "forty:Forty"}
    again = CliRunner().invoke(app, [*command, "--hessian", "--directions", "rademacher", "--relabel"])
    assert "is finished" in again.output
    more = ["label", str(target), "-o", str(tmp_path / "more.h5"), "--directions", "gaussian"]
    # The set names a class, that is, code: others may have written it.
    assert "names one that runs code" in str(CliRunner().invoke(app, more).exception)
    assert CliRunner().invoke(app, [*more, "--engine", "forty:Forty"]).exit_code == 0
    assert Store.open(tmp_path / "more.h5").n_directions.tolist() == [2] * len(chosen)


def test_stationary_points_stay_at_the_same_level(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("hessgnn.factory.labelling.each", lambda function, items, *_, **__: map(function, items))
    source, target = tmp_path / "source.h5", tmp_path / "target.h5"
    structures = [replace(tiny[i], kind="minimum") for i in tiny.indices("train")[:2]]
    write_store(source, structures, level_of_theory="forty", hessian_dtype="float64", provenance="gradients: 900\n")
    command = ["label", str(source), "-o", str(target), "--engine", "forty:Forty", "--hessian", "--relabel"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert set(Store.open(target).kinds) == {"minimum"}
    provenance = Store.open(target).attributes.provenance
    assert recorded_gradients(provenance) == yaml.safe_load(provenance)["labelled"]["cost"]["gradients"]  # not the 900


def test_what_names_an_engine(run, monkeypatch):
    known: Registry = Registry("potential", "hessgnn.potentials")
    known.add("forty", Forty)
    monkeypatch.setattr("hessgnn.surface.engines.potential.POTENTIALS", known)
    assert engine_settings("tblite") == {"name": "tblite"}
    assert engine_settings("nothing") == {"name": "nothing"}
    assert engine_settings(str(run)) == {"name": "potential", "run": str(run)}
    assert engine_settings("forty") == {"name": "potential", "potential": {"name": "forty"}}
    assert engine_settings("forty:Forty")["name"] == "potential"
    assert engine_settings("hessgnn.surface.engines.tblite:TBLiteEngine")["name"].endswith("TBLiteEngine")


def test_what_cannot_label_is_refused(run):
    with pytest.raises(ConfigError, match="schnet has no weights until it is trained"):
        of(potential={"name": "schnet"})
    with pytest.raises(ConfigError, match="no such weights: fifty"):
        of(potential={"name": "forty:Forty", "weights": "fifty"})
    with pytest.raises(ConfigError, match="give one of run and potential"):
        of()
    with pytest.raises(ConfigError, match="give one of run and potential"):
        of(run=str(run), potential={"name": "forty:Forty"})
    with pytest.raises(ConfigError, match="is not a run folder"):
        of(run=str(run.parent))


def test_large_models_take_several_passes_for_forces(tiny, monkeypatch):
    structures = [tiny[i] for i in range(5)]
    positions = np.concatenate([one.positions for one in structures])
    surface = PotentialSurface(Forty(Forty.Config()))
    whole = surface.force_field(structures)(positions)
    monkeypatch.setattr("hessgnn.surface.potential.ATOMS_OF_FORCES", 7)
    parts = surface.force_field(structures)(positions)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)
