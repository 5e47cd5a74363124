"""MACE of mace-torch: ``ScaleShiftMACE`` with forces by its own ``get_outputs``, as its training script builds it."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers
from peer import Molecules, Peer
from torch import Tensor

# The e3nn 0.4.4 that mace-torch needs reads its constants with torch.load, which has refused slices since torch 2.6.
if slice not in torch.serialization.get_safe_globals():
    torch.serialization.add_safe_globals([slice])

from e3nn import o3
from mace.data import AtomicData, config_from_atoms
from mace.modules import ScaleShiftMACE, gate_dict, interaction_classes
from mace.tools import AtomicNumberTable
from mace.tools.torch_geometric import Batch


class Driver(Peer):
    """Features ``channels x 0e + channels x 1o``, spherical harmonics up to degree 3, products of order 3."""

    version = version("mace-torch")

    def __init__(self, molecules: Molecules, settings: dict[str, Any]) -> None:
        super().__init__(molecules, settings)
        size, numbers = self.size, sorted(atomic_numbers[s] for s in settings["elements"])
        channels = size["channels"]
        self.model = ScaleShiftMACE(
            r_max=size["cutoff"],
            num_bessel=size["n_basis"],
            num_polynomial_cutoff=6,
            max_ell=3,
            interaction_cls=interaction_classes["RealAgnosticResidualInteractionBlock"],
            interaction_cls_first=interaction_classes["RealAgnosticInteractionBlock"],
            num_interactions=size["n_layers"],
            num_elements=len(numbers),
            hidden_irreps=o3.Irreps(f"{channels}x0e + {channels}x1o"),
            MLP_irreps=o3.Irreps("16x0e"),
            atomic_energies=np.zeros(len(numbers)),
            avg_num_neighbors=size["average_neighbors"],
            atomic_numbers=numbers,
            correlation=3,
            gate=gate_dict["silu"],
            radial_MLP=[size["radial_width"]] * 3,
            atomic_inter_scale=1.0,
            atomic_inter_shift=0.0,
        ).float()
        table = AtomicNumberTable(numbers)
        data = [
            AtomicData.from_config(config_from_atoms(atoms), z_table=table, cutoff=size["cutoff"])
            for atoms in molecules.atoms()
        ]
        self.batch = {
            key: value.float() if torch.is_tensor(value) and value.is_floating_point() else value
            for key, value in Batch.from_data_list(data).to_dict().items()
        }
        self.n_edges = self.batch["edge_index"].shape[1]

    def energy_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """A pass of the whole model."""
        out = self.model({**self.batch, "positions": positions}, training=True)
        return out["energy"], out["forces"]
