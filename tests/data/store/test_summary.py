from dataclasses import replace

import numpy as np
import pytest

from hessgnn.data.checks.labels import SYMMETRY
from hessgnn.data.store.store import Store, write_store
from hessgnn.data.store.summary import summarise
from hessgnn.data.structure import Structure


def test_numbers_of_a_split(tmp_path):
    def make(name, split, energy, force):
        forces = None if force is None else np.full((2, 3), force)
        positions = [[0, 0, 0], [0, 0, 0.7]]
        return Structure(
            numbers=[1, 1], positions=positions, energy=energy, forces=forces, name=name, group="H2", split=split
        )

    structures = [make("a", "train", -2.0, None), make("b", "nms", -1.0, 3.0), make("c", "nms", -1.5, -4.0)]
    write_store(tmp_path / "set.h5", structures, level_of_theory="none")
    found = summarise(Store.open(tmp_path / "set.h5"))
    assert list(found) == ["train", "nms"]
    frames = found["nms"]
    assert (frames.structures, frames.groups, frames.atoms, frames.elements) == (2, 1, (2, 2), {"H": 2})
    assert (frames.energy, frames.forces, frames.hessian) == (2, 2, 0)
    assert frames.heights == pytest.approx((0.525, 0.75, 0.975))
    assert frames.rms_forces == pytest.approx(np.sqrt(12.5))
    assert frames.max_force == 4.0
    assert frames.rms_hessian is frames.max_hessian is None
    assert found["train"].rms_forces is None
    assert found["train"].noise == ()


def test_heights_are_above_what_a_frame_was_made_from(tmp_path):
    def make(name, energy, kind, parent=""):
        positions = [[0, 0, 0], [0, 0, 0.7]]
        return Structure(
            numbers=[1, 1],
            positions=positions,
            energy=energy,
            name=name,
            group="g",
            kind=kind,
            parent=parent,
            split=kind,
        )

    structures = [
        make("reactant", -3.0, "minimum"),
        make("saddle", -1.0, "transition-state"),
        make("frame", -0.75, "nms", parent="saddle"),
        make("warm", -2.5, "thermal", parent="reactant"),
        make("path", -1.5, "irc", parent="saddle"),
        make("orphan", -2.75, "nms", parent="elsewhere"),
    ]
    structures[5] = replace(structures[5], split="orphans")
    write_store(tmp_path / "set.h5", structures, level_of_theory="none")
    found = summarise(Store.open(tmp_path / "set.h5"))
    heights = {split: summary.heights[1] for split, summary in found.items()}
    assert heights == {
        "minimum": 0, "transition-state": 2, "nms": 0.25, "thermal": 0.5, "irc": 1.5, "orphans": 0.25
    }  # fmt: skip


def test_kinds_hessians_and_noise_of_the_bundled_set():
    store = Store.open("rtp-mini")
    found = summarise(store)
    assert found["validation"].kinds == {"nms": 146, "irc": 48}
    assert found["test"].kinds == {"minimum": 61, "transition-state": 21, "reactant": 21, "product": 21}
    hessians = np.concatenate([store[int(i)].hessian.ravel() for i in store.indices("test")])
    assert found["test"].rms_hessian == pytest.approx(np.sqrt(np.mean(hessians**2)))
    assert found["test"].max_hessian == np.abs(hessians).max()
    asymmetry = next(noise for noise in found["nms"].noise if noise.quantity == SYMMETRY)
    assert (asymmetry.count, asymmetry.largest) == (395, store.hessian_asymmetry[store.indices("nms")].max())
