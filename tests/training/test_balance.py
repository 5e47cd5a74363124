"""The Hessian weight that balances the losses, measured on the first batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hessgnn.errors import TrainingError
from hessgnn.training.balance import BATCHES, balanced_weight
from hessgnn.training.config import RunConfig
from hessgnn.training.loss import Loss, Weights
from hessgnn.training.run import Run
from hessgnn.training.trainer import Trainer


def test_both_terms_are_as_large_on_the_first_batches(make_config: Callable[..., RunConfig], tmp_path: Any) -> None:
    config = make_config(loss={"forces": 0.4, "hessian": 0.1}, training={"dtype": "float64"})
    weight = balanced_weight(config)
    trainer = Trainer(config, Run(tmp_path / "run"))
    sums = {"forces": 0.0, "hessian": 0.0}
    loss = Loss(config.loss)
    for step in range(BATCHES):
        generator = torch.Generator().manual_seed(step)
        value = loss(trainer.potential, trainer.loader.batch(step), Weights(0.4, weight), generator)
        for name in sums:
            sums[name] += value.terms[name]
    assert 0.4 * sums["forces"] == pytest.approx(weight * sums["hessian"], rel=1e-10)
    assert balanced_weight(config) == weight


def test_what_cannot_be_balanced_is_told(make_config: Callable[..., RunConfig], monkeypatch: Any) -> None:
    monkeypatch.setattr(
        "hessgnn.training.balance.LossValue.of",
        lambda parts, errors: type("Value", (), {"terms": {"forces": float("nan"), "hessian": 1.0}})(),
    )
    with pytest.raises(TrainingError, match="cannot be balanced"):
        balanced_weight(make_config())
