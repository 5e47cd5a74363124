"""What a search for an elementary step aims at: two sides, written as SMILES or given as geometries."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from ase import Atoms
from ase.io import read
from pydantic import Field

from hessgnn.errors import ConfigError
from hessgnn.factory.reaction import Inversion, Reaction, parse_pair
from hessgnn.factory.reaction import bonds as written_bonds
from hessgnn.factory.smiles import halfway, reaction_ends
from hessgnn.molecules.geometry import REACTION_BOND, rmsd
from hessgnn.molecules.geometry import bonds as found_bonds
from hessgnn.runtime.config import Settings
from hessgnn.runtime.files import find_resource

Side = Literal["reactant", "product"]
Bonds = frozenset[tuple[int, int]]


def bonds(atoms: Atoms) -> Bonds:
    """Bonds of a geometry: indices, the smaller first."""
    return frozenset((i, j) for i, j in found_bonds(atoms.numbers, atoms.positions, REACTION_BOND).tolist())


class Target(ABC):
    """An elementary step to be found. All geometries of one target are in one atom order."""

    name: str
    family: str

    @abstractmethod
    def facts(self) -> dict[str, str]:
        """What is recorded of it."""

    @abstractmethod
    def identity(self) -> bytes:
        """All that a search depends on beside the recipe."""

    @abstractmethod
    def ends(self, seed: int) -> tuple[Atoms, Atoms]:
        """Starts of an optimisation of both sides, near each other."""

    @abstractmethod
    def halfway(self, seed: int, stretch: float) -> list[Atoms]:
        """Crude guesses of the saddle point; bonds that change have so many times their length."""

    @abstractmethod
    def changing_bonds(self) -> list[tuple[int, int]]:
        """Bonds that one side has and the other has not; none in a rotation or an inversion."""

    @abstractmethod
    def side(self, atoms: Atoms) -> Side | None:
        """Which side a geometry is; ``None`` when it is something else."""


@dataclass(frozen=True)
class WrittenTarget(Target):
    """A reaction written as mapped SMILES."""

    reaction: Reaction

    @property
    def name(self) -> str:  # type: ignore[override]
        """The reaction's."""
        return self.reaction.name

    @property
    def family(self) -> str:  # type: ignore[override]
        """The reaction's."""
        return self.reaction.family

    def facts(self) -> dict[str, str]:
        """Family and SMILES."""
        return {"family": self.family, "reactant": self.reaction.reactant, "product": self.reaction.product}

    def identity(self) -> bytes:
        """What the reaction says."""
        return repr(self.reaction).encode()

    def ends(self, seed: int) -> tuple[Atoms, Atoms]:
        """Both sides, embedded."""
        return reaction_ends(self.reaction, seed=seed)

    def halfway(self, seed: int, stretch: float) -> list[Atoms]:
        """Embedded between both sides."""
        return halfway(self.reaction, seed=seed, stretch=stretch)

    def changing_bonds(self) -> list[tuple[int, int]]:
        """By the SMILES."""
        reactant, product = (written_bonds(side) for side in parse_pair(self.reaction.reactant, self.reaction.product))
        return sorted(reactant ^ product)

    def side(self, atoms: Atoms) -> Side | None:
        """By bonds, or where these stay by the angle or the face that changes."""
        reactant, product = parse_pair(self.reaction.reactant, self.reaction.product)
        move, found = self.reaction.move, bonds(atoms)
        if move is None:
            return _by_bonds(found, written_bonds(reactant), written_bonds(product))
        if found != written_bonds(reactant):
            return None
        index = {atom.GetAtomMapNum(): atom.GetIdx() for atom in reactant.GetAtoms()}
        if isinstance(move, Inversion):
            centre = index[move.atom]
            partners = [atom.GetIdx() for atom in reactant.GetAtomWithIdx(centre).GetNeighbors()]
            a, b, c = atoms.positions[partners] - atoms.positions[centre]
            return "product" if np.cross(a, b) @ c > 0 else "reactant"
        off = np.zeros(2)
        for torsion in move.torsions:
            angle = atoms.get_dihedral(*(index[number] for number in torsion.atoms))
            off += [abs((angle - wanted + 180) % 360 - 180) for wanted in (torsion.start, torsion.end)]
        return "reactant" if off[0] <= off[1] else "product"


class PairSettings(Settings):
    """Reactant and product as geometries, in one atom order."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_+-]*$")
    reactant: Path = Field(description="a file that ASE reads")
    product: Path = Field(description="a file that ASE reads")


@dataclass(frozen=True, eq=False)
class PairTarget(Target):
    """Two geometries in one atom order."""

    name: str
    before: Atoms
    after: Atoms
    family: str = "pair"

    @classmethod
    def read(cls, settings: PairSettings) -> PairTarget:
        """Read both files.

        Raises :class:`ConfigError` when a file cannot be read, the atoms differ, or the electrons are not paired.
        """
        ends = []
        for path in (settings.reactant, settings.product):
            try:
                found = read(find_resource(path))
            except Exception as error:  # ASE's readers raise whatever their format's parser does
                raise ConfigError(f"cannot be read by ASE ({error})", where=path, hint="check the file") from error
            ends.append(Atoms(found.numbers, found.positions))
        before, after = ends
        where = f"pairs, {settings.name}"
        if before.numbers.tolist() != after.numbers.tolist():
            raise ConfigError("the two files differ in their atoms", where=where, hint="use one atom order for both")
        if before.numbers.sum() % 2:
            raise ConfigError("has an odd number of electrons", where=where, hint="give closed-shell molecules")
        return cls(f"pair/{settings.name}", before, after)

    def facts(self) -> dict[str, str]:
        """The family."""
        return {"family": self.family}

    def identity(self) -> bytes:
        """Both geometries."""
        return b"".join(part.tobytes() for part in (self.before.numbers, self.before.positions, self.after.positions))

    def ends(self, seed: int) -> tuple[Atoms, Atoms]:  # noqa: ARG002 - nothing is drawn
        """As given."""
        return self.before.copy(), self.after.copy()

    def halfway(self, seed: int, stretch: float) -> list[Atoms]:  # noqa: ARG002
        """None: geometries are joined by a path."""
        return []

    def changing_bonds(self) -> list[tuple[int, int]]:
        """By the distances."""
        return sorted(bonds(self.before) ^ bonds(self.after))

    def side(self, atoms: Atoms) -> Side | None:
        """By bonds, or where these are equal by the nearer geometry."""
        reactant, product, found = bonds(self.before), bonds(self.after), bonds(atoms)
        if reactant != product:
            return _by_bonds(found, reactant, product)
        if found != reactant:
            return None
        to_before, to_after = (rmsd(atoms.positions, side.positions) for side in (self.before, self.after))
        return "reactant" if to_before <= to_after else "product"


def _by_bonds(found: Bonds, reactant: Bonds, product: Bonds) -> Side | None:
    return "reactant" if found == reactant else "product" if found == product else None
