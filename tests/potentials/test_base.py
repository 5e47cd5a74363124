import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ase.build import molecule

from hessgnn.data.batch import Batch
from hessgnn.errors import ConfigError, DataError, UserError
from hessgnn.potentials.base import TotalEnergyPotential, create

REFERENCES = {1: -13.587222780835477, 6: -1029.4889999855063, 7: -1484.9814568572233, 8: -2041.9816003861047}


@pytest.fixture
def potential():
    torch.manual_seed(0)
    return create("schnet", width=8, n_interactions=1)


@pytest.fixture
def batch(potential):
    return Batch.from_atoms([molecule("H2O"), molecule("CH4")], potential.cutoff)


def test_scaling_multiplies_derivatives_and_shifts_energies(potential, batch):
    potential.double()
    before = potential(batch)
    hessian = potential.hessian(batch)
    potential.set_scaling(REFERENCES, 2.5)
    after = potential(batch)
    shift = torch.tensor([2 * REFERENCES[1] + REFERENCES[8], 4 * REFERENCES[1] + REFERENCES[6]], dtype=torch.float64)
    torch.testing.assert_close(after.energy, 2.5 * before.energy + shift, rtol=1e-14, atol=0)
    torch.testing.assert_close(after.forces, 2.5 * before.forces)
    torch.testing.assert_close(potential.hessian(batch)[1], 2.5 * hessian[1])


@pytest.mark.parametrize(
    "convert",
    [lambda p: p.float(), lambda p: p.half().float(), lambda p: p.to(torch.float32), lambda p: p.double().float()],
)
def test_reference_energies_stay_float64(potential, convert):
    potential.set_scaling(REFERENCES, 1.0)
    convert(potential)
    assert potential.reference_energies.dtype == torch.float64
    assert potential.reference_energies.tolist() == list(REFERENCES.values())
    assert "reference_energies" in dict(potential.named_buffers())


def test_energies_in_float32_keep_the_digits_of_the_reference(potential):
    potential.set_scaling(REFERENCES, 0.0)
    batch = Batch.from_atoms([molecule("C6H6")], potential.cutoff, torch.float32)
    expected = 6 * REFERENCES[1] + 6 * REFERENCES[6]
    assert float(potential.energy(batch)) == pytest.approx(expected, abs=1e-9)  # float32 would be off by 1e-4


def test_scaling_travels_with_the_weights(potential, batch):
    potential.set_scaling(REFERENCES, 2.5)
    other = create("schnet", width=8, n_interactions=1)
    other.load_state_dict(potential.state_dict())
    assert float(other.scale) == 2.5
    assert torch.equal(other.reference_energies, potential.reference_energies)


def test_a_missing_reference_energy_is_named(potential):
    with pytest.raises(ConfigError, match="no reference energy for C, O"):
        potential.set_scaling({1: 0.0, 7: 0.0}, 1.0)


def test_an_unknown_element_is_named(potential):
    batch = Batch.from_atoms([molecule("CH3SH")], potential.cutoff, torch.float32)
    with pytest.raises(DataError, match="knows H, C, N, O only, the batch holds S"):
        potential.energy(batch)


def test_elements_need_not_be_consecutive():
    torch.manual_seed(0)
    potential = create("schnet", elements=[8, 1], width=8).double()
    batch = Batch.from_atoms([molecule("H2O")], potential.cutoff)
    assert potential.species(batch).tolist() == [1, 0, 0]


def test_a_prediction_says_what_it_does_not_hold(potential, batch):
    out = potential.double()(batch, forces=False)
    with pytest.raises(AttributeError, match="holds no forces; call the potential with forces=True"):
        _ = out.forces
    with pytest.raises(AttributeError, match="holds no products"):
        _ = out.products


def test_the_number_of_parameters_counts_what_is_trained(potential):
    total = potential.n_parameters()
    potential.embedding.weight.requires_grad_(False)
    assert potential.n_parameters() == total - 4 * 8


class Given(TotalEnergyPotential):
    """A wrapper whose mistake a test chooses."""

    mistake: Callable[[torch.Tensor], Any]

    def structure_energies(self, batch):
        per_atom = batch.positions.new_zeros(len(batch.numbers))
        per_atom = per_atom.index_add(0, batch.edge_index[0], batch.edge_vectors().square().sum(-1))
        return self.mistake(batch.sum_per_structure(per_atom))


class Unmade(TotalEnergyPotential):
    def __init__(self, config):
        super().__init__(config)
        raise KeyError("mine")

    def structure_energies(self, batch):
        return batch.positions.new_zeros(batch.n_structures)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (
            lambda e: e[:, None],
            r"shape \(2, 1\), expected a tensor of shape \(2,\)\. Hint: return one energy for each structure",
        ),
        (lambda e: e.sum(), r"returned shape \(\), expected"),
        (lambda e: (e, 1), "returned a tuple, expected"),
        (lambda e: e.detach().numpy(), "returned a ndarray, expected"),
        (lambda e: e.detach(), "has no graph that leads to the positions"),
        (lambda e: e @ torch.eye(2), "structure_energies failed in test_base.py, line .*dtype"),
        (lambda e: (e + 1).exp().mul_(e), "an in-place operation changes"),
    ],
)
def test_a_mistake_of_a_wrapper_is_one_clear_line(batch, mistake, message):
    potential = Given(Given.Config()).double()
    potential.mistake = mistake
    with pytest.raises(UserError, match=message):
        potential.hvp(batch, torch.ones(1, *batch.positions.shape, dtype=torch.float64))


def test_a_potential_of_a_user_that_cannot_be_made_names_the_line():
    sys.modules["unmade"] = SimpleNamespace(Unmade=Unmade)
    try:
        with pytest.raises(
            UserError, match=r"Unmade: cannot be made: __init__ failed in test_base.py, line .*KeyError"
        ):
            create("unmade:Unmade")
    finally:
        del sys.modules["unmade"]
