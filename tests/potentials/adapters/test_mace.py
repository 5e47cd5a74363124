"""Runs where mace-torch is installed: benchmarks/adapter_environments.py makes such an environment."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from against_package import broken_items, energies_and_forces_agree, hessian_error, products_can_be_trained_on

from hessgnn.errors import ConfigError
from hessgnn.potentials.base import create

if find_spec("mace") is None:
    pytest.skip("an environment of its own: see benchmarks/adapter_environments.py", allow_module_level=True)
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*it is read because of trust"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the package itself, here and below
    pytest.mark.filterwarnings("ignore:Environment variable TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"),
    pytest.mark.filterwarnings("ignore:The TorchScript type system:UserWarning"),
]
ENERGIES = [[-13.6, -1029.5, -1485.3, -2042.0], [-13.5, -1030.0, -1486.0, -2041.0]]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small MACE of mace's own constructor, saved as its trainer does; pair repulsion and two heads if asked."""
    from e3nn import o3
    from mace.modules import ScaleShiftMACE, gate_dict, interaction_classes

    from hessgnn.potentials.adapters.building import build

    folder = tmp_path_factory.mktemp("models")

    def construct(heads, repulsion):
        torch.set_default_dtype(torch.float64)
        return ScaleShiftMACE(
            r_max=4.0,
            num_bessel=6,
            num_polynomial_cutoff=6,
            max_ell=2,
            interaction_cls=interaction_classes["RealAgnosticResidualInteractionBlock"],
            interaction_cls_first=interaction_classes["RealAgnosticInteractionBlock"],
            num_interactions=2,
            num_elements=4,
            hidden_irreps=o3.Irreps("4x0e + 4x1o"),
            MLP_irreps=o3.Irreps("4x0e"),
            atomic_energies=np.array(ENERGIES[:heads] if heads > 1 else ENERGIES[0]),
            avg_num_neighbors=8.0,
            atomic_numbers=[1, 6, 7, 8],
            correlation=3,
            gate=gate_dict["silu"],
            radial_MLP=[8, 8],
            atomic_inter_scale=[1.3, 1.1][:heads] if heads > 1 else 1.3,
            atomic_inter_shift=[0.1, 0.2][:heads] if heads > 1 else 0.1,
            heads=["pt", "dft"][:heads] if heads > 1 else None,
            pair_repulsion=repulsion,
            distance_transform="Agnesi" if repulsion else "None",
        )

    def save(heads=1, repulsion=False):
        path = folder / f"{heads}-{repulsion}.model"
        if not path.exists():
            torch.save(build(lambda _: construct(heads, repulsion), "mace"), path)
        return str(path)

    return save


@pytest.mark.parametrize(("repulsion", "head"), [(False, None), (True, None), (False, "dft")])
def test_energies_forces_and_hessian_are_those_of_mace(repulsion, head, small):
    from mace.calculators import MACECalculator

    path = small(2 if head else 1, repulsion)
    potential = create("mace", weights=path, trust=True, head=head).double()
    assert potential.reference_energies.tolist() == ENERGIES[1 if head else 0]
    default = torch.get_default_dtype()
    own = MACECalculator(model_paths=path, device="cpu", default_dtype="float64", **({"head": head} if head else {}))
    energies_and_forces_agree(potential, own)
    error = hessian_error(potential, own)
    torch.set_default_dtype(default)
    assert error < 1e-5
    products_can_be_trained_on(potential)


@pytest.mark.slow
@pytest.mark.parametrize(("repulsion", "dtype"), [(False, torch.float32), (True, torch.float64)])
def test_every_item_of_the_contract_is_kept(repulsion, dtype, small, tmp_path):
    path = str(tmp_path / "small.model")
    torch.save(torch.load(small(1, repulsion), weights_only=False).to(dtype), path)
    found = broken_items(lambda: create("mace", weights=path, trust=True))
    assert found.keys() <= create("mace", weights=path, trust=True).excused.keys()
    assert not found or repulsion


def test_no_torchscript_is_left(small):
    potential = create("mace", weights=small(), trust=True)
    assert not any(isinstance(part, torch.jit.ScriptModule) for part in potential.modules())


def test_what_cannot_be_loaded_is_refused_in_one_line(small, tmp_path):
    with pytest.raises(ConfigError, match=r"potential\.trust"):
        create("mace", weights=small())
    with pytest.raises(ConfigError, match="its heads are pt, dft"):
        create("mace", weights=small(2), trust=True)
    state = torch.load(small(), weights_only=False).state_dict()
    torch.save({"model": state}, tmp_path / "checkpoint.pt")
    with pytest.raises(ConfigError, match="checkpoints hold weights without a model"):
        create("mace", weights=str(tmp_path / "checkpoint.pt"), trust=True)
    torch.save(torch.nn.Linear(1, 1), tmp_path / "other.model")
    with pytest.raises(ConfigError, match="holds a Linear"):
        create("mace", weights=str(tmp_path / "other.model"), trust=True)
    with pytest.raises(ConfigError, match="does not know Cl"):
        create("mace", weights=small(), trust=True, elements=[1, 17])
