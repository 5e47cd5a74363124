"""The balance of the losses: the Hessian weight that makes the Hessian term as large as that of the forces."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import torch

from hessgnn.errors import TrainingError
from hessgnn.training.config import RunConfig
from hessgnn.training.loss import LossValue, Weights
from hessgnn.training.run import Run
from hessgnn.training.trainer import Trainer

BATCHES = 4
"""The first ones of a run."""


def balanced_weight(config: RunConfig) -> float:
    """Measure ``w_H = w_F · L_F / L_H`` on the first batches, before a step is taken.

    Parameters
    ----------
    config
        A run; its force weight is the one that the Hessian weight is balanced with.

    Returns
    -------
    float
        Hessian weight, Å⁴.

    Raises
    ------
    TrainingError
        When the losses are not finite or have no labels.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, Run(Path(folder) / "run"))
        found: dict[str, list[float]] = {"forces": [], "hessian": []}
        for step in range(BATCHES):
            generator = torch.Generator().manual_seed(step)
            parts = trainer.loss.parts(trainer.loader.batch(step), Weights(1.0, 1.0), generator)
            value = LossValue.of(parts, [trainer.loss.errors(trainer.potential, part) for part in parts])
            for name, values in found.items():
                if name in value.terms:
                    values.append(value.terms[name])
        trainer.loader.close()
    if not all(found.values()):
        raise TrainingError("the first batches lack forces or Hessians, so their losses cannot be balanced")
    forces, hessian = (statistics.fmean(found[name]) for name in ("forces", "hessian"))
    if not 0 < hessian < float("inf") or not 0 < forces < float("inf"):
        raise TrainingError(f"the first losses cannot be balanced: forces {forces:.3g}, Hessian {hessian:.3g}")
    return config.loss.forces * forces / hessian
