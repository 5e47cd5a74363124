"""nequip's own NequIP GNN, eager or compiled for training (``compile_mode``)."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch
from nequip.data import AtomicDataDict, compute_neighborlist_, from_ase, register_fields
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper
from nequip.model import NequIPGNNModel
from nequip.nn import GraphModuleMixin
from nequip.nn.compile import CompileGraphModel
from nequip.utils.global_state import set_global_state
from peer import Molecules, Peer
from torch import Tensor, nn

VECTORS, ROWS = ["vector_0", "vector_1"], ["row_0", "row_1"]
register_fields(node_fields=[*VECTORS, *ROWS])


class HessianRows(GraphModuleMixin, nn.Module):
    """Rows of the Hessian beside energy and forces, for nequip's compiler: it differentiates what it traces once."""

    def __init__(self, func: GraphModuleMixin, number: int) -> None:
        super().__init__()
        self.func, self.number = func, number
        vectors, rows = (dict.fromkeys(names[:number], "1o") for names in (VECTORS, ROWS))
        self._init_irreps(irreps_in={**func.irreps_in, **vectors}, irreps_out={**func.irreps_out, **rows})

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add the rows; the first leaf that requires a gradient are the positions, as in nequip's own force module."""
        positions = data[AtomicDataDict.POSITIONS_KEY]
        positions.requires_grad_(True)
        out = self.func(data)
        for vector, row in zip(VECTORS[: self.number], ROWS, strict=False):
            (out[row],) = torch.autograd.grad(
                out[AtomicDataDict.FORCE_KEY], positions, -data[vector], create_graph=True
            )
        return out


class Driver(Peer):
    """``NequIPGNNModel`` with forces by its ``ForceStressOutput``."""

    version = version("nequip")

    def __init__(self, molecules: Molecules, settings: dict[str, Any]) -> None:
        super().__init__(molecules, settings)
        size = self.size
        set_global_state()
        self.compiled = settings.get("compile_mode") == "compile"
        self.with_rows: dict[int, CompileGraphModel] = {}
        self.config = {"seed": 0, "model_dtype": "float32", "type_names": settings["elements"], "r_max": size["cutoff"]}
        self.model = NequIPGNNModel(
            **self.config,
            compile_mode=settings.get("compile_mode", "eager"),
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

    def energy_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """A pass of the whole model."""
        # What a compiled model returns cannot be differentiated in the positions, only in the weights.
        given = positions.detach() if self.compiled else positions
        out = self.model({**self.data, AtomicDataDict.POSITIONS_KEY: given})
        return out[AtomicDataDict.TOTAL_ENERGY_KEY].squeeze(-1), out[AtomicDataDict.FORCE_KEY]

    def rows(self, positions: Tensor, indices: Sequence[Tensor]) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        """By autograd, or where the model is compiled as one more output of what nequip compiles."""
        if not self.compiled:
            return super().rows(positions, indices)
        number = len(indices)
        if number not in self.with_rows:
            module = HessianRows(self.model.model, number)
            self.with_rows[number] = CompileGraphModel(module, self.config, dict.fromkeys(VECTORS[:number], "1o"))
        vectors = {name: self.one_hot(index) for name, index in zip(VECTORS, indices, strict=False)}
        out = self.with_rows[number]({**self.data, **vectors, AtomicDataDict.POSITIONS_KEY: positions.detach()})
        energy, forces = out[AtomicDataDict.TOTAL_ENERGY_KEY].squeeze(-1), out[AtomicDataDict.FORCE_KEY]
        return energy, forces, [out[name] for name in ROWS[:number]]
