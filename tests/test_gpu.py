"""What must hold on a CUDA device; run with ``pytest -m gpu`` where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import hessgnn
from hessgnn.data.store import Store
from hessgnn.potentials.registry import names
from hessgnn.testing import check_potential
from hessgnn.training.trainer import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("name", names())
def test_the_contract_holds_on_cuda(name: str) -> None:
    failures = [outcome.message for outcome in check_potential(name, device="cuda") if outcome.failed]
    assert not failures


@pytest.mark.parametrize("name", names())
def test_cuda_and_cpu_agree_in_float64(name: str) -> None:
    torch.manual_seed(0)
    potential, store = hessgnn.create(name).double(), Store.open("rtp-mini")
    batch = hessgnn.Batch.from_structures([store[i] for i in range(5)], potential.cutoff)
    expected = potential.hessian(batch)
    found = potential.to("cuda").hessian(batch.to("cuda"))
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other.cpu(), rtol=1e-9, atol=1e-9)


def test_training_on_cuda_learns(tmp_path: Path) -> None:
    config = hessgnn.RunConfig.model_validate(
        {
            "potential": {"name": "schnet"},
            "training": {"steps": 100, "device": "cuda", "schedule": {"warmup": 10}},
            "validation": {"every": 50},
        }
    )
    result = train(config, tmp_path / "run")
    assert result.progress.device == "cuda"
    assert result.progress.curve[-1].loss < 0.5 * result.progress.curve[0].loss
