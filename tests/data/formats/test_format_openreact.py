import h5py
import numpy as np
import pytest
from labelled import HARTREE, levels, read, reasons

from hessgnn.errors import DataError


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
