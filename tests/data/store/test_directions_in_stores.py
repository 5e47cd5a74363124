"""Directions in stores that are merged, appended, split and described, files of earlier versions among them."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
import yaml

from hessgnn.data.directions import FIELDS, Directions
from hessgnn.data.store.families import resplit
from hessgnn.data.store.growing import StoreWriter, merge_stores
from hessgnn.data.store.store import Store, write_store
from hessgnn.data.store.summary import recorded_gradients, summarise
from hessgnn.errors import DataError

KINDS = ((), ("rademacher",), ("gaussian", "rows", "softest"))


@pytest.fixture(scope="module")
def molecules():
    """Small ones without a Hessian; of three, one has no direction, one has one and one has three."""
    store = Store.open("rtp-mini")
    chosen = [i for i in range(len(store)) if store.kinds[i] == "minimum" and store.n_atoms[i] < 7][:18]
    rng = np.random.default_rng(0)
    made = []
    for k, i in enumerate(chosen):
        structure = store[i]
        sets = []
        for kind in KINDS[k % 3]:
            vectors = rng.normal(size=(1, len(structure), 3))
            vectors = np.sign(vectors) if kind == "rademacher" else vectors
            products = (vectors.reshape(1, -1) @ structure.hessian).reshape(vectors.shape)
            sets.append(Directions.make(vectors, products, kind, errors=1e-3 if k % 2 else None))
        directions = Directions.join(sets) if sets else None
        made.append(replace(structure, directions=directions, hessian=None, hessian_asymmetry=None))
    return made


def written(path, structures, **attributes):
    write_store(path, structures, level_of_theory="GFN2-xTB", **attributes)
    return Store.open(path)


def earlier(path, structures, version):
    """A file as an earlier release wrote it."""
    written(path, [replace(s, directions=None, parent="") for s in structures])
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = version
        if version == 1:
            del file["parent"]
    return Store.open(path)


def assert_directions(store, structures):
    assert store.names == [s.name for s in structures]
    for found, expected in zip(store, structures, strict=True):
        assert (found.directions is None) == (expected.directions is None)
        if expected.directions is not None:
            assert found.directions.kinds == expected.directions.kinds
            for key in FIELDS.keys() - {"kinds"}:
                np.testing.assert_array_equal(getattr(found.directions, key), getattr(expected.directions, key))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("old_first", [True, False])
def test_merging_with_files_of_earlier_versions(tmp_path, molecules, version, old_first):
    old = earlier(tmp_path / "old.h5", molecules[:5], version)
    new = written(tmp_path / "new.h5", molecules[5:])
    assert (old.attributes.format_version, new.attributes.format_version) == (version, 3)
    sources = [old, new] if old_first else [new, old]
    merged = merge_stores([store.path for store in sources], tmp_path / "all.h5")
    merged.verify()
    bare = [replace(s, directions=None) for s in molecules[:5]]
    assert_directions(merged, [*bare, *molecules[5:]] if old_first else [*molecules[5:], *bare])
    assert merged.attributes.format_version == 3
    assert merged.n_directions.sum() == new.n_directions.sum()


def test_merging_files_without_directions_gives_one_without(tmp_path, molecules):
    stores = [earlier(tmp_path / f"{version}.h5", molecules[3 * version :][:3], version) for version in (1, 2)]
    merged = merge_stores([store.path for store in stores], tmp_path / "all.h5")
    assert merged.attributes.format_version == 2
    with h5py.File(merged.path) as file:
        assert not [key for key in file if "direction" in key]


def test_appending(tmp_path, molecules):
    """To a file without directions, then to one that has some; interrupted between."""
    earlier(tmp_path / "a.h5", molecules[:4], 2)
    for part in (molecules[4:9], molecules[9:]):
        with StoreWriter(tmp_path / "a.h5", level_of_theory="GFN2-xTB") as writer:
            for structure in part:
                writer.append(structure)
    bare = [replace(s, directions=None) for s in molecules[:4]]
    store = Store.open(tmp_path / "a.h5")
    store.verify()
    assert_directions(store, [*bare, *molecules[4:]])
    more = written(tmp_path / "b.h5", [replace(s, name=f"{s.name}-2") for s in molecules[:3]])
    merge_stores([store.path, more.path], store.path)
    assert Store.open(store.path).n_directions.sum() == store.n_directions.sum() + more.n_directions.sum()


def test_splitting_keeps_directions(tmp_path, molecules):
    store = written(tmp_path / "a.h5", molecules, provenance="eighteen molecules")
    shares = {"train": 0.5, "validation": 0.25, "test": 0.25}
    made = resplit(store, tmp_path / "b.h5", by="molecule", fractions=shares, seed=1)
    assert_directions(made, molecules)
    assert made.attributes.content_hash == store.attributes.content_hash
    assert made.attributes.split_hash != store.attributes.split_hash


def test_broken_directions_are_not_written(tmp_path, molecules):
    spoilt = molecules[2]
    products = spoilt.directions.products.copy()
    products[1, 0, 0] = np.nan
    spoilt = replace(spoilt, directions=replace(spoilt.directions, products=products))
    with pytest.raises(DataError, match="direction 1: products hold NaN or infinity") as caught:
        written(tmp_path / "a.h5", [molecules[0], spoilt])
    assert caught.value.where == spoilt.name
    assert not list(tmp_path.iterdir())


def test_summary(tmp_path, molecules):
    store = written(tmp_path / "a.h5", [replace(s, split="train") for s in molecules])
    found = summarise(store)["train"]
    assert (found.structures, found.hessian, found.directed) == (18, 0, 12)
    assert found.directions == {"rademacher": 6, "gaussian": 6, "rows": 6, "softest": 6}
    squares, count = 0.0, 0
    for s in molecules:
        for v, p in () if s.directions is None else zip(s.directions.vectors, s.directions.products, strict=True):
            squares, count = squares + (p**2).sum() / (v**2).mean(), count + p.size
    assert found.rms_product == pytest.approx(np.sqrt(squares / count))
    bare = written(tmp_path / "b.h5", [replace(s, split="train", directions=None) for s in molecules])
    assert summarise(bare)["train"].rms_product is None
    assert summarise(bare)["train"].directions == {}


def test_gradients_that_provenances_tell(tmp_path, molecules):
    told = {"recipe": {"name": "a"}, "tasks": {"x": {"gradients": 30, "seconds": 1.5}, "y": {"gradients": 12}}}
    first = written(tmp_path / "a.h5", molecules[:3], provenance=yaml.safe_dump(told))
    second = written(tmp_path / "b.h5", molecules[3:6], provenance=yaml.safe_dump({"labelled": {"gradients": 8}}))
    third = written(tmp_path / "c.h5", molecules[6:9], provenance="J. Chem. Phys.: see there: p. 3")
    assert [recorded_gradients(one.attributes.provenance) for one in (first, second, third)] == [42, 8, None]
    merged = merge_stores([one.path for one in (first, second, third)], tmp_path / "all.h5")
    assert recorded_gradients(merged.attributes.provenance) == 50


@pytest.mark.parametrize(
    ("key", "content", "message"),
    [
        ("n_directions", np.array([b"one"] * 18), "no integers under n_directions"),
        ("n_directions", np.full(18, -1), "contradicting length: n_directions"),
        ("direction_vectors", np.array([[b"x"] * 3]), "no floating-point numbers under direction_vectors"),
        ("direction_kind", np.arange(24), "no text under direction_kind"),
        ("direction_kind", np.array([b"\xff\xfe"] * 24), "direction_kind is not UTF-8"),
        ("direction_products", None, "no floating-point numbers under direction_products"),
    ],
)
def test_foreign_types_are_errors(tmp_path, molecules, key, content, message):
    written(tmp_path / "a.h5", molecules)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file[key]
        if content is None:
            file.create_group(key)
        else:
            file[key] = content
    with pytest.raises(DataError, match=message):
        list(Store.open(tmp_path / "a.h5"))
