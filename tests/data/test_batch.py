import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch_geometric.nn import MessagePassing

from hessgnn.data.batch import Batch
from hessgnn.data.structure import Structure
from hessgnn.errors import DataError


def symmetric(matrix):
    return matrix + matrix.T


def labelled(name, seed, energy=True, forces=True, hessian=True):
    atoms = molecule(name)
    rng, n = np.random.default_rng(seed), len(atoms)
    return Structure(
        numbers=atoms.numbers,
        positions=atoms.positions,
        name=name,
        energy=-3.5 * seed if energy else None,
        forces=rng.normal(size=(n, 3)) if forces else None,
        hessian=symmetric(rng.normal(size=(3 * n, 3 * n))) if hessian else None,
    )


@pytest.fixture
def structures():
    return [labelled("H2O", 1), labelled("CH4", 2, forces=False), labelled("O", 3, energy=False, hessian=False)]


@pytest.fixture
def batch(structures):
    return Batch.from_structures(structures, 5.0, index=[7, 3, 5])


def test_structures_are_joined_without_edges_between_them(batch):
    assert batch.n_structures == 3
    assert batch.n_atoms.tolist() == [3, 5, 1]
    assert batch.batch.tolist() == [0] * 3 + [1] * 5 + [2]
    assert batch.first_atom.tolist() == [0, 3, 8]
    assert batch.slot.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 0]
    i, j = batch.edge_index
    assert len(i) == 3 * 2 + 5 * 4
    assert torch.equal(batch.batch[i], batch.batch[j])
    assert batch.index.tolist() == [7, 3, 5]


def test_edge_vectors_point_from_centre_to_neighbour():
    batch = Batch.from_atoms([Atoms("CO", [[0, 0, 0], [0, 0, 1.5]])], 2.0)
    assert batch.edge_index.tolist() == [[0, 1], [1, 0]]
    assert batch.edge_vectors().tolist() == [[0, 0, 1.5], [0, 0, -1.5]]


def test_edge_vectors_contain_the_shift():
    copper = bulk("Cu")
    batch = Batch.from_atoms([copper], 2.6)
    assert batch.edge_index.shape == (2, 12)
    torch.testing.assert_close(batch.edge_vectors().norm(dim=1), torch.full((12,), 3.61 / 2**0.5, dtype=torch.float64))


def test_labels_are_padded_and_masked(batch, structures):
    labels = batch.labels
    assert labels.energy.tolist() == [-3.5, -7.0, 0.0]
    assert labels.energy.dtype == torch.float64
    assert labels.has_energy.tolist() == [True, True, False]
    assert labels.has_forces.tolist() == [True, False, True]
    assert labels.has_hessian.tolist() == [True, True, False]
    assert labels.hessian.shape == (3, 15, 15)
    np.testing.assert_array_equal(labels.hessian[0, :9, :9], structures[0].hessian)
    assert not labels.hessian[0, 9:].any()
    assert not labels.hessian[0, :, 9:].any()
    assert not labels.hessian[2].any()
    np.testing.assert_array_equal(labels.forces[:3], structures[0].forces)
    assert not labels.forces[3:8].any()


def test_a_batch_without_hessians_stores_none():
    assert Batch.from_structures([labelled("H2O", 1, hessian=False)], 5.0).labels.hessian.shape == (1, 0, 0)


@pytest.mark.parametrize("leading", [(), (4,), (2, 3)])
def test_pad_and_unpad_are_inverse(batch, leading):
    field = torch.randn(*leading, 9, 3)
    padded = batch.pad(field)
    assert padded.shape == (*leading, 3, 15)
    assert torch.equal(padded[..., 0, :9], field[..., :3, :].flatten(-2))
    assert torch.equal(padded[..., 1, :], field[..., 3:8, :].flatten(-2))
    assert not padded[..., 0, 9:].any()
    assert not padded[..., 2, 3:].any()
    assert torch.equal(batch.unpad(padded), field)


def test_pad_is_differentiable(batch):
    field = torch.randn(2, 9, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 15, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((batch.pad(field) * weight).sum(), field)
    assert torch.equal(gradient, batch.unpad(weight))


def test_sums_per_structure(batch):
    values = torch.arange(9.0)
    assert batch.sum_per_structure(values).tolist() == [3.0, 25.0, 8.0]
    assert batch.sum_per_structure(values.unsqueeze(1).expand(-1, 2)).shape == (3, 2)


@pytest.mark.parametrize("keep", [[0], [1], [2], [0, 2], [0, 1, 2]])
def test_select_is_what_joining_them_would_have_been(batch, structures, keep):
    mask = torch.zeros(3, dtype=torch.bool)
    mask[keep] = True
    got = batch.select(mask)
    expected = Batch.from_structures([structures[k] for k in keep], 5.0, index=[[7, 3, 5][k] for k in keep])
    for name in ("numbers", "positions", "batch", "n_atoms", "edge_index", "edge_shift", "index"):
        assert torch.equal(getattr(got, name), getattr(expected, name)), name
    for name in ("energy", "forces", "has_energy", "has_forces", "has_hessian"):
        assert torch.equal(getattr(got.labels, name), getattr(expected.labels, name)), name
    size = expected.labels.hessian.shape[-1]
    assert torch.equal(got.labels.hessian[:, :size, :size], expected.labels.hessian)
    assert not got.labels.hessian[:, size:].any()


def test_dtype_reaches_everything_but_energies(structures):
    batch = Batch.from_structures(structures, 5.0, torch.float32)
    assert batch.positions.dtype == batch.edge_shift.dtype == torch.float32
    assert batch.labels.forces.dtype == batch.labels.hessian.dtype == torch.float32
    assert batch.labels.energy.dtype == torch.float64


def test_to_moves_everything(batch):
    moved = batch.to("meta")
    for record in (moved, moved.labels):
        tensors = [value for value in vars(record).values() if isinstance(value, torch.Tensor)]
        assert len(tensors) >= 5
        assert {t.device.type for t in tensors} == {"meta"}
    assert moved.labels.hessian.device.type == "meta"


def test_known_edges_are_used(structures):
    none = [(np.zeros((2, 0), dtype=np.int64), np.zeros((0, 3)))] * 3
    assert Batch.from_structures(structures, 5.0, edges=none).edge_index.shape == (2, 0)


def test_torch_geometric_passes_messages_from_neighbour_to_centre():
    batch = Batch.from_atoms([molecule("CH3OH"), molecule("H2O")], 1.3)
    geometric = batch.to_geometric()
    assert geometric.ptr.tolist() == [0, 6, 9]

    class Sum(MessagePassing):
        def forward(self, x, edge_index):
            return self.propagate(edge_index, x=x)

    got = Sum(aggr="sum")(geometric.z.double().unsqueeze(1), geometric.edge_index).squeeze(1)
    i, j = batch.edge_index
    expected = torch.zeros(9, dtype=torch.float64).index_add(0, i, batch.numbers[j].double())
    assert torch.equal(got, expected)
    vectors = geometric.pos[geometric.edge_index[0]] + geometric.edge_shift - geometric.pos[geometric.edge_index[1]]
    assert torch.equal(vectors, batch.edge_vectors())


def test_coincident_atoms_are_told_with_the_place_of_their_structure():
    with pytest.raises(DataError, match=r"^structure 1 \(HO\): atoms 0 and 1 lie at the same place"):
        Batch.from_atoms([molecule("H2O"), Atoms("OH", np.zeros((2, 3)))], 5.0)


def wire_and_water():
    """A chain whose atom sees its own images, and a molecule."""
    wire = Atoms("C", cell=[1.4, 30, 30], pbc=[True, False, False])
    return Batch.from_atoms([wire, molecule("H2O"), Atoms("O")], 5.0)


def is_one_of_each_two(pairs, batch):
    (i, j), shift = batch.edge_index, batch.edge_shift
    edges = list(zip(i.tolist(), j.tolist(), map(tuple, shift.tolist()), strict=True))
    opposite = [(b, a, tuple(-x + 0.0 for x in s)) for a, b, s in edges]
    once = {edges[k] for k in pairs.tolist()}
    return len(once) == len(pairs) == len(edges) // 2 and once | {opposite[k] for k in pairs.tolist()} == set(edges)


def test_pairs_are_one_of_each_two_opposite_edges():
    batch = wire_and_water()
    assert batch.edge_index.shape[1] > 6
    structures = torch.tensor([True, False, True])
    for one in (batch, batch.repeat(2), batch.select(structures), batch.select(~structures), batch.to("cpu")):
        assert one.pairs is not None
        assert torch.equal(one.pairs, one.replace(pairs=None).pair_edges())
        assert is_one_of_each_two(one.pairs, one)


def test_other_edges_take_pairs_and_triplets_away():
    batch = wire_and_water()
    assert batch.replace(positions=batch.positions + 1).pairs is batch.pairs
    fewer = batch.replace(edge_index=batch.edge_index[:, :2], edge_shift=batch.edge_shift[:2])
    assert fewer.pairs is None
    assert fewer.triplets is None
