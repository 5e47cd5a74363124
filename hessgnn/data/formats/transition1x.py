"""Transition1x: HDF5 of reaction paths; energies and forces in eV and Å.

M. Schreiner et al., Sci. Data 9, 779 (2022). ``{train, val, test, data}/formula/reaction`` holds the frames of the
nudged elastic band, its sub-groups the end points. ``data`` repeats the other three and is read only where they are
absent.

The transition state is usually one of the frames, and is given once; it is the parent of both ends and of all frames.
Frames are of kind ``path``, not ``irc``: the data set keeps the images of bands that had not converged too, one band
after the other, so they are no profile of the energy.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from hessgnn.data.formats.common import files_of, known, open_hdf5, rows, scalar
from hessgnn.data.formats.registry import Entry, Record, reader
from hessgnn.data.structure import PRODUCT, REACTANT, TRANSITION_STATE, Structure
from hessgnn.errors import DataError

LEVEL = "wB97X/6-31G(d)"
_FRAME = "path"
_SPLITS = {"train": "train", "val": "validation", "test": "test"}
_ENERGY, _FORCES = "wB97x_6-31G(d).energy", "wB97x_6-31G(d).forces"


@reader("transition1x")
def read(source: Path) -> Iterator[Entry]:
    """List reactant, product and path of each reaction, with the split of the source."""
    for path in files_of(source, ".h5", ".hdf5"):
        with open_hdf5(path) as file:
            splits = {key: name for key, name in _SPLITS.items() if key in file} or {"data": "train"}
            if not any(key in file for key in splits):
                raise DataError("has none of the groups train, val, test, data", where=path, hint="check the format")
            for key, split in splits.items():
                for formula in file[key].values():
                    for reaction in formula.values():
                        yield from _of_reaction(reaction, path, split)


def _of_reaction(reaction: h5py.Group, path: Path, split: str) -> Iterator[Entry]:
    group = "/".join(reaction.name.strip("/").split("/")[-2:])
    place = _place_of_saddle(reaction)
    alone = "transition_state" in reaction and place is None
    saddle = f"{group}/transition_state" if alone else "" if place is None else f"{group}/{place}"
    for kind in (REACTANT, PRODUCT):
        if kind in reaction:
            yield from _of_group(reaction[kind], path, f"{group}/{kind}", group, kind, split, saddle)
    if "positions" in reaction:
        yield from _of_group(reaction, path, group, group, _FRAME, split, saddle)
    if alone:
        yield from _of_group(reaction["transition_state"], path, saddle, group, TRANSITION_STATE, split, saddle)


def _place_of_saddle(reaction: h5py.Group) -> int | None:
    """Which frame the transition state is, if one; the few with its energy are looked at."""
    if not {"positions", _ENERGY} <= reaction.keys() or "transition_state" not in reaction:
        return None
    saddle = reaction["transition_state"]
    if not {"positions", _ENERGY} <= saddle.keys() or not len(saddle["positions"]):
        return None
    energy, positions = np.ravel(saddle[_ENERGY][()])[:1], saddle["positions"][0]
    alike = np.flatnonzero(np.isclose(reaction[_ENERGY][()], energy, rtol=0, atol=1e-6))
    same = (int(i) for i in alike if np.array_equal(reaction["positions"][int(i)], positions))
    return next(same, None)


def _of_group(
    holder: h5py.Group, path: Path, name: str, group: str, kind: str, split: str, saddle: str
) -> Iterator[Entry]:
    positions, energies, forces = (rows(holder, key) for key in ("positions", _ENERGY, _FORCES))
    numbers = rows(holder, "atomic_numbers", batched=False)
    for i in range(len(holder["positions"])):
        own = f"{name}/{i}" if kind == _FRAME else name

        def load(i: int = i, own: str = own) -> Record:
            structure = Structure(
                numbers=numbers(i),
                positions=positions(i),
                energy=scalar(energies(i)),
                forces=known(forces(i)),
                name=own,
                group=group,
                kind=TRANSITION_STATE if own == saddle else kind,
                split=split,
                parent="" if own == saddle else saddle,
            )
            return Record(structure, LEVEL)

        yield Entry(f"{path}, {holder.name}[{i}]", load)
