import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from ase.build import molecule

from hessgnn.data.store.families import familiar, resplit
from hessgnn.data.store.splits import split_hash
from hessgnn.data.store.store import Store, write_store
from hessgnn.data.structure import Structure
from hessgnn.errors import DataError, UserError
from hessgnn.factory.build import assign_splits
from hessgnn.factory.recipe import Recipe
from hessgnn.runtime.config import load
from hessgnn.runtime.files import find_resource


def make_structures(n=6, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        atoms = molecule(["H2O", "CH3OH", "NH3"][i % 3])
        size = 3 * len(atoms)
        hessian = rng.normal(size=(size, size))
        made.append(
            Structure(
                numbers=atoms.numbers,
                positions=atoms.positions + rng.normal(scale=0.01, size=atoms.positions.shape),
                energy=float(rng.normal()),
                forces=rng.normal(size=atoms.positions.shape),
                hessian=hessian + hessian.T,
                name=f"frame-{i}",
                group=f"molécule-{i % 3}",
                kind="nms",
                split=["train", "train", "test"][i % 3],
            )
        )
    return made


@pytest.fixture
def path(tmp_path):
    target = tmp_path / "set.h5"
    write_store(target, make_structures(), level_of_theory="none", versions={"code": "1"}, provenance="made up")
    return target


def assert_same(found, expected, hessian_rtol):
    for field in ("numbers", "positions", "pbc", "energy", "forces", "name", "group", "kind", "split"):
        np.testing.assert_array_equal(getattr(found, field), getattr(expected, field), err_msg=field)
    if expected.hessian is None:
        assert found.hessian is None
    else:
        np.testing.assert_allclose(found.hessian, expected.hessian, rtol=hessian_rtol, atol=1e-12)


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-6), ("float64", 1e-15)])
def test_what_is_written_is_read(tmp_path, dtype, rtol):
    structures = make_structures()
    structures[1] = replace(structures[1], hessian=None)
    structures[2] = replace(structures[2], energy=None)
    structures[3] = replace(structures[3], forces=None, cell=np.eye(3) * 9, pbc=[True] * 3)
    write_store(tmp_path / "set.h5", structures, level_of_theory="DFT", hessian_dtype=dtype)
    store = Store.open(tmp_path / "set.h5")
    assert store.attributes.level_of_theory == "DFT"
    assert store.attributes.hessian_dtype == dtype
    for found, expected in zip(store, structures, strict=True):
        assert_same(found, expected, rtol)
    np.testing.assert_array_equal(store[3].cell, np.eye(3) * 9)
    assert store[0].cell is None
    assert store[-1].name == "frame-5"
    with pytest.raises(IndexError):
        store[6]


def test_views_of_the_whole(path):
    store = Store.open(path)
    assert len(store) == 6
    assert store.splits == {"train": 4, "test": 2}
    np.testing.assert_array_equal(store.indices("test"), [2, 5])
    np.testing.assert_array_equal(store.n_atoms, [3, 6, 4, 3, 6, 4])
    assert store.elements() == [1, 6, 7, 8]
    assert store.elements([0]) == [1, 8]
    assert store.symbols([2]) == ["H", "N"]
    assert store.attributes.versions == {"code": "1"}
    assert store.attributes.provenance == "made up"
    with pytest.raises(DataError, match="did you mean 'train'"):
        store.indices("trian")


def test_file_says_its_units_and_sign(path):
    with h5py.File(path) as file:
        assert json.loads(file.attrs["units"])["hessian"] == "eV/Angstrom^2"
        assert "+d2E/dR2" in file.attrs["sign_convention"]


def test_hashes_know_content_and_split_apart(tmp_path, path):
    reference = Store.open(path).attributes
    structures = make_structures()

    def attributes_of(changed):
        write_store(tmp_path / "other.h5", changed, level_of_theory="none")
        return Store.open(tmp_path / "other.h5").attributes

    again = attributes_of(structures)
    assert (again.content_hash, again.split_hash) == (reference.content_hash, reference.split_hash)
    moved = attributes_of([replace(structures[0], split="test"), *structures[1:]])
    assert moved.content_hash == reference.content_hash
    assert moved.split_hash != reference.split_hash
    relabelled = attributes_of([replace(structures[0], energy=1.0), *structures[1:]])
    assert relabelled.content_hash != reference.content_hash
    assert relabelled.split_hash == reference.split_hash


def test_small_asymmetry_is_removed_and_recorded_also_when_written_again(tmp_path):
    structure = make_structures(1)[0]
    raw = structure.hessian.copy()
    raw[0, 1] += 2e-3
    write_store(tmp_path / "a.h5", [replace(structure, hessian=raw)], level_of_theory="none", hessian_dtype="float64")
    first = Store.open(tmp_path / "a.h5")
    np.testing.assert_allclose(first[0].hessian, (raw + raw.T) / 2)
    assert first.hessian_asymmetry[0] == pytest.approx(2e-3)
    write_store(tmp_path / "b.h5", first, level_of_theory="none")
    assert Store.open(tmp_path / "b.h5").hessian_asymmetry[0] == pytest.approx(2e-3)


def asymmetric(structure):
    raw = structure.hessian.copy()
    raw[0, 1] += 1.0
    return replace(structure, hessian=raw)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: replace(s, energy=np.nan), "frame-1: energy holds NaN"),
        (lambda s: replace(s, forces=np.full((6, 3), np.inf)), "frame-1: forces holds NaN or infinity"),
        (lambda s: replace(s, hessian=np.full((18, 18), np.nan)), "frame-1: hessian holds NaN"),
        (asymmetric, "frame-1: the Hessian is not symmetric"),
        (lambda s: replace(s, name="frame-0"), "frame-0: this name occurs twice"),
    ],
)
def test_broken_labels_are_refused_and_nothing_is_written(tmp_path, spoil, message):
    structures = make_structures()
    structures[1] = spoil(structures[1])
    with pytest.raises(DataError, match=message):
        write_store(tmp_path / "set.h5", structures, level_of_theory="none")
    assert list(tmp_path.iterdir()) == []


def test_empty_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="no structure"):
        write_store(tmp_path / "set.h5", [], level_of_theory="none")


def test_set_without_any_hessian(tmp_path):
    structures = [replace(structure, hessian=None) for structure in make_structures()]
    write_store(tmp_path / "set.h5", structures, level_of_theory="none")
    store = Store.open(tmp_path / "set.h5")
    store.verify()
    assert store[0].hessian is None


@pytest.mark.parametrize("keep", [0.05, 0.5, 0.95])
def test_truncated_file(path, keep):
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(DataError, match=r"set\.h5: is (truncated|not an HDF5 file)"):
        Store.open(path)


def test_other_files(tmp_path):
    (tmp_path / "text.h5").write_text("not HDF5 at all")
    with pytest.raises(DataError, match="is not an HDF5 file"):
        Store.open(tmp_path / "text.h5")
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["coordinates"] = np.zeros((2, 3))
    with pytest.raises(DataError, match="not a store of hessgnn"):
        Store.open(tmp_path / "foreign.h5")
    with pytest.raises(DataError, match="is not a file"):
        Store.open(tmp_path)


def test_missing_file_suggests_a_bundled_one():
    with pytest.raises(DataError, match=r"rtp-mni: no such data set.*did you mean 'rtp-mini'"):
        Store.open("rtp-mni")


def test_other_version_and_missing_or_contradicting_datasets(path):
    with h5py.File(path, "r+") as file:
        del file["forces"]
    with pytest.raises(DataError, match="lacks forces"):
        Store.open(path)
    with h5py.File(path, "r+") as file:
        file["forces"] = np.zeros((2, 3))
    with pytest.raises(DataError, match="contradicting length: forces"):
        Store.open(path)
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 99
    with pytest.raises(DataError, match="format version 99"):
        Store.open(path)


def test_changed_content_is_noticed(path):
    Store.open(path).verify()
    with h5py.File(path, "r+") as file:
        file["energy"][0] += 1e-12
    with pytest.raises(DataError, match="content_hash"):
        Store.open(path).verify()


def _trace(store):
    return float(np.trace(store[0].hessian))


def test_a_store_goes_to_worker_processes(path):
    with Store.open(path) as store:
        expected = _trace(store)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.map(_trace, [store]) == [expected]
            pool.close()
            pool.join()


def test_bundled_set_is_whole():
    store = Store.open("rtp-mini")
    store.verify()
    assert store.splits == {
        "train": 340, "validation": 194, "test": 124, "irc": 168, "irc-known": 560, "nms": 395, "nms-known": 1170,
        "validation-stationary": 52
    }  # fmt: skip
    assert list(store.splits) == ["train", "validation", "test", *sorted(list(store.splits)[3:])]
    assert {store.kinds[i] for i in store.indices("validation")} == {"irc", "nms"}
    assert store.elements(store.indices("train")) == [1, 6, 7, 8]
    assert store.has_hessian.all()
    assert store.path.stat().st_size < 5.3e6  # 3003 structures; 0.83 MB were 513


def test_bundled_set_tests_on_new_molecules():
    store = Store.open("rtp-mini")
    assert familiar(store) == {"test": (124, 0), "irc": (168, 0), "nms": (395, 0)}
    of_split = {split: {store.groups[i] for i in store.indices(split)} for split in store.splits}
    assert {split: len(groups) for split, groups in of_split.items()} == {
        "train": 132, "validation": 36, "test": 80, "irc": 20, "irc-known": 15, "nms": 80, "nms-known": 132,
        "validation-stationary": 36
    }  # fmt: skip
    assert of_split["irc"] | of_split["nms"] <= of_split["test"]
    assert of_split["irc-known"] | of_split["nms-known"] <= of_split["train"]
    assert of_split["validation"] == of_split["validation-stationary"]


def test_bundled_split_is_that_of_the_recipe():
    """Families and splits are drawn from the structures alone, as a new build does."""
    recipe = load(Recipe, find_resource(Path("configs/data/rtp-mini.yaml")))
    store = Store.open("rtp-mini")
    made = assign_splits(recipe, [replace(s, split="train", group="") for s in store])
    assert split_hash([s.name for s in made], [s.split for s in made]) == store.attributes.split_hash
    assert [s.group for s in made] == store.groups
    told = yaml.safe_load(store.attributes.provenance)["recipe"]["split"]
    assert type(recipe.split).model_validate(told) == recipe.split
    assert store.attributes.split_by == recipe.split.by


def test_the_random_split_has_the_same_structures(tmp_path):
    """Its list of names is what the seed draws."""
    store, families = Store.open("rtp-mini-random"), Store.open("rtp-mini")
    assert store.splits == {"train": 413, "validation": 52, "test": 51, "irc": 776, "nms": 1711}
    assert (store.names, store.groups) == (families.names, families.groups)
    assert store.attributes.content_hash == families.attributes.content_hash
    assert store.attributes.split_by == "structure"
    told = yaml.safe_load((families.path.parent / "rtp-mini-random.yaml").read_text())
    drawn = {key: told[key] for key in ("by", "fractions", "seed")}
    again = resplit(families, tmp_path / "again.h5", **drawn)
    assert again.attributes.split_hash == store.attributes.split_hash
    assert again.attributes.provenance == store.attributes.provenance
    assert Store.open("rtp-mini-random").path == store.path
    assert familiar(store)["test"] == (51, 28)


def test_the_random_split_needs_a_folder_to_write_to(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HESSGNN_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="HESSGNN_CACHE"):
        Store.open("rtp-mini-random")
