"""What must hold on a CUDA device; run with ``pytest -m gpu`` where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch

import hessgnn
from hessgnn.data.loader import Loader
from hessgnn.data.store.store import Store
from hessgnn.potentials.base import POTENTIALS
from hessgnn.testing import check_potential
from hessgnn.training.build import build_buckets
from hessgnn.training.config import LossConfig
from hessgnn.training.loss import Loss, Weights
from hessgnn.training.recorded import RecordedStep
from hessgnn.training.step import EagerStep
from hessgnn.training.trainer import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("name", POTENTIALS.names())
def test_the_contract_holds_on_cuda(name: str) -> None:
    failures = [outcome.message for outcome in check_potential(name, device="cuda") if outcome.failed]
    assert not failures


@pytest.mark.parametrize("name", POTENTIALS.names())
def test_cuda_and_cpu_agree_in_float64(name: str) -> None:
    torch.manual_seed(0)
    potential, store = hessgnn.create(name).double(), Store.open("rtp-mini")
    batch = hessgnn.Batch.from_structures([store[i] for i in range(5)], potential.cutoff)
    expected = potential.hessian(batch)
    found = potential.to("cuda").hessian(batch.to("cuda"))
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other.cpu(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["schnet", "nequip", "ani"])
@pytest.mark.parametrize("how", ["traced", "compiled", "captured"])
def test_recorded_steps_give_the_eager_gradient_on_cuda(
    name: str, how: Literal["traced", "compiled", "captured"]
) -> None:
    torch.manual_seed(0)
    potential, store = hessgnn.create(name).to("cuda"), Store.open("rtp-mini")
    loader = Loader(
        store, store.indices("train"), potential.cutoff, 8, torch.float32, "cuda", potential.triplet_cutoff, seed=0
    )
    loss = Loss(LossConfig.model_validate({"probes": {"number": 2}}))
    eager = EagerStep(loss, potential)
    recorded = RecordedStep(loss, potential, build_buckets(potential, loader, 8), how)
    for step in range(4):  # the last ones are not proven by the step itself
        (part,) = loss.parts(loader.batch(step), Weights(0.3, 0.09), torch.Generator().manual_seed(step))
        gradients = []
        for one in (eager, recorded):
            potential.zero_grad(set_to_none=True)
            one(part)
            gradients.append(torch.cat([p.grad.flatten() for p in potential.parameters() if p.grad is not None]))
        expected, found = gradients
        assert float((found - expected).norm() / expected.norm()) < 1e-4
        with torch.no_grad():
            for parameter in potential.parameters():
                parameter.mul_(1.01)  # a captured graph reads the weights where they lie


@pytest.mark.parametrize("how", ["eager", "captured"])
def test_training_on_cuda_learns(tmp_path: Path, how: str) -> None:
    config = hessgnn.RunConfig.model_validate(
        {
            "potential": {"name": "schnet"},
            "training": {"steps": 100, "device": "cuda", "schedule": {"warmup": 10}, "step": how},
            "validation": {"every": 50},
        }
    )
    result = train(config, tmp_path / "run")
    assert result.progress.device == "cuda"
    assert result.progress.curve[-1].loss < 0.5 * result.progress.curve[0].loss
