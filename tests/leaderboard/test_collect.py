from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic_runs import N_ATOMS, make_record, save_predictions

from hessgnn.errors import DataError
from hessgnn.evaluation.record import PredictionFile
from hessgnn.leaderboard.collect import collect

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


def test_missing_results_leave_a_note_of_what_is_not_known_then(save_run: SaveRun) -> None:
    results = {
        key: PredictionFile(path=f"{key.replace(' ', '-')}.jsonl", sha256="0") for key in ("accuracy test", "neb test")
    }
    (item,) = collect([save_run(make_record(results=results), 0.1)])
    assert item.results == {}
    assert [note.split(", so ")[1] for note in item.notes] == [
        "ratios of its curvature have no interval",
        "claims are judged by their means alone",
    ]
