"""The recipes estimate the package's own loss: exactly where they see all rows, in the mean where they do not."""

import pytest
import torch
from hessgnn_bench import recipes
from hessgnn_bench.plain import left_to_autograd

import hessgnn
from hessgnn.data.batch import Batch
from hessgnn.data.store.store import Store
from hessgnn.training.loss import Loss, Weights
from hessgnn.training.loss_config import LossConfig

WEIGHTS = Weights(0.3, 0.09)


@pytest.fixture
def potential():
    torch.manual_seed(0)
    return left_to_autograd(hessgnn.create("schnet", width=8, n_interactions=1, n_basis=6).double())


def batch_of(*sizes):
    store = Store.open("rtp-mini")
    chosen = [next(i for i, n in enumerate(store.n_atoms) if n == size) for size in sizes]
    return Batch.from_structures([store[i] for i in chosen], 5.0, torch.float64, index=chosen)


def with_gradient(potential, loss):
    return [loss.detach(), *torch.autograd.grad(loss, list(potential.parameters()))]


def expected(potential, batch):
    loss = Loss(LossConfig.model_validate({"probes": {"kind": "full"}}))
    return with_gradient(potential, loss(potential, batch, WEIGHTS).total)


def mean(draws):
    return [torch.stack(parts).mean(0) for parts in zip(*draws, strict=True)]


def test_all_rows_are_the_full_loss(potential):
    batch, generator = batch_of(3, 5), torch.Generator().manual_seed(0)
    found = with_gradient(potential, recipes.full(potential, batch, WEIGHTS, generator))
    torch.testing.assert_close(found, expected(potential, batch), rtol=1e-10, atol=1e-10)
    found = with_gradient(potential, recipes.horm(potential, batch, WEIGHTS, generator, rows=99))
    torch.testing.assert_close(found, expected(potential, batch), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rows", [1, 2])
def test_rows_are_unbiased(potential, monkeypatch, rows):
    """Cyclic orders show every row of 9 and of 12 equally often in 36 draws."""
    batch = batch_of(3, 4)
    draws = []
    for shift in range(36):
        monkeypatch.setattr(torch, "randperm", lambda n, generator, shift=shift: torch.arange(n).roll(shift))
        draws.append(with_gradient(potential, recipes.horm(potential, batch, WEIGHTS, torch.Generator(), rows)))
    torch.testing.assert_close(mean(draws), expected(potential, batch), rtol=1e-10, atol=1e-10)


def test_rows_are_drawn_anew_for_each_structure_and_step(potential):
    batch, generator = batch_of(3, 4), torch.Generator().manual_seed(0)
    losses = [float(recipes.horm(potential, batch, WEIGHTS, generator).detach()) for _ in range(4)]
    assert len(set(losses)) == 4


def test_a_probe_is_unbiased(potential, monkeypatch):
    """Vectors √D e_c have the covariance of a Gaussian: their mean is what the mean of Gaussians tends to."""
    batch = batch_of(4)
    draws = []
    for c in range(12):
        vector = torch.zeros(12, dtype=torch.float64)
        vector[c] = 12**0.5
        monkeypatch.setattr(torch, "randn", lambda shape, vector=vector, **_: vector.view(shape))
        draws.append(with_gradient(potential, recipes.projected(potential, batch, WEIGHTS, torch.Generator())))
    torch.testing.assert_close(mean(draws), expected(potential, batch), rtol=1e-10, atol=1e-10)


def test_a_probe_is_gaussian_and_new_in_each_step(potential, monkeypatch):
    batch, generator = batch_of(4), torch.Generator().manual_seed(0)
    seen = []
    products = recipes._Graph.squares
    monkeypatch.setattr(recipes._Graph, "squares", lambda self, v: seen.append(v) or products(self, v))
    for _ in range(60):
        recipes.projected(potential, batch, WEIGHTS, generator)
    entries = torch.stack(seen)
    assert float(entries.square().mean()) == pytest.approx(1.0, abs=0.15)
    assert float(entries.pow(4).mean()) == pytest.approx(3.0, abs=0.9)
    assert len(seen) == 60
