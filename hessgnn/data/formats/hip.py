"""The HDF5 of MACE with Hessians, in which the samples of HIP and HORM circulate; eV and Å.

``config_batch_*/config_*`` holds ``atomic_numbers``, ``positions``, ``cell``, ``pbc`` and ``properties/{energy, forces,
hessian}``; what is not known is the text ``None``. Files of ours keep directions in a group ``directions`` beside the
properties, where MACE does not look.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py

from hessgnn.data.directions import FIELDS, Directions
from hessgnn.data.formats.common import (
    composition,
    files_of,
    hessian_matrix,
    known,
    open_hdf5,
    prefix_of,
    scalar,
    whole,
)
from hessgnn.data.formats.registry import Entry, Record, reader, writer
from hessgnn.data.store.hdf5 import HDF5Output
from hessgnn.data.structure import STRINGS, Structure
from hessgnn.errors import DataError
from hessgnn.runtime.files import atomic_path


@reader("hip")
def read(source: Path) -> Iterator[Entry]:
    """List the configurations of a file, or of all shards of a folder."""
    for path in files_of(source, ".h5", ".hdf5"):
        with open_hdf5(path) as file:
            batches = sorted((key for key in file if key.startswith("config_batch_")), key=_number)
            if not batches:
                raise DataError("has no group config_batch_0", where=path, hint="check the format")
            level = str(file.attrs.get("level_of_theory", ""))
            for batch in batches:
                yield from _of_batch(file[batch], f"{path}, {batch}", prefix_of(source, path), level)


def _of_batch(batch: h5py.Group, where: str, prefix: str, level: str) -> Iterator[Entry]:
    for config in sorted(batch, key=_number):

        def load(config: str = config) -> Record:
            return Record(_structure(batch[config], prefix), level)

        yield Entry(f"{where}/{config}", load)


def _number(key: str) -> int:
    digits = key.rpartition("_")[2]
    return int(digits) if digits.isdigit() else -1


def _structure(group: h5py.Group, prefix: str) -> Structure:
    properties = group["properties"]
    numbers = whole(group["atomic_numbers"])
    cell, pbc = _value(group, "cell"), _value(group, "pbc")
    strings = {key: str(group.attrs[key]) for key in STRINGS if key in group.attrs}
    fields: dict[str, Any] = {"name": f"{prefix}{group.name.strip('/')}", "group": composition(numbers)} | strings
    if pbc is not None:
        fields["pbc"] = pbc
    return Structure(
        numbers=numbers,
        positions=whole(group["positions"]),
        cell=cell if cell is not None and cell.any() else None,
        energy=scalar(_value(properties, "energy")),
        forces=known(_value(properties, "forces")),
        hessian=hessian_matrix(_value(properties, "hessian"), len(numbers)),
        directions=_directions(group, len(numbers)),
        hessian_asymmetry=scalar(group.attrs.get("hessian_asymmetry")),
        **fields,
    )


def _directions(group: h5py.Group, n_atoms: int) -> Directions | None:
    if "directions" not in group:
        return None
    found = group["directions"]
    values = {name: whole(found[name]) for name in FIELDS.values() if name in found}
    kinds = {name: value.decode() for name, value in values.items() if isinstance(value, bytes)}
    return Directions.from_fields(values | kinds, n_atoms)


def _value(group: h5py.Group, key: str) -> Any:
    if key not in group:
        return None
    value = whole(group[key])
    return None if isinstance(value, bytes) else value  # b"None"


@writer("hip")
def write(structures: Iterable[Structure], target: Path, level: str) -> None:
    """Write one file with a single batch: MACE takes every batch for as long as the first."""
    with atomic_path(target) as temporary, HDF5Output(temporary) as file:
        file.attrs["level_of_theory"] = level
        batch = file.create_group("config_batch_0")
        for i, structure in enumerate(structures):
            group = batch.create_group(f"config_{i}")
            group["atomic_numbers"], group["positions"] = structure.numbers, structure.positions
            group["cell"] = "None" if structure.cell is None else structure.cell
            group["pbc"] = structure.pbc
            group["weight"], group["config_type"], group["head"] = 1.0, "Default", "Default"
            for key in ("energy", "forces", "hessian"):
                value = getattr(structure, key)
                group[f"properties/{key}"] = "None" if value is None else value
                group[f"property_weights/{key}"] = float(value is not None)
            if structure.directions is not None:
                for name, value in structure.directions.to_fields().items():
                    group[f"directions/{name}"] = value
            group.attrs.update({key: getattr(structure, key) for key in STRINGS})
            file.require_written()
            if structure.hessian_asymmetry is not None:
                group.attrs["hessian_asymmetry"] = structure.hessian_asymmetry
