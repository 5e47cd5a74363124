"""HDF5 in the layout of pyanitools, one group for each molecule or composition: ANI-1x and OpenREACT-CHON-EFH.

ANI-1x: J. S. Smith et al., Sci. Data 7, 134 (2020). Energies and forces, Hartree and Hartree/Å; a number that was not
computed is NaN.

OpenREACT (figshare 29189858): A. Rodriguez, J. S. Smith, J. L. Mendoza-Cortes, J. Chem. Theory Comput. 21, 6698 (2025).
Forces are in Hartree/Å and Hessians in Hartree/Å², not per Bohr. A group holds one structure or several of one
molecule. Nothing in the layout says what a structure is, or which belong to one reaction, so it is read off the labels
of each group, and left open where they do not tell:

- a stationary point with a Hessian is a ``minimum`` or a ``transition-state`` by the number of its downhill directions;
- one transition state with two minima below it, and nothing else, are a reaction: ``reactant`` is the first of the two,
  and both have the transition state as their parent;
- frames of the IRC file whose energies rise to one highest frame and fall again are a path, with that frame as parent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from hessgnn.data.formats.common import (
    composition,
    files_of,
    groups_with,
    hessian_matrix,
    known,
    open_hdf5,
    prefix_of,
    rows,
    scalar,
    state,
)
from hessgnn.data.formats.registry import Entry, Record, reader
from hessgnn.data.structure import IRC, MINIMUM, NMS, PRODUCT, REACTANT, TRANSITION_STATE, Array, Structure
from hessgnn.errors import DataError
from hessgnn.units import HARTREE

ANI1X_LEVEL = "wB97X/6-31G(d)"
_ENERGY, _FORCES = "wb97x_dz.energy", "wb97x_dz.forces"


@reader("ani1x")
def read_ani1x(source: Path) -> Iterator[Entry]:
    """List the conformations of a file; those of one composition share a group."""
    for path in files_of(source, ".h5", ".hdf5"):
        with open_hdf5(path) as file:
            for group in groups_with(file, "coordinates"):
                key = group.name.strip("/")
                positions, energies, forces = (rows(group, name) for name in ("coordinates", _ENERGY, _FORCES))
                numbers = rows(group, "atomic_numbers", batched=False)
                for i in range(len(group["coordinates"])):

                    def load(
                        i: int = i, key: str = key, columns: tuple = (numbers, positions, energies, forces)
                    ) -> Record:
                        number, position, energy, force = (_computed(column(i)) for column in columns)
                        structure = Structure(
                            numbers=number,
                            positions=position,
                            energy=scalar(energy, HARTREE),
                            forces=known(force, HARTREE),
                            name=f"{key}/{i}",
                            group=composition(number),
                        )
                        return Record(structure, ANI1X_LEVEL)

                    yield Entry(f"{path}, {key}[{i}]", load)


def _computed(value: Any) -> Any:
    return None if value is None or np.isnan(value).all() else value


OPENREACT_LEVEL = "wB97X-D/6-31G(d)"
_EXTRAPOLATION = (IRC, NMS)  # the files molecules-IRC.h5 and molecules-NMS.h5; molecules-RTP.h5 is for training
_UNKNOWN = "unknown"

_STATIONARY = 0.1
"""Largest force of a stationary point, eV/Å; those of frames are larger, but for the first next to it."""
_DOWNHILL = -0.02
"""Curvature of a downhill direction, eV/Å²: noise left by rotations is smaller, 25 i cm⁻¹ of carbons is as large."""
_RISE = 1e-4
"""By this much the energy may rise on the way down a path, eV."""


@reader("openreact")
def read_openreact(source: Path) -> Iterator[Entry]:
    """List the structures of a file, or of all files of a folder."""
    for path in files_of(source, ".h5", ".hdf5"):
        ending = path.stem.lower().rpartition("-")[2]
        kind = ending if ending in _EXTRAPOLATION else _UNKNOWN
        with open_hdf5(path) as file:
            for holder in groups_with(file, "coordinates"):
                group = _Group(holder, prefix_of(source, path), kind)
                for i in range(len(group)):
                    yield Entry(f"{path}, {group.key}[{i}]", partial(group.record, i))


@dataclass(frozen=True)
class _Group:
    """The structures of one molecule."""

    holder: h5py.Group
    prefix: str
    kind: str

    @property
    def key(self) -> str:
        return self.holder.name.strip("/")

    @cached_property
    def batched(self) -> bool:
        return self.holder["coordinates"].ndim == 3

    def __len__(self) -> int:
        return self.holder["coordinates"].shape[0] if self.batched else 1

    @cached_property
    def _pick(self) -> dict[str, Callable[[int], Any]]:
        several_species = "species" in self.holder and self.holder["species"].ndim == 2
        keys = ("coordinates", "energies", "forces", "hessian")
        pick = {key: rows(self.holder, key, batched=self.batched) for key in keys}
        return pick | {"species": rows(self.holder, "species", batched=several_species)}

    def name(self, i: int) -> str:
        """Numbered where there are several, so that names sort as the structures follow each other."""
        number = f"/{i:0{len(str(len(self) - 1))}d}" if len(self) > 1 else ""
        return f"{self.prefix}{self.key}{number}"

    def structure(self, i: int) -> Structure:
        """With its labels, and without what others of the group say of it."""
        numbers = _numbers(self._pick["species"](i))
        return Structure(
            numbers=numbers,
            positions=self._pick["coordinates"](i),
            energy=scalar(self._pick["energies"](i), HARTREE),
            forces=known(self._pick["forces"](i), HARTREE),
            hessian=hessian_matrix(self._pick["hessian"](i), len(numbers), HARTREE),
            name=self.name(i),
            group=composition(numbers),
            kind=self.kind,
            split="train" if self.kind == _UNKNOWN else self.kind,
        )

    def record(self, i: int) -> Record:
        structure = self.structure(i)
        kind, origin = self._relations[i]
        parent = "" if origin is None else self.name(origin)
        charge, multiplicity = (self.holder.attrs.get(key) for key in ("crg", "mult"))
        spin = state(structure.numbers, _integer(charge), _integer(multiplicity))
        return Record(replace(structure, kind=kind, parent=parent), OPENREACT_LEVEL, spin)

    @cached_property
    def _relations(self) -> list[tuple[str, int | None]]:
        """Kind of each structure and, by its number, its parent."""
        unrelated: list[tuple[str, int | None]] = [(self.kind, None)] * len(self)
        if self.kind == NMS:
            return unrelated
        try:
            if self.kind == IRC:
                return _along_a_path([scalar(self._pick["energies"](i), HARTREE) for i in range(len(self))], unrelated)
            found = [(_stationary_kind(s), s.energy) for s in map(self.structure, range(len(self)))]
        except (DataError, KeyError, ValueError, TypeError):  # told when the damaged structure itself is read
            return unrelated
        return _of_a_reaction([kind for kind, _ in found], [energy for _, energy in found])


def _along_a_path(
    energies: Sequence[float | None], unrelated: list[tuple[str, int | None]]
) -> list[tuple[str, int | None]]:
    if len(energies) < 3 or any(energy is None for energy in energies):
        return unrelated
    heights = np.array(energies, dtype=np.float64)
    top = int(np.argmax(heights))
    up, down = np.diff(heights[: top + 1]), np.diff(heights[top:])
    if (up < -_RISE).any() or (down > _RISE).any():
        return unrelated
    return [(kind, top) for kind, _ in unrelated]


def _of_a_reaction(kinds: Sequence[str], energies: Sequence[float | None]) -> list[tuple[str, int | None]]:
    apart: list[tuple[str, int | None]] = [(kind, None) for kind in kinds]
    if sorted(kinds) != [MINIMUM, MINIMUM, TRANSITION_STATE]:
        return apart
    top = kinds.index(TRANSITION_STATE)
    ends = [i for i in range(3) if i != top]
    summit = energies[top]
    if summit is None or any(energy is None or energy > summit for energy in (energies[i] for i in ends)):
        return apart
    for i, kind in zip(ends, (REACTANT, PRODUCT), strict=True):
        apart[i] = (kind, top)
    return apart


def _stationary_kind(structure: Structure) -> str:
    """By the number of negative eigenvalues, which is the same with and without masses (Sylvester's law of inertia)."""
    if structure.hessian is None or structure.forces is None or np.abs(structure.forces).max() > _STATIONARY:
        return _UNKNOWN
    internal = _internal_coordinates(structure.positions)
    curvatures = np.linalg.eigvalsh(internal.T @ (structure.hessian + structure.hessian.T) @ internal / 2)
    return {0: MINIMUM, 1: TRANSITION_STATE}.get(int((curvatures < _DOWNHILL).sum()), _UNKNOWN)


def _internal_coordinates(positions: Array) -> Array:
    """Orthonormal directions ``(3N, 3N - 6)`` that neither move nor turn the whole; 3N - 5 of what is linear."""
    centred = positions - positions.mean(0)
    moves = [np.tile(axis, len(positions)) for axis in np.eye(3)]
    moves += [np.cross(axis, centred).ravel() for axis in np.eye(3)]
    vectors, lengths, _ = np.linalg.svd(np.array(moves).T, full_matrices=True)
    return vectors[:, int((lengths > 1e-6 * lengths.max()).sum()) :]


def _integer(value: Any) -> int | None:
    return None if value is None else int(np.asarray(value).reshape(-1)[0])


def _numbers(species: NDArray | None) -> NDArray[np.int64]:
    if species is None:
        raise KeyError("no dataset species")
    values = np.asarray(species).ravel()
    if values.dtype.kind in "iuf":
        return values.astype(np.int64)
    texts = [value.decode() if isinstance(value, bytes) else str(value) for value in values]
    return np.array([atomic_numbers[text] for text in texts])
