"""phonopy: displaced supercells with their forces become directions of the perfect one, force constants its Hessian.

phonopy's own reader of YAML builds any Python object that a file names (``yaml.CLoader``), so that a file could run
code. The text is read here with the safe loader, and phonopy interprets what that gives.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import yaml

from hessgnn.data.directions import Directions
from hessgnn.data.displacements import anharmonicity, differences, directions_of, require_signs
from hessgnn.data.formats.common import MAX_NUMBERS, composition, open_hdf5, whole
from hessgnn.data.formats.registry import Entry, Record, reader, writer
from hessgnn.data.store.layout import require_own_data
from hessgnn.data.structure import Array, Structure
from hessgnn.errors import DataError
from hessgnn.runtime.files import atomic_folder
from hessgnn.runtime.imports import require

KIND = "phonopy"
"""Kind of the directions: the displacements that phonopy chose."""
STEP = 0.01
"""Å: largest displacement of an atom in the supercells that are written, phonopy's default."""

_FILES = ("phonopy_params*.yaml*", "phonopy_disp*.yaml*", "phonopy*.yaml*")  # the first kind that a folder has
_USUAL = ("phonopy_params", "phonopy_disp", "phonopy")
_OTHERS = ("FORCE_SETS", "FORCE_CONSTANTS", "force_constants.hdf5")
_TEXT = 2**28  # bytes of a file, unpacked: a compressed one may claim any size
_ALIAS = re.compile(rb"(?:^|[\s\[,:-])[&*][A-Za-z0-9_]")
_UNMOVED = 1e-8  # Å: a supercell that is not displaced has the forces of the perfect one


def _phonopy(module: str) -> Any:
    return require(f"phonopy.{module}", package="phonopy", extra="phonopy", purpose="this format")


@reader("phonopy")
def read(source: Path) -> Iterator[Entry]:
    """List the calculations: a YAML file each, with FORCE_SETS and force constants in it or beside it."""
    _phonopy("interface.phonopy_yaml")
    for path, alone in _calculations(source):
        stem = path.name.partition(".")[0]
        words = [*path.parent.relative_to(source).parts] if source.is_dir() else []
        if stem not in _USUAL:
            words.append(stem)
        name = "/".join(words) or path.resolve().parent.name

        def load(path: Path = path, alone: bool = alone, name: str = name) -> Record:
            return Record(_structure(path, name, beside=alone), "")

        yield Entry(str(path), load)


def _calculations(source: Path) -> Iterator[tuple[Path, bool]]:
    """YAML files, and whether each is the only one of its folder: then the other files there belong to it."""
    if not source.exists():
        raise DataError("no such file or folder", where=source, hint="check the path")
    if source.is_file() and ".yaml" in source.name:
        yield source, len(_of_folder(source.parent)) < 2
        return
    folder = source if source.is_dir() else source.parent
    folders = sorted({path.parent for path in folder.rglob(_FILES[-1])}) if source.is_dir() else [folder]
    found = [_of_folder(one) for one in folders]
    if not any(found):
        raise DataError("holds no phonopy*.yaml, which describes the supercell", where=folder, hint="check the path")
    for files in found:
        yield from ((path, len(files) == 1) for path in files)


def _of_folder(folder: Path) -> list[Path]:
    for pattern in _FILES:
        if found := sorted(path for path in folder.glob(pattern) if path.is_file()):
            return found
    return []


# Reading one calculation


@dataclass(frozen=True)
class _Units:
    """Of the calculator, in Å and eV/Å; that of force constants by phonopy's name."""

    length: float
    force: float
    force_constants: str


def _structure(path: Path, name: str, *, beside: bool) -> Structure:
    """The perfect supercell, with what is known of its curvature."""
    data = _parsed(path)
    units = _units(data, path)
    supercell, primitive = _cells(data, path)
    force_sets, *constants = ((path.parent / other) for other in _OTHERS)
    dataset = data.dataset
    where = path
    if beside and not _has_forces(dataset) and force_sets.is_file():
        dataset, where = _force_sets(force_sets, len(supercell)), force_sets
    hessian = _hessian(data, constants if beside else [], supercell, primitive, units)
    directions, forces = None, None
    if _has_forces(dataset):
        directions, forces = _directions(dataset, len(supercell), units, where)
    if directions is None and hessian is None:
        hint = "put FORCE_SETS or FORCE_CONSTANTS beside it" if beside else "save it with forces"
        raise DataError("has displacements without forces, and no force constants", hint=hint)
    return Structure(
        numbers=supercell.numbers,
        positions=supercell.positions * units.length,
        cell=supercell.cell * units.length,
        pbc=np.ones(3, dtype=bool),
        forces=forces,
        hessian=hessian,
        directions=directions,
        name=name,
        group=composition(supercell.numbers),
        kind="supercell",
    )


def _parsed(path: Path) -> Any:
    """What a YAML file says, as phonopy understands it; nothing in it is run."""
    module: ModuleType = _phonopy("interface.phonopy_yaml")
    content = _plain(_text(path), path)
    try:
        return module.PhonopyYamlLoader(content).parse().data
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, RuntimeError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"is no YAML of phonopy ({type(error).__name__}: {reason})", where=path) from error


def _text(path: Path) -> bytes:
    opener = _phonopy("file_IO").get_io_module_to_decompress(path)
    with opener.open(path, "rb") as file:
        text = file.read(_TEXT + 1)
    if len(text) > _TEXT:
        raise DataError(f"is larger than {_TEXT} bytes", where=path, hint="save force constants as HDF5")
    return bytes(text)


def _plain(text: bytes, path: Path) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        if _ALIAS.search(text) and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, loader)):
            raise DataError("repeats parts by aliases, which phonopy does not write", where=path)
        content = yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = path if mark is None else f"{path}, line {mark.line + 1}"
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise DataError(f"not valid YAML ({problem})", where=place, hint="only data are read, no objects") from error
    except RecursionError:
        raise DataError("nested too deeply", where=path) from None
    if not isinstance(content, dict):
        raise DataError("holds no mapping of keys to values", where=path, hint="give phonopy's own YAML file")
    return content


def _units(data: Any, path: Path) -> _Units:
    try:
        units = data.physical_units or _phonopy("physical_units").get_calculator_physical_units(data.calculator)
    except (UnboundLocalError, ValueError, RuntimeError, KeyError) as error:
        raise DataError(f"the units of calculator {data.calculator!r} are not known to phonopy", where=path) from error
    return _Units(units.distance_to_A, units.force_to_eVperA, units.force_constants_unit)


def _cells(data: Any, path: Path) -> tuple[Any, Any]:
    """Supercell and primitive cell, built from the unit cell as phonopy does."""
    if data.unitcell is None or data.supercell_matrix is None:
        raise DataError("has no unit_cell or supercell_matrix", where=path, hint="give phonopy_disp.yaml or later ones")
    if any(getattr(cell, "has_weighted_species", False) for cell in (data.unitcell, data.supercell)):
        raise DataError("has sites of mixed species, which are no atoms", where=path)
    matrix = np.asarray(data.supercell_matrix)
    number = len(data.unitcell) * abs(round(float(np.linalg.det(matrix)))) if matrix.shape == (3, 3) else 0
    if not 0 < 9 * number**2 <= MAX_NUMBERS:
        raise DataError(f"claims a supercell of {number} atoms", where=path)
    if data.supercell is not None and len(data.supercell) != number:
        raise DataError(f"has a supercell of {len(data.supercell)} atoms, its matrix makes {number}", where=path)
    cells = _phonopy("structure.cells")
    supercell = cells.get_supercell(data.unitcell, matrix)
    if data.supercell is not None:
        shift = data.supercell.scaled_positions - supercell.scaled_positions
        same = np.array_equal(data.supercell.numbers, supercell.numbers)
        if not same or np.abs(shift - np.rint(shift)).max() > 1e-5:
            raise DataError("has a supercell whose atoms are in another order than those of its unit cell", where=path)
    axes = np.eye(3) if data.primitive_matrix is None else np.asarray(data.primitive_matrix)
    primitive = cells.get_primitive(supercell, np.linalg.inv(matrix) @ axes)
    return supercell, primitive


def _has_forces(dataset: Any) -> bool:
    if dataset is None:
        return False
    first = dataset.get("first_atoms", [dataset])
    return bool(first) and all("forces" in one for one in first)


def _force_sets(path: Path, n_atoms: int) -> Any:
    """Parse FORCE_SETS of either type."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of NumPy: no data, or a short line
            text = _text(path).decode()
            return _phonopy("file_IO").parse_FORCE_SETS_from_strings(text, natom=n_atoms)
    except RecursionError:  # how phonopy looks for a line behind the last one
        raise DataError("ends before its last force", where=path, hint="copy it again") from None
    except (ValueError, RuntimeError, IndexError, UserWarning) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"is no FORCE_SETS of {n_atoms} atoms ({reason})", where=path) from error


def _directions(dataset: Any, n_atoms: int, units: _Units, where: Path) -> tuple[Directions, Array | None]:
    """Products of the displaced supercells, and the forces of one that is not displaced, if there is one.

    Without it the perfect supercell is taken to have no forces, as phonopy does; ± pairs do not need them.
    """
    if "first_atoms" in dataset:
        first = dataset["first_atoms"]
        moved, forces = np.zeros((len(first), n_atoms, 3)), np.zeros((len(first), n_atoms, 3))
        for k, one in enumerate(first):
            shape = np.shape(one["forces"])
            if shape != (n_atoms, 3) or not 0 <= one["number"] < n_atoms or np.shape(one["displacement"]) != (3,):
                raise DataError(f"displacement {k + 1} does not belong to {n_atoms} atoms", where=where)
            moved[k, one["number"]], forces[k] = one["displacement"], one["forces"]
    else:
        moved, forces = (np.asarray(dataset[key], dtype=np.float64) for key in ("displacements", "forces"))
        if moved.shape != forces.shape or moved.shape[1:] != (n_atoms, 3):
            raise DataError(f"displacements {moved.shape} and forces {forces.shape} differ", where=where)
    finite = np.isfinite(moved).all((1, 2)) & np.isfinite(forces).all((1, 2))
    if not finite.all():
        raise DataError(f"displacement {int(finite.argmin()) + 1} holds NaN or infinity", where=where)
    moved, forces = moved * units.length, forces * units.force
    still = np.abs(moved).max(axis=(1, 2)) < _UNMOVED
    if still.all():
        raise DataError("no supercell is displaced", where=where)
    own = forces[still].mean(axis=0) if still.any() else None
    made = differences(moved[~still], forces[~still], np.zeros((n_atoms, 3)) if own is None else own)
    require_signs([made], where)
    return directions_of(made, KIND, anharmonicity([made]).errors(made)), own


def _hessian(data: Any, beside: list[Path], supercell: Any, primitive: Any, units: _Units) -> Array | None:
    """Force constants as ``(3N, 3N)``, eV/Å², from the YAML itself or from a file beside it."""
    n_atoms = len(supercell)
    unit = units.force_constants
    constants = data.force_constants
    where = None
    if constants is None:
        where = next((path for path in beside if path.is_file()), None)
        if where is None:
            return None
        constants, unit = _of_hdf5(where, unit) if where.suffix == ".hdf5" else (_of_text(where, n_atoms), unit)
    allowed = [(rows, n_atoms, 3, 3) for rows in (n_atoms, len(primitive))]
    if constants.shape not in allowed:
        raise DataError(f"force constants have shape {constants.shape}, expected {allowed[0]}", where=where)
    if not np.isfinite(constants).all():
        raise DataError("force constants hold NaN or infinity", where=where)
    if len(constants) < n_atoms:
        constants = _phonopy("harmonic.force_constants").compact_fc_to_full_fc(primitive, constants)
    factor = _phonopy("interface.calculator").get_force_constant_conversion_factor(unit, "vasp")
    return np.asarray(constants).transpose(0, 2, 1, 3).reshape(3 * n_atoms, 3 * n_atoms) * factor


def _of_text(path: Path, n_atoms: int) -> Array:
    with path.open(encoding="utf-8") as file:
        head = file.readline().split()
    if not head or not all(word.isdecimal() and int(word) <= n_atoms for word in head):
        raise DataError(f"its first line is not the shape of force constants of {n_atoms} atoms", where=path)
    try:
        return np.asarray(_phonopy("file_IO").parse_FORCE_CONSTANTS(path))
    except (ValueError, IndexError, RuntimeError) as error:
        raise DataError(f"is no FORCE_CONSTANTS ({' '.join(str(error).split())})", where=path) from error


def _of_hdf5(path: Path, unit: str) -> tuple[Array, str]:
    with open_hdf5(path) as file:
        require_own_data(file, path)
        key = next((key for key in ("fc2", "force_constants") if key in file), None)
        if key is None:
            raise DataError("has no dataset force_constants", where=path)
        if "physical_unit" in file:
            unit = np.asarray(file["physical_unit"][()]).ravel()[0].decode()
        return np.asarray(whole(file[key]), dtype=np.float64), unit


# Writing


@writer("phonopy")
def write(structures: Iterable[Structure], target: Path, level: str) -> None:  # noqa: ARG001 (nowhere to put it)
    """Write a folder for each periodic structure with products or a Hessian: phonopy_params.yaml, FORCE_SETS, ….

    A product becomes the supercell displaced along its direction by :data:`STEP` and the harmonic forces there; the
    structure itself is the supercell. Kinds, weights and errors of directions have no place in these files.
    """
    phonopy, atoms, file_io = _phonopy("api_phonopy"), _phonopy("structure.atoms"), _phonopy("file_IO")
    with atomic_folder(target) as folder:
        for structure in structures:
            directions, hessian = structure.directions, structure.hessian
            if structure.cell is None or not structure.pbc.all():
                raise DataError("is not a crystal", where=structure.name, hint="choose another format")
            if directions is None and hessian is None:
                raise DataError("has no directions and no Hessian", where=structure.name, hint="choose another format")
            place = folder / structure.name
            if folder.resolve() not in place.resolve().parents:
                raise DataError(
                    f"its name, {structure.name!r}, leads out of {target}", where=structure.name, hint="rename it"
                )
            place.mkdir(parents=True)
            n_atoms = len(structure)
            cell = atoms.PhonopyAtoms(numbers=structure.numbers, cell=structure.cell, positions=structure.positions)
            phonon = phonopy.Phonopy(cell, np.eye(3, dtype=int), primitive_matrix=np.eye(3), is_symmetry=False)
            if directions is not None:
                steps = STEP / np.linalg.norm(directions.vectors, axis=2).max(axis=1)[:, None, None]
                own = np.zeros((n_atoms, 3)) if structure.forces is None else structure.forces
                phonon.dataset = {
                    "displacements": directions.vectors * steps,
                    "forces": own - directions.products * steps,
                }
                file_io.write_FORCE_SETS(phonon.dataset, place / "FORCE_SETS")
            if hessian is not None:
                phonon.force_constants = np.ascontiguousarray(
                    hessian.reshape(n_atoms, 3, n_atoms, 3).transpose(0, 2, 1, 3)
                )
                file_io.write_FORCE_CONSTANTS(phonon.force_constants, place / "FORCE_CONSTANTS")
            phonon.save(place / "phonopy_params.yaml")
