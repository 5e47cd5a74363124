from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from synthetic_runs import N_ATOMS, make_record, save_predictions

from hessgnn.errors import DataError
from hessgnn.leaderboard.collect import collect, read_predictions

SaveRun = Callable[..., Path]


def test_a_run_folder_and_its_record_file_are_the_same(save_run: SaveRun) -> None:
    folder = save_run(make_record(), 0.1)
    by_folder, by_file = collect([folder, folder / "record.json"])
    assert by_folder == by_file
    predictions = by_folder.predictions("nms")
    assert predictions is not None
    assert predictions.forces_predicted.shape == (N_ATOMS.sum(), 3)


def test_no_runs_is_an_error() -> None:
    with pytest.raises(DataError, match="no runs"):
        collect([])


def test_a_missing_record_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"record\.json"):
        collect([tmp_path])


def test_changed_predictions_are_refused_by_name(save_run: SaveRun) -> None:
    folder = save_run(make_record(), 0.1)
    save_predictions(folder, "nms", 0.0, seed=0)
    with pytest.raises(DataError, match=r"predictions-nms\.npz: .*SHA-256"):
        collect([folder])


def test_missing_predictions_leave_a_note(save_run: SaveRun) -> None:
    folder = save_run(make_record(), 0.1)
    (folder / "predictions-test.npz").unlink()
    (item,) = collect([folder])
    assert list(item.files) == ["nms"]
    assert item.predictions("test") is None
    assert "predictions-test.npz" in item.notes[0]


def test_a_wrong_shape_is_told_with_the_file(tmp_path: Path) -> None:
    save_predictions(tmp_path, "nms", 0.1, seed=0, hessian_predicted=np.zeros(7))
    with pytest.raises(DataError, match=r"predictions-nms\.npz: array 'hessian_predicted' has the shape \(7,\)"):
        read_predictions(tmp_path / "predictions-nms.npz")


def test_a_missing_array_is_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", energy_reference=np.zeros(2))
    with pytest.raises(DataError, match="an array is missing"):
        read_predictions(tmp_path / "few.npz")


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    save_predictions(tmp_path, "nms", 0.1, seed=0, name=np.array([{"evil": 1}] * len(N_ATOMS), dtype=object))
    with pytest.raises(DataError, match="cannot be read as predictions"):
        read_predictions(tmp_path / "predictions-nms.npz")


def test_a_file_that_is_no_archive_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"not an archive")
    with pytest.raises(DataError, match=r"x\.npz: cannot be read as predictions"):
        read_predictions(tmp_path / "x.npz")
