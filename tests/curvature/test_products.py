import pytest
import torch
from ase import Atoms
from ase.build import molecule

from hessgnn.curvature import products as autotune
from hessgnn.curvature.products import predict
from hessgnn.data.batch import Batch
from hessgnn.errors import UserError
from hessgnn.potentials.base import Potential, create

BACKENDS = ("loop", "vmap", "replicate", "auto")


class Springs(Potential):
    """A harmonic spring between the first two atoms of each structure: its Hessian is known."""

    def atomic_energies(self, batch):
        i, _ = batch.edge_index
        energy = 0.25 * (batch.edge_vectors().norm(dim=1) - 1.0).square()
        return energy.new_zeros(len(batch.numbers)).index_add(0, i, energy)


@pytest.fixture(scope="module")
def schnet():
    torch.manual_seed(0)
    potential = create("schnet", width=8, n_interactions=2).double()
    potential.closed_form = False  # its formulas know no backend
    return potential


@pytest.fixture(scope="module")
def batch():
    return Batch.from_atoms([molecule("H2O"), molecule("CH3OH"), Atoms("O")], 5.0)


def vectors(batch, number, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(number, *batch.positions.shape, generator=generator, dtype=batch.positions.dtype)


def test_signs_and_units_on_a_spring():
    """E = k/2 (r-1)² with k = 1: H_zz = k, H_xx = k (r-1)/r; forces pull together."""
    batch = Batch.from_atoms([Atoms("O2", [[0, 0, 0], [0, 0, 1.25]])], 5.0)
    v = torch.zeros(2, 2, 3, dtype=torch.float64)
    v[0, 0, 2] = v[1, 0, 0] = 1
    out = Springs(Springs.Config())(batch, vectors=v)
    assert float(out.energy) == pytest.approx(0.5 * 0.25**2)
    assert out.forces.tolist() == [[0, 0, pytest.approx(0.25)], [0, 0, pytest.approx(-0.25)]]
    expected = torch.zeros_like(v)
    expected[0, :, 2] = torch.tensor([1.0, -1.0])
    expected[1, :, 0] = torch.tensor([0.2, -0.2])
    torch.testing.assert_close(out.products, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_holds_a_graph_at_inference(schnet, batch, backend):
    out = predict(schnet, batch, vectors=vectors(batch, 3), backend=backend)
    for value in (out.energy, out.forces, out.products, schnet.energy(batch), schnet.forces(batch)):
        assert not value.requires_grad
        assert value.grad_fn is None
    assert all(p.grad is None for p in schnet.parameters())


def test_a_training_call_works_and_inference_is_free_inside_no_grad(schnet, batch):
    with torch.no_grad():
        inside = schnet(batch, vectors=vectors(batch, 2))
    torch.testing.assert_close(inside.products, schnet.hvp(batch, vectors(batch, 2)), rtol=0, atol=0)


def test_everything_is_differentiable_in_the_weights_for_training(schnet, batch):
    out = schnet(batch, vectors=vectors(batch, 2), create_graph=True)
    for value in (out.energy, out.forces, out.products):
        gradient = torch.autograd.grad(value.square().sum(), schnet.embedding.weight, retain_graph=True)
        assert float(gradient[0].abs().max()) > 0


def test_the_positions_of_the_batch_stay_out_of_the_graph(schnet, batch):
    schnet(batch, vectors=vectors(batch, 1), create_graph=True).products.sum().backward()
    assert batch.positions.grad is None
    assert not batch.positions.requires_grad
    schnet.zero_grad(set_to_none=True)


@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("name", ["ani", "schnet", "nequip"])
def test_backends_agree(name, number, batch):
    torch.manual_seed(0)
    small = {"ani": {"hidden": (8, 8)}, "schnet": {"width": 8}, "nequip": {"channels": 3, "radial_width": 6}}
    potential = create(name, **small[name]).double()
    batch = Batch.from_atoms([molecule("H2O"), molecule("CH3OH"), Atoms("O")], potential.cutoff)
    v = vectors(batch, number)
    loop, *others = (predict(potential, batch, vectors=v, backend=backend) for backend in BACKENDS)
    for other in others:
        torch.testing.assert_close(other.products, loop.products, rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(other.forces, loop.forces, rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(other.energy, loop.energy, rtol=1e-12, atol=0)
    loop = loop.products
    assert float(loop[:, :-1].abs().min()) > 0
    assert not loop[:, -1].any()


def test_products_are_linear_in_the_vectors(schnet, batch):
    v = vectors(batch, 2)
    one = schnet.hvp(batch, v)
    combined = schnet.hvp(batch, (2 * v[0] - 3 * v[1]).unsqueeze(0))
    torch.testing.assert_close(combined[0], 2 * one[0] - 3 * one[1], rtol=1e-10, atol=1e-12)


def test_no_vectors_give_no_products(schnet, batch):
    assert schnet(batch).products_or_none is None


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("create_graph", [False, True])
def test_a_batch_of_lone_atoms(schnet, backend, create_graph):
    batch = Batch.from_atoms([Atoms("O"), Atoms("H")], 5.0)
    out = predict(schnet, batch, vectors=vectors(batch, 3), create_graph=create_graph, backend=backend)
    assert out.products.shape == (3, 2, 3)
    assert not out.products.any()
    assert not out.forces.any()
    assert bool(out.energy.all())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda v: v[0], r"shape \(10, 3\). Hint: give \(K, 10, 3\)"),
        (lambda v: v.flatten(1), r"give \(K, 10, 3\)"),
        (lambda v: v[:, :-1], r"shape \(2, 9, 3\)"),
        (lambda v: v.float(), "dtype torch.float32, positions torch.float64"),
        (lambda v: v.to("meta"), "device meta, positions cpu"),
    ],
)
def test_wrong_vectors_are_told(schnet, batch, wrong, message):
    with pytest.raises(UserError, match=message):
        schnet.hvp(batch, wrong(vectors(batch, 2)))


def test_no_vectors_at_all_is_an_empty_answer(schnet, batch):
    empty = vectors(batch, 0)
    assert schnet.hvp(batch, empty).shape == empty.shape


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_in_the_weights_do_not_depend_on_the_backend(schnet, batch, backend):
    def gradient(backend):
        out = predict(schnet, batch, vectors=vectors(batch, 3), create_graph=True, backend=backend)
        loss = out.energy.sum() + out.forces.square().sum() + out.products.square().sum()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(schnet.parameters()))])

    torch.testing.assert_close(gradient(backend), gradient("loop"), rtol=1e-10, atol=1e-12)


class Unvectorised(torch.autograd.Function):
    """A square whose backward looks into its values, which no vectorised pass can."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, gradient):
        assert gradient.sum().item() == gradient.sum().item()
        return 2 * ctx.saved_tensors[0] * gradient


class Stubborn(Springs):
    def atomic_energies(self, batch):
        return Unvectorised.apply(Unvectorised.apply(super().atomic_energies(batch)))


def test_the_choice_is_measured_once_and_logged(caplog):
    autotune._chosen.clear()
    potential = create("schnet", width=8).double()
    potential.closed_form = False
    batch = Batch.from_atoms([molecule("H2O")], 5.0)
    with caplog.at_level("INFO"):
        for _ in range(2):
            potential(batch, vectors=vectors(batch, 2), backend="auto")
    assert len(caplog.messages) == 1
    for word in ("SchNet: 2 products", "float64, cpu", "loop", "vmap", "replicate", "ms"):
        assert word in caplog.text
    potential(batch, vectors=vectors(batch, 3), backend="auto")
    assert len(autotune._chosen) == 2


def test_a_potential_that_cannot_be_vectorised_is_told_of_and_not_silently_looped(caplog):
    potential = Stubborn(Springs.Config())
    batch = Batch.from_atoms([molecule("H2O")], 5.0)
    with pytest.raises(UserError, match=r"cannot be vectorised.*Hint: ask for backend='loop'"):
        potential(batch, vectors=vectors(batch, 2), backend="vmap")
    assert potential(batch, vectors=vectors(batch, 2)).products.shape == (2, 3, 3)
    assert autotune.fastest(potential, batch, vectors(batch, 2), create_graph=False) != "vmap"
    assert "Stubborn cannot use backend 'vmap'" in caplog.text


@pytest.mark.parametrize("name", ["ani", "schnet", "nequip"])
def test_products_are_those_of_finite_differences_of_the_forces(name):
    torch.manual_seed(0)
    potential = create(name).double()
    atoms = molecule("CH3OH")
    atoms.rattle(0.05, seed=1)
    batch = Batch.from_atoms([atoms], potential.cutoff)
    v, step = vectors(batch, 2), 1e-3
    moved = [
        [potential.forces(batch.replace(positions=batch.positions + k * step * one)) for k in (-2, -1, 1, 2)]
        for one in v
    ]
    expected = torch.stack([-(8 * (c - b) - (d - a)) / (12 * step) for a, b, c, d in moved])
    got = potential.hvp(batch, v)
    assert float((got - expected).norm() / expected.norm()) < 1e-6
