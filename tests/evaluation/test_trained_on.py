"""What an evaluation knows of the stores that a run was trained on: their levels of theory and their splits."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_store import TINY, write_tiny_store

from hessgnn.data.store.store import Store, write_store
from hessgnn.errors import ConfigError
from hessgnn.evaluation.evaluate import evaluate
from hessgnn.evaluation.predictions import ENERGIES
from hessgnn.leaderboard.collect import collect
from hessgnn.training.config import RunConfig
from hessgnn.training.trainer import train

SHIFT = 500.0
"""eV an atom between the two levels of theory."""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_tiny_store(tmp_path / "tiny.h5")


@pytest.fixture
def other(store: Path, tmp_path: Path) -> Path:
    """The same structures at another level of theory."""
    moved = [replace(one, energy=(one.energy or 0.0) + SHIFT * len(one)) for one in Store.open(store)]
    write_store(tmp_path / "other.h5", moved, level_of_theory="other")
    return tmp_path / "other.h5"


def trained(folder: Path, store: Path, *also: dict[str, Any]) -> Path:
    content = {
        "potential": TINY,
        "data": {"path": str(store), "also": list(also)},
        "training": {"steps": 2, "batch_size": 3, "schedule": {"warmup": 1}, "device": "cpu", "threads": 1},
        "validation": {"every": 2, "hessian": "probes", "n_probes": 2},
        "loss": {"hessian": 0.0},
    }
    train(RunConfig.model_validate(content), folder)
    return folder


def test_energies_of_another_level_are_not_compared(store: Path, other: Path, tmp_path: Path) -> None:
    run = trained(tmp_path / "run", store)
    at_home = evaluate(run, splits=["test"]).metrics["test"]
    assert not evaluate(run, splits=["test"]).sources
    with pytest.warns(UserWarning, match="other is at level of theory 'other'.* errors of energies are left empty"):
        record = evaluate(run, data=other, splits=["test"])
    found = record.metrics["test"]
    assert all((found[name].value, found[name].n) == (None, 0) for name in ENERGIES)
    assert found["forces_mae"].value == pytest.approx(at_home["forces_mae"].value)
    assert record.data.level_of_theory == "other"
    assert [one.level_of_theory for one in record.sources] == [Store.open(store).attributes.level_of_theory]
    values = collect([run])[0].values("accuracy", "test")
    assert not set(ENERGIES) & values.keys()
    assert values["forces_mae"]


def test_energies_of_a_level_that_the_run_knows_are_shifted(store: Path, other: Path, tmp_path: Path) -> None:
    """Both levels hold the same structures, so the shift is exact."""
    run = trained(tmp_path / "run", store, {"path": str(other), "labels": ["energy", "forces"]})
    at_home = evaluate(run, splits=["test"])
    away = evaluate(run, data=other, splits=["test"])
    assert [one.steps for one in away.sources] == [1, 1]
    for name in (*ENERGIES, "forces_mae"):
        assert away.metrics["test"][name].value == pytest.approx(at_home.metrics["test"][name].value, rel=1e-5)


def test_a_split_that_any_store_trained_on_is_no_test(store: Path, other: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="split 'test' is for tests"):
        run = trained(tmp_path / "run", store, {"path": str(store), "train": "test", "validation": None})
    with pytest.warns(UserWarning, match="trained or validated on split 'test': it is left out"):
        record = evaluate(run)
    assert set(record.metrics) == {"nms"}
    with pytest.warns(UserWarning, match="trained or validated on split 'test': its errors say nothing"):
        evaluate(run, splits=["test"])
    also = {"path": str(other), "train": "test", "validation": None, "labels": ["forces"]}
    with pytest.warns(UserWarning, match="for tests"):
        copies = trained(tmp_path / "copies", store, also)
    with pytest.warns(UserWarning, match="on 1 structures of split 'test', in another store"):
        record = evaluate(copies)
    assert set(record.metrics) == {"test", "nms"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        everything = trained(tmp_path / "all", store, *({"path": str(store), "train": s} for s in ("test", "nms")))
        with pytest.raises(ConfigError, match="no split to evaluate on"):
            evaluate(everything)
