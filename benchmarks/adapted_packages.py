"""The packages whose potentials ``adapted.py`` measures: what a user must know of each, and its own calculator."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.units import Hartree

from hessgnn.potentials.base import Potential

SYMBOLS = ["H", "C", "N", "O"]


@dataclass(frozen=True)
class Package:
    """A package with an adapter.

    Attributes
    ----------
    name
        Of the potential.
    settings
        Settings of the potential that is measured; what is missing is written into the folder that is given.
    calculator
        The package's own ASE calculator with the same weights, in a floating type.
    facts
        What the page says about it.
    environment
        Name of the environment where it needs one of its own, see ``peer_candidates.py``.
    published
        Whether the weights that are measured are published ones; otherwise they are random.
    step
        Å, of differences of its forces: short where the Hessian jumps.
    """

    name: str
    settings: Callable[[Path], dict[str, Any]]
    calculator: Callable[[Potential, torch.dtype], Calculator]
    facts: Mapping[str, str]
    environment: str | None = None
    published: bool = False
    step: float = 1e-3


def so3lr(_potential: Potential, dtype: torch.dtype) -> Calculator:
    """As the package's users make it."""
    from so3krates_torch.calculator.so3 import SO3LRCalculator

    return SO3LRCalculator(default_dtype=str(dtype).removeprefix("torch."))


def sevennet(_potential: Potential, dtype: torch.dtype) -> Calculator:
    """As the package's users make it; in double precision every tensor that it makes is converted."""
    from sevenn import util
    from sevenn.calculator import SevenNetCalculator

    if dtype is torch.float32:
        return SevenNetCalculator("7net-0", device="cpu")

    class InDouble(SevenNetCalculator):  # type: ignore[misc]
        """Its graphs are made in float32 whatever the type of the model."""

        def calculate(self, *arguments: Any, **options: Any) -> None:
            in_double = partial(util.dtype_correct, float_dtype=torch.float64)
            with patch.object(util, "dtype_correct", in_double):
                super().calculate(*arguments, **options)

    calculator = InDouble("7net-0", device="cpu")
    calculator.model.double()
    for part in (calculator.model, *calculator.model):
        part.register_forward_pre_hook(_in_double)
    return calculator


def _in_double(_module: torch.nn.Module, arguments: tuple[Any]) -> tuple[Any]:
    (data,) = arguments
    for key in [*data.keys()]:
        if torch.is_tensor(data[key]) and data[key].dtype is torch.float32:
            data[key] = data[key].double()
    return arguments


NEQUIP = {"num_layers": 3, "l_max": 2, "num_features": 32, "radial_mlp_width": 64, "avg_num_neighbors": 10.0}


def nequip(potential: Potential, dtype: torch.dtype) -> Calculator:
    """The package's calculator around the module itself, not a compiled one: these weights were never packaged."""
    from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
    from nequip.integrations.ase import NequIPCalculator
    from nequip.model import NequIPGNNModel
    from nequip.utils.dtype import torch_default_dtype

    from hessgnn.potentials.adapters.building import build

    name = str(dtype).removeprefix("torch.")
    given = {**NEQUIP, "per_type_energy_scales": 1.0, "per_type_energy_shifts": 0.0}
    model = build(
        lambda seed: NequIPGNNModel(seed=seed, model_dtype=name, type_names=SYMBOLS, r_max=5.0, **given), "nequip"
    )
    model.load_state_dict(potential.model.state_dict())

    class InType(NequIPCalculator):  # type: ignore[misc]
        """It makes tensors of the default type, which nequip sets once and for all; hessgnn sets it back."""

        def calculate(self, *arguments: Any, **options: Any) -> None:
            with torch_default_dtype(dtype):
                super().calculate(*arguments, **options)

    transforms = [ChemicalSpeciesToAtomTypeMapper(SYMBOLS), NeighborListTransform(r_max=5.0)]
    return InType(model.to(dtype).eval(), "cpu", transforms=transforms)


def torchani_weights(folder: Path) -> dict[str, Any]:
    """A state dict of ANI-2x with random weights: the published ones are in no wheel."""
    path = folder / "ani2x_state_dict.pt"
    torch.save(_ani2x(None).state_dict(), path)
    return {"weights": str(path), "architecture": "ANI2x"}


def _ani2x(state: Mapping[str, Any] | None) -> Any:
    from torchani import models

    load = torch.nn.Module.load_state_dict
    with (
        patch.object(models, "_fetch_state_dict", lambda *_, **__: {}),
        patch.object(torch.nn.Module, "load_state_dict", lambda self, _: load(self, self.state_dict())),
    ):
        model = models.ANI2x()
    if state is not None:
        model.load_state_dict(state)
    return model


def torchani(potential: Potential, dtype: torch.dtype) -> Calculator:
    """Its calculator, with Hessians by ``torchani.grad.energies_forces_and_hessians``."""
    from torchani.grad import energies_forces_and_hessians

    model = _ani2x(torch.load(potential.config.weights, weights_only=True)).to(dtype)  # type: ignore[attr-defined]
    calculator = model.ase()

    def get_hessian(atoms: Atoms) -> np.ndarray:
        numbers = torch.tensor(atoms.numbers)[None]
        positions = torch.tensor(atoms.positions, dtype=dtype)[None]
        return energies_forces_and_hessians(model, numbers, positions).hessians[0].detach().numpy() * Hartree

    calculator.get_hessian = get_hessian
    return calculator


def schnetpack(potential: Potential, dtype: torch.dtype) -> Calculator:
    """Its calculator around a saved copy of the model, whose forces it computes itself."""
    from schnetpack.atomistic import Forces
    from schnetpack.interfaces import SpkCalculator
    from schnetpack.transform import ASENeighborList

    model = copy.deepcopy(potential.model)
    model.output_modules.append(Forces())
    model.collect_derivatives()
    model.collect_outputs()
    whole = partial(torch.load, weights_only=False)  # torch's default when it was written
    with tempfile.TemporaryDirectory() as folder, patch.object(torch, "load", whole):
        torch.save(model, Path(folder) / "model")
        found = SpkCalculator(str(Path(folder) / "model"), ASENeighborList(cutoff=5.0), energy_unit="eV", dtype=dtype)
    found.model.to(dtype)
    return found


def mace_model(folder: Path) -> dict[str, Any]:
    """A model file of mace's own making, with random weights: the published ones are in no wheel."""
    from e3nn import o3
    from mace.modules import ScaleShiftMACE, gate_dict, interaction_classes

    from hessgnn.potentials.adapters.building import build

    def construct(_: int) -> Any:
        torch.set_default_dtype(torch.float64)
        return ScaleShiftMACE(
            r_max=5.0,
            num_bessel=8,
            num_polynomial_cutoff=6,
            max_ell=3,
            interaction_cls=interaction_classes["RealAgnosticResidualInteractionBlock"],
            interaction_cls_first=interaction_classes["RealAgnosticInteractionBlock"],
            num_interactions=2,
            num_elements=4,
            hidden_irreps=o3.Irreps("32x0e + 32x1o"),
            MLP_irreps=o3.Irreps("16x0e"),
            atomic_energies=np.zeros(4),
            avg_num_neighbors=8.0,
            atomic_numbers=[1, 6, 7, 8],
            correlation=3,
            gate=gate_dict["silu"],
            radial_MLP=[64, 64, 64],
            atomic_inter_scale=1.0,
            atomic_inter_shift=0.0,
        )

    path = folder / "mace.model"
    torch.save(build(construct, "mace"), path)
    return {"weights": str(path), "trust": True}


def mace(potential: Potential, dtype: torch.dtype) -> Calculator:
    """As the package's users make it; it has Hessians of its own."""
    from mace.calculators import MACECalculator

    name = str(dtype).removeprefix("torch.")
    return MACECalculator(model_paths=potential.config.weights, device="cpu", default_dtype=name)  # type: ignore[attr-defined]


PACKAGES = {
    package.name: package
    for package in (
        Package(
            "so3lr",
            lambda _: {},
            so3lr,
            {
                "package": "so3krates-torch",
                "install": "pip install 'hessgnn[so3lr]'",
                "weights": "`so3lr`, in the wheel (2.2 MB); or a model file",
                "elements": "H, C, N, O, F, P, S, Cl",
                "level": "PBE0+MBD",
                "licence": "MIT",
                "citation": "Kabylda et al., J. Am. Chem. Soc. 147, 33723 (2025)",
            },
            published=True,
        ),
        Package(
            "sevennet",
            lambda _: {},
            sevennet,
            {
                "package": "sevenn",
                "install": "pip install 'hessgnn[sevennet]'",
                "weights": "`SevenNet-0` and three more, in the wheel (10-14 MB each); or a checkpoint",
                "elements": "89, H to Ac",
                "level": "PBE(+U)",
                "licence": "MIT",
                "citation": "Park et al., J. Chem. Theory Comput. 20, 4857 (2024)",
            },
            published=True,
        ),
        Package(
            "nequip-package",
            lambda _: {"settings": NEQUIP},
            nequip,
            {
                "package": "nequip",
                "install": "pip install 'hessgnn[nequip]'",
                "weights": "new; or a checkpoint (.ckpt) or package (.nequip.zip)",
                "elements": "of the file",
                "level": "of the file",
                "licence": "MIT",
                "citation": "Batzner et al., Nat. Commun. 13, 2453 (2022)",
            },
        ),
        Package(
            "schnetpack",
            lambda _: {},
            schnetpack,
            {
                "package": "schnetpack",
                "install": "pip install schnetpack && pip install --no-deps hessgnn",
                "weights": "new SchNet or PaiNN; or a saved model or state dict",
                "elements": "of the file",
                "level": "of the file",
                "licence": "MIT",
                "citation": "Schütt et al., J. Chem. Phys. 158, 144801 (2023)",
            },
            environment="schnetpack",
        ),
        Package(
            "torchani",
            torchani_weights,
            torchani,
            {
                "package": "torchani",
                "install": "none: hessgnn needs it",
                "weights": "a state dict of ANI-1x, 1ccx, 2x, 2xr, 2dr",
                "elements": "H, C, N, O; ANI-2x also F, S, Cl",
                "level": "ωB97X/6-31G(d) (ANI-1x, 2x)",
                "licence": "MIT",
                "citation": "Devereux et al., J. Chem. Theory Comput. 16, 4192 (2020)",
            },
            step=1e-6,  # the curvature of CELU jumps at 0
        ),
        Package(
            "mace",
            mace_model,
            mace,
            {
                "package": "mace-torch",
                "install": "pip install mace-torch && pip install --no-deps hessgnn",
                "weights": "a .model file, with `trust: true`",
                "elements": "of the file",
                "level": "of the file",
                "licence": "MIT (code)",
                "citation": "Batatia et al., NeurIPS 35, 11423 (2022)",
            },
            environment="mace",
        ),
    )
}
