from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from hessgnn.config import load, parse
from hessgnn.data.checks import check
from hessgnn.data.factory import build as build_module
from hessgnn.data.factory.build import assign_splits, build, part_path
from hessgnn.data.factory.geometries import starting_geometries
from hessgnn.data.factory.recipe import Recipe
from hessgnn.data.store import Store, write_store
from hessgnn.errors import DataError
from hessgnn.files import find_resource

SMALL = {
    "name": "small",
    "geometries": {"names": ["H2O", "HCN", "CH3"], "elements": ["H", "C", "N", "O"]},
    "displaced": {"frames": 2},
    "split": {"fractions": {"train": 1.0}},
}


@pytest.fixture(scope="module")
def recipe():
    return parse(Recipe, SMALL, where="test")


@pytest.fixture(scope="module")
def built(recipe, tmp_path_factory):
    output = tmp_path_factory.mktemp("built") / "small.h5"
    return build(recipe, output), Store.open(output)


def test_report_and_content(built):
    report, store = built
    assert (report.molecules, report.structures) == (2, 6)
    assert report.skipped == {"CH3": "odd number of electrons"}
    assert report.failed == {}
    assert store.splits == {"train": 2, "nms": 4}
    assert store.names[:3] == ["H2O", "H2O/nms-0", "H2O/nms-1"]
    assert set(store.attributes.versions) >= {"tblite", "ase"}
    assert yaml.safe_load(store.attributes.provenance)["skipped"] == report.skipped
    assert check(store) == []
    for i in store.indices("nms"):
        minimum = store[store.names.index(store.groups[i])]
        assert 0 < store.energies[i] - minimum.energy <= Recipe(name="x").displaced.max_energy


def test_nothing_is_left_lying_about(built):
    assert [path.name for path in built[0].path.parent.iterdir()] == ["small.h5"]


def test_a_killed_build_goes_on_and_ends_in_the_same_file(recipe, built, tmp_path, monkeypatch):
    output = tmp_path / "small.h5"
    geometries, _ = starting_geometries(recipe.geometries)
    asked = []

    def label_rest(_, todo, parts, processes):
        asked.extend(todo)
        return {}

    for name, atoms in geometries.items():
        frames = [structure for structure in built[1] if structure.group == name]
        part = part_path(output, recipe, name, atoms)
        write_store(part, frames, level_of_theory="GFN2-xTB", hessian_dtype="float64")
    monkeypatch.setattr(build_module, "_label_all", label_rest)
    build(recipe, output)
    assert asked == []
    assert Store.open(output).attributes.content_hash == built[1].attributes.content_hash


def test_parts_belong_to_one_recipe(recipe, tmp_path):
    atoms = starting_geometries(recipe.geometries)[0]["H2O"]
    here = part_path(tmp_path / "x.h5", recipe, "H2O", atoms)
    other_split = recipe.model_copy(update={"split": recipe.split.model_copy(update={"seed": 9})})
    other_seed = recipe.model_copy(update={"seed": 9})
    assert part_path(tmp_path / "x.h5", other_split, "H2O", atoms) == here
    assert part_path(tmp_path / "x.h5", other_seed, "H2O", atoms) != here


def test_failures_are_listed_and_do_not_stop_the_others(recipe, tmp_path, built, monkeypatch):
    def one_fails(_, todo, parts, processes):
        water = [structure for structure in built[1] if structure.group == "H2O"]
        rest = replace(water[0], numbers=[6, 7, 1], name="x", group="x")  # the elements that training must show
        write_store(parts["H2O"], [*water, rest], level_of_theory="GFN2-xTB")
        return {"HCN": "ends on a saddle point"}

    monkeypatch.setattr(build_module, "_label_all", one_fails)
    report = build(recipe, tmp_path / "small.h5")
    assert report.failed == {"HCN": "ends on a saddle point"}
    provenance = yaml.safe_load(Store.open(tmp_path / "small.h5").attributes.provenance)
    assert provenance["failed"] == report.failed


def test_training_must_show_every_element(recipe, built):
    water = [structure for structure in built[1] if structure.group == "H2O"]
    with pytest.raises(DataError, match="training split has no C, N"):
        assign_splits(recipe, water)


@pytest.mark.slow
def test_rebuilding_gives_the_bundled_numbers(tmp_path):
    shipped = load(Recipe, find_resource(Path("configs/data/rtp-mini.yaml")))
    names = ["CH3OH", "HCN", "NH3"]
    fewer = {
        "geometries": shipped.geometries.model_copy(update={"names": names, "elements": ["H", "C", "N", "O"]}),
        "split": shipped.split.model_copy(update={"fractions": {"train": 1.0}}),
    }
    build(shipped.model_copy(update=fewer), tmp_path / "again.h5")
    bundled = Store.open("rtp-mini")
    for structure in Store.open(tmp_path / "again.h5"):
        expected = bundled[bundled.names.index(structure.name)]
        np.testing.assert_allclose(structure.positions, expected.positions, atol=1e-5)
        assert structure.energy == pytest.approx(expected.energy, abs=1e-5)
        np.testing.assert_allclose(structure.forces, expected.forces, atol=1e-4)
        np.testing.assert_allclose(structure.hessian, expected.hessian, atol=1e-3)
