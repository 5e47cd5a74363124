"""Transition1x: HDF5 of reaction paths; energies and forces in eV and Å.

M. Schreiner et al., Sci. Data 9, 779 (2022). ``{train, val, test, data}/formula/reaction`` holds the frames of the
nudged elastic band, its sub-groups the end points. ``data`` repeats the other three and is read only where they are
absent. The transition state is one of the frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from hessgnn.data.formats.common import files_of, known, open_hdf5, rows, scalar
from hessgnn.data.formats.registry import Entry, Record, reader
from hessgnn.data.structure import Structure
from hessgnn.errors import DataError

LEVEL = "wB97X/6-31G(d)"
_SPLITS = {"train": "train", "val": "validation", "test": "test"}
_ENERGY, _FORCES = "wB97x_6-31G(d).energy", "wB97x_6-31G(d).forces"


@reader("transition1x")
def read(source: Path) -> Iterator[Entry]:
    """List reactant, product and path of each reaction, with the split of the source."""
    for path in files_of(source, ".h5", ".hdf5"):
        with open_hdf5(path) as file:
            splits = {key: name for key, name in _SPLITS.items() if key in file} or {"data": "train"}
            if not any(key in file for key in splits):
                raise DataError("has none of the groups train, val, test, data", where=path, remedy="check the format")
            for key, split in splits.items():
                for formula in file[key].values():
                    for reaction in formula.values():
                        yield from _of_reaction(reaction, path, split)


def _of_reaction(reaction: h5py.Group, path: Path, split: str) -> Iterator[Entry]:
    group = "/".join(reaction.name.strip("/").split("/")[-2:])
    for kind in ("reactant", "product"):
        if kind in reaction:
            yield from _of_group(reaction[kind], path, f"{group}/{kind}", group, kind, split)
    if "positions" in reaction:
        yield from _of_group(reaction, path, group, group, "path", split)
    elif "transition_state" in reaction:
        yield from _of_group(
            reaction["transition_state"], path, f"{group}/transition_state", group, "transition-state", split
        )


def _of_group(holder: h5py.Group, path: Path, name: str, group: str, kind: str, split: str) -> Iterator[Entry]:
    positions, energies, forces = (rows(holder, key) for key in ("positions", _ENERGY, _FORCES))
    numbers = rows(holder, "atomic_numbers", batched=False)
    summit = rows(holder, "transition_state/positions")
    for i in range(len(holder["positions"])):

        def load(i: int = i) -> Record:
            top = summit(0)
            structure = Structure(
                numbers=numbers(i),
                positions=positions(i),
                energy=scalar(energies(i)),
                forces=known(forces(i)),
                name=f"{name}/{i}" if kind == "path" else name,
                group=group,
                kind=kind if top is None or not np.array_equal(positions(i), top) else "transition-state",
                split=split,
            )
            return Record(structure, LEVEL)

        yield Entry(f"{path}, {holder.name}[{i}]", load)
