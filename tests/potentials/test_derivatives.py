"""Derivatives that are written down are those of autograd, for every architecture and what depends on them."""

import pytest
import torch
from ase import Atoms
from ase.build import molecule

from hessgnn.data.batch import Batch
from hessgnn.potentials.base import create
from hessgnn.potentials.blocks.layers import BesselBasis, GaussianBasis, PolynomialCutoff
from hessgnn.potentials.schnet import SchNet

SETTINGS = {
    "ani": {"hidden": (8, 8)},
    "ani cosine": {"hidden": (8, 8), "cutoff_function": "cosine", "activation": "celu"},
    "ani without biases": {"hidden": (8, 7, 6), "bias": False, "elements": (1, 6, 7, 8, 9)},
    "schnet": {"width": 8},
    "schnet gelu": {"width": 8, "activation": "gelu"},
    "schnet tanh": {"width": 8, "activation": "tanh"},
    "schnet softplus": {"width": 8, "activation": "softplus"},
    "nequip": {"channels": 3, "radial_width": 6},
    "nequip deep": {"channels": 2, "radial_width": 6, "l_max": 2, "n_layers": 4},
    "nequip distances": {"channels": 3, "radial_width": 6, "l_max": 0, "n_layers": 1},
    "nequip high": {"channels": 2, "radial_width": 6, "l_max": 3, "n_layers": 3, "elements": (1, 6, 7, 8, 9)},
    "nequip without parity": {"channels": 3, "radial_width": 6, "parity": False, "l_max": 2},
}


def left_to_autograd(potential):
    """The same potential, which is not told how many derivatives will be taken."""
    known = potential.total_energy
    potential.total_energy = lambda batch: known(batch.replace(derivatives=None))
    potential.closed_form = False
    for module in potential.modules():
        if hasattr(module, "activation") and type(module.activation).__name__ == "TightCELU":
            module.activation = exact_celu  # torch's derivatives of CELU are single precision, 1e-8 off
    return potential


class ExactCELU(torch.nn.Module):
    def forward(self, x):
        return torch.where(x > 0, x, 0.1 * torch.expm1(x.clamp(max=0) / 0.1))


exact_celu = ExactCELU()


def structures():
    crystal = Atoms(
        "CO", [[0.1, 0.2, 0.3], [1.1, 0.6, 0.4]], cell=[[2.6, 0, 0], [0.4, 2.9, 0], [0, 0.3, 3.1]], pbc=True
    )
    return [molecule("CH3OH"), Atoms("O"), crystal, molecule("H2O"), molecule("CO2")]


@pytest.mark.parametrize("number", [0, 1, 3])
@pytest.mark.parametrize("setting", SETTINGS)
def test_predictions_and_gradients_are_those_of_autograd(setting, number):
    values, gradients = [], []
    for change in (lambda potential: potential, left_to_autograd):
        torch.manual_seed(0)
        potential = change(create(setting.split()[0], **SETTINGS[setting]).double())
        batch = Batch.from_atoms(structures(), potential.cutoff)
        v = torch.randn(number, *batch.positions.shape, dtype=torch.float64) if number else None
        out = potential(batch, vectors=v, create_graph=True)
        values.append([out.energy, out.forces, *([out.products] if number else [])])
        loss = sum(
            (value * torch.linspace(1, 2, len(value.flatten())).view_as(value)).square().sum() for value in values[-1]
        )
        loss.backward()
        gradients.append([p.grad for p in potential.parameters() if p.grad is not None])
    for ours, theirs in zip(values[0] + gradients[0], values[1] + gradients[1], strict=True):
        scale = float(theirs.detach().abs().max())
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10 * scale)


@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize("setting", ["ani", "schnet"])
def test_formulas_hold_without_any_neighbour(setting, number):
    torch.manual_seed(0)
    potential = create(setting, **SETTINGS[setting]).double()
    batch = Batch.from_atoms([Atoms("O"), Atoms("H")], potential.cutoff)
    v = torch.ones(number, 2, 3, dtype=torch.float64) if number else None
    out = potential(batch, vectors=v, create_graph=True)
    torch.testing.assert_close(out.energy, potential.total_energy(batch))
    assert not out.forces.any()
    assert number == 0 or not out.products.any()
    (out.energy.sum() + out.forces.square().sum()).backward()
    gradients = {name: p.grad for name, p in potential.named_parameters()}
    potential.zero_grad()
    potential.total_energy(batch).sum().backward()
    for name, p in potential.named_parameters():
        ours, theirs = (torch.zeros_like(p) if g is None else g for g in (gradients[name], p.grad))
        torch.testing.assert_close(ours, theirs, msg=name)


def test_another_energy_is_left_to_autograd():
    class Doubled(SchNet):
        def atomic_energies(self, batch):
            return 2 * super().atomic_energies(batch)

    torch.manual_seed(0)
    doubled = Doubled(Doubled.Config(width=8)).double()
    single = SchNet(doubled.config).double()
    single.load_state_dict(doubled.state_dict())
    batch = Batch.from_atoms(structures(), 5.0)
    torch.testing.assert_close(doubled.forces(batch), 2 * single.forces(batch))


@pytest.mark.parametrize("function", [PolynomialCutoff(3.0), BesselBasis(3.0, 4), GaussianBasis(3.0, 4)])
def test_radial_functions_know_their_derivatives(function):
    r = torch.linspace(0.4, 3.5, 17, dtype=torch.float64)
    function = function.double()
    got = function.derivatives(r, 2)
    first, second = (torch.func.jacfwd(f) for f in (function, torch.func.jacfwd(function)))
    torch.testing.assert_close(got[0], function(r))
    torch.testing.assert_close(got[1], torch.stack([first(x.view(1)).squeeze() for x in r]).view_as(got[1]))
    torch.testing.assert_close(got[2], torch.stack([second(x.view(1)).squeeze() for x in r]).view_as(got[2]))
