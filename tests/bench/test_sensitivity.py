"""What the study computes from small matrices is what the loss and autograd give."""

from __future__ import annotations

import pytest
import torch
from hessgnn_bench.estimators import ESTIMATORS
from hessgnn_bench.probes import Settings, study
from hessgnn_bench.sensitivity import Sensitivity, hessian_term
from hessgnn_bench.two_stage import two_stage_gradient
from torch.nn.utils import parameters_to_vector

import hessgnn
from hessgnn.curvature.probes import Probes, draw
from hessgnn.data.batch import Batch
from hessgnn.data.store.store import Store
from hessgnn.data.structure import Structure
from hessgnn.potentials.base import Potential
from hessgnn.training import loss as loss_module
from hessgnn.training.loss import Loss
from hessgnn.training.loss_config import LossConfig, ProbeConfig

DIRECTIONS = 3


@pytest.fixture(scope="module")
def structures() -> list[Structure]:
    store = Store.open("rtp-mini")
    small = [int(i) for i in store.indices("train") if store.n_atoms[i] < 5]
    return [store[i] for i in small[:2]]


@pytest.fixture(scope="module")
def potential() -> Potential:
    torch.manual_seed(0)
    return hessgnn.create("schnet", width=8, n_interactions=1, n_basis=8, cutoff=4.0).double()


def gradient(potential: Potential, batch: Batch, probes: ProbeConfig) -> torch.Tensor:
    loss = Loss(LossConfig(forces=0.0, hessian=1.0, probes=probes))
    total = hessian_term(loss, potential, batch, torch.Generator().manual_seed(5))
    parts = torch.autograd.grad(total, list(potential.parameters()), allow_unused=True, materialize_grads=True)
    return parameters_to_vector(parts)


def test_loss_and_gradient_are_those_of_autograd(
    potential: Potential, structures: list[Structure], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = Sensitivity.of(potential, structures, DIRECTIONS, seed=3)
    size = sum(p.numel() for p in potential.parameters())
    generator = torch.Generator().manual_seed(3)
    directions = torch.stack([torch.randn(size, generator=generator, dtype=torch.float64) for _ in range(DIRECTIONS)])
    whole = Batch.from_structures(structures, potential.cutoff, index=range(2))
    exact = gradient(potential, whole, ProbeConfig(kind="full"))
    assert measured.squared_gradient == pytest.approx(float(exact.square().sum()), rel=1e-9)
    mean = torch.stack([one.exact_gradient for one in measured.structures]).mean(0)
    torch.testing.assert_close(mean, directions @ exact, rtol=1e-5, atol=1e-7 * float(exact.norm()))
    for structure, one in zip(structures, measured.structures, strict=True):
        batch = Batch.from_structures([structure], potential.cutoff, index=[0])
        for name in ("modes", "rows, p ~ reference row"):
            vectors, weights = ESTIMATORS[name](one.known, 2, 1, torch.Generator().manual_seed(0))
            probes = Probes(batch.unpad(vectors[0].unsqueeze(1)), weights[0].unsqueeze(1))
            monkeypatch.setattr(loss_module, "draw", lambda *_, probes=probes: probes)
            loss = Loss(LossConfig(forces=0.0, hessian=1.0))
            total = hessian_term(loss, potential, batch)
            parts = torch.autograd.grad(total, list(potential.parameters()), allow_unused=True, materialize_grads=True)
            found_loss, found_gradient = one.loss_and_gradient((vectors, weights))
            assert float(found_loss) == pytest.approx(float(total.detach()), rel=1e-9)
            expected = directions @ parameters_to_vector(parts)
            torch.testing.assert_close(found_gradient[0], expected, rtol=1e-5, atol=1e-7 * float(exact.norm()))


@pytest.mark.parametrize("number", [1, 3])
def test_two_stages_give_the_gradient_of_one(potential: Potential, structures: list[Structure], number: int) -> None:
    batch = Batch.from_structures(structures, potential.cutoff, index=range(2))
    expected = gradient(potential, batch, ProbeConfig(kind="rademacher", number=number))
    probes = draw("rademacher", number, batch, torch.Generator().manual_seed(5))
    parameters = list(potential.parameters())
    found = parameters_to_vector(two_stage_gradient(potential, batch, probes, parameters))
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10 * float(expected.norm()))


def test_the_study_runs_from_end_to_end() -> None:
    few = ("rademacher", "rows", "modes", "atoms", "full", "oracle: residual modes")
    settings = Settings(numbers=(1,), structures=2, directions=2, draws=200, steps=2, batch_size=2, repeats=2)
    result = study(["schnet"], settings, estimators=few)
    assert [(s.state, s.data) for s in result.situations] == [
        ("untrained", "minima"),
        ("untrained", "displaced"),
        ("half trained", "minima"),
        ("half trained", "displaced"),
    ]
    for situation in result.situations:
        rows = {(row.estimator, row.fraction): row for row in situation.rows}
        assert all(abs(row.bias) < 5 for row in situation.rows)
        assert rows["modes", 1.0].gradient < rows["rows", 1.0].gradient
        assert rows["rademacher, control variate", 1.0].gradient == rows["rademacher", 1.0].gradient
        assert rows["full", 1.0].gradient == 0
        assert rows["full", 1.0].products > 9
        assert rows["modes", 0.5].gradient == 2 * rows["modes", 1.0].gradient
    # Where the potential is flat the residual is the reference, and its modes are known: no noise in the value.
    first = {row.estimator: row for row in result.situations[0].rows}
    assert first["modes"].loss < 1e-3 * first["rademacher"].loss
    assert first["rademacher, control variate"].loss < 1e-3 * first["rademacher"].loss
    assert len(result.tables()) == 5
