"""Packed Hessians give what the matrices would."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from hessgnn.curvature.probes import draw
from hessgnn.data import labels as module
from hessgnn.data.batch import Batch
from hessgnn.data.labels import Hessians
from hessgnn.data.loader import Loader
from hessgnn.data.store.store import Store
from hessgnn.data.structure import Structure

SIZES = (3, 1, 7, 4)


def structures(unknown: tuple[int, ...] = (3,)) -> list[Structure]:
    rng = np.random.default_rng(0)
    made = []
    for k, n in enumerate(SIZES):
        hessian = rng.normal(size=(3 * n, 3 * n))
        made.append(
            Structure(
                numbers=np.ones(n),
                positions=10 * rng.normal(size=(n, 3)),
                hessian=None if k in unknown else hessian + hessian.T,
                name=str(k),
            )
        )
    return made


@pytest.fixture(params=[(), (3,), (2,), (0, 1, 2, 3)], ids=str)
def batch(request: pytest.FixtureRequest) -> Batch:
    return Batch.from_structures(structures(request.param), 5.0)


def hessians(batch: Batch) -> Hessians:
    assert batch.labels is not None
    return batch.labels.hessians


def products(batch: Batch, vectors: Tensor) -> Tensor:
    """By the matrices."""
    matrices = torch.zeros(batch.n_structures, 3 * batch.max_atoms, 3 * batch.max_atoms, dtype=torch.float64)
    dense = hessians(batch).dense()
    matrices[:, : dense.shape[1], : dense.shape[2]] = dense
    return batch.unpad(torch.einsum("sij,ksj->ksi", matrices, batch.pad(vectors)))


def test_matrices_are_those_of_the_structures(batch: Batch) -> None:
    dense, known = hessians(batch).dense(), hessians(batch).known
    assert dense.shape == (4, 21, 21) if known.any() else (4, 0, 0)
    for structure, matrix in zip(structures(()), dense, strict=True):
        if known[int(structure.name)]:
            size = 3 * len(structure)
            np.testing.assert_array_equal(matrix[:size, :size], structure.hessian)
            matrix[:size, :size] = 0
        assert not matrix.any()


@pytest.mark.parametrize("block", [1, 100, 10**6])
def test_products_are_those_of_the_matrices(batch: Batch, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    vectors = torch.randn(3, sum(SIZES), 3, dtype=torch.float64)
    torch.testing.assert_close(
        batch.unpad(hessians(batch).products(batch.pad(vectors))), products(batch, vectors), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("kind", ["rows", "atoms", "full"])
def test_rows_are_products_with_unit_vectors(batch: Batch, kind) -> None:  # type: ignore[no-untyped-def]
    probes = draw(kind, 2, batch, torch.Generator().manual_seed(0))
    assert probes.rows is not None
    assert torch.equal(batch.unpad(hessians(batch).rows(probes.rows)), products(batch, probes.vectors))


def test_a_row_reads_its_own_entries_only() -> None:
    """All others are not numbers, and do no harm."""
    batch = Batch.from_structures(structures(()), 5.0)
    rows, first = torch.tensor([[4, 0, 20, 11]]), hessians(batch).first
    expected = batch.unpad(hessians(batch).rows(rows))
    kept = np.zeros(len(hessians(batch).numbers), dtype=bool)
    for start, n, row in zip(first, SIZES, rows[0].tolist(), strict=True):
        for column in range(3 * n):
            high, low = max(row, column), min(row, column)
            kept[start + high * (high + 1) // 2 + low] = True
    hessians(batch).numbers[~kept] = np.nan
    assert torch.equal(batch.unpad(hessians(batch).rows(rows)), expected)


def test_selected_structures_keep_theirs(batch: Batch) -> None:
    chosen = torch.tensor([True, False, False, True])
    part = batch.select(chosen)
    vectors = torch.randn(2, 7, 3, dtype=torch.float64)
    torch.testing.assert_close(
        part.unpad(hessians(part).products(part.pad(vectors)))[:, :3],
        batch.unpad(hessians(batch).products(batch.pad(torch.cat([vectors[:, :3], torch.zeros(2, 12, 3)], 1))))[:, :3],
    )
    assert torch.equal(hessians(part).dense()[0, :9, :9], hessians(batch).dense()[0, :9, :9])


def test_only_triangles_of_the_batch_are_sent_to_another_process() -> None:
    store = Store.open("rtp-mini")
    batch = Loader(store, range(len(store)), 5.0, 4, torch.float64, seed=0).batch(3)
    sent = pickle.dumps(batch)
    assert len(sent) < 300_000 < store.columns.array("hessian").nbytes
    assert torch.equal(hessians(pickle.loads(sent)).dense(), hessians(batch).dense())


def test_nothing_is_read_before_it_is_asked_for() -> None:
    """A part without probes leaves the Hessians of its structures where they are."""
    batch = Batch.from_structures(structures(()), 5.0)
    hessians(batch).numbers[hessians(batch).first[2] :] = np.nan
    chosen = torch.tensor([True, True, False, False])
    part = batch.select(chosen)
    assert part.unpad(hessians(part).products(part.pad(torch.ones(1, 4, 3, dtype=torch.float64)))).isfinite().all()
