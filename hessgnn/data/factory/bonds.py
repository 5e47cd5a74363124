"""Which atoms of a geometry are bonded: what decides whether a path joins the molecules that it should."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

STRETCH = 1.3
"""Atoms are bonded up to so many times the sum of their covalent radii.

B. Cordero et al., Dalton Trans. 2008, 2832. For C–H that is 1.39 Å, for C–C 1.98 Å; hydrogen bonds are longer.
"""


def bonds(atoms: Atoms) -> frozenset[tuple[int, int]]:
    """List the bonds of a molecule.

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
