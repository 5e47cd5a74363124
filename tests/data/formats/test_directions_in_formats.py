"""Directions in every format that can be written: bit for bit, beside whatever other labels a structure has."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
from ase.build import molecule
from ase.io import read as ase_read
from ase.io import write as ase_write
from labelled import assert_same, directed, labelled, read, reasons

from hessgnn.data.directions import UNKNOWN, Directions
from hessgnn.data.formats import registry
from hessgnn.data.formats.transfer import ImportOptions, export_data, import_data
from hessgnn.data.store.store import Store, write_store
from hessgnn.errors import DataError

LEVEL = ImportOptions(hessian_dtype="float64")
FORMATS = [("extxyz", "a.xyz", 6e-9), ("ase-db", "a.db", 0.0), ("ase-db", "a.json", 0.0), ("hip", "a.h5", 0.0)]


def in_order(structures):
    return sorted(structures, key=lambda s: int(s.name.split()[-1]))


@pytest.mark.parametrize(("name", "file", "atol"), [*FORMATS, ("deepmd", "a", 0.0)])
@pytest.mark.parametrize("seed", range(3))
def test_round_trip(tmp_path, name, file, atol, seed):
    made = directed(labelled(21, seed), seed)
    registry.WRITERS[name](made, tmp_path / file, "GFN2-xTB")
    found = read(name, tmp_path / file)
    assert_same(in_order(found) if name == "deepmd" else found, made, atol=atol)


@pytest.mark.parametrize(
    ("name", "file"), [("extxyz", "b.xyz"), ("ase-db", "b.db"), ("hip", "b.hdf5"), ("deepmd", "b")]
)
def test_through_stores(tmp_path, name, file):
    made = directed(labelled(10))
    write_store(tmp_path / "a.h5", made, level_of_theory="GFN2-xTB", hessian_dtype="float64")
    store = Store.open(tmp_path / "a.h5")
    assert export_data(store, name, tmp_path / file) == 10
    report = import_data(name, tmp_path / file, tmp_path / "again.h5", LEVEL)
    assert (report.structures, report.unreadable) == (10, {})
    again = Store.open(tmp_path / "again.h5")
    assert_same(in_order(again), made, atol=6e-9 if name == "extxyz" else 0)
    assert again.n_directions.sum() == store.n_directions.sum()


def test_directions_are_a_label_of_their_own(tmp_path):
    """A structure of which only products are known is taken over."""
    bare = [replace(s, energy=None, forces=None, hessian=None) for s in directed(labelled(2))[1:]]
    for name, file in (("extxyz", "a.xyz"), ("ase-db", "a.db"), ("hip", "a.hdf5"), ("deepmd", "a")):
        registry.WRITERS[name](bare, tmp_path / file, "GFN2-xTB")
        import_data(name, tmp_path / file, tmp_path / f"{name}.h5", LEVEL)
        assert_same(list(Store.open(tmp_path / f"{name}.h5")), bare, atol=6e-9)


def test_ase_reads_what_is_written(tmp_path):
    made = directed(labelled(3))[2]
    registry.WRITERS["extxyz"]([made], tmp_path / "a.xyz", "GFN2-xTB")
    info = ase_read(tmp_path / "a.xyz").info
    np.testing.assert_array_equal(info["direction_products"], made.directions.products)
    assert info["direction_vectors"].shape == (3, len(made), 3)
    assert info["direction_kinds"] == "gaussian gaussian rows"


def test_frames_that_others_wrote(tmp_path):
    """Vectors and products suffice: flat or not, of one direction or of several."""
    rng = np.random.default_rng(1)
    vectors, products = rng.normal(size=(2, 2, 9))
    one, two = molecule("H2O"), molecule("H2O")
    one.info |= {"direction_vectors": vectors[0].reshape(3, 3), "direction_products": products[0].reshape(3, 3)}
    two.info |= {"direction_vectors": vectors, "direction_products": products, "direction_kinds": "gaussian"}
    ase_write(tmp_path / "a.xyz", [one, two])
    first, second = (structure.directions for structure in read("extxyz", tmp_path / "a.xyz"))
    assert first.kinds == (UNKNOWN,)
    np.testing.assert_allclose(first.weights, [9 / np.square(vectors[0]).sum()])
    np.testing.assert_array_equal(second.products.reshape(2, 9), products)
    assert second.kinds == ("gaussian", "gaussian")
    assert (second.weights == 1).all()
    assert np.isnan(second.errors).all()


def test_broken_directions_are_listed_and_left_out(tmp_path):
    good = directed(labelled(2))[1]
    frames = [good.to_atoms() for _ in range(7)]
    for i, atoms in enumerate(frames):
        atoms.info["name"] = f"frame {i}"
    del frames[1].info["direction_products"]
    frames[2].info["direction_products"] = frames[2].info["direction_products"][:, :-1]
    frames[3].info["direction_weights"] = np.array([-1.0])
    frames[4].info["direction_kinds"] = "rademacher rows"
    frames[5].info["direction_vectors"] = np.zeros_like(frames[5].info["direction_vectors"])
    frames[6].info["direction_products"] = np.full_like(frames[6].info["direction_products"], np.nan)
    ase_write(tmp_path / "a.xyz", frames, format="extxyz")
    report = import_data("extxyz", tmp_path / "a.xyz", tmp_path / "a.h5", ImportOptions(level="none"))
    assert report.structures == 1
    found = {int(where.rpartition(" ")[2]): what for where, what in report.unreadable.items()}
    wanted = {
        1: "has only one of direction_vectors and direction_products",
        2: "directions of 12 atoms have 36 and 33 numbers",
        3: "weights of directions must be positive numbers",
        4: "vectors of directions have shape (1, 12, 3), expected (2, N, 3)",
        5: "direction 0 has length zero",
        6: "direction 0: products hold NaN or infinity",
    }
    assert found == wanted


def test_damaged_files(tmp_path):
    made = directed(labelled(2))[1]
    registry.WRITERS["hip"]([made], tmp_path / "a.h5", "GFN2-xTB")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["config_batch_0/config_0/directions/direction_vectors"]
    assert list(reasons("hip", tmp_path / "a.h5").values()) == [
        "has only one of direction_vectors and direction_products"
    ]
    registry.WRITERS["deepmd"]([made, made], tmp_path / "a", "GFN2-xTB")
    (folder,) = (tmp_path / "a").glob("*/set.*")
    np.save(folder / "direction_errors.npy", np.zeros((2, 3)))
    assert set(reasons("deepmd", tmp_path / "a").values()) == {"errors of directions have shape (3,), expected (1,)"}
    kept = json.loads((folder / "frames.json").read_text())
    assert kept["direction_kinds"] == ["rademacher", "rademacher"]


def test_weights_that_are_not_given_follow_from_the_kinds():
    rng = np.random.default_rng(2)
    given = {"direction_vectors": rng.normal(size=(4, 2, 3)), "direction_products": rng.normal(size=(4, 2, 3))}
    made = Directions.from_fields(given | {"direction_kinds": ["modes", "modes", "gaussian", "bond"]}, 2)
    np.testing.assert_allclose(made.weights, [2, 2, 1, 6 / np.square(given["direction_vectors"][3]).sum()])
    assert Directions.from_fields({"direction_vectors": [], "direction_products": []}, 2) is None
    for broken in ("none", [[1.0], [2.0, 3.0]]):
        with pytest.raises(DataError, match="not arrays of numbers"):
            Directions.from_fields(given | {"direction_products": broken}, 2)
    with pytest.raises(DataError, match="4 directions have 2 kinds and 4 errors"):
        Directions.from_fields(given | {"direction_kinds": "rows rows"}, 2)


def test_fields_are_the_same_way_back():
    made = directed(labelled(5))
    for structure in made:
        fields = {} if structure.directions is None else structure.directions.to_fields()
        back = Directions.from_fields(fields, len(structure))
        assert_same([replace(structure, directions=back)], [structure])
