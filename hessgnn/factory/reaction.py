"""What a reaction is: two mapped molecules, or one that changes its shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from hessgnn.factory.mapping import change_graph, parse, parse_pair, rdkit_module

Family = Literal[
    "addition",
    "cycloaddition",
    "electrocyclic",
    "elimination",
    "hydrogen-shift",
    "inversion",
    "isomerisation",
    "proton-transfer",
    "ring-opening",
    "rotation",
    "sigmatropic",
]
FAMILIES: tuple[Family, ...] = get_args(Family)


@dataclass(frozen=True)
class Torsion:
    """A torsion angle that a conformational change turns.

    Attributes
    ----------
    atoms : tuple of int
        Map numbers of the four atoms.
    start, end : float
        Angle of the reactant and the product, degrees.
    """

    atoms: tuple[int, int, int, int]
    start: float
    end: float


@dataclass(frozen=True)
class Rotation:
    """A change of conformation, told by the torsions that differ: one of a single bond, several of a ring."""

    torsions: tuple[Torsion, ...]


@dataclass(frozen=True)
class Inversion:
    """A pyramidal atom that goes through the plane of its three partners.

    Attributes
    ----------
    atom : int
        Its map number.
    """

    atom: int


Move = Rotation | Inversion


@dataclass(frozen=True)
class Reaction:
    """An elementary step to be found, as it was written or enumerated.

    Attributes
    ----------
    name : str
        ``family/name``, unique; each part is good for a file name.
    family : str
        One of :data:`FAMILIES`.
    reactant, product : str
        Mapped SMILES, see :mod:`hessgnn.factory.mapping`.
    move : Rotation, Inversion or None
        What happens where no bond changes; reactant and product are the same SMILES then.
    """

    name: str
    family: Family
    reactant: str
    product: str
    move: Move | None = None


def reaction_key(reaction: Reaction) -> str:
    """Tell what a reaction does, whatever its name, direction and the numbers of its atoms.

    Returns
    -------
    str
        Equal for equal reactions: the changes of bonds; or the molecule with the bonds that turn, or the atom that
        inverts, marked.
    """
    sides = parse_pair(reaction.reactant, reaction.product)
    if reaction.move is None:
        return min(change_graph(*sides), change_graph(*reversed(sides)))
    if isinstance(reaction.move, Inversion):
        marked, kind = {reaction.move.atom}, "invert"
    else:
        marked, kind = {number for torsion in reaction.move.torsions for number in torsion.atoms[1:3]}, "rotate"
    chem, molecule = rdkit_module("Chem"), sides[0]
    chem.RemoveStereochemistry(molecule)
    for atom in molecule.GetAtoms():
        atom.SetIsotope(int(atom.GetAtomMapNum() in marked))
        atom.SetAtomMapNum(0)
    return f"{kind} {chem.MolToSmiles(molecule)}"


def n_heavy(reaction: Reaction) -> int:
    """Count the atoms other than hydrogen."""
    return int(parse(reaction.reactant).GetNumHeavyAtoms())
