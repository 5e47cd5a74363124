"""Triplets that the loader finds once are those that a potential finds in each batch."""

import numpy as np
import pytest
import torch

from hessgnn.data.loader import Loader
from hessgnn.data.store import Store
from hessgnn.potentials import registry


@pytest.fixture(scope="module")
def potential():
    torch.manual_seed(0)
    return registry.create("ani", hidden=(8, 8)).double()


@pytest.fixture(scope="module")
def batch(potential):
    store = Store.open("rtp-mini")
    return Loader(
        store, np.arange(8), potential.cutoff, 8, torch.float64, seed=1, triplet_cutoff=potential.triplet_cutoff
    ).batch(0)


def agree(potential, batch):
    vectors = torch.ones(2, *batch.positions.shape, dtype=torch.float64).cumsum(1)
    got, expected = (potential(b, vectors=vectors) for b in (batch, batch.replace(triplets=None)))
    for name in ("energy", "forces", "products"):
        torch.testing.assert_close(getattr(got, name), getattr(expected, name), rtol=1e-10, atol=1e-10)


def test_they_are_found(potential, batch):
    assert batch.triplets is not None
    agree(potential, batch)


def test_they_follow_a_batch_that_is_cut_repeated_or_moved(potential, batch):
    chosen = torch.tensor([True, False, True, True, False, False, True, False])
    for changed in (batch.select(chosen), batch.repeat(2), batch.to("cpu"), batch.select(~chosen).repeat(3)):
        assert changed.triplets is not None
        agree(potential, changed)


def test_nobody_asks_for_them(potential):
    store = Store.open("rtp-mini")
    assert Loader(store, np.arange(3), potential.cutoff, 3, torch.float64).batch(0).triplets is None
