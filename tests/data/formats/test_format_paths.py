"""ANI-1x and Transition1x: energies and forces."""

import h5py
import numpy as np
import pytest
from labelled import HARTREE, levels, read, reasons

from hessgnn.data.store.store import Store, write_store
from hessgnn.errors import DataError
from hessgnn.evaluation.tasks.subjects import reactions

ENERGY, FORCES = "wB97x_6-31G(d).energy", "wB97x_6-31G(d).forces"


def fill(group, frames):
    group["atomic_numbers"] = np.array([8, 1, 1], dtype=np.uint8)
    group["positions"] = frames
    group[ENERGY] = np.arange(len(frames)) - 2080.0
    group[FORCES] = frames / 2


@pytest.fixture
def transition1x(tmp_path):
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "transition1x.h5", "w") as file:
        for number, split in enumerate(("train", "val", "test")):
            frames = rng.normal(size=(4, 3, 3))
            reaction = file.create_group(f"data/H2O/rxn{number}")
            fill(reaction, frames)
            for name, place in (("reactant", 0), ("product", 3), ("transition_state", 2)):
                fill(reaction.create_group(name), frames[place : place + 1] + (0.01 if place != 2 else 0))
            reaction[f"transition_state/{ENERGY}"][...] = reaction[ENERGY][2:3]
            file.create_group(f"{split}/H2O")[f"rxn{number}"] = h5py.SoftLink(f"/data/H2O/rxn{number}")
    return tmp_path / "transition1x.h5"


def test_transition1x(transition1x):
    found = read("transition1x", transition1x)
    assert [s.split for s in found] == ["train"] * 6 + ["validation"] * 6 + ["test"] * 6  # `data` is not read again
    assert {s.group for s in found[:6]} == {"H2O/rxn0"}
    assert [s.kind for s in found[:6]] == ["reactant", "product", "path", "path", "transition-state", "path"]
    assert [s.name for s in found[1:4]] == ["H2O/rxn0/product", "H2O/rxn0/0", "H2O/rxn0/1"]
    assert [s.parent for s in found[:6]] == ["H2O/rxn0/2"] * 4 + ["", "H2O/rxn0/2"]
    assert found[3].energy == -2079.0  # eV already
    np.testing.assert_array_equal(found[3].forces, found[3].positions / 2)
    assert found[3].hessian is None
    assert levels("transition1x", transition1x) == {"wB97X/6-31G(d)"}


def test_transition1x_whose_saddle_point_is_no_frame(transition1x, tmp_path):
    with h5py.File(transition1x, "r+") as file:
        file["data/H2O/rxn0/transition_state/positions"][...] += 0.01
    found = read("transition1x", transition1x)[:7]
    kinds = ["reactant", "product", "path", "path", "path", "path", "transition-state"]
    assert [s.kind for s in found] == kinds
    assert [s.parent for s in found] == ["H2O/rxn0/transition_state"] * 6 + [""]
    write_store(tmp_path / "x.h5", found, level_of_theory="any")
    (reaction,) = reactions(Store.open(tmp_path / "x.h5"), "train")
    assert [s.kind for s in reaction.stations] == ["reactant", "transition-state", "product"]


def test_transition1x_without_splits(transition1x):
    with h5py.File(transition1x, "r+") as file:
        del file["train"], file["val"], file["test"]
    assert [s.split for s in read("transition1x", transition1x)] == ["train"] * 18
    with h5py.File(transition1x, "r+") as file:
        del file["data"]
    with pytest.raises(DataError, match="none of the groups train, val, test, data"):
        read("transition1x", transition1x)


def test_transition1x_with_a_damaged_reaction(transition1x):
    with h5py.File(transition1x, "r+") as file:
        del file["data/H2O/rxn1/product/atomic_numbers"]
    (place,) = reasons("transition1x", transition1x)
    assert place == f"{transition1x}, /val/H2O/rxn1/product[0]"


def test_ani1x(tmp_path):
    with h5py.File(tmp_path / "ani1x.h5", "w") as file:
        group = file.create_group("H2O1")
        group["atomic_numbers"] = np.array([8, 1, 1], dtype=np.uint8)
        group["coordinates"] = np.arange(27.0).reshape(3, 3, 3)
        group["wb97x_dz.energy"] = [-76.0, -76.5, np.nan]
        group["wb97x_dz.forces"] = np.stack([np.full((3, 3), 0.25), np.full((3, 3), np.nan), np.full((3, 3), np.nan)])
    found = read("ani1x", tmp_path / "ani1x.h5")
    assert found[1].energy == pytest.approx(-76.5 * HARTREE, rel=1e-9)
    np.testing.assert_allclose(found[0].forces, 0.25 * HARTREE, rtol=1e-9)
    assert (found[1].forces, found[2].energy) == (None, None)
    np.testing.assert_array_equal(found[2].positions.ravel(), np.arange(18.0, 27.0))
    assert [s.name for s in found] == ["H2O1/0", "H2O1/1", "H2O1/2"]
    assert {s.group for s in found} == {"H2O"}
    assert levels("ani1x", tmp_path / "ani1x.h5") == {"wB97X/6-31G(d)"}
