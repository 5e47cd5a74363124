import numpy as np
import pytest

from hessgnn.data.store import Store, write_store
from hessgnn.data.structure import Structure
from hessgnn.data.summary import summarise


def test_numbers_of_a_split(tmp_path):
    def make(name, split, energy, force):
        forces = None if force is None else np.full((2, 3), force)
        positions = [[0, 0, 0], [0, 0, 0.7]]
        return Structure(
            numbers=[1, 1], positions=positions, energy=energy, forces=forces, name=name, group="H2", split=split
        )

    structures = [make("a", "train", -2.0, None), make("b", "nms", -1.0, 3.0), make("c", "nms", -1.5, -4.0)]
    write_store(tmp_path / "set.h5", structures, level_of_theory="none")
    store = Store.open(tmp_path / "set.h5")
    frames = summarise(store, "nms")
    assert (frames.structures, frames.groups, frames.atoms, frames.elements) == (2, 1, (2, 2), ["H"])
    assert frames.labels == (2, 2, 0)
    assert frames.energies_above_lowest == pytest.approx((0.525, 0.75, 0.975))
    assert frames.rms_forces == pytest.approx(np.sqrt(12.5))
    assert frames.max_force == 4.0
    assert frames.rms_hessian is None
    assert summarise(store, "train").rms_forces is None
