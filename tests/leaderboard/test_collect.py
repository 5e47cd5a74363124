from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_runs import N_ATOMS, make_record, save_predictions

from hessgnn.data.structure import Structure
from hessgnn.errors import DataError
from hessgnn.evaluation.predictions import Predictions, saved_families, zero_force_mae
from hessgnn.evaluation.record import PredictionFile, write_record, write_results
from hessgnn.leaderboard.collect import Families, collect
from hessgnn.surface.base import Answer

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


def test_families_come_from_predictions_from_what_tasks_saved_or_from_the_composition(
    save_run: SaveRun, tmp_path: Path
) -> None:
    folder = save_run(make_record())
    names = np.array([f"test-{k}" for k in range(len(N_ATOMS))])
    groups = np.array([f"family-{k // 2}" for k in range(len(N_ATOMS))])
    parents = np.array(["", "", "ts-1", "", "", "", ""])
    saved = {"test": save_predictions(folder, "test", 0.1, 0, group=groups, name=names, parent=parents)}
    results = folder / "neb-test.jsonl"
    write_results(results, {"task": "neb"}, {"ts-9": {"group": "family-7"}, "ts-8": {}})
    record = make_record(predictions=saved, results={"neb test": PredictionFile.of(results)})
    write_record(record, folder / "record.json")
    found = Families(collect([folder]))
    assert found.of("neb", "test", ["test-3", "ts-1", "ts-9", "ts-8"]) == {
        **dict(zip(names.tolist(), groups.tolist(), strict=True)),
        "ts-1": "family-1",  # that of the frame that was made from it
        "ts-9": "family-7",
        "ts-8": "ts-8",
    }
    assert found.notes() == ["The families of 1 subjects of neb on test are not known: each counts as one of its own."]
    old = Families(collect([save_run(make_record(), 0.1)]))
    assert old.of("accuracy", "test", ["test-0"])["test-0"] == "H3"
    assert "compositions stand in" in old.notes()[0]


def test_families_come_from_all_runs_together(save_run: SaveRun) -> None:
    """The first run may have predicted fewer structures than the others."""
    small, whole = (save_run(make_record()) for _ in range(2))
    groups = np.array([f"family-{k // 2}" for k in range(len(N_ATOMS))])
    names = np.array([f"test-{k}" for k in range(len(N_ATOMS))])
    fewer = np.array([f"test-{min(k, 1)}" for k in range(len(N_ATOMS))])
    for folder, own in ((small, fewer), (whole, names)):
        saved = {"test": save_predictions(folder, "test", 0.1, 0, group=groups, name=own)}
        write_record(make_record(predictions=saved), folder / "record.json")
    found = Families(collect([small, whole]))
    assert found.of("accuracy", "test", names.tolist()) == dict(zip(names.tolist(), groups.tolist(), strict=True))
    assert found.notes() == []
    alone = Families(collect([small]))
    assert alone.missing("accuracy", "test", names.tolist()) == set(names.tolist()[2:])


def test_predictions_keep_the_families_of_their_structures(save_run: SaveRun, tmp_path: Path) -> None:
    (item,) = collect([save_run(make_record(), 0.1)])
    old = item.predictions("test")
    assert old is not None
    assert old.group.tolist() == [""] * len(N_ATOMS)  # of a file without the column
    replace(old, group=np.array([f"f{k}" for k in range(len(N_ATOMS))])).save(tmp_path / "new.npz")
    assert Predictions.load(tmp_path / "new.npz").group.tolist() == [f"f{k}" for k in range(len(N_ATOMS))]
    assert saved_families(tmp_path / "new.npz").known
    water = Structure(numbers=np.array([8, 1, 1]), positions=np.eye(3), name="frame", group="water", parent="water-1")
    made = Predictions.of([water], [Answer(0.0, np.zeros((3, 3)), np.zeros((9, 9)))])
    assert made.group.tolist() == ["water"]


def test_predicting_no_force_has_the_mean_absolute_force(tmp_path: Path) -> None:
    save_predictions(tmp_path, "test", 0.1, 0)
    forces = Predictions.load(tmp_path / "predictions-test.npz").forces_reference
    parts = np.split(np.abs(forces), np.cumsum(N_ATOMS)[:-1])
    assert zero_force_mae(tmp_path / "predictions-test.npz") == pytest.approx(
        1e3 * np.mean([part.mean() for part in parts])
    )
