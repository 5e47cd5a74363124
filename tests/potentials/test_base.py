import pytest
import torch
from ase.build import molecule

from hessgnn.data.batch import Batch
from hessgnn.errors import ConfigError, DataError
from hessgnn.potentials.base import create

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
