"""Reference modes, their division, and how they reach the probes."""

from __future__ import annotations

import numpy as np
import torch

from hessgnn.curvature.probes.modes import ReferenceModes, _parts
from hessgnn.data.batch import Batch
from hessgnn.data.labels import Prepared
from hessgnn.data.loader import Loader
from hessgnn.data.store.store import Store


def hessian(seed: int, n_atoms: int) -> np.ndarray:
    matrix = np.random.default_rng(seed).standard_normal((3 * n_atoms, 3 * n_atoms))
    return matrix + matrix.T


def test_modes_diagonalise_the_hessian() -> None:
    h = hessian(0, 4)
    modes = ReferenceModes(3).of_structure(h, 4)
    vectors = modes["vectors"]
    image = vectors.T @ h @ vectors
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(12), atol=1e-12)
    np.testing.assert_allclose(image, np.diag(np.diag(image)), atol=1e-12)
    assert set(modes["part"]) == {0, 1, 2}


def test_without_a_hessian_there_are_coordinates() -> None:
    modes = ReferenceModes(2).of_structure(None, 2)
    np.testing.assert_array_equal(modes["vectors"], np.eye(6))
    assert modes["part"].tolist() == [0, 1, 0, 1, 0, 1]


def test_what_couples_is_divided() -> None:
    """Three pairs; nothing else couples. Two parts suffice to part each pair."""
    couplings = np.zeros((6, 6))
    for i, j in ((0, 3), (1, 5), (2, 4)):
        couplings[i, j] = couplings[j, i] = 1.0
    part = _parts(couplings, 2)
    assert all(part[i] != part[j] for i, j in ((0, 3), (1, 5), (2, 4)))
    assert set(_parts(couplings, 1)) == {0}


def test_a_division_leaves_less_inside_than_chance() -> None:
    rng = np.random.default_rng(0)
    couplings = np.square(rng.standard_normal((30, 30)))
    couplings = (couplings + couplings.T) * (1 - np.eye(30))

    def inside(part: np.ndarray) -> float:
        return float(couplings[part[:, None] == part].sum())

    chance = min(inside(rng.permutation(30) % 3) for _ in range(100))
    assert inside(_parts(couplings, 3)) < chance


def test_the_loader_gives_them_with_the_labels() -> None:
    store = Store.open("rtp-mini")
    chosen = store.indices("train")[:5]
    loader = Loader(store, chosen, 5.0, 3, torch.float32, seed=0, preparation=ReferenceModes(2))
    batch = loader.batch(0)
    assert batch.labels is not None
    assert batch.labels.prepared is not None
    assert batch.labels.prepared.preparation == ReferenceModes(2)
    modes = batch.labels.prepared.tensors
    assert modes["vectors"].dtype == torch.float32
    for s, n in enumerate(batch.n_atoms.tolist()):
        u, h = modes["vectors"][s, : 3 * n, : 3 * n], batch.labels.hessian[s, : 3 * n, : 3 * n]
        image = u.T @ h @ u
        assert float((image - image.diagonal().diag()).abs().max()) < 1e-3
        assert bool((modes["part"][s, : 3 * n] >= 0).all())
        assert bool((modes["part"][s, 3 * n :] == -1).all())
    plain = Loader(store, chosen, 5.0, 3, torch.float32, seed=0).batch(0)
    assert plain.labels is not None
    assert plain.labels.prepared is None
    assert torch.equal(plain.positions, batch.positions)


def test_modes_follow_the_structures_that_are_kept() -> None:
    store = Store.open("rtp-mini")
    structures = [store[int(i)] for i in store.indices("train")[:4]]
    modes = ReferenceModes(2)
    found = [modes.of_structure(s.hessian, len(s)) for s in structures]
    whole = Batch.from_structures(structures, 5.0, prepared=Prepared(modes, found))
    kept = torch.tensor([False, True, False, True])
    alone = Batch.from_structures([structures[1], structures[3]], 5.0, prepared=Prepared(modes, found[1::2]))
    expected = tensors(alone)
    assert expected["vectors"].shape == (2, 3 * alone.max_atoms, 3 * alone.max_atoms)
    for part in (whole.select(kept), whole.to("cpu").select(kept)):
        for name, tensor in tensors(part).items():
            assert torch.equal(tensor, expected[name])


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    assert batch.labels is not None
    assert batch.labels.prepared is not None
    return batch.labels.prepared.tensors
