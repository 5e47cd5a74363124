"""What batching costs: this package's loader beside that of torch-geometric, and beside itself on larger files."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hessgnn.data.batch import Batch
from hessgnn.data.loader import Loader
from hessgnn.data.neighbors import neighbors
from hessgnn.data.store.columns import SCRATCH
from hessgnn.data.store.layout import open_checked
from hessgnn.data.store.store import Store
from hessgnn.data.store.writer import drafted, write_store
from hessgnn.data.structure import Structure
from hessgnn.errors import UserError
from hessgnn_bench.experiment import Experiment, Pieces

OURS = "hessgnn Loader, packed Hessians"
OURS_DENSE = "hessgnn Loader, Hessian matrices"
GEOMETRIC = "torch_geometric DataLoader"
N_ATOMS = 15
CUTOFF = 5.0
ELEMENTS = (1, 6, 7, 8)
REAL = 7 * 16_384
"""Structures of the largest file whose structures all differ; larger ones repeat them. Divides into whole chunks."""

Totals = tuple[int, int, int, float, float, float]
"""Structures, atoms, edges; sums of the energies, the squares of forces, and those of Hessians."""


def experiments(structures: int, sizes: Sequence[int], batch_size: int, repeats: int) -> list[Experiment]:
    """Compare loaders on generated structures with energies, forces and Hessians, in float32 and shuffled.

    Ours reads a file, finds neighbours anew in each batch and reads all Hessians, as packed triangles or as matrices.
    For torch-geometric a list of its ``Data``, edges included, is made before.

    Parameters
    ----------
    structures
        How many for the comparison of the two.
    sizes
        Numbers of structures in the files that ours is compared on.
    batch_size
        Of both loaders.
    repeats
        Of each piece.

    Returns
    -------
    list of Experiment
        Against torch-geometric's loader; against the smallest file, once it has been read; the same the first time.
    """
    facts = {"atoms each": N_ATOMS, "structures in a batch": batch_size}
    served = min(sizes)
    first, *_ = names = [_named(size) for size in sizes]
    scaling = partial(scales, dict(zip(names, sizes, strict=True)), batch_size, served)
    return [
        Experiment(
            title="an epoch by each loader",
            pieces=partial(epochs, structures, batch_size),
            baseline=GEOMETRIC,
            molecules=structures,
            repeats=repeats,
            warmup=1,
            facts=facts,
            verify=require_same_content,
        ),
        Experiment(
            title="hessgnn Loader, packed Hessians: batches at random from files of different size",
            pieces=scaling,
            baseline=first,
            molecules=served,
            repeats=repeats,
            facts=facts,
        ),
        Experiment(
            title="the same, from opening the file to the first batch, nothing unpacked before",
            pieces=partial(scaling, cold=True),
            baseline=first,
            molecules=batch_size,
            repeats=min(repeats, 3),
            warmup=0,
            facts=facts,
        ),
    ]


class Epoch:
    """The batches of an epoch, each made and thrown away.

    Parameters
    ----------
    batches
        Gives the batches of our loader.
    read
        What is taken of their Hessians.
    """

    def __init__(self, batches: Callable[[], Iterator[Batch]], read: Callable[[Batch], Any]) -> None:
        self.batches, self.read = batches, read

    def __call__(self) -> None:
        """Make the batches."""
        for batch in self.batches():
            self.read(batch)

    def totals(self) -> Totals:
        """What they hold."""
        found = []
        for batch in self.batches():
            assert batch.labels is not None
            labels, hessians = batch.labels, batch.labels.hessian.double()
            sums = labels.energy.sum(), labels.forces.double().square().sum(), hessians.square().sum()
            sizes = batch.n_structures, len(batch.numbers), batch.edge_index.shape[1]
            found.append((*sizes, *map(float, sums)))
        return _total(found)


class GeometricEpoch:
    """The same by torch-geometric's loader.

    Parameters
    ----------
    store
        The structures.
    batch_size
        Of the batches.
    """

    def __init__(self, store: Store, batch_size: int) -> None:
        from torch_geometric.loader import DataLoader

        generator = torch.Generator().manual_seed(0)
        self.loader = DataLoader(data_list(store), batch_size, shuffle=True, generator=generator)

    def __call__(self) -> None:
        """Make the batches."""
        for _ in self.loader:
            pass

    def totals(self) -> Totals:
        """What they hold."""
        found = []
        for batch in self.loader:
            sums = batch.energy.sum(), batch.forces.double().square().sum(), batch.hessian.double().square().sum()
            found.append((batch.num_graphs, batch.num_nodes, batch.num_edges, *map(float, sums)))
        return _total(found)


def epochs(structures: int, batch_size: int) -> Pieces:
    """An epoch by each loader.

    Parameters
    ----------
    structures, batch_size
        See :func:`experiments`.

    Returns
    -------
    Pieces
        One :class:`Epoch` or :class:`GeometricEpoch` each.
    """
    file = _file(structures)

    def ours(read: Callable[[Batch], Any]) -> Epoch:
        loader = _loader(file, structures, batch_size)
        return Epoch(lambda: iter(loader), read)

    return {
        OURS: lambda: ours(_triangles),
        OURS_DENSE: lambda: ours(_matrices),
        GEOMETRIC: lambda: GeometricEpoch(Store.open(file.path), batch_size),
    }


def scales(sizes: Mapping[str, int], batch_size: int, served: int, *, cold: bool = False) -> Pieces:
    """Batches from files of different size.

    Parameters
    ----------
    sizes
        Name -> structures of the file.
    batch_size
        Of the batches.
    served
        Structures that one piece of work serves.
    cold
        Open the file for each and give one batch only.

    Returns
    -------
    Pieces
        One for each size.
    """

    def warm(size: int) -> Epoch:
        file = _file(size)
        loader = _loader(file, size, batch_size)
        every = itertools.count()  # goes on where the last turn ended: nothing is met again in a cache

        def batches() -> Iterator[Batch]:
            return (loader.batch(step) for step in itertools.islice(every, -(-served // batch_size)))

        return Epoch(batches, _triangles)

    def first(size: int) -> Epoch:
        file = _file(size)

        def batches() -> Iterator[Batch]:
            yield _loader(file, size, batch_size).batch(0)

        return Epoch(batches, _triangles)

    return {name: partial(first if cold else warm, size) for name, size in sizes.items()}


def require_same_content(work: Mapping[str, Callable[[], Any]]) -> None:
    """Refuse to time loaders that do not give the same.

    Parameters
    ----------
    work
        One :class:`Epoch` or :class:`GeometricEpoch` for each loader.

    Raises
    ------
    UserError
        When their totals differ.
    """
    totals = {name: epoch.totals() for name, epoch in work.items()}  # type: ignore[attr-defined]
    first = next(iter(totals.values()))
    if not all(np.allclose(found, first, rtol=1e-9, atol=0) for found in totals.values()):
        raise UserError(f"the loaders give different content (structures, atoms, edges, E, F², H²): {totals}")


def generate(number: int) -> Iterator[Structure]:
    """Atoms on a shaken grid, 1.4 Å apart, with labels that mean nothing.

    Parameters
    ----------
    number
        Of structures.

    Yields
    ------
    Structure
        The same at each call.
    """
    rng = np.random.default_rng(0)
    grid = 1.4 * np.stack(np.meshgrid(*[np.arange(3)] * 3), -1).reshape(-1, 3)
    for k in range(number):
        hessian = rng.normal(size=(3 * N_ATOMS,) * 2)
        yield Structure(
            numbers=rng.choice(ELEMENTS, N_ATOMS),
            positions=rng.permutation(grid)[:N_ATOMS] + rng.normal(scale=0.1, size=(N_ATOMS, 3)),
            name=str(k),
            energy=float(rng.normal()),
            forces=rng.normal(size=(N_ATOMS, 3)),
            hessian=hessian + hessian.T,
        )


def data_list(structures: Store | Sequence[Structure]) -> list[Any]:
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


class _File:
    """A store of generated structures and its scratch files, removed with this object.

    Parameters
    ----------
    size
        Structures at least; beyond :data:`REAL` the file repeats them as often as needed, under other names.
    """

    def __init__(self, size: int) -> None:
        self._folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self.path = Path(self._folder) / "generated.h5"
        write_store(self.path, generate(min(size, REAL)), level_of_theory="none")
        if size > REAL:
            with drafted(self.path, "float32") as draft, open_checked(self.path) as file:
                while len(draft) < size:
                    draft.extend(file)
                draft.strings["name"] = [str(k).encode() for k in range(len(draft))]
                file.close()
                draft.seal("none", "", {})

    @contextmanager
    def scratch(self) -> Iterator[None]:
        """Unpack beside the file, nowhere else."""
        before = os.environ.get(SCRATCH)
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            os.environ[SCRATCH] = folder
            try:
                yield  # what is mapped stays readable when the folder is gone
            finally:
                del os.environ[SCRATCH]
                if before is not None:
                    os.environ[SCRATCH] = before


@cache
def _file(size: int) -> _File:
    """The same file for all that ask for the size, until the process ends."""
    return _File(size)


def _loader(file: _File, size: int, batch_size: int) -> Loader:
    """A loader whose store is unpacked."""
    store = Store.open(file.path)
    loader = Loader(store, range(size), CUTOFF, batch_size, torch.float32, seed=0)
    with file.scratch():
        _triangles(loader.batch(0))
    return loader


def _triangles(batch: Batch) -> object:
    assert batch.labels is not None
    return batch.labels.hessians.triangles()


def _matrices(batch: Batch) -> object:
    assert batch.labels is not None
    return batch.labels.hessian


def _named(size: int) -> str:
    return f"{size:,} structures" + (f", repeating {REAL:,}" if size > REAL else "")


def _total(found: Sequence[Sequence[float]]) -> Totals:
    structures, atoms, edges, energy, forces, hessian = (sum(column) for column in zip(*found, strict=True))
    return int(structures), int(atoms), int(edges), energy, forces, hessian
