"""nequip's own NequIP GNN, eager or compiled for training (``compile_mode``)."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from nequip.data import AtomicDataDict, compute_neighborlist_, from_ase
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper
from nequip.model import NequIPGNNModel
from nequip.utils.global_state import set_global_state
from peer import Molecules, Peer
from torch import Tensor


class Driver(Peer):
    """``NequIPGNNModel`` with forces by its ``ForceStressOutput``."""

    version = version("nequip")

    def __init__(self, molecules: Molecules, settings: dict[str, Any]) -> None:
        super().__init__(molecules, settings)
        size = self.size
        set_global_state()
        self.compiled = settings.get("compile_mode") == "compile"
        self.model = NequIPGNNModel(
            seed=0,
            model_dtype="float32",
            type_names=settings["elements"],
            compile_mode=settings.get("compile_mode", "eager"),
            r_max=size["cutoff"],
            num_layers=size["n_layers"],
            l_max=size["l_max"],
            parity=size["parity"],
            num_features=size["channels"],
            type_embed_num_features=settings.get("type_embed_num_features"),
            radial_mlp_depth=1,
            radial_mlp_width=size["radial_width"],
            num_bessels=size["n_basis"],
            polynomial_cutoff_p=6,
            avg_num_neighbors=size["average_neighbors"],
            readout_mlp_hidden_layers_depth=1,
            per_type_energy_scales=1.0,
            per_type_energy_shifts=0.0,
        )
        to_types = ChemicalSpeciesToAtomTypeMapper(model_type_names=settings["elements"])
        frames = []
        for atoms in molecules.atoms():
            frame = compute_neighborlist_(from_ase(atoms), r_max=size["cutoff"])
            frames.append(to_types(frame))
        self.data = AtomicDataDict.batched_from_list(frames)
        self.data = {k: v.float() if v.is_floating_point() else v for k, v in self.data.items()}
        self.n_edges = AtomicDataDict.num_edges(self.data)

    @property
    def works(self) -> dict[str, Callable[[], object]]:
        """The compiled model returns forces that cannot be differentiated in the positions."""
        return {"E-F": self.step} if self.compiled else super().works

    def energy_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """A pass of the whole model."""
        given = positions.detach() if self.compiled else positions
        out = self.model({**self.data, AtomicDataDict.POSITIONS_KEY: given})
        return out[AtomicDataDict.TOTAL_ENERGY_KEY].squeeze(-1), out[AtomicDataDict.FORCE_KEY]
