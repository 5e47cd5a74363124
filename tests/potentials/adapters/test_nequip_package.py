import json
import random
import subprocess
import sys
from pathlib import Path

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
from ase.calculators.emt import EMT
from ase.io import write

from hessgnn.data.batch import Batch
from hessgnn.errors import ConfigError, DataError
from hessgnn.potentials.base import create

pytest.importorskip("nequip")
SHIFTS = {"H": -13.6, "C": -1029.5, "N": -1485.0, "O": -2042.3}
SMALL = {"num_layers": 2, "l_max": 1, "num_features": 4, "radial_mlp_width": 8, "per_type_energy_shifts": SHIFTS}


def make(**changes):
    return create("nequip-package", cutoff=4.0, settings=SMALL | changes)


def with_forces(seed):
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=seed)
    atoms.calc = EMT()
    atoms.get_forces()
    return atoms


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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*it is read because of trust")
def test_checkpoints_and_packages_of_its_trainer_are_read(tmp_path):
    write(tmp_path / "frames.xyz", [with_forces(seed) for seed in range(4)])
    symbols, loader = ["H", "C", "N", "O"], {"_target_": "torch.utils.data.DataLoader", "batch_size": 2}
    neighbors = {"_target_": "nequip.data.transforms.NeighborListTransform", "r_max": 4.0}
    types = {"_target_": "nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper", "model_type_names": symbols}
    checkpoint = {
        "_target_": "lightning.pytorch.callbacks.ModelCheckpoint",
        "dirpath": str(tmp_path),
        "filename": "one",
    }
    trainer = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "callbacks": [checkpoint]}
    model = SMALL | {"type_names": symbols, "r_max": 4.0, "avg_num_neighbors": 8.0, "seed": 1, "model_dtype": "float32"}
    model |= {"per_type_energy_scales": 1.0}
    config = {
        "run": ["train"],
        "data": {
            "_target_": "nequip.data.datamodule.ASEDataModule",
            "seed": 1,
            "split_dataset": {"file_path": str(tmp_path / "frames.xyz"), "train": 2, "val": 2},
            "transforms": [neighbors, types],
            "train_dataloader": loader,
            "val_dataloader": loader,
        },
        "trainer": {"_target_": "lightning.Trainer", **trainer},
        "training_module": {
            "_target_": "nequip.train.NequIPLightningModule",
            "loss": {"_target_": "nequip.train.EnergyForceLoss"},
            "val_metrics": {"_target_": "nequip.train.EnergyForceMetrics"},
            "optimizer": {"_target_": "torch.optim.Adam", "lr": 1e-3},
            "model": {"_target_": "nequip.model.NequIPGNNModel", **model},
        },
        "global_options": {"allow_tf32": False},
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config))  # which is YAML, too
    package = tmp_path / "one.nequip.zip"
    for command in (["train", "-cp", tmp_path, "-cn", "config"], ["package", "build", tmp_path / "one.ckpt", package]):
        script = Path(sys.executable).parent / f"nequip-{command[0]}"
        subprocess.run([script, *command[1:]], cwd=tmp_path, check=True, capture_output=True)
    batch = Batch.from_atoms(structures(), 4.0)
    checkpoint, package = (
        create("nequip-package", weights=str(path), trust=True).double() for path in (tmp_path / "one.ckpt", package)
    )
    assert checkpoint.reference_energies.tolist() == list(SHIFTS.values())
    assert torch.allclose(checkpoint.energy(batch), package.energy(batch), atol=1e-9)
    assert all(torch.equal(a, b) for a, b in zip(checkpoint.hessian(batch), package.hessian(batch), strict=True))
    products_can_be_trained_on(package)


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


def test_settings_call_nothing_but_pair_potentials(tmp_path):
    call = {"_target_": "os.mkdir", "path": str(tmp_path / "ran")}
    with pytest.raises(ConfigError, match=r"os.mkdir would be called.*potential\.trust"):
        create("nequip-package", builder="FullNequIPGNNModel", settings={"pair_potential": {"chemical": [call]}})
    assert not (tmp_path / "ran").exists()


def test_an_unknown_element_is_refused():
    potential = make().double()
    with pytest.raises(DataError, match="Cl"):
        potential.energy(Batch.from_atoms([molecule("HCl")], 4.0))
