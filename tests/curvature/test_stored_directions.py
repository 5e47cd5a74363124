"""Stored products as probes: unbiased, without replacement, and beside full Hessians."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from hessgnn.curvature.probes import Probes, draw
from hessgnn.data.batch import Batch
from hessgnn.data.directions import Directions
from hessgnn.data.structure import Structure
from hessgnn.errors import DataError
from hessgnn.training.loss import hessian_error
from tests.curvature.probe_checks import labelled


def with_directions(structure: Structure, vectors: np.ndarray, kind: str, *, keep_hessian: bool = False) -> Structure:
    assert structure.hessian is not None
    flat = vectors.reshape(len(vectors), -1)
    products = (flat @ structure.hessian).reshape(vectors.shape)
    hessian = structure.hessian if keep_hessian else None
    return replace(structure, hessian=hessian, directions=Directions.make(vectors, products, kind))


def signs(n_atoms: int) -> np.ndarray:
    """All Rademacher vectors, ``(2**3N, N, 3)``."""
    return np.array(list(product([-1.0, 1.0], repeat=3 * n_atoms))).reshape(-1, n_atoms, 3)


def test_the_mean_over_all_sign_vectors_is_the_full_loss() -> None:
    (structure,) = labelled(Atoms("N2", [[0, 0, 0], [0, 0, 1.1]]))
    known = with_directions(structure, signs(2), "rademacher")
    batch = Batch.from_structures([known], 5.0)
    assert batch.labels is not None
    assert structure.hessian is not None
    rng = np.random.default_rng(0)
    predicted = rng.normal(size=(6, 6))
    predicted = torch.from_numpy(predicted + predicted.T)
    full = float((predicted - torch.from_numpy(structure.hessian)).square().sum()) / 36
    for number in (1, 5, 64, 70):
        errors = []
        for seed in range(1 if number >= 64 else 3):
            probes = draw("stored", number, batch, torch.Generator().manual_seed(seed))
            products = torch.einsum("ij,kj->ki", predicted, probes.vectors.flatten(1)).view(number, 2, 3)
            errors.append(float(hessian_error(products, batch, batch.labels, probes)))
        if number >= 64:
            assert errors[0] == pytest.approx(full, rel=1e-10)
    total = 0.0
    for k in range(64):  # each alone, as a draw of one is
        chosen = torch.tensor([[k]])
        read = batch.labels.directions
        probes = Probes(read.read_vectors(chosen), read.read_weights(chosen), stored=chosen)
        products = torch.einsum("ij,kj->ki", predicted, probes.vectors.flatten(1)).view(1, 2, 3)
        total += float(hessian_error(products, batch, batch.labels, probes))
    assert total / 64 == pytest.approx(full, rel=1e-10)


def test_directions_are_drawn_without_replacement() -> None:
    first, second = labelled(molecule("H2O"), molecule("N2"))
    rng = np.random.default_rng(1)
    batch = Batch.from_structures(
        [
            with_directions(first, rng.choice([-1.0, 1.0], size=(5, 3, 3)), "rademacher"),
            with_directions(second, rng.choice([-1.0, 1.0], size=(2, 2, 3)), "rademacher"),
        ],
        5.0,
    )
    seen = set()
    for seed in range(40):
        stored = draw("stored", 3, batch, torch.Generator().manual_seed(seed)).stored
        assert stored is not None
        assert len(set(stored[:, 0].tolist())) == 3
        assert sorted(stored[:, 1].tolist()) == [-1, 0, 1]
        seen |= set(stored[:, 0].tolist())
    assert seen == set(range(5))


def test_mixed_batches_read_what_each_structure_has() -> None:
    structures = labelled(molecule("H2O"), molecule("N2"), molecule("NH3"), molecule("CH4"), bare=(3,))
    rng = np.random.default_rng(1)
    hessians = [s.hessian for s in structures]
    structures[0] = with_directions(structures[0], rng.normal(size=(2, 3, 3)), "gaussian")
    structures[2] = with_directions(structures[2], rng.normal(size=(3, 4, 3)), "other", keep_hessian=True)
    batch = Batch.from_structures(structures, 5.0)
    labels = batch.labels
    assert labels is not None
    assert labels.has_curvature.tolist() == [True, True, True, False]
    probes = draw("stored", 2, batch, torch.Generator().manual_seed(0))
    zero = torch.zeros_like(probes.vectors)
    found = hessian_error(zero, batch, labels, probes)
    start = 0
    for k, (structure, hessian) in enumerate(zip(structures, hessians, strict=True)):
        vectors = probes.vectors[:, start : start + len(structure)].reshape(2, -1).numpy()
        start += len(structure)
        if hessian is None:
            assert found[k] == 0
            continue
        squares = np.square(vectors @ hessian).sum(1) * probes.weights[:, k].numpy()
        assert float(found[k]) == pytest.approx(squares.sum() / (9 * len(structure) ** 2), rel=1e-10)
    assert torch.equal(probes.vectors[:, 3:5].abs(), torch.ones(2, 2, 3, dtype=torch.float64))  # N2: fresh signs
    # As sent to another process, and as selected.
    other = pickle.loads(pickle.dumps(labels.directions))
    assert len(other.vectors) == 2 * 3 + 3 * 4
    kept = torch.tensor([False, True, True, True])
    part = probes.select(kept, kept[batch.batch])
    fewer = batch.replace(labels=replace(labels, directions=other)).select(kept)
    assert fewer.labels is not None
    again = hessian_error(zero[:, 3:], fewer, fewer.labels, part)
    assert torch.equal(again, found[1:])


def test_weights_of_kinds() -> None:
    vectors = np.random.default_rng(0).normal(size=(4, 3, 3))
    assert Directions.make(vectors, vectors, "gaussian").weights.tolist() == [1.0] * 4
    assert Directions.make(vectors, vectors, "modes").weights.tolist() == [4.0] * 4
    assert Directions.make(vectors, vectors, "modes", parts=7).weights.tolist() == [7.0] * 4
    unit = np.eye(9)[[2, 5]].reshape(2, 3, 3)
    assert Directions.make(unit, unit, "rows").weights.tolist() == [9.0, 9.0]
    softest = Directions.make(vectors, vectors, "softest")
    np.testing.assert_allclose(softest.weights * np.square(vectors).sum((1, 2)), 9.0)
    with pytest.raises(DataError, match="length zero"):
        Directions.make(np.zeros((1, 3, 3)), vectors[:1], "softest")
    with pytest.raises(DataError, match="positive"):
        replace(softest, weights=np.array([1.0, -1.0, 1.0, 1.0]))
