"""Runs where schnetpack is installed: benchmarks/adapter_environments.py makes such an environment."""

from functools import partial
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

import pytest
import torch
from against_package import broken_items, energies_and_forces_agree, hessian_error, products_can_be_trained_on

from hessgnn.errors import ConfigError
from hessgnn.potentials.base import create

if find_spec("schnetpack") is None:
    pytest.skip("an environment of its own: see benchmarks/adapter_environments.py", allow_module_level=True)
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*it is read because of trust"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the package itself
]
SMALL: dict[str, Any] = {
    "elements": [1, 6, 7, 8],
    "cutoff": 4.0,
    "settings": {"n_atom_basis": 8, "n_interactions": 2},
}


def make(representation="PaiNN", **changes):
    return create("schnetpack", representation=representation, **(SMALL | changes))


@pytest.fixture
def saved(tmp_path):
    """A whole model as SchNetPack's trainer saves it: forces, offsets, another unit and the package's own defaults."""
    make()  # imports it with what newer versions of torch need
    import schnetpack as spk
    from schnetpack import properties
    from schnetpack.atomistic import Atomwise, Forces, PairwiseDistances

    def save(representation="PaiNN", **settings):
        core = getattr(spk.representation, representation)(
            n_atom_basis=8,
            n_interactions=2,
            radial_basis=spk.nn.GaussianRBF(n_rbf=12, cutoff=4.0),
            cutoff_fn=spk.nn.CosineCutoff(4.0),
            **settings,
        )
        offsets = spk.transform.AddOffsets("energy", add_mean=True, add_atomrefs=True)
        offsets.mean[:] = -3.0
        offsets.atomref[[1, 6, 7, 8]] = torch.tensor([-300.0, -23000.0, -34000.0, -47000.0])
        model = spk.model.NeuralNetworkPotential(
            core,
            [PairwiseDistances()],
            [Atomwise(n_in=8, output_key=properties.energy), Forces()],
            postprocessors=[spk.transform.CastTo64(), offsets],
        )
        torch.save(model.double(), tmp_path / "best_model")
        return tmp_path / "best_model"

    return save


def calculator(path, unit="kcal/mol"):
    from schnetpack.interfaces import SpkCalculator
    from schnetpack.transform import ASENeighborList

    with patch.object(torch, "load", partial(torch.load, weights_only=False)):  # torch's default when it was written
        found = SpkCalculator(str(path), ASENeighborList(cutoff=4.0), energy_unit=unit, dtype=torch.float64)
    found.model.double()
    return found


@pytest.mark.parametrize("representation", ["SchNet", "PaiNN"])
def test_a_saved_model_has_the_energies_forces_and_hessian_of_schnetpack(representation, saved):
    path = saved(representation)
    potential = create(
        "schnetpack", weights=str(path), trust=True, elements=[1, 6, 7, 8], energy_unit="kcal/mol"
    ).double()
    own = calculator(path)
    energies_and_forces_agree(potential, own)
    assert hessian_error(potential, own, step=1e-5) < 1e-5  # a PaiNN of their own default epsilon changes within 1e-4 Å
    products_can_be_trained_on(potential)
    assert "cosine" in potential.not_c2


@pytest.mark.parametrize("representation", ["SchNet", "PaiNN"])
def test_a_new_model_has_the_energies_and_hessian_of_schnetpack(representation, tmp_path):
    potential = make(representation).double()
    assert potential.not_c2 is None
    from schnetpack.atomistic import Forces
    from schnetpack.model import NeuralNetworkPotential

    own = potential.model
    whole = NeuralNetworkPotential(own.representation, [*own.input_modules], [*own.output_modules, Forces()])
    torch.save(whole, tmp_path / "whole")
    energies_and_forces_agree(potential, calculator(tmp_path / "whole", unit="eV"))
    assert hessian_error(potential, calculator(tmp_path / "whole", unit="eV")) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("representation", ["SchNet", "PaiNN"])
def test_a_new_model_keeps_every_item_of_the_contract(representation):
    assert broken_items(lambda: make(representation)) == {}


@pytest.mark.slow
def test_a_saved_painn_breaks_what_it_declares(saved):
    path = str(saved())
    settings = {"weights": path, "trust": True, "elements": [1, 6, 7, 8]}
    found = broken_items(lambda: create("schnetpack", **settings))
    declared = {"cutoff", "activations", "parameter_gradient", *create("schnetpack", **settings).excused}
    assert "axes" in declared
    assert {"cutoff"} <= found.keys() <= declared


def test_a_state_dict_fits_the_settings_or_is_refused(tmp_path):
    first = make("SchNet").double()
    torch.save(first.model.state_dict(), tmp_path / "state.pt")
    second = make("SchNet", weights=str(tmp_path / "state.pt")).double()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    with pytest.raises(ConfigError, match="cannot read these weights") as caught:
        make("PaiNN", weights=str(tmp_path / "state.pt"))
    assert "\n" not in str(caught.value)


def test_what_a_saved_model_needs_is_said(saved):
    path = str(saved())
    with pytest.raises(ConfigError, match=r"potential\.trust"):
        create("schnetpack", weights=path, elements=[1, 6])
    with pytest.raises(ConfigError, match="does not say which elements"):
        create("schnetpack", weights=path, trust=True)
    with pytest.raises(ConfigError, match="no unit 'parsec'"):
        create("schnetpack", weights=path, trust=True, elements=[1], energy_unit="parsec")
    with pytest.raises(ConfigError, match="no energy 'energy_U0'"):
        create("schnetpack", weights=path, trust=True, elements=[1], energy_key="energy_U0")
    with pytest.raises(ConfigError, match="cutoff"):
        create("schnetpack", weights=path, trust=True, elements=[1], cutoff=5.0)
    with pytest.raises(ConfigError, match="cannot be built with these settings"):
        make(settings={"n_features": 3})
