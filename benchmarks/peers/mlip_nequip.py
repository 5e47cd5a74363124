"""InstaDeep mlip's NequIP in JAX: its own predictors of forces and of sampled Hessian rows, each step in one jit."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from peer import Molecules, Peer
from torch import Tensor

# XLA starts as many threads as it finds processors, whatever OMP_NUM_THREADS says.
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: torch.get_num_threads()])

import jax
import jax.numpy as jnp
import optax
from ase.data import atomic_numbers
from mlip.data import DatasetInfo
from mlip.data.chemical_system import ChemicalSystem
from mlip.graph import Graph
from mlip.graph.batching_helpers import batch_graphs, pad_with_graphs
from mlip.models import ForceField
from mlip.models.nequip.network import Nequip
from mlip.typing.properties import Properties


class Driver(Peer):
    """``Nequip`` with the irreps of nequip: all up to ``l_max`` of both parities, ``channels`` of each."""

    version = version("mlip")

    def __init__(self, molecules: Molecules, settings: dict[str, Any]) -> None:
        super().__init__(molecules, settings)
        size, self.n_molecules = self.size, len(molecules.sizes)
        parities = ("eo", "oe")
        irreps = [
            f"{size['channels']}x{degree}{parity}"
            for degree in range(size["l_max"] + 1)
            for parity in parities[degree % 2]
        ]
        network = Nequip(
            config=Nequip.Config(
                num_layers=size["n_layers"],
                target_irreps=" + ".join(irreps),
                l_max=size["l_max"],
                num_rbf=size["n_basis"],
                radial_mlp_hidden=[size["radial_width"]],
            ),
            dataset_info=DatasetInfo(
                atomic_energies_map={atomic_numbers[symbol]: 0.0 for symbol in settings["elements"]},
                graph_cutoff_angstrom=size["cutoff"],
                avg_num_neighbors=size["average_neighbors"],
            ),
        )
        fields = {number: ForceField.from_mlip_network(network, Properties(hessian=number > 0)) for number in (0, 1)}
        self.params = jax.tree.map(jnp.array, fields[0].params)  # they hold no predictor's own weights
        self.predict: dict[bool, Callable[..., Graph]] = {bool(k): field.predictor.apply for k, field in fields.items()}
        graphs = [
            Graph.from_chemical_system(
                ChemicalSystem(atomic_numbers=atoms.numbers, positions=atoms.positions), size["cutoff"]
            )
            for atoms in molecules.atoms()
        ]
        graph = batch_graphs(graphs)
        self.n_edges = int(graph.n_edge.sum())
        # It takes the last graph for a filler.
        padded = pad_with_graphs(graph, int(graph.n_node.sum()) + 1, self.n_edges, self.n_molecules + 1)
        self.graph = jax.tree.map(lambda a: a.astype(np.float32) if a.dtype == np.float64 else a, padded)
        self.first = 3 * np.append(np.cumsum(molecules.sizes) - molecules.sizes, 0)

    @property
    def n_parameters(self) -> int:
        """Numbers that are trained."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    @property
    def works(self) -> dict[str, Callable[[], object]]:
        """Its full Hessians are made for one structure at a time."""
        return {name: work for name, work in super().works.items() if name != "Hessians"}

    def start(self) -> None:
        """Make the optimizer and what is compiled; compiling itself waits for the first call."""
        optimizer = optax.adamw(self.settings["learning_rate"], weight_decay=0.01)  # as torch's
        self.state = optimizer.init(self.params)
        labels = {name: getattr(self.labels, name).numpy() for name in ("energy", "forces", "sizes", "molecule")}
        n_atoms, n_molecules, settings = len(labels["molecule"]), self.n_molecules, self.settings

        def mean_square(error: Any) -> Any:
            squares = jax.ops.segment_sum(jnp.square(error).sum(-1), labels["molecule"], n_molecules)
            return (squares / (3 * labels["sizes"])).mean()

        def loss(params: Any, graph: Graph, rows: Any) -> Any:
            out = self.predict[rows is not None](params, graph)
            per_atom = (out.globals.energy[:n_molecules] - labels["energy"]) / labels["sizes"]
            total = jnp.square(per_atom).mean()
            total += settings["forces"] * mean_square(out.nodes.forces[:n_atoms] - labels["forces"])
            if rows is not None:
                errors = out.nodes.hessian[:n_atoms] - rows
                each = [mean_square(errors[:, k]) for k in range(rows.shape[1])]
                total += settings["hessian"] * sum(each) / len(each)
            return total

        @jax.jit
        def train(params: Any, state: Any, graph: Graph, rows: Any) -> Any:
            value, gradient = jax.value_and_grad(loss)(params, graph, rows)
            updates, state = optimizer.update(gradient, state, params)
            return optax.apply_updates(params, updates), state, value

        self.train, self.compiled = train, {key: jax.jit(function) for key, function in self.predict.items()}

    def step(self) -> float:
        """One E-F training step."""
        return self._train(self.graph, None)

    def hessian_step(self, number: int) -> float:
        """One E-F-H training step; the rows that it samples are drawn here."""
        indices = [self._draw() for _ in range(number)]
        rows = torch.stack([self.labels.rows(index) for index in indices], 1).numpy()
        return self._train(self._sampled(self.graph, indices), rows)

    def energy_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """For the check of the forces only."""
        return self._tensors(self.compiled[False](self.params, self._moved(positions)))

    def rows(self, positions: Tensor, indices: Sequence[Tensor]) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        """For the check of the rows only."""
        out = self.compiled[True](self.params, self._sampled(self._moved(positions), indices))
        rows = torch.from_numpy(np.array(out.nodes.hessian))[: len(positions)]
        return *self._tensors(out), list(rows.unbind(1))

    def _train(self, graph: Graph, rows: np.ndarray | None) -> float:
        self.params, self.state, value = self.train(self.params, self.state, graph, rows)
        jax.block_until_ready(self.params)
        return float(value)

    def _moved(self, positions: Tensor) -> Graph:
        padded = np.concatenate([positions.detach().numpy(), np.zeros((1, 3), np.float32)])
        return self.graph.replace_nodes(positions=padded)

    def _sampled(self, graph: Graph, indices: Sequence[Tensor]) -> Graph:
        rows = np.stack([np.append(index.numpy(), 0) + self.first for index in indices], 1)
        return graph.replace_globals(sample_hessian_rows=rows.astype(np.int32))

    def _tensors(self, graph: Graph) -> tuple[Tensor, Tensor]:
        energy, forces = (torch.from_numpy(np.array(a)) for a in (graph.globals.energy, graph.nodes.forces))
        return energy[: self.n_molecules], forces[:-1]
