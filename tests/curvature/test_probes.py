"""Every registered kind of probes estimates ‖A‖²_F without bias: exactly where all of its values can be listed."""

import itertools

import pytest
import torch
from ase import Atoms
from ase.build import molecule
from probe_checks import check_kind, labelled

from hessgnn.curvature.probes import PROBES, Probes, all_rows, draw
from hessgnn.curvature.probes.modes import ReferenceModes
from hessgnn.data.batch import Batch
from hessgnn.data.labels import Prepared
from hessgnn.errors import UserError


@pytest.fixture
def batch():
    return Batch.from_atoms([Atoms("N2", [[0, 0, 0], [0, 0, 1.1]]), molecule("H2O"), Atoms("O")], 5.0)


def matrices(batch):
    """An asymmetric residual for each structure."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3 * n, 3 * n, generator=generator, dtype=torch.float64) for n in batch.n_atoms.tolist()]


def estimates(batch: Batch, probes: Probes):
    """Σ_k w_k ‖A v_k‖² of each structure."""
    split = probes.vectors.split(batch.n_atoms.tolist(), dim=1)
    squares = [(v.flatten(1) @ a.T).square().sum(1) for a, v in zip(matrices(batch), split, strict=True)]
    return (probes.weights * torch.stack(squares, 1)).sum(0)


def norms(batch):
    return torch.stack([a.square().sum() for a in matrices(batch)])


@pytest.mark.parametrize("kind", PROBES)
def test_every_kind_keeps_the_contract(kind):
    check_kind(kind)


def test_all_rows_are_exact(batch):
    probes = all_rows(batch)
    assert probes.number == 9
    torch.testing.assert_close(estimates(batch, probes), norms(batch), rtol=1e-12, atol=0)
    full = draw("full", 1, batch)
    assert torch.equal(full.vectors, probes.vectors)
    assert torch.equal(full.weights, probes.weights)


def test_all_rows_are_in_order(batch):
    padded = batch.pad(all_rows(batch).vectors)  # (9, 3, 9)
    assert torch.equal(padded[:, 1], torch.eye(9, dtype=torch.float64))
    assert torch.equal(padded[:6, 0, :6], torch.eye(6, dtype=torch.float64))
    assert not padded[6:, 0].any()


def chosen_rows(batch, probes, structure):
    """Row indices of the probes of one structure that count."""
    counted = probes.weights[:, structure] > 0
    return [row.nonzero().item() for row in batch.pad(probes.vectors)[counted, structure]]


@pytest.mark.parametrize("number", [1, 2, 4])
def test_the_mean_over_all_choices_of_rows_is_exact(number):
    """Every set of rows turns up; its estimate depends on the set only, so the mean over sets is the expectation."""
    batch = Batch.from_atoms([Atoms("N2", [[0, 0, 0], [0, 0, 1.1]])], 5.0)
    generator = torch.Generator().manual_seed(0)
    wanted = set(itertools.combinations(range(6), number))
    found: dict[tuple[int, ...], torch.Tensor] = {}
    for _ in range(400):
        probes = draw("rows", number, batch, generator)
        found[tuple(sorted(chosen_rows(batch, probes, 0)))] = estimates(batch, probes)
    assert set(found) == wanted
    torch.testing.assert_close(torch.stack(list(found.values())).mean(0), norms(batch), rtol=1e-12, atol=0)


def test_rows_are_drawn_evenly():
    batch = Batch.from_atoms([Atoms("N2", [[0, 0, 0], [0, 0, 1.1]]), molecule("H2O")], 5.0)
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(2, 9)
    for _ in range(1000):
        padded = batch.pad(draw("rows", 2, batch, generator).vectors)
        counts += padded.sum(0)
    assert not counts[0, 6:].any()
    # Five standard deviations of a binomial distribution.
    assert float((counts[0, :6] - 1000 / 3).abs().max()) < 5 * (1000 / 3 * 2 / 3) ** 0.5
    assert float((counts[1] - 2000 / 9).abs().max()) < 5 * (2000 / 9 * 7 / 9) ** 0.5


def test_the_mean_over_all_atoms_is_exact(batch):
    generator = torch.Generator().manual_seed(0)
    water = Batch.from_atoms([molecule("H2O")], 5.0)
    found = {}
    for _ in range(100):
        probes = draw("atoms", 1, water, generator)
        rows = chosen_rows(water, probes, 0)
        assert [row - rows[0] for row in rows] == [0, 1, 2]
        found[rows[0]] = estimates(water, probes)
    assert set(found) == {0, 3, 6}
    torch.testing.assert_close(torch.stack(list(found.values())).mean(0), norms(water), rtol=1e-12, atol=0)


def test_the_mean_over_all_signs_is_exact(monkeypatch):
    batch = Batch.from_atoms([Atoms("N2", [[0, 0, 0], [0, 0, 1.1]])], 5.0)
    every = torch.tensor(list(itertools.product([0, 1], repeat=6))).view(64, 2, 3)
    monkeypatch.setattr(torch, "randint", lambda *args, **kwargs: every)
    probes = draw("rademacher", 64, batch)
    torch.testing.assert_close(estimates(batch, probes), norms(batch), rtol=1e-12, atol=0)


def test_signs_are_signs(batch):
    probes = draw("rademacher", 500, batch, torch.Generator().manual_seed(0))
    assert set(probes.vectors.unique().tolist()) == {-1.0, 1.0}
    assert float(probes.vectors.mean(0).abs().max()) < 5 / 500**0.5


def test_gaussian_probes_have_unit_covariance(batch):
    v = draw("gaussian", 20000, batch, torch.Generator().manual_seed(0)).vectors.flatten(1)
    covariance = v.T @ v / len(v)
    assert float((covariance - torch.eye(len(covariance), dtype=v.dtype)).abs().max()) < 6 * (2 / len(v)) ** 0.5


def test_rows_beyond_3n_are_masked(batch):
    """N2 has 6 rows, water 9, the lone atom 3: all are seen once, none twice, the rest counts nothing."""
    probes = draw("rows", 50, batch, torch.Generator().manual_seed(0))
    assert probes.number == 9
    assert (probes.weights > 0).sum(0).tolist() == [6, 9, 3]
    for structure, size in enumerate([6, 9, 3]):
        assert sorted(chosen_rows(batch, probes, structure)) == list(range(size))
    masked = batch.pad(probes.vectors)[probes.weights == 0]
    assert len(masked) == 9
    assert not masked.any()
    torch.testing.assert_close(estimates(batch, probes), norms(batch), rtol=1e-12, atol=0)


def test_rows_are_drawn_without_replacement(batch):
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        rows = chosen_rows(batch, draw("rows", 6, batch, generator), 1)
        assert len(set(rows)) == 6


N2 = Atoms("N2", [[0, 0, 0], [0, 0, 1.1]])


@pytest.mark.parametrize("bare", [(), (0,)])
@pytest.mark.parametrize("number", [1, 2, 4, 7])
def test_the_mean_over_all_signs_along_the_modes_is_exact(number, bare, monkeypatch):
    """All 64 choices of signs, as one draw of 64 equal structures."""
    structures = labelled(N2, bare=bare) * 64
    batch = Batch.from_structures(structures, 5.0)
    every = torch.tensor(list(itertools.product([0, 1], repeat=6)))
    monkeypatch.setattr(torch, "randint", lambda *args, **kwargs: every)
    probes = draw("modes", number, batch)
    assert probes.number == number
    a = matrices(batch)[0]
    squares = (batch.pad(probes.vectors) @ a.T).square().sum(-1)  # (K, 64)
    estimate = (probes.weights * squares).sum(0)
    torch.testing.assert_close(estimate.mean(), a.square().sum(), rtol=1e-12, atol=0)
    assert float(estimate.std()) > 0 or number > 6


def test_a_residual_that_shares_the_modes_has_no_noise():
    structures = labelled(N2, molecule("H2O"))
    batch = Batch.from_structures(structures, 5.0)
    for number in (1, 3):
        probes = draw("modes", number, batch, torch.Generator().manual_seed(0))
        products = torch.einsum("sij,ksj->ksi", batch.labels.hessian, batch.pad(probes.vectors))
        estimate = (probes.weights.unsqueeze(-1) * products.square()).sum((0, 2))
        torch.testing.assert_close(estimate, batch.labels.hessian.square().sum((1, 2)), rtol=1e-12, atol=0)


def test_modes_that_the_labels_hold_are_used_if_they_are_so_divided():
    structures = labelled(N2, molecule("H2O"), Atoms("O"), bare=(2,))
    prepared = Prepared(ReferenceModes(2), [ReferenceModes(2).of_structure(s.hessian, len(s)) for s in structures])
    held, bare = Batch.from_structures(structures, 5.0, prepared=prepared), Batch.from_structures(structures, 5.0)
    for number in (2, 3):
        first, second = (draw("modes", number, one, torch.Generator().manual_seed(0)) for one in (held, bare))
        assert torch.equal(first.vectors, second.vectors)
        assert torch.equal(first.weights, second.weights)
        assert first.number == number


def test_each_product_takes_its_own_part_of_the_modes():
    structures = labelled(molecule("H2O"))
    modes = ReferenceModes(2).of_structure(structures[0].hessian, 3)
    batch = Batch.from_structures(structures, 5.0)
    probes = draw("modes", 2, batch, torch.Generator().manual_seed(0))
    along = batch.pad(probes.vectors)[:, 0] @ torch.from_numpy(modes["vectors"])
    expected = torch.from_numpy(modes["part"]) == torch.arange(2).view(-1, 1)
    torch.testing.assert_close(along.abs(), expected.double())


def test_modes_need_labels():
    with pytest.raises(UserError, match="no labels"):
        draw("modes", 1, Batch.from_atoms([N2], 5.0))
