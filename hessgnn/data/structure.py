"""One labelled structure: what the readers make, the store keeps and the loader batches."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from hessgnn.data.directions import Directions
from hessgnn.errors import DataError

# Kinds of structures: how a geometry came about.
MINIMUM = "minimum"
REACTANT = "reactant"
PRODUCT = "product"
TRANSITION_STATE = "transition-state"
IRC = "irc"
NMS = "nms"
THERMAL = "thermal"

STATIONARY = (MINIMUM, REACTANT, PRODUCT, TRANSITION_STATE)
"""Where all forces vanish: what the study trains on."""
FRAMES = (IRC, NMS, THERMAL)
"""Away from stationary points: on a reaction path, along normal modes, of molecular dynamics. Each is the name of a
split too, where most of its frames go."""
KINDS = (*STATIONARY, *FRAMES)
RELABELLED = "relabelled"
"""Kind of a structure that is a stationary point of another surface than that of its labels."""

Array = NDArray[np.float64]

STRINGS = ("name", "group", "kind", "split", "parent")
"""Fields that are text; every format that can keep text keeps them under these names."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Structure:
    """Atoms with the labels known for them, in eV and Å. Arrays are converted and their shapes checked on creation.

    =================== =========== =======  ======================================================================
    field               shape       unit     meaning
    =================== =========== =======  ======================================================================
    numbers             (N,)                 atomic numbers
    positions           (N, 3)      Å
    cell                (3, 3)      Å        rows are lattice vectors; ``None`` for a molecule
    pbc                 (3,)                 periodic directions; none by default
    energy              scalar      eV       ``None`` where unknown, as for the two below
    forces              (N, 3)      eV/Å     −∂E/∂R
    hessian             (3N, 3N)    eV/Å²    +∂²E/∂R∂R, row index ``3 * atom + xyz``
    hessian_asymmetry   scalar      eV/Å²    largest ``|H − Hᵀ|`` when the label was made, if known
    directions          M of them            Hessian-vector products; ``None`` where there are none
    name                                     unique within a file
    group                                    molecule or reaction, not to be divided between splits; else the name
    kind                                     how the geometry came about: ``minimum``, ``reactant``, ``product``,
                                             ``transition-state``, ``irc``, ``nms``, ``thermal``, …
    split                                    ``train``, ``validation``, ``test``, ``irc``, ``nms``, …
    parent                                   name of the structure that this one was made from: what a frame was
                                             displaced from; the saddle point of a path and of its two ends. Or empty
    =================== =========== =======  ======================================================================

    Raises
    ------
    DataError
        When a shape is wrong.
    """

    numbers: NDArray[np.int64]
    positions: Array
    name: str
    cell: Array | None = None
    pbc: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(3, dtype=bool))
    energy: float | None = None
    forces: Array | None = None
    hessian: Array | None = None
    hessian_asymmetry: float | None = None
    directions: Directions | None = None
    group: str = ""
    kind: str = "unknown"
    split: str = "train"
    parent: str = ""

    def __post_init__(self) -> None:
        n_atoms = len(self.numbers)
        self._set("numbers", self.numbers, np.int64, (n_atoms,))
        self._set("positions", self.positions, np.float64, (n_atoms, 3))
        self._set("pbc", self.pbc, np.bool_, (3,))
        self._set("cell", self.cell, np.float64, (3, 3))
        self._set("forces", self.forces, np.float64, (n_atoms, 3))
        self._set("hessian", self.hessian, np.float64, (3 * n_atoms, 3 * n_atoms))
        if self.directions is not None:
            self._check_directions(self.directions)
        if not self.group:
            object.__setattr__(self, "group", self.name)
        if not n_atoms:
            raise DataError("has no atoms", where=self.name)
        if self.numbers.min() < 1 or self.numbers.max() > 118:
            raise DataError("holds an atomic number outside 1…118", where=self.name)

    def _set(self, key: str, value: object, dtype: type, shape: tuple[int, ...]) -> None:
        if value is None:
            return
        array: NDArray = np.asarray(value, dtype=dtype)
        if array.shape != shape:
            raise DataError(f"{key} has shape {array.shape}, expected {shape}", where=self.name)
        object.__setattr__(self, key, array)

    def _check_directions(self, directions: Directions) -> None:
        if directions.vectors.shape[1] != len(self.numbers):
            size = directions.vectors.shape[1]
            raise DataError(f"its directions are of {size} atoms, it has {len(self.numbers)}", where=self.name)
        if not len(directions):
            object.__setattr__(self, "directions", None)

    def __len__(self) -> int:
        return len(self.numbers)

    def with_directions(self, new: Directions | None) -> Structure:
        """Copy the structure with some directions more, after those that it has."""
        known = [one for one in (self.directions, new) if one is not None]
        return replace(self, directions=Directions.join(known) if known else None)

    def to_atoms(self) -> Atoms:
        """Make an ASE object, which :meth:`from_atoms` reads back.

        Energy and forces go into its calculator, the Hessian and the directions into ``info``, the latter under the
        names of :data:`hessgnn.data.directions.FIELDS`.
        """
        atoms = Atoms(numbers=self.numbers, positions=self.positions, cell=self.cell, pbc=self.pbc)
        atoms.info.update({key: getattr(self, key) for key in STRINGS if key != "parent" or self.parent})
        if self.hessian is not None:
            atoms.info["hessian"] = self.hessian
        if self.hessian_asymmetry is not None:
            atoms.info["hessian_asymmetry"] = self.hessian_asymmetry
        if self.directions is not None:
            atoms.info.update(self.directions.to_fields())
        if self.energy is not None or self.forces is not None:
            atoms.calc = SinglePointCalculator(atoms, energy=self.energy, forces=self.forces)
        return atoms

    @classmethod
    def from_atoms(cls, atoms: Atoms, **fields: object) -> Structure:
        """Make a structure from an ASE object, with the labels stored in it; nothing is computed.

        Parameters
        ----------
        atoms
            Energy and forces are taken from its calculator's results, the other fields from ``info``.
        **fields
            Fields that replace what ``atoms`` holds.
        """
        found: dict[str, object] = {key: atoms.info[key] for key in _FROM_INFO if key in atoms.info}
        results = {} if atoms.calc is None else atoms.calc.results
        found |= {key: results[key] for key in ("energy", "forces") if results.get(key) is not None}
        found.setdefault("name", atoms.get_chemical_formula())
        if (directions := Directions.from_fields(atoms.info, len(atoms))) is not None:
            found["directions"] = directions
        if atoms.cell.rank:
            found["cell"] = atoms.cell.array
        return cls(**{"numbers": atoms.numbers, "positions": atoms.positions, "pbc": atoms.pbc, **found, **fields})


_FROM_INFO = (*STRINGS, "hessian", "hessian_asymmetry")
