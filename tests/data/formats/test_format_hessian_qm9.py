import json

import numpy as np
import pytest
from labelled import levels, read, reasons

from hessgnn.errors import DataError

pa = pytest.importorskip("pyarrow", reason="the extra 'formats' is not installed")


def columns(count):
    return {
        "energy": [-2079.5 - i for i in range(count)],
        "positions": [[[float(i), 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]] for i in range(count)],
        "atomic_numbers": [[8, 1, 1]] * count,
        "forces": [[[0.5, 0.0, -0.5]] * 3] * count,
        "frequencies": [[[0.0, 0.0]] * 9] * count,
        "normal_modes": [[[0.0] * 9] * 9] * count,
        "hessian": [np.arange(81.0).reshape(3, 3, 3, 3).tolist()] * count,
        "label": [f"dsgdb9nsd_{i:06d}" for i in range(count)],
    }


def by_hand(folder):
    folder.mkdir(parents=True)
    table = pa.table(columns(5))
    for name, part in (("data-00000-of-00002.arrow", table[:3]), ("data-00001-of-00002.arrow", table[3:])):
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(part, max_chunksize=2)
    (folder / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": p.name} for p in sorted(folder.iterdir())]})
    )


def by_datasets(folder):
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(columns(5)).save_to_disk(str(folder), num_shards=2)


@pytest.fixture(params=[by_hand, by_datasets])
def source(request, tmp_path):
    for environment in ("vacuum", "water"):
        request.param(tmp_path / "qm9" / environment)
    (tmp_path / "qm9" / "dataset_dict.json").write_text('{"splits": ["vacuum", "water"]}')
    return tmp_path / "qm9"


def test_one_environment(source):
    found = read("hessian-qm9", source / "vacuum")
    assert [s.name for s in found] == [f"dsgdb9nsd_{i:06d}" for i in range(5)]
    assert [s.energy for s in found] == [-2079.5 - i for i in range(5)]
    np.testing.assert_array_equal(found[2].positions[0], [2.0, 0.0, 0.0])
    np.testing.assert_array_equal(found[4].forces, [[0.5, 0.0, -0.5]] * 3)
    np.testing.assert_array_equal(found[4].hessian, np.arange(81.0).reshape(9, 9))
    assert {(s.split, s.kind) for s in found} == {("train", "minimum")}
    assert levels("hessian-qm9", source / "vacuum") == {"wB97X/6-31G(d)"}


def test_environments_are_splits_and_levels_of_their_own(source):
    found = read("hessian-qm9", source)
    assert [s.split for s in found] == ["vacuum"] * 5 + ["water"] * 5
    assert (found[5].name, found[5].group) == ("water/dsgdb9nsd_000000", "dsgdb9nsd_000000")
    assert levels("hessian-qm9", source) == {"wB97X/6-31G(d)", "wB97X/6-31G(d) SMD(water)"}


def test_bad_files(tmp_path):
    by_hand(tmp_path / "vacuum")
    shard = tmp_path / "vacuum" / "data-00001-of-00002.arrow"
    shard.write_bytes(shard.read_bytes()[:-900])
    with pytest.raises(DataError, match=r"00001-of-00002\.arrow: is truncated"):
        read("hessian-qm9", tmp_path / "vacuum")
    with pytest.raises(DataError, match=r"has no state\.json"):
        read("hessian-qm9", tmp_path)


def test_bad_columns(tmp_path):
    folder = tmp_path / "vacuum"
    by_hand(folder)
    made = columns(1) | {"hessian": [[1.0, 2.0]]}
    for table in (pa.table(made), pa.table(made).drop_columns(["label"])):
        with (
            pa.OSFile(str(folder / "data-00000-of-00002.arrow"), "wb") as file,
            pa.ipc.new_stream(file, table.schema) as s,
        ):
            s.write_table(table)
        if "label" in table.column_names:
            place = f"{folder / 'data-00000-of-00002.arrow'}, dsgdb9nsd_000000"
            assert reasons("hessian-qm9", folder)[place] == "hessian has shape (2,), expected (9, 9) or flat"
        else:
            with pytest.raises(DataError, match="has no column label"):
                read("hessian-qm9", folder)
