"""The Hessian weight that balances the losses, measured on the first batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hessgnn.errors import TrainingError
from hessgnn.experiments.job import Job
from hessgnn.sweep.config import SweepConfig
from hessgnn.sweep.measure import BATCHES, balanced_weight, measure_steps
from hessgnn.training.build import build
from hessgnn.training.config import RunConfig
from hessgnn.training.loss import Loss, LossValue, Weights
from hessgnn.training.part import Part


@pytest.fixture
def config(make_sweep: Callable[..., SweepConfig]) -> RunConfig:
    values = {"loss.forces": 0.4, "loss.hessian": 0.1, "training.dtype": "float64"}
    return make_sweep().run_config("schnet", values, steps=8, seed=1)


def test_both_terms_are_as_large_on_the_first_batches(config: RunConfig) -> None:
    weight = balanced_weight(config)
    setup = build(config)
    sums = {"forces": 0.0, "hessian": 0.0}
    loss = Loss(config.loss)
    for step in range(BATCHES):
        generator = torch.Generator().manual_seed(step)
        value = loss(setup.potential, setup.loader.batch(step), Weights(0.4, weight), generator)
        for name in sums:
            sums[name] += value.terms[name]
    assert 0.4 * sums["forces"] == pytest.approx(weight * sums["hessian"], rel=1e-10)
    assert balanced_weight(config) == weight


def test_losses_that_cannot_be_balanced_are_an_error(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def of(parts: list[Part], errors: list[dict[str, torch.Tensor]]) -> LossValue:
        value = LossValue([], [], [], 0)
        value.__dict__["terms"] = {"forces": float("nan"), "hessian": 1.0}
        return value

    monkeypatch.setattr(LossValue, "of", of)
    with pytest.raises(TrainingError, match="cannot be balanced"):
        balanced_weight(config)


@pytest.mark.parametrize("every", [7, "epoch"])
def test_measuring_a_run_writes_nothing(config: RunConfig, tmp_path: Path, every: int | str) -> None:
    config = config.model_copy(update={"validation": config.validation.model_copy(update={"every": every})})
    job = Job(config, tmp_path / "run", "schnet", "E-F-H")
    outcome = measure_steps(job, None, plain=config)  # type: ignore[arg-type]
    assert outcome.measured.keys() == {"plain_step", "hessian_step", "validation", "memory", "every"}
    assert outcome.measured["every"] == (len(build(config).loader) if every == "epoch" else every)
    assert min(outcome.measured.values()) > 0
    assert list(tmp_path.iterdir()) == []
