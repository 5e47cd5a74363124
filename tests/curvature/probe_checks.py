"""What every kind of probes must do, whoever wrote it."""

from __future__ import annotations

import torch
from ase import Atoms
from ase.build import molecule
from torch import Tensor

from hessgnn.curvature.probes import PROBES, draw
from hessgnn.data.batch import Batch
from hessgnn.data.labels import Prepared
from hessgnn.data.structure import Structure

DRAWS = 20000


def labelled(*molecules: Atoms, bare: tuple[int, ...] = ()) -> list[Structure]:
    """With a random symmetric Hessian each; those named in `bare` without."""
    generator = torch.Generator().manual_seed(7)
    structures = []
    for k, atoms in enumerate(molecules):
        h = torch.randn(3 * len(atoms), 3 * len(atoms), generator=generator, dtype=torch.float64)
        hessian = None if k in bare else (h + h.T).numpy()
        structures.append(Structure.from_atoms(atoms, name=f"{k}", hessian=hessian))
    return structures


def check_kind(kind: str) -> None:
    """All checks of a kind, by its name or import path."""
    for number in (1, 2, 4):
        for bare in ((), (0,)):
            check_unbiased(kind, number, bare)
    check_structures_of_different_size(kind)
    check_seeds(kind)


def check_unbiased(kind: str, number: int, bare: tuple[int, ...]) -> None:
    """The mean of ``Σ_k w_k v_k v_kᵀ`` is the unit matrix, so any quadratic form is estimated without bias."""
    (structure,) = labelled(Atoms("N2", [[0, 0, 0], [0, 0, 1.1]]), bare=bare)
    vectors, weights = many_draws(kind, number, structure)
    outer = torch.einsum("nk,nki,nkj->nij", weights, vectors, vectors)
    assert_mean(outer, torch.eye(6, dtype=torch.float64))
    if PROBES[kind].whole_rows:  # then of any function of the entries
        residual = torch.randn(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        sums = (weights * (vectors @ residual.T).abs().sum(2)).sum(1)
        assert_mean(sums, residual.abs().sum())


def many_draws(kind: str, number: int, structure: Structure) -> tuple[Tensor, Tensor]:
    """Vectors ``(draws, K, 3N)`` and weights ``(draws, K)``: those of a batch of copies."""
    preparation = PROBES[kind]().preparation(number)
    prepared = None
    if preparation is not None:
        prepared = Prepared(preparation, [preparation.of_structure(structure.hessian, len(structure))] * DRAWS)
    batch = Batch.from_structures([structure] * DRAWS, 5.0, edges=[NO_EDGES] * DRAWS, prepared=prepared)
    probes = draw(kind, number, batch, torch.Generator().manual_seed(1))
    return batch.pad(probes.vectors).transpose(0, 1), probes.weights.T


def assert_mean(samples: Tensor, expected: Tensor) -> None:
    """Within five standard errors."""
    error = samples.std(0) / len(samples) ** 0.5
    assert bool(((samples.mean(0) - expected).abs() <= 5 * error + 1e-10).all())
    assert bool((error < 0.05 * expected.abs().max()).all())  # else the test would see nothing


def check_structures_of_different_size(kind: str) -> None:
    """What one structure has too few coordinates for is zero and counts nothing; types are those of the batch."""
    structures = labelled(molecule("H2O"), Atoms("O"), molecule("CH4"), bare=(1,))
    for dtype in (torch.float32, torch.float64):
        batch = Batch.from_structures(structures, 5.0, dtype)
        for number in (2, 50):
            probes = draw(kind, number, batch, torch.Generator().manual_seed(0))
            assert probes.vectors.shape == (probes.number, *batch.positions.shape)
            assert probes.weights.shape == (probes.number, batch.n_structures)
            assert probes.vectors.dtype == probes.weights.dtype == dtype
            assert not batch.pad(probes.vectors)[probes.weights == 0].any()
            if probes.rows is not None:
                for row, vector in zip(probes.rows.flatten(), batch.pad(probes.vectors).flatten(0, 1), strict=True):
                    unit = torch.zeros_like(vector)
                    unit[row : row + 1] = float(bool(vector.any()))
                    assert torch.equal(vector, unit)


def check_seeds(kind: str) -> None:
    """A seed reproduces probes, and equal structures get different ones, unless nothing is drawn at all."""
    batch = Batch.from_structures(labelled(molecule("H2O")) * 8, 5.0)
    first, second, third = (draw(kind, 2, batch, torch.Generator().manual_seed(seed)).vectors for seed in (0, 0, 1))
    assert torch.equal(first, second)
    if not torch.equal(first, third):
        assert len({tuple(one.flatten().tolist()) for one in batch.pad(first).transpose(0, 1)}) > 1


NO_EDGES = torch.zeros(2, 0, dtype=torch.int64).numpy(), torch.zeros(0, 3, dtype=torch.float64).numpy()
