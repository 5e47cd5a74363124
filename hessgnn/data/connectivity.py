"""Which atoms are bonded, and a fingerprint of that: two conformers have the same, two isomers do not."""

from __future__ import annotations

import hashlib

import numpy as np
from ase.data import covalent_radii
from ase.symbols import Symbols
from numpy.typing import NDArray

from hessgnn.data.neighbors import neighbors
from hessgnn.data.structure import Structure

BOND_TOLERANCE = 1.25
"""Atoms are bonded when nearer than so many times the sum of their covalent radii. Bonds of organic molecules reach
1.1 times, contacts without a bond begin at 1.5 times."""


def bonds(structure: Structure) -> NDArray[np.int64]:
    """Find the bonds, from covalent radii alone.

    Parameters
    ----------
    structure
        Molecule or crystal.

    Returns
    -------
    (2, n_bonds) int64
        Both atoms of each bond, in both orders.
    """
    radii = covalent_radii[structure.numbers]
    farthest = 2 * BOND_TOLERANCE * float(radii.max())
    (i, j), shift = neighbors(structure.positions, farthest, structure.cell, structure.pbc, where=structure.name)
    lengths = np.linalg.norm(structure.positions[j] + shift - structure.positions[i], axis=1)
    return np.stack([i, j])[:, lengths < BOND_TOLERANCE * (radii[i] + radii[j])]


def connectivity(structure: Structure) -> str:
    """Fingerprint of the bonded graph, the same for any order of the atoms.

    Atoms are told apart by their elements and, round by round, by those of their neighbours (Weisfeiler and Lehman).
    The digests are made here and not by networkx, whose hashes differ from release to release: a split is drawn by
    them. The method takes some pairs of graphs for equal that are not, such as decalin and bicyclopentyl: so they stay
    in one split, which does no harm.

    Parameters
    ----------
    structure
        Molecule or crystal.

    Returns
    -------
    str
        Hill formula and 16 hexadecimal digits.
    """
    i, j = bonds(structure)
    partners: list[list[int]] = [[] for _ in structure.numbers]
    for centre, partner in zip(i.tolist(), j.tolist(), strict=True):
        partners[centre].append(partner)
    colours = [str(number) for number in structure.numbers.tolist()]
    classes = len(set(colours))
    while True:
        colours = [
            _digest([colour, *sorted(colours[k] for k in near)]) for colour, near in zip(colours, partners, strict=True)
        ]
        if len(set(colours)) == classes:  # another round would tell no more atoms apart
            break
        classes = len(set(colours))
    return f"{Symbols(structure.numbers).get_chemical_formula()}-{_digest(sorted(colours))[:16]}"


def _digest(words: list[str]) -> str:
    return hashlib.sha256(" ".join(words).encode()).hexdigest()
