"""What must hold on a CUDA device; run with ``pytest -m gpu`` where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch

import hessgnn
from hessgnn.data.batch import Batch
from hessgnn.data.loader import Loader
from hessgnn.data.padding import Buckets, Size
from hessgnn.data.store.store import Store
from hessgnn.errors import TrainingError
from hessgnn.potentials.base import architectures
from hessgnn.testing import check_potential
from hessgnn.training.build import Setup, build, build_buckets
from hessgnn.training.loss import Loss, Weights
from hessgnn.training.loss_config import LossConfig
from hessgnn.training.part import Part
from hessgnn.training.recorded import RecordedStep
from hessgnn.training.step import EagerStep, NonFiniteLoss
from hessgnn.training.trainer import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("name", architectures())
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


def setup_of(name: str, number: int, **training: object) -> Setup:
    config = {
        "potential": {"name": name},
        "loss": {"probes": {"number": number}},
        "training": {"steps": 6, "device": "cuda", "schedule": {"warmup": 2}, **training},
        "validation": {"every": 3},
    }
    return build(hessgnn.RunConfig.model_validate(config))


@pytest.mark.parametrize("name", architectures())
@pytest.mark.parametrize("number", [1, 2])
def test_nothing_in_a_step_waits_for_the_device(name: str, number: int) -> None:
    setup = setup_of(name, number)
    for step in range(3):  # what is looked at once in a run
        setup.step(step)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        setup.step.launch(3, setup.step.feed(3))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    setup.step.finish()
    setup.step.close()


@pytest.mark.parametrize("name", architectures())
@pytest.mark.parametrize("parts", [1, 2])
def test_training_on_cuda_is_that_on_the_cpu_in_float64(name: str, parts: int) -> None:
    """Batches made ahead by a thread and copied in a stream of their own, losses looked at later."""
    setup = setup_of(name, 2, dtype="float64", parts=parts)
    on_cpu = setup.config.model_copy(update={"training": setup.config.training.model_copy(update={"device": "cpu"})})
    expected, found = train(on_cpu), train(setup.config)
    for one, other in zip(expected.progress.curve, found.progress.curve, strict=True):
        assert other.loss == pytest.approx(one.loss, rel=1e-7)
        assert other.loss_hessian == pytest.approx(one.loss_hessian, rel=1e-7)
        assert other.score == pytest.approx(one.score, rel=1e-6)


def test_a_loss_that_is_not_finite_is_found_and_changes_no_weight() -> None:
    setup = setup_of("schnet", 1)
    gradient, bad = setup.step.gradient, []

    class Broken(EagerStep):
        def __call__(self, part: Part) -> dict[str, torch.Tensor]:
            errors = super().__call__(part)
            if bad:
                next(iter(self.trained.values())).grad.mul_(torch.inf)  # type: ignore[union-attr]
            return errors

    setup.step.gradient = Broken(gradient.loss, gradient.potential)
    setup.step(0)
    before = [p.detach().clone() for p in setup.potential.parameters()]
    bad.append(True)
    setup.step(1)
    with pytest.raises(NonFiniteLoss, match="the gradient of step 1 is not finite for "):
        setup.step.finish()
    assert all(torch.equal(a, b) for a, b in zip(before, setup.potential.parameters(), strict=True))
    setup.step.close()


def part_of(store: Store, potential: hessgnn.Potential, structures: range) -> Part:
    batch = Batch.from_structures([store[i] for i in structures], potential.cutoff, torch.float32, index=structures)
    loss = Loss(LossConfig())
    (part,) = loss.parts(batch.to("cuda"), Weights(0.3, 0.09), torch.Generator().manual_seed(0))
    return part


def test_graphs_of_several_sizes_share_memory_and_stay_right() -> None:
    torch.manual_seed(0)
    potential, store = hessgnn.create("schnet").to("cuda"), Store.open("rtp-mini")
    loss = Loss(LossConfig())
    eager, recorded = EagerStep(loss, potential), RecordedStep(loss, potential, Buckets(Size(4, 60, 600)), "captured")
    parts = [part_of(store, potential, range(n)) for n in (2, 4, 9)]
    for part in (parts[k] for k in (0, 1, 2, 1, 0, 2, 0, 1)):
        gradients = []
        for step in (eager, recorded):
            potential.zero_grad(set_to_none=True)
            step(part)
            gradients.append(torch.cat([p.grad.flatten() for p in potential.parameters() if p.grad is not None]))
        torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-4 * float(gradients[0].abs().max()))
    assert len(recorded._records) == 3


def test_what_cannot_be_captured_is_told() -> None:
    plain = hessgnn.create("schnet")

    class Waits(type(plain)):  # type: ignore[misc]
        def atomic_energies(self, batch: Batch) -> torch.Tensor:
            return super().atomic_energies(batch) * (1.0 if float(batch.positions.detach().sum()) < 1e9 else 2.0)

    potential, store = Waits(plain.config).to("cuda"), Store.open("rtp-mini")
    step = RecordedStep(Loss(LossConfig()), potential, Buckets(Size(4, 60, 600)), "captured")
    with pytest.raises(TrainingError, match="Waits cannot be captured"):
        step(part_of(store, potential, range(3)))
    torch.ones(1, device="cuda").add_(1).cpu()  # the device is of use still


@pytest.mark.parametrize("name", architectures())  # last, as it takes longest
def test_the_contract_holds_on_cuda(name: str) -> None:
    failures = [outcome.message for outcome in check_potential(name, device="cuda") if outcome.failed]
    assert not failures
