from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from against_package import broken_items, energies_and_forces_agree, hessian_error, products_can_be_trained_on
from ase.units import Hartree

from hessgnn.errors import ConfigError
from hessgnn.potentials.base import create

models = pytest.importorskip("torchani.models")
C2 = ("parameter_gradient", "cutoff", "activations")


@cache
def package_model(architecture):
    """TorchANI's own model with random weights, all eight networks."""
    load = torch.nn.Module.load_state_dict
    with (
        patch.object(models, "_fetch_state_dict", lambda *_, **__: {}),
        patch.object(torch.nn.Module, "load_state_dict", lambda self, _: load(self, self.state_dict())),
        torch.random.fork_rng(),
    ):
        torch.manual_seed(0)
        return getattr(models, architecture)()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")

    def file(architecture) -> Path:
        path = folder / f"{architecture}.pt"
        if not path.exists():
            torch.save(package_model(architecture).state_dict(), path)
        return path

    return file


@pytest.mark.parametrize(
    ("architecture", "step"),
    [
        ("ANI1x", 1e-6),  # so short, since the curvature of CELU jumps at 0
        pytest.param("ANI2x", 1e-6, marks=pytest.mark.slow),
        pytest.param("ANI2xr", 5e-4, marks=pytest.mark.slow),
        pytest.param("ANI2dr", 5e-4, marks=pytest.mark.slow),
    ],
)
def test_the_mean_of_the_ensemble_has_the_energies_forces_and_hessian_of_torchani(architecture, step, weights):
    potential = create("torchani", weights=str(weights(architecture)), architecture=architecture).double()
    own = package_model(architecture).double()
    expected = dict(zip(own.atomic_numbers.tolist(), own.energy_shifter.self_energies * Hartree, strict=True))
    assert np.allclose(potential.reference_energies, [float(expected[z]) for z in potential.elements])
    energies_and_forces_agree(potential, own.ase())
    assert hessian_error(potential, own.ase(), step=step) < 1e-5
    products_can_be_trained_on(potential)


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "broken"), [("ANI2x", C2), ("ANI2xr", ()), ("ANI2dr", ())])
def test_every_item_is_kept_but_those_that_the_architecture_declares(architecture, broken, weights):
    settings = {"weights": str(weights(architecture)), "architecture": architecture, "member": 0}
    found = broken_items(lambda: create("torchani", **settings))
    assert set(found) <= set(broken)
    assert all(
        reason == "CELU and the cosine cutoff of ANI2x jump in their second derivatives" for reason in found.values()
    )


def test_nothing_is_downloaded_and_no_fast_strategy_without_second_derivatives_is_taken(weights):
    potential = create("torchani", weights=str(weights("ANI1x")), architecture="ANI1x", member=1)
    assert potential.model.aev_computer._strategy == "pyaev"
    assert all(p.requires_grad for p in potential.parameters())
    assert potential.n_parameters() < sum(p.numel() for p in package_model("ANI1x").parameters()) / 7


def test_weights_of_another_architecture_are_refused_in_one_line(weights):
    with pytest.raises(ConfigError, match="cannot read these weights") as caught:
        create("torchani", weights=str(weights("ANI1x")), architecture="ANI2xr")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "message"), [({}, "no state dict"), (torch.nn.Linear(1, 1), "trust")])
def test_other_files_are_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(ConfigError, match=message):
        create("torchani", weights=str(tmp_path / "file.pt"))


def test_unknown_elements_are_refused(weights):
    with pytest.raises(ConfigError, match="does not know Si"):
        create("torchani", weights=str(weights("ANI1x")), architecture="ANI1x", elements=[1, 14])
