import e3nn
import pytest
import torch
from ase.build import molecule

from hessgnn.data.batch import Batch
from hessgnn.potentials import registry
from hessgnn.potentials.nequip import NequIP
from hessgnn.testing import ITEMS, Subject, try_item

DEMANDING = [i for i in ITEMS if i.name in {"rotation", "reflection", "axes", "parameter_gradient", "vectorised"}]


@pytest.mark.parametrize("parity", [True, False])
@pytest.mark.parametrize("l_max", [0, 1, 2])
def test_every_degree_keeps_the_contract(l_max, parity):
    subject = Subject(lambda: registry.create("nequip", l_max=l_max, parity=parity, channels=3, radial_width=6))
    assert not [outcome for outcome in (try_item(item, subject) for item in DEMANDING) if not outcome.passed]


def make(**settings) -> NequIP:
    torch.manual_seed(0)
    return registry.create("nequip", channels=3, radial_width=6, **settings).double()


def test_parity_keeps_pseudo_tensors():
    def hidden(parity):
        return make(l_max=2, parity=parity, n_layers=3).layers[1].irreps_out

    assert any(ir.p != (-1) ** ir.l for _, ir in hidden(True))
    assert all(ir.p == (-1) ** ir.l for _, ir in hidden(False))


def test_l_max_0_cannot_tell_angles_and_l_max_1_can():
    # One layer: an atom sees its neighbours' distances only, unless vectors are combined in a second one.
    def energies(l_max):
        potential = make(l_max=l_max, n_layers=2, cutoff=2.0)
        corner = torch.tensor([[0.0, 0, 0], [1.2, 0, 0], [0, 1.2, 0]], dtype=torch.float64)
        line = torch.tensor([[0.0, 0, 0], [1.2, 0, 0], [-1.2, 0, 0]], dtype=torch.float64)
        batch = Batch.from_atoms([molecule("H2O")] * 2, 2.0)
        edges = torch.tensor([[0, 0, 1, 2, 3, 3, 4, 5], [1, 2, 0, 0, 4, 5, 3, 3]])
        batch = batch.replace(
            positions=torch.cat([corner, line]), edge_index=edges, edge_shift=torch.zeros(8, 3).double()
        )
        return potential.energy(batch)

    without, with_vectors = energies(0), energies(1)
    assert float((without[0] - without[1]).abs()) < 1e-12
    assert float((with_vectors[0] - with_vectors[1]).abs()) > 1e-6


def test_building_leaves_the_settings_of_e3nn_alone():
    before = dict(e3nn.get_optimization_defaults())
    make()
    assert dict(e3nn.get_optimization_defaults()) == before


def test_nothing_is_compiled():
    # TorchScript returned the first vector's result for all when vectorised.
    assert not [m for m in make(l_max=2).modules() if isinstance(m, torch.jit.ScriptModule)]
