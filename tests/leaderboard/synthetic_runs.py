"""Records and predictions of runs that never were, with errors that a test can work out."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from hessgnn.evaluation.record import Cost, CurvePoint, DataSource, Metric, PredictionFile, Record, Regime
from hessgnn.evaluation.tasks.accuracy import METRICS

SPLITS = ("test", "nms")
ARCHITECTURES = {"ani": 1.0, "e3nn": 0.4, "schnet": 0.7}
MEAN_ERRORS = dict(zip(METRICS, (180.0, 230.0, 900.0, 1300.0, 2.1, 4.4), strict=True))
N_ATOMS = np.array([3, 5, 9, 12, 8, 6, 20])
EVIL = "<script>alert(1)</script>|%{x}</b> 'q\" [a](b)"
"""A name that HTML, Markdown, plotly and JavaScript would each take for markup."""
DATA = DataSource(name="tiny", content_hash="c0ffee" * 10, split_hash="5eed" * 16, level_of_theory="GFN2-xTB")


def errors(scale: float, regime: Regime) -> dict[str, dict[str, float]]:
    """Errors ``scale`` times the mean predictor's, 1.5 times that on nms; Hessian labels halve those of the Hessian."""

    def factor(split: str, name: str) -> float:
        labels = 0.5 if regime == "E-F-H" and name.startswith("hessian") else 1.0
        return scale * labels * (1.5 if split == "nms" else 1.0)

    return {split: {name: value * factor(split, name) for name, value in MEAN_ERRORS.items()} for split in SPLITS}


def make_record(
    architecture: str = "ani",
    regime: Regime = "E-F",
    seed: int | None = 0,
    scale: float = 0.1,
    **changes: Any,
) -> Record:
    """A finished run whose errors are ``scale`` times the mean predictor's; fields can be changed by name."""
    trained = regime != "mean"
    hessian = regime in ("E-F-H", "E-F+H")
    fields: dict[str, Any] = {
        "entry": f"{architecture} {regime}" if trained else architecture,
        "architecture": architecture,
        "regime": regime,
        "seed": seed,
        "status": "ok",
        "parameters": 1234567 if trained else 0,
        "data": DATA,
        "cost": Cost(
            steps=2000,
            device="cpu",
            threads=2,
            seconds_per_step=0.02 * (1 + 2 * hessian) / scale,
            device_seconds=40.0 * (1 + 2 * hessian) / scale,
            products=2000 * hessian,
            sweep_trials=12,
            sweep_device_seconds=480.0,
        )
        if trained
        else Cost(),
        "weights": {"energy": 1.0, "forces": 0.1, "hessian": 0.003 * hessian} if trained else {},
        "metrics": {
            split: {name: Metric(value=value, unit=METRICS[name][1], n=len(N_ATOMS)) for name, value in part.items()}
            for split, part in errors(scale, regime).items()
        },
        "curve": [
            CurvePoint(
                step=step,
                device_seconds=step / 50,
                score=1.0,
                energy_rmse=230 * scale * (1 + 2000 / step),
                forces_rmse=1300 * scale * (1 + 1500 / step),
                hessian_rmse=4.4 * scale * (1 + 1000 / step),
            )
            for step in range(100, 2001, 100)
        ]
        if trained
        else [],
        "converged": True if trained else None,
        "versions": {"torch": "2.9.1", "hessgnn": "0.1.0"},
        "hardware": "AMD EPYC, 2 cores",
    }
    return Record(**{**fields, **changes})


def failed_record(**changes: Any) -> Record:
    """A run that gave up: no metrics and a reason."""
    failure = {"status": "failed", "reason": "the loss became NaN at step 412", "metrics": {}}
    record = make_record(**{**failure, **changes})
    return record.model_copy(update={"curve": record.curve[:4]})


def save_predictions(folder: Path, split: str, scale: float, seed: int, **changes: Any) -> PredictionFile:
    """Save labels, the same for every run, with predictions that are ``scale`` off."""
    labels = np.random.default_rng(len(split))
    noise = np.random.default_rng(seed + 1)
    arrays: dict[str, Any] = {
        "n_atoms": N_ATOMS,
        "name": np.array([f"{split}-{position}" for position in range(len(N_ATOMS))]),
        "kind": np.full(len(N_ATOMS), "minimum"),
        "parent": np.full(len(N_ATOMS), ""),
        "numbers": np.ones(N_ATOMS.sum(), dtype=int),
        "positions": labels.normal(size=(N_ATOMS.sum(), 3)),
    }
    sizes = {"energy": (len(N_ATOMS),), "forces": (N_ATOMS.sum(), 3), "hessian": (9 * (N_ATOMS**2).sum(),)}
    for name, shape in sizes.items():
        arrays[f"{name}_reference"] = labels.normal(size=shape)
        arrays[f"{name}_predicted"] = arrays[f"{name}_reference"] + scale * noise.normal(size=shape)
    path = folder / f"predictions-{split}.npz"
    np.savez(path, **{**arrays, **changes})
    return PredictionFile(path=path.name, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
