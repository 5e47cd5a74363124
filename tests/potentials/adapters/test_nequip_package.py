import random

import numpy as np
import pytest
import torch
from against_package import (
    broken_items,
    energies_and_forces_agree,
    hessian_error,
    products_can_be_trained_on,
    structures,
)
from ase.build import molecule

from hessgnn.data.batch import Batch
from hessgnn.errors import ConfigError, DataError
from hessgnn.potentials.base import create

pytest.importorskip("nequip")
SHIFTS = {"H": -13.6, "C": -1029.5, "N": -1485.0, "O": -2042.3}
SMALL = {"num_layers": 2, "l_max": 1, "num_features": 4, "radial_mlp_width": 8, "per_type_energy_shifts": SHIFTS}


def make(**changes):
    return create("nequip-package", cutoff=4.0, settings=SMALL | changes)


def calculator(potential):
    """Of a model with the same weights that nequip differentiates itself."""
    from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
    from nequip.integrations.ase import NequIPCalculator
    from nequip.model import NequIPGNNModel
    from nequip.utils.dtype import torch_default_dtype

    from hessgnn.potentials.adapters.building import build

    symbols = ["H", "C", "N", "O"]
    settings = SMALL | {"avg_num_neighbors": 10.0, "per_type_energy_scales": 1.0}
    model = build(
        lambda seed: NequIPGNNModel(seed=seed, model_dtype="float64", type_names=symbols, r_max=4.0, **settings), "it"
    )
    state = potential.model.state_dict()
    (shifts,) = (key for key in state if key.endswith("shifts"))
    model.load_state_dict(state | {shifts: model.state_dict()[shifts]})

    class InDouble(NequIPCalculator):
        """It makes tensors of the default type, which nequip sets once and for all; hessgnn sets it back."""

        def calculate(self, *args, **kwargs):
            with torch_default_dtype(torch.float64):
                super().calculate(*args, **kwargs)

    transforms = [ChemicalSpeciesToAtomTypeMapper(symbols), NeighborListTransform(r_max=4.0)]
    return InDouble(model.eval(), "cpu", transforms=transforms)


def test_energies_forces_and_hessian_are_those_of_nequip():
    potential = make().double()
    assert potential.reference_energies.tolist() == list(SHIFTS.values())
    own = calculator(potential)
    energies_and_forces_agree(potential, own)
    assert hessian_error(potential, own) < 1e-5
    products_can_be_trained_on(potential)


@pytest.mark.slow
def test_every_item_of_the_contract_is_kept():
    assert broken_items(make) == {}


def test_float32_keeps_the_digits_of_free_atoms():
    potential = make().double()
    expected = potential.energy(Batch.from_atoms(structures()[:2], 4.0))
    got = potential.float().energy(Batch.from_atoms(structures()[:2], 4.0, torch.float32))
    assert float((got - expected).abs().max()) < 1e-4


def test_building_leaves_the_process_as_it_was():
    before = torch.get_default_dtype(), torch.multiprocessing.get_sharing_strategy()
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    first = make()
    drawn = random.random(), float(np.random.rand())  # noqa: NPY002
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    assert (random.random(), float(np.random.rand())) == drawn  # noqa: NPY002
    assert (torch.get_default_dtype(), torch.multiprocessing.get_sharing_strategy()) == before
    second = make()
    torch.manual_seed(3)
    third = make()
    weights = [torch.cat([p.flatten() for p in one.parameters()]) for one in (first, second, third)]
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"settings": {"n_layers": 2}}, "cannot be built with these settings"),
        ({"weights": "nothing.ckpt"}, "no such file"),
        ({"builder": "Sequential"}, "builder"),
    ],
)
def test_bad_input_is_one_line(settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        create("nequip-package", **settings)
    assert "\n" not in str(caught.value)


def test_a_file_is_not_read_without_trust(tmp_path):
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"anything")
    with pytest.raises(ConfigError, match=r"potential\.trust"):
        create("nequip-package", weights=str(path))


def test_an_unknown_element_is_refused():
    potential = make().double()
    with pytest.raises(DataError, match="Cl"):
        potential.energy(Batch.from_atoms([molecule("HCl")], 4.0))
