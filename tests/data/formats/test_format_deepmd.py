import json
from dataclasses import replace

import numpy as np
import pytest
from labelled import assert_same, labelled, levels, read

from hessgnn.data.formats import deepmd, registry
from hessgnn.errors import DataError


@pytest.fixture
def system(tmp_path):
    """As DeePMD-kit documents it."""
    folder = tmp_path / "data" / "water"
    (folder / "set.000").mkdir(parents=True)
    (folder / "type.raw").write_text("0\n1\n1\n")
    (folder / "type_map.raw").write_text("O\nH\n")
    rng = np.random.default_rng(0)
    for name, size in (("coord", 9), ("force", 9), ("box", 9), ("hessian", 81)):
        np.save(folder / "set.000" / f"{name}.npy", rng.normal(size=(2, size)))
    np.save(folder / "set.000" / "energy.npy", np.array([[-10.5], [-11.5]]))
    return folder


def test_numbers(system):
    first, second = read("deepmd", system.parent)
    load = {name: np.load(system / "set.000" / f"{name}.npy")[1] for name in ("coord", "force", "box", "hessian")}
    np.testing.assert_array_equal(second.numbers, [8, 1, 1])
    np.testing.assert_array_equal(second.positions, load["coord"].reshape(3, 3))
    np.testing.assert_array_equal(second.forces, load["force"].reshape(3, 3))
    np.testing.assert_array_equal(second.hessian, load["hessian"].reshape(9, 9))
    np.testing.assert_array_equal(second.cell, load["box"].reshape(3, 3))
    assert (second.energy, second.pbc.all(), second.group) == (-11.5, True, "H2O")
    assert (first.name, second.name) == ("water/set.000/0", "water/set.000/1")
    (system / "nopbc").touch()
    assert not read("deepmd", system)[0].pbc.any()


def test_round_trip_is_exact(tmp_path, monkeypatch):
    made = labelled(9)
    made[0] = replace(made[0], hessian=None)
    made[1] = replace(made[1], cell=np.diag([9.0, 8.0, 7.0]), pbc=np.ones(3))
    made[2] = replace(made[2], numbers=made[2].numbers[::-1])  # the same formula in another order
    monkeypatch.setattr(deepmd, "_BUFFERED", 500)
    registry.WRITERS["deepmd"](made, tmp_path / "out", "GFN2-xTB")
    found = sorted(read("deepmd", tmp_path / "out"), key=lambda s: int(s.name.split()[-1]))
    assert_same(found, made)
    assert levels("deepmd", tmp_path / "out") == {"GFN2-xTB"}
    assert len(list((tmp_path / "out").glob("*/set.*"))) > len(list((tmp_path / "out").iterdir()))
    types = (tmp_path / "out" / "H2O-1" / "type.raw").read_text().split()
    names = (tmp_path / "out" / "H2O-1" / "type_map.raw").read_text().split()
    assert [names[int(i)] for i in types] == ["O", "H", "H"]
    assert np.load(tmp_path / "out" / "H2O-1" / "set.000" / "coord.npy").dtype == np.float64


def test_partly_periodic_structures_are_refused(tmp_path):
    slab = replace(labelled(1)[0], cell=np.eye(3) * 9, pbc=[True, True, False])
    with pytest.raises(DataError, match="some directions only"):
        registry.WRITERS["deepmd"]([slab], tmp_path / "out", "")
    assert not list(tmp_path.iterdir())


def test_bad_systems(system):
    def fails(match):
        with pytest.raises(DataError, match=match):
            read("deepmd", system)

    energy = np.load(system / "set.000" / "energy.npy")
    np.save(system / "set.000" / "energy.npy", energy[:1])
    fails(r"set\.000: has different numbers of frames: .*'energy': 1")
    np.save(system / "set.000" / "energy.npy", np.array([None, None]), allow_pickle=True)
    fails(r"energy\.npy: is not a \.npy file of numbers")
    np.save(system / "set.000" / "energy.npy", energy)
    (system / "set.000" / "frames.json").write_text(json.dumps({"name": ["a"]}))
    fails(r"frames\.json': 1")
    (system / "type_map.raw").write_text("O")
    fails(r"type_map\.raw: has 1 names for types 0 to 1")
    kinds = (system / "type.raw").read_text()
    (system / "type_map.raw").write_text("O H")
    (system / "type.raw").write_text(kinds.replace("0", "-1"))
    fails("for types -1 to 1")
    (system / "type.raw").write_text(kinds)
    (system / "type_map.raw").write_text("Oxygen H")
    fails(r"type_map\.raw: names Oxygen, no elements")
    (system / "type_map.raw").unlink()
    fails(r"has no type_map\.raw")
    (system / "type.raw").unlink()
    fails(r"holds no type\.raw")
