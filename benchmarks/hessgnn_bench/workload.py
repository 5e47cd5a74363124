"""What is measured on: an architecture with fresh weights, and one batch of labelled structures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from hessgnn.data.batch import Batch
from hessgnn.data.loader import Loader
from hessgnn.data.store.store import Store
from hessgnn.errors import DataError
from hessgnn.potentials.base import Potential, create

REAL: dict[str, dict[str, Any]] = {
    "ani": {},
    "schnet": {"width": 128, "n_interactions": 6},
    "nequip": {"channels": 32, "l_max": 2, "n_layers": 3, "radial_width": 64},
}
"""Settings of potentials of the size that people train; the defaults are smaller but for ANI's."""


@dataclass(frozen=True)
class Workload:
    """An architecture and a batch in float32, the same in every process that makes them.

    Attributes
    ----------
    architecture
        A registered name, or ``module:Class``.
    data
        A store, or the name of a bundled set.
    batch_size
        Structures; drawn at random, always the same ones.
    device
        Where both are put.
    settings
        Of the potential, where they are not its defaults.
    """

    architecture: str
    data: str = "rtp-mini"
    batch_size: int = 32
    device: str = "cpu"
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def build(self) -> Potential:
        """Make the potential, with the same weights at each call.

        Returns
        -------
        Potential
            For the elements of the data.

        Raises
        ------
        ConfigError
            When there is no such architecture.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return create(self.architecture, elements=self._store.elements(), **self.settings).to(self.device)

    @cached_property
    def batch(self) -> Batch:
        """The structures with their labels.

        Raises
        ------
        DataError
            When fewer carry all labels than are asked for.
        """
        store = self._store
        labelled = np.flatnonzero(store.has_energy & store.has_forces & store.has_hessian)
        if len(labelled) < self.batch_size:
            raise DataError(
                f"{len(labelled)} structures carry energy, forces and Hessian, {self.batch_size} are asked for",
                where=store.path,
                hint="ask for a smaller --batch-size",
            )
        chosen = np.random.default_rng(0).permutation(labelled)[: self.batch_size].tolist()
        potential = self.build()
        dtype, triplet_cutoff = torch.float32, potential.triplet_cutoff
        return Loader(store, chosen, potential.cutoff, len(chosen), dtype, self.device, triplet_cutoff).batch(0)

    def __reduce__(self) -> tuple[type[Workload], tuple[Any, ...]]:
        """Another process makes its own batch: tensors sent to it would not count as its memory."""
        return Workload, (self.architecture, self.data, self.batch_size, self.device, dict(self.settings))

    def facts(self) -> dict[str, int]:
        """Sizes of potential and batch, for the reader of a table."""
        atoms, edges = len(self.batch.numbers), self.batch.edge_index.shape[1]
        return {"atoms": atoms, "edges": edges, "parameters": self.build().n_parameters()}

    @cached_property
    def _store(self) -> Store:
        return Store.open(self.data)
