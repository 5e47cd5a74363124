"""What batching costs: this package's loader and that of torch-geometric, over the same structures in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hessgnn.cost.experiment import Experiment, Pieces
from hessgnn.data.loader import Loader
from hessgnn.data.neighbors import neighbors
from hessgnn.data.store import Store
from hessgnn.data.structure import Structure
from hessgnn.data.writer import write_store
from hessgnn.errors import UserError

OURS = "hessgnn Loader"
GEOMETRIC = "torch_geometric DataLoader"
N_ATOMS = 15
CUTOFF = 5.0
ELEMENTS = (1, 6, 7, 8)

Epoch = Callable[[], tuple[int, int, int]]
"""Makes every batch of an epoch and counts structures, atoms and edges."""


def experiment(structures: int, batch_size: int, repeats: int) -> Experiment:
    """Compare loaders on generated structures with energies, forces and Hessians.

    Reading, neighbour lists and, for torch-geometric, conversion to its ``Data`` in float32 are done before.

    Parameters
    ----------
    structures
        How many.
    batch_size
        Of both loaders; both shuffle.
    repeats
        Epochs of each.

    Returns
    -------
    Experiment
        Over torch-geometric's loader.
    """
    return Experiment(
        title=f"loading in batches of {batch_size}",
        pieces=partial(epochs, structures, batch_size),
        baseline=GEOMETRIC,
        molecules=structures,
        repeats=repeats,
        facts={"atoms each": N_ATOMS},
        verify=require_same_content,
    )


def epochs(structures: int, batch_size: int) -> Pieces:
    """An epoch by each loader.

    Parameters
    ----------
    structures, batch_size
        See :func:`experiment`.

    Returns
    -------
    Pieces
        One :data:`Epoch` each.
    """
    made = generate(structures)
    return {OURS: partial(_ours, made, batch_size), GEOMETRIC: partial(_geometric, made, batch_size)}


def generate(number: int) -> list[Structure]:
    """Atoms on a shaken grid, 1.4 Å apart, with labels that mean nothing.

    Parameters
    ----------
    number
        Of structures.

    Returns
    -------
    list of Structure
        The same at each call.
    """
    rng = np.random.default_rng(0)
    grid = 1.4 * np.stack(np.meshgrid(*[np.arange(3)] * 3), -1).reshape(-1, 3)
    made = []
    for k in range(number):
        hessian = rng.normal(size=(3 * N_ATOMS,) * 2)
        made.append(
            Structure(
                numbers=rng.choice(ELEMENTS, N_ATOMS),
                positions=rng.permutation(grid)[:N_ATOMS] + rng.normal(scale=0.1, size=(N_ATOMS, 3)),
                name=str(k),
                energy=float(rng.normal()),
                forces=rng.normal(size=(N_ATOMS, 3)),
                hessian=hessian + hessian.T,
            )
        )
    return made


def require_same_content(work: Mapping[str, Callable[[], Any]]) -> None:
    """Refuse to time loaders that do not give the same structures, atoms and edges.

    Parameters
    ----------
    work
        One :data:`Epoch` for each loader.

    Raises
    ------
    UserError
        When the counts differ.
    """
    counts = {name: epoch() for name, epoch in work.items()}
    if len(set(counts.values())) > 1:
        raise UserError(f"the loaders give different (structures, atoms, edges): {counts}")


def data_list(structures: Sequence[Structure]) -> list[Any]:
    """What a user of torch-geometric keeps: one ``Data`` for each structure, in float32.

    Parameters
    ----------
    structures
        With all labels.

    Returns
    -------
    list of torch_geometric.data.Data
        With the content of our batches; Hessians flat, since their shapes differ.
    """
    from torch_geometric.data import Data

    made = []
    for k, one in enumerate(structures):
        edge_index, shift = neighbors(one.positions, CUTOFF, one.cell, one.pbc)
        made.append(
            Data(
                z=torch.from_numpy(one.numbers),
                pos=torch.from_numpy(one.positions).float(),
                edge_index=torch.from_numpy(edge_index),
                edge_shift=torch.from_numpy(shift).float(),
                energy=torch.tensor([one.energy], dtype=torch.float64),
                forces=torch.from_numpy(np.asarray(one.forces)).float(),
                hessian=torch.from_numpy(np.asarray(one.hessian).ravel()).float(),
                place=torch.tensor([k]),
            )
        )
    return made


def _ours(structures: Sequence[Structure], batch_size: int) -> Epoch:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "generated.h5"
        write_store(path, structures, level_of_theory="none")
        with Store.open(path) as store:
            loader = Loader(store, range(len(store)), CUTOFF, batch_size, torch.float32, seed=0)

    def epoch() -> tuple[int, int, int]:
        sizes = [(b.n_structures, len(b.numbers), b.edge_index.shape[1]) for b in loader]
        return _total(sizes)

    return epoch


def _geometric(structures: Sequence[Structure], batch_size: int) -> Epoch:
    from torch_geometric.loader import DataLoader

    loader = DataLoader(data_list(structures), batch_size, shuffle=True, generator=torch.Generator().manual_seed(0))

    def epoch() -> tuple[int, int, int]:
        sizes = [(b.num_graphs, b.num_nodes, b.num_edges) for b in loader]
        return _total(sizes)

    return epoch


def _total(sizes: Sequence[tuple[int, int, int]]) -> tuple[int, int, int]:
    structures, atoms, edges = (sum(column) for column in zip(*sizes, strict=True))
    return structures, atoms, edges
