"""ANI-1x: HDF5, one group for each composition; energies and forces.

J. S. Smith et al., Sci. Data 7, 134 (2020). Hartree and Hartree/Å; a number that was not computed is NaN.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hessgnn.data.formats.common import composition, files_of, groups_with, known, open_hdf5, rows, scalar
from hessgnn.data.formats.registry import Entry, Record, reader
from hessgnn.data.structure import Structure
from hessgnn.units import HARTREE

LEVEL = "wB97X/6-31G(d)"
_ENERGY, _FORCES = "wb97x_dz.energy", "wb97x_dz.forces"


@reader("ani1x")
def read(source: Path) -> Iterator[Entry]:
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
                        return Record(structure, LEVEL)

                    yield Entry(f"{path}, {key}[{i}]", load)


def _computed(value: Any) -> Any:
    return None if value is None or np.isnan(value).all() else value
