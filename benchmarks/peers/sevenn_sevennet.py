"""SevenNet: a NequIP of its own make, built and differentiated as its trainer does it, without accelerators."""

from __future__ import annotations

from typing import Any

import sevenn
import sevenn._keys as KEY
import torch
from peer import Molecules, Peer
from sevenn._const import model_defaults
from sevenn.atom_graph_data import AtomGraphData
from sevenn.model_build import build_E3_equivariant_model
from sevenn.train.dataload import unlabeled_atoms_to_graph
from sevenn.util import chemical_species_preprocess
from torch import Tensor
from torch_geometric.data import Batch


class Driver(Peer):
    """Both parities, self-connections of nequip; stresses are computed with the forces, as always by this model."""

    version = sevenn.__version__

    def __init__(self, molecules: Molecules, settings: dict[str, Any]) -> None:
        super().__init__(molecules, settings)
        size = self.size
        config: dict[str, Any] = {}
        config.update(model_defaults(config))
        config.update(chemical_species_preprocess(settings["elements"]))
        config.update(
            {
                KEY.CUTOFF: float(size["cutoff"]),
                KEY.NODE_FEATURE_MULTIPLICITY: size["channels"],
                KEY.LMAX: size["l_max"],
                KEY.IS_PARITY: size["parity"],
                KEY.NUM_CONVOLUTION: size["n_layers"],
                KEY.RADIAL_BASIS: {KEY.RADIAL_BASIS_NAME: "bessel", KEY.BESSEL_BASIS_NUM: size["n_basis"]},
                KEY.CONVOLUTION_WEIGHT_NN_HIDDEN_NEURONS: [size["radial_width"]],
                KEY.CONV_DENOMINATOR: size["average_neighbors"] ** 0.5,
                KEY.SHIFT: 0.0,
                KEY.SCALE: 1.0,
            }
        )
        self.model = build_E3_equivariant_model(config)
        self.model.set_is_batch_data(True)
        graphs = [
            AtomGraphData.from_numpy_dict(unlabeled_atoms_to_graph(atoms, size["cutoff"], with_shift=True))
            for atoms in molecules.atoms()
        ]
        for graph in graphs:
            graph[KEY.NODE_FEATURE] = graph[KEY.ATOMIC_NUMBERS].long()
        self.batch = Batch.from_data_list(graphs).to_dict()
        self.n_edges = self.batch[KEY.EDGE_IDX].shape[1]
        source, target = self.batch[KEY.EDGE_IDX]
        offset = self.batch[KEY.EDGE_VEC] - (self.positions[target] - self.positions[source])
        assert offset.abs().max() < 1e-4, "its edge vectors do not go from source to target"

    def energy_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """A pass of the whole model."""
        # It takes vectors along edges for its input, and sums their gradients to forces.
        source, target = self.batch[KEY.EDGE_IDX]
        copied = {key: value.clone() if torch.is_tensor(value) else value for key, value in self.batch.items()}
        out = self.model({**copied, KEY.POS: positions, KEY.EDGE_VEC: positions[target] - positions[source]})
        return out[KEY.PRED_TOTAL_ENERGY], out[KEY.PRED_FORCE]
