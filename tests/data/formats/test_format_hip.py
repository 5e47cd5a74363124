from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from labelled import assert_same, labelled, levels, read, reasons

from hessgnn.data.formats import registry
from hessgnn.data.formats.transfer import ImportOptions, import_data
from hessgnn.data.store.store import Store
from hessgnn.errors import DataError

HORM = Path(__file__).resolve().parents[3].parent / "shared" / "reference" / "horm" / "horm_dev.h5"


def test_round_trip_is_exact(tmp_path):
    made = labelled(12)
    made[1] = replace(made[1], forces=None, hessian=None)
    made[2] = replace(made[2], cell=np.diag([9.0, 8.0, 7.0]), pbc=[True, True, False])
    made[3] = replace(made[3], energy=None, hessian_asymmetry=1e-4)
    registry.WRITERS["hip"](made, tmp_path / "x.h5", "GFN2-xTB")
    found = read("hip", tmp_path / "x.h5")
    assert_same(found, made)  # config_10 after config_9
    assert found[3].hessian_asymmetry == 1e-4
    assert levels("hip", tmp_path / "x.h5") == {"GFN2-xTB"}


@pytest.fixture
def foreign(tmp_path):
    """As MACE writes it."""
    with h5py.File(tmp_path / "shard_0.h5", "w") as file:
        for batch in range(2):
            group = file.create_group(f"config_batch_{batch}/config_0")
            group["atomic_numbers"], group["positions"] = [8, 1, 1], np.eye(3) * (batch + 1)
            group["cell"], group["pbc"] = "None", "None"
            group["properties/energy"], group["properties/forces"] = -2080.5, "None"
            group["properties/hessian"] = np.arange(81.0)
    return tmp_path / "shard_0.h5"


def test_files_of_mace(foreign):
    first, second = read("hip", foreign)
    np.testing.assert_array_equal(first.hessian, np.arange(81.0).reshape(9, 9))
    assert (first.energy, first.forces, first.cell) == (-2080.5, None, None)
    assert not first.pbc.any()
    assert (second.name, second.group) == ("config_batch_1/config_0", "H2O")
    assert levels("hip", foreign) == {""}
    assert read("hip", foreign.parent)[0].name == "shard_0/config_batch_0/config_0"


@pytest.mark.skipif(not HORM.exists(), reason="the sample of HORM is not part of the repository")
def test_the_sample_of_horm_is_at_the_level_of_the_bundled_dft_set(tmp_path):
    """Larger, reactive molecules: what is learnt from dft-mini can be tested on them."""
    bundled = Store.open("dft-mini")
    options = ImportOptions(level=bundled.attributes.level_of_theory, split="test")
    report = import_data("hip", HORM, tmp_path / "horm.h5", options)
    assert (report.structures, report.entries, report.unreadable) == (52, 52, {})
    store = Store.open(tmp_path / "horm.h5")
    assert store.attributes.level_of_theory == "wB97X/6-31G(d)"
    assert store.splits == {"test": 52}
    assert store.has_hessian.all()
    assert store.elements() == bundled.elements() == [1, 6, 7, 8]
    assert store.n_atoms.min() > 7
    assert not set(store.groups) & set(bundled.groups)


def test_bad_files(foreign):
    with h5py.File(foreign, "r+") as file:
        del file["config_batch_1/config_0/positions"]
    (place,) = reasons("hip", foreign)
    assert place == f"{foreign}, config_batch_1/config_0"
    with h5py.File(foreign, "w") as file:
        file["other"] = 1
    with pytest.raises(DataError, match="has no group config_batch_0"):
        read("hip", foreign)


def test_nothing_is_left_of_a_failed_export(tmp_path):
    def breaks():
        yield labelled(1)[0]
        raise DataError("the source is damaged")

    for name in registry.WRITERS:
        with pytest.raises(DataError, match="not a crystal" if name == "phonopy" else "damaged"):
            registry.WRITERS[name](breaks(), tmp_path / "x.h5", "")
        assert not list(tmp_path.iterdir()), name
