"""Synthetic runs: three architectures with and without Hessian labels, the mean predictor, and a failure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from synthetic_runs import ARCHITECTURES, SPLITS, failed_record, make_record, save_predictions

from hessgnn.evaluation.record import Record, write_record

SaveRun = Callable[..., Path]


def saver(parent: Path) -> SaveRun:
    count = 0

    def save(record: Record, predictions: float | None = None) -> Path:
        nonlocal count
        count += 1
        folder = parent / f"run-{count}"
        folder.mkdir()
        if predictions is not None:
            saved = {split: save_predictions(folder, split, predictions, record.seed or 0) for split in SPLITS}
            record = record.model_copy(update={"predictions": saved})
        write_record(record, folder / "record.json")
        return folder

    return save


@pytest.fixture
def save_run(tmp_path: Path) -> SaveRun:
    """Write a record, with predictions on request, as a run folder."""
    return saver(tmp_path)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Path]:
    """Three architectures x two regimes x two seeds, one of them failed, and the mean predictor. Only to be read."""
    save_run = saver(tmp_path_factory.mktemp("runs"))
    paths = [save_run(make_record("mean predictor", "mean", None, 1.0), 0.5)]
    for architecture, factor in ARCHITECTURES.items():
        for regime, gain in (("E-F", 1.0), ("E-F-H", 0.6)):
            for seed in (0, 1):
                scale = 0.1 * factor * gain * (1 + 0.1 * seed)
                make = failed_record if (architecture, regime, seed) == ("schnet", "E-F-H", 1) else make_record
                record = make(architecture=architecture, regime=regime, seed=seed, scale=scale)
                paths.append(save_run(record, None if record.status == "failed" else scale))
    return paths
