"""``hessgnn data select``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_store import TINY
from typer.testing import CliRunner

import hessgnn
from hessgnn.cli import app
from hessgnn.data.store.store import Store, write_store
from hessgnn.errors import ConfigError, DataError, UserError
from hessgnn.potentials.saved import BEST, CONFIG, save_checkpoint
from hessgnn.runtime.files import write_text


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight small frames without Hessians, and one with."""
    bundled, path = Store.open("rtp-mini"), tmp_path_factory.mktemp("data") / "frames.h5"
    chosen = sorted(bundled.indices("nms-known"), key=lambda i: (bundled.n_atoms[i], i))[::20][:9]
    structures = [replace(bundled[int(i)], split="train") for i in chosen]
    bare = [replace(one, hessian=None, hessian_asymmetry=None) for one in structures[:-1]]
    write_store(path, [*bare, structures[-1]], level_of_theory="GFN2-xTB")
    return path


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three run folders with untrained potentials."""
    folder = tmp_path_factory.mktemp("ensemble")
    for seed in range(3):
        torch.manual_seed(seed)
        settings = {key: value for key, value in TINY.items() if key != "name"}
        potential = hessgnn.create("schnet", elements=[1, 6, 7, 8], **settings)
        write_text(folder / f"run-{seed}" / CONFIG, json.dumps({"potential": {**TINY, "elements": [1, 6, 7, 8]}}))
        save_checkpoint(folder / f"run-{seed}" / BEST, {"potential": potential.state_dict()})
    return folder


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["data", "select", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def error_of(*arguments: object) -> UserError:
    result = CliRunner().invoke(app, ["data", "select", *map(str, arguments)])
    assert isinstance(result.exception, UserError)
    return result.exception


def test_a_table_with_what_it_costs(data: Path) -> None:
    output = run(data, "--by", "force", "--number", 3)
    assert "score, eV/Å" in output
    assert "nms" in output
    assert "3 of 8 structures; a product each costs 6 gradients" in output


def test_names_are_written_one_a_line(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "next.txt"
    output = run(data, "--by", "force", "--number", 2, "-o", path)
    found = json.loads(run(data, "--by", "force", "--number", 2, "--json"))
    assert path.read_text(encoding="utf-8") == "".join(f"{one['name']}\n" for one in found["selected"])
    assert f"--structures {path}" in " ".join(output.split())
    assert output.endswith("--engine NAME\n")  # the provenance does not tell it
    assert error_of(data, "--by", "force", "--number", 2, "-o", path).what == "exists already"


def test_json(data: Path, ensemble: Path) -> None:
    models = [item for run_folder in sorted(ensemble.iterdir()) for item in ("--models", run_folder)]
    found = json.loads(run(data, "--by", "disagreement", "--number", 4, "--json", *models))
    store = Store.open(data)
    assert (found["by"], found["unit"], found["candidates"], found["covered"]) == ("disagreement", "eV/Å²", 8, 1)
    assert found["gradients"] == 8
    scores = [one["score"] for one in found["selected"]]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] > 0
    assert [one["rank"] for one in found["selected"]] == [1, 2, 3, 4]
    for one in found["selected"]:
        assert store.names[one["index"]] == one["name"]
        assert store.n_atoms[one["index"]] == one["atoms"]
        assert not store.has_curvature[one["index"]]


def test_a_folder_of_runs_stands_for_all_of_them(data: Path, ensemble: Path) -> None:
    each = [item for run_folder in sorted(ensemble.iterdir()) for item in ("--models", run_folder)]
    one_by_one, together = (
        json.loads(run(data, "--by", "disagreement", "--number", 3, "--json", *models))["selected"]
        for models in (each, ["--models", ensemble])
    )
    assert one_by_one == together


def test_the_same_command_gives_the_same_selection(data: Path, ensemble: Path) -> None:
    arguments = (data, "--by", "curvature", "--number", 3, "--models", ensemble, "--json", "--seed")
    first = run(*arguments, 1)
    assert run(*arguments, 1) == first
    assert run(*arguments, 2) != first


def test_a_budget_of_gradients(data: Path) -> None:
    assert len(json.loads(run(data, "--by", "random", "--budget", 7, "--json"))["selected"]) == 3


def test_diverse(data: Path) -> None:
    found = json.loads(run(data, "--by", "force", "--number", 2, "--diverse", "--json"))
    six = json.loads(run(data, "--by", "force", "--number", 6, "--json"))
    assert found["diverse"]
    assert {one["name"] for one in found["selected"]} < {one["name"] for one in six["selected"]}


def test_more_than_there_are(data: Path) -> None:
    result = CliRunner().invoke(app, ["data", "select", str(data), "--by", "random", "--number", "99", "--json"])
    assert "99 requested, 8 available in split 'train'; all are listed" in result.stderr
    assert len(json.loads(result.stdout)["selected"]) == 8


def test_labelled_structures_on_demand(data: Path) -> None:
    found = json.loads(run(data, "--by", "random", "--number", 99, "--labelled", "--json"))
    assert (len(found["selected"]), found["covered"]) == (9, 0)


def test_what_is_wrong_is_said(data: Path, ensemble: Path, tmp_path: Path) -> None:
    assert "--number 20" in str(error_of(data, "--by", "random"))
    assert "give one of both" in str(error_of(data, "--by", "random", "--number", 2, "--budget", 4))
    assert "did you mean 'force'" in str(error_of(data, "--by", "forces", "--number", 2))
    assert "has no split 'tests'" in str(error_of(data, "--by", "random", "--number", 2, "--split", "tests"))
    assert "got 0" in str(error_of(data, "--by", "disagreement", "--number", 2))
    assert "is not a run folder" in str(error_of(data, "--by", "disagreement", "--number", 2, "--models", tmp_path))
    assert "no such name" in str(error_of(data, "--by", "curvature", "--number", 2, "--engine", "orca"))
    assert "not an engine" in str(error_of(data, "--by", "curvature", "--number", 2, "--engine", "[tblite"))
    assert "step" in str(error_of(data, "--by", "curvature", "--number", 2, "--engine", "{name: tblite, step: -1}"))
    assert isinstance(error_of(tmp_path / "none.h5", "--by", "random", "--number", 2), DataError)
    (tmp_path / "text.h5").write_text("no store")
    assert "is not an HDF5 file" in str(error_of(tmp_path / "text.h5", "--by", "random", "--number", 2))
    device = error_of(data, "--by", "curvature", "--number", 2, "--models", ensemble, "--device", "abacus")
    assert isinstance(device, ConfigError)


def test_a_set_without_labels(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "bare.h5"
    write_store(path, (replace(one, forces=None) for one in Store.open(data)), level_of_theory="GFN2-xTB")
    assert "none of 8 structures a score" in str(error_of(path, "--by", "force", "--number", 2))
    found = json.loads(run(path, "--by", "distance", "--number", 2, "--json"))
    assert np.isfinite([one["score"] for one in found["selected"]]).all()


def test_everything_labelled() -> None:
    error = error_of("rtp-mini", "--by", "random", "--number", 2)
    assert "all 340 structures" in str(error)
    assert "--labelled" in str(error)


def test_forces_that_are_noise_are_told(data: Path, tmp_path: Path) -> None:
    frames = list(Store.open(data))
    quiet = [replace(one, forces=1e-6 * one.forces / np.abs(one.forces).max()) for one in frames[:3]]
    write_store(tmp_path / "quiet.h5", [*quiet, *frames[3:]], level_of_theory="GFN2-xTB")
    arguments = ["data", "select", str(tmp_path / "quiet.h5"), "--by", "force", "--number"]
    assert not CliRunner().invoke(app, [*arguments, "5"]).stderr
    told = CliRunner().invoke(app, [*arguments, "7"]).stderr
    assert "2 of the selected structures have a score below 0.0001 eV/Å, which is numerical noise" in told
