"""What the version before wrote is opened, resumed and reused by this one.

``tests/stored/version-0.1.0.zip`` was made by version 0.1.0 with its own commands: a store of eleven structures
(``tiny.h5``), a run that was evaluated (``run``), the same run interrupted at step 5 of 8 (``interrupted``), a finished
sweep of three architectures with its study journal (``sweep``) and a study (``study``). Pages and most checkpoints were
left out.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import hessgnn
from hessgnn import cli
from hessgnn.data.store import Store
from hessgnn.evaluation import evaluate as evaluation
from hessgnn.evaluation.record import read_results
from hessgnn.evaluation.tasks import accuracy

ARCHIVE = Path(__file__).parent / "stored" / "version-0.1.0.zip"


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)  # its configurations name the store by a relative path
    return tmp_path


def status_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments=arguments)
    return int(ended.value.code or 0)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["potential"]


def times(folder: Path, pattern: str) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.glob(pattern)}


def test_the_store_opens(stored: Path) -> None:
    store = Store.open("tiny.h5")
    record = json.loads(Path("run/record.json").read_text())
    assert len(store) == 11
    assert store.attributes.content_hash == record["data"]["content_hash"]
    assert all(np.isfinite(store[i].hessian).all() for i in range(len(store)))


@pytest.mark.parametrize("architecture", ["ani", "nequip", "schnet"])
def test_a_run_folder_gives_the_predictions_that_were_saved(stored: Path, architecture: str) -> None:
    (folder,) = Path("sweep/final").glob(f"{architecture}-E-F-H-*")
    potential = hessgnn.load(folder).double()
    store = Store.open("tiny.h5")
    structures = [store[int(i)] for i in store.indices("nms")]
    batch = hessgnn.Batch.from_atoms([s.to_atoms() for s in structures], cutoff=potential.cutoff)
    saved = np.load(folder / "predictions-nms.npz")
    np.testing.assert_allclose(potential.energy(batch).numpy(), saved["energy_predicted"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(potential.forces(batch).numpy(), saved["forces_predicted"], rtol=0, atol=1e-8)
    hessians = np.concatenate([h.numpy().ravel() for h in potential.hessian(batch)])
    np.testing.assert_allclose(hessians, saved["hessian_predicted"], rtol=0, atol=1e-6)


def test_an_interrupted_run_is_resumed_to_the_same_weights(stored: Path) -> None:
    assert status_of("train", "--resume", "interrupted") == 0
    for name in ("best.pt", "last.pt"):
        found, wanted = weights(Path("interrupted") / name), weights(Path("run") / name)
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-6)
    assert float(found["scale"]) != 1.0  # fitted by that version: the checkpoint's counts, not today's setting


def test_an_evaluation_is_not_done_again(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with np.load("run/predictions-test.npz") as saved:
        made_of = json.loads(str(saved["key"]))
    versions = next(part for part in made_of if isinstance(part, dict))
    for module in (accuracy, evaluation):  # of other versions nothing is taken over
        monkeypatch.setattr(module, "versions", lambda: versions)
    before = json.loads(Path("run/record.json").read_text())
    files, journals = times(Path("run"), "*.npz"), {path: read_results(path) for path in Path("run").glob("*.jsonl")}
    assert status_of("evaluate", "run", "--tasks", "accuracy,relaxation") in (0, 3)
    after = json.loads(Path("run/record.json").read_text())
    assert times(Path("run"), "*.npz") == files
    for path, results in journals.items():  # nothing is computed again; families are added to what lacks them
        found = {name: {k: v for k, v in row.items() if k != "group"} for name, row in read_results(path).items()}
        assert found == results
    for split, metrics in before["metrics"].items():
        assert metrics.items() <= after["metrics"][split].items()
    assert after["results"].keys() == before["results"].keys()


def test_a_sweep_is_not_resumed_under_the_rules_of_now(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its trials were scored against a baseline, and only E-F-H was tuned. Its runs can still be compared."""
    before = times(Path("sweep"), "**/*")
    assert status_of("sweep", "sweep.yaml", "-o", "sweep") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "other rules of comparison" in line
    assert "name another folder" in line or "another folder with -o" in line
    after = times(Path("sweep"), "**/*")
    assert after == {path: time for path, time in before.items() if path in after}
    assert before.keys() == after.keys()


def test_a_finished_study_is_opened_and_has_nothing_to_do(stored: Path) -> None:
    points = json.loads(Path("study/points.json").read_text())
    files = times(Path("study"), "runs/schnet*/*")
    assert status_of("study", "study.yaml", "-o", "study") == 0
    assert json.loads(Path("study/points.json").read_text()) == points
    assert times(Path("study"), "runs/schnet*/*") == files


def test_an_unfinished_study_under_other_rules_is_refused_and_kept(
    stored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its file left the form of the energy term to the default, which is another one now."""
    next(Path("study").glob("runs/schnet*/record.json")).unlink()
    files = times(Path("study"), "runs/schnet*/*")
    assert status_of("study", "study.yaml", "-o", "study") == 2
    assert "begun under other rules" in capsys.readouterr().err
    assert times(Path("study"), "runs/schnet*/*") == files


def test_records_are_compared(stored: Path) -> None:
    runs = [str(path.parent) for path in Path("sweep/final").glob("*/record.json")]
    assert status_of("leaderboard", *runs, "-o", "board", "--trials", "sweep/trials.csv") == 0
    board = json.loads(Path("board/leaderboard.json").read_text())
    assert len(board["rows"]) == 7
    # Nobody knows whether they converged, and their predictions have no families.
    assert {claim["verdict"] for claim in board["claims"]} == {"not converged"}
    assert any("compositions stand in" in note for note in board["notes"])
