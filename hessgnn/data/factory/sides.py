"""Which side of a reaction a geometry is: what decides whether a path joins the molecules that it should."""

from __future__ import annotations

from typing import Literal

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

from hessgnn.data.factory.mapping import bonds as written_bonds
from hessgnn.data.factory.mapping import parse_pair
from hessgnn.data.factory.reaction import Inversion, Reaction

STRETCH = 1.3
"""Atoms are bonded up to so many times the sum of their covalent radii.

B. Cordero et al., Dalton Trans. 2008, 2832. For C–H that is 1.39 Å, for C–C 1.98 Å; hydrogen bonds are longer.
"""

Side = Literal["reactant", "product"]
Bonds = frozenset[tuple[int, int]]


def bonds(atoms: Atoms) -> Bonds:
    """List the bonds of a geometry.

    Parameters
    ----------
    atoms
        Not periodic.

    Returns
    -------
    frozenset of (int, int)
        Indices, the smaller first.
    """
    radii = covalent_radii[atoms.numbers]
    near = atoms.get_all_distances() < STRETCH * (radii[:, None] + radii)
    return frozenset((int(i), int(j)) for i, j in zip(*np.nonzero(near), strict=True) if i < j)


def changing_bonds(reaction: Reaction) -> list[tuple[int, int]]:
    """List the bonds that one side has and the other has not.

    Parameters
    ----------
    reaction
        As written.

    Returns
    -------
    list of (int, int)
        None in a rotation or an inversion.
    """
    reactant, product = (written_bonds(molecule) for molecule in parse_pair(reaction.reactant, reaction.product))
    return sorted(reactant ^ product)


def side_of(reaction: Reaction, atoms: Atoms) -> Side | None:
    """Tell which side of a reaction a geometry is: by its bonds, or by the angle or the face that changes.

    Parameters
    ----------
    reaction
        As written.
    atoms
        In its atom order.

    Returns
    -------
    str or None
        ``None`` when it is something else.
    """
    reactant, product = parse_pair(reaction.reactant, reaction.product)
    found = bonds(atoms)
    if reaction.move is None:
        written = {written_bonds(reactant): "reactant", written_bonds(product): "product"}
        return written.get(found)  # type: ignore[return-value]
    if found != written_bonds(reactant):
        return None
    index = {atom.GetAtomMapNum(): atom.GetIdx() for atom in reactant.GetAtoms()}
    if isinstance(reaction.move, Inversion):
        centre = index[reaction.move.atom]
        partners = [atom.GetIdx() for atom in reactant.GetAtomWithIdx(centre).GetNeighbors()]
        a, b, c = atoms.positions[partners] - atoms.positions[centre]
        return "product" if np.cross(a, b) @ c > 0 else "reactant"
    off = np.zeros(2)
    for torsion in reaction.move.torsions:
        angle = atoms.get_dihedral(*(index[number] for number in torsion.atoms))
        off += [abs((angle - wanted + 180) % 360 - 180) for wanted in (torsion.start, torsion.end)]
    return "reactant" if off[0] <= off[1] else "product"
