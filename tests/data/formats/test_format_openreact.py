import h5py
import numpy as np
import pytest
from labelled import HARTREE, levels, read, reasons

from hessgnn.data.formats import registry
from hessgnn.data.store.store import Store, write_store
from hessgnn.errors import DataError
from hessgnn.evaluation.tasks.subjects import reactions


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "molecules-RTP.h5"
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        water = file.create_group("rxn/water")
        water["species"] = np.array([b"O", b"H", b"H"])
        water["coordinates"] = rng.normal(size=(2, 3, 3))
        water["energies"] = [-76.5, -76.25]
        water["forces"] = np.full((2, 3, 3), 0.5)
        water["hessian"] = np.stack([np.eye(9), 2 * np.eye(9)])
        water.attrs.update(crg=0, mult=1, nat=3, molec="water")
        hydrogen = file.create_group("single")
        hydrogen["species"] = [1, 1]
        hydrogen["coordinates"] = np.array([[0, 0, 0], [0, 0, 0.75]])
        hydrogen["energies"] = -1.0
    return path


def test_numbers_and_units(source):
    first, second, single = read("openreact", source)
    assert [s.name for s in (first, second, single)] == ["rxn/water/0", "rxn/water/1", "single"]
    np.testing.assert_array_equal(first.numbers, [8, 1, 1])
    assert first.energy == pytest.approx(-76.5 * HARTREE, rel=1e-9)
    np.testing.assert_allclose(first.forces, 0.5 * HARTREE, rtol=1e-9)  # Hartree/Å, not per Bohr
    np.testing.assert_allclose(second.hessian, 2 * HARTREE * np.eye(9), rtol=1e-9)  # Hartree/Å²
    with h5py.File(source) as file:
        np.testing.assert_array_equal(second.positions, file["rxn/water/coordinates"][1])
    assert (single.energy, single.forces, single.hessian) == (pytest.approx(-HARTREE, rel=1e-9), None, None)
    assert {s.group for s in (first, second)} == {"H2O"}
    assert levels("openreact", source) == {"wB97X-D/6-31G(d)"}


def test_a_folder_keeps_the_extrapolation_sets_apart(source):
    source.rename(source.with_name("molecules-NMS.h5"))
    found = read("openreact", source.parent)
    assert {(s.kind, s.split) for s in found} == {("nms", "nms")}
    assert found[0].name == "molecules-NMS/rxn/water/0"


def test_bad_groups_name_file_and_key(source):
    with h5py.File(source, "r+") as file:
        del file["single/species"]
        del file["rxn/water/hessian"]
        file["rxn/water/hessian"] = np.zeros((2, 3, 3, 3))
    assert reasons("openreact", source) == {
        f"{source}, rxn/water[0]": "hessian has shape (3, 3, 3), expected (9, 9) or flat",
        f"{source}, rxn/water[1]": "hessian has shape (3, 3, 3), expected (9, 9) or flat",
        f"{source}, single[0]": "cannot be read (KeyError: 'no dataset species')",
    }


def test_foreign_and_truncated_files(source, tmp_path):
    (tmp_path / "x.h5").write_text("no")
    with pytest.raises(DataError, match=r"x\.h5: is not an HDF5 file"):
        read("openreact", tmp_path / "x.h5")
    (tmp_path / "y.h5").write_bytes(source.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"y\.h5: is truncated"):
        read("openreact", tmp_path / "y.h5")
    with pytest.raises(DataError, match="no such file or folder"):
        read("openreact", tmp_path / "absent")


def fill(file, key, structures, **attributes):
    """A group of structures of one molecule, in the units of the source."""
    group = file.create_group(key)
    group["species"] = structures[0].numbers
    group["coordinates"] = np.array([s.positions for s in structures])
    group["energies"] = [s.energy / HARTREE for s in structures]
    group["forces"] = np.array([s.forces / HARTREE for s in structures])
    group["hessian"] = np.array([s.hessian / HARTREE for s in structures])
    group.attrs.update(crg=0, mult=1, nat=len(structures[0]), molec=len(structures), **attributes)


@pytest.fixture(scope="module")
def bundled():
    return Store.open("rtp-mini")


@pytest.fixture(scope="module")
def some(bundled):
    """Reactions of the bundled set with distinct ends, of whose barrier nothing is near zero."""
    found = [r for r in reactions(bundled, "test") if r.reactant is not None and r.product is not None]
    return [r for r in found if r.saddle.energy > max(r.reactant.energy, r.product.energy) + 0.1]


def test_stationary_points_are_told_apart_by_their_hessians(bundled, tmp_path):
    """All of the bundled set: what the factory proved by frequencies."""
    kinds = {"minimum": "minimum", "reactant": "minimum", "product": "minimum", "transition-state": "transition-state"}
    chosen = [bundled[int(i)] for i in bundled.indices("train")]
    with h5py.File(tmp_path / "molecules-RTP.h5", "w") as file:
        for k, structure in enumerate(chosen):
            fill(file, f"m{k:04d}", [structure])
    found = read("openreact", tmp_path / "molecules-RTP.h5")
    wrong = [s.name for s, one in zip(chosen, found, strict=True) if one.kind != kinds[s.kind]]
    assert len(wrong) <= 0.02 * len(chosen), wrong  # barriers and minima flatter than what is told apart
    assert {s.parent for s in found} == {""}


def test_a_group_of_a_reaction_can_be_judged_as_one(some, tmp_path):
    with h5py.File(tmp_path / "molecules-RTP.h5", "w") as file:
        for k, reaction in enumerate(some[:3]):
            reactant, saddle, product = reaction.stations
            fill(file, f"m{k}", [saddle, product, reactant])
        fill(file, "several", [some[0].saddle, some[0].reactant, some[0].product, some[0].saddle])
    found = read("openreact", tmp_path / "molecules-RTP.h5")
    assert [s.kind for s in found[:3]] == ["transition-state", "reactant", "product"]
    assert [s.parent for s in found[:3]] == ["", "m0/0", "m0/0"]
    assert [s.kind for s in found[9:]] == ["transition-state", "minimum", "minimum", "transition-state"]
    assert {s.parent for s in found[9:]} == {""}  # nobody says which saddle point joins them
    write_store(tmp_path / "x.h5", found, level_of_theory="any")
    complete = [r for r in reactions(Store.open(tmp_path / "x.h5"), "train") if r.reactant and r.product]
    assert [r.name for r in complete] == ["m0/0", "m1/0", "m2/0"]


def test_frames_are_a_path_where_their_energies_say_so(some, tmp_path):
    reaction = next(r for r in some if len(r.path) >= 6)
    frames = [*reaction.path]
    with h5py.File(tmp_path / "molecules-IRC.h5", "w") as file:
        fill(file, "ordered", frames * 1)
        fill(file, "mixed", frames[::2] + frames[1::2])
    found = read("openreact", tmp_path)
    parents = [s.parent for s in found]
    top = int(np.argmax([s.energy for s in frames]))
    assert set(parents[len(frames) :]) == {f"molecules-IRC/ordered/{top}"}
    assert set(parents[: len(frames)]) == {""}
    assert {s.kind for s in found} == {"irc"}


def test_names_of_many_sort_as_they_follow_each_other(some, tmp_path):
    with h5py.File(tmp_path / "molecules-NMS.h5", "w") as file:
        fill(file, "m", [some[0].saddle] * 12)
    names = [s.name for s in read("openreact", tmp_path / "molecules-NMS.h5")]
    assert names == sorted(names)
    assert names[2] == "m/02"


def test_a_charged_molecule_is_not_mixed_with_neutral_ones(source):
    with h5py.File(source, "r+") as file:
        file["rxn/water"].attrs.update(crg=1, mult=2)
    states = {entry.read()[2] for entry in registry.READERS["openreact"](source)}
    assert states == {"charge +1", ""}
