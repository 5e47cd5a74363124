"""Geometries of molecules as arrays: bonds, alignment, distances between geometries, and random displacements."""

from __future__ import annotations

import hashlib
import warnings

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.neighborlist import natural_cutoffs, neighbor_list
from ase.symbols import Symbols
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist, pdist
from scipy.spatial.transform import Rotation

from hessgnn.errors import DataError

Array = NDArray[np.float64]

# Two atoms are bonded when they are closer than a factor times the sum of their covalent radii (B. Cordero et al.,
# Dalton Trans. 2008, 2832). Bonds of organic molecules reach 1.1, contacts without a bond begin at 1.5. Stored results
# and the splits of data sets depend on these factors.
INTACT_BOND = 1.2
"""Bonds that a simulation must keep, and by which the two sides of a descent are told apart."""
GRAPH_BOND = 1.25
"""Bonds of :func:`connectivity` and :func:`fragments`."""
REACTION_BOND = 1.3
"""Bonds of reactants and products while data are made: C–H to 1.39 Å, C–C to 1.98 Å; hydrogen bonds are longer."""

COINCIDENT = 1e-4
"""Å: atoms that are closer lie at the same place."""


def bonded_pairs(
    numbers: NDArray[np.int64],
    positions: Array,
    factor: float,
    cell: Array | None = None,
    pbc: NDArray[np.bool_] | bool = False,
) -> tuple[NDArray[np.int64], Array]:
    """Find the bonds of a molecule or crystal from covalent radii.

    Parameters
    ----------
    positions
        ``(N, 3)``, Å.
    factor
        Two atoms are bonded when they are closer than this times the sum of their covalent radii.
    cell, pbc
        ``(3, 3)``, Å, rows are lattice vectors; and which of them are periodic, ``(3,)`` or one value for all.

    Returns
    -------
    pairs, lengths
        ``(2, n)`` int64, both atoms of each bond, in both orders; in a crystal each image of a neighbour counts. And
        the length of each, Å.
    """
    if np.any(pbc):
        atoms = Atoms(numbers, positions, cell=cell, pbc=pbc)
        i, j, lengths = neighbor_list("ijd", atoms, natural_cutoffs(atoms, mult=factor))
        return np.stack([i, j]).astype(np.int64), lengths
    radii = covalent_radii[numbers]
    i, j = cKDTree(positions).query_pairs(2 * factor * float(radii.max()), output_type="ndarray").T.astype(np.int64)
    lengths = np.linalg.norm(positions[j] - positions[i], axis=1)
    near = lengths < factor * (radii[i] + radii[j])
    i, j, lengths = i[near], j[near], lengths[near]
    return np.stack([np.append(i, j), np.append(j, i)]), np.append(lengths, lengths)


def bonds(numbers: NDArray[np.int64], positions: Array, factor: float) -> NDArray[np.int64]:
    """Find the bonds of a molecule, see :func:`bonded_pairs`.

    Returns ``(n, 2)`` int64: each pair once, the lower index first, sorted.
    """
    (i, j), _ = bonded_pairs(numbers, positions, factor)
    return np.unique(np.stack([i, j], axis=1)[i < j], axis=0)


def same_bonds(numbers: NDArray[np.int64], first: Array, second: Array, factor: float) -> bool:
    """Whether two geometries of the same atoms, in the same order, have the same bonds."""
    return np.array_equal(bonds(numbers, first, factor), bonds(numbers, second, factor))


def connectivity(
    numbers: NDArray[np.int64],
    positions: Array,
    cell: Array | None = None,
    pbc: NDArray[np.bool_] | bool = False,
    where: object | None = None,
) -> str:
    """Fingerprint of the bonded graph, the same for any order of the atoms: Hill formula and 16 hexadecimal digits.

    Two conformers have the same fingerprint, two isomers do not. Atoms are distinguished by their elements and, round
    by round, by those of their neighbours (Weisfeiler and Lehman). networkx is not used, because its hashes differ
    from release to release and splits are drawn by this fingerprint. The method cannot distinguish some pairs of
    graphs, such as decalin and bicyclopentyl: they stay in one split, which does no harm.

    Raises :class:`~hessgnn.errors.DataError`, which names ``where``, when two atoms lie at the same place.
    """
    return _fingerprint(numbers, _partners(numbers, positions, cell, pbc, where))


def fragments(
    numbers: NDArray[np.int64],
    positions: Array,
    cell: Array | None = None,
    pbc: NDArray[np.bool_] | bool = False,
    where: object | None = None,
) -> list[str]:
    """Fingerprints of the connected parts of the bonded graph, sorted: one for a molecule, several for a complex.

    The fingerprint of a part is that of :func:`connectivity` for the part alone. Parameters and errors are the same.
    """
    partners = _partners(numbers, positions, cell, pbc, where)
    rows = np.repeat(np.arange(len(numbers)), [len(near) for near in partners])
    columns = np.array([k for near in partners for k in near], dtype=np.int64)
    links = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(numbers), len(numbers)))
    number, label = connected_components(links, directed=False)
    found = []
    for part in range(number):
        atoms = np.flatnonzero(label == part).tolist()
        place = {atom: k for k, atom in enumerate(atoms)}
        found.append(_fingerprint(numbers[atoms], [[place[k] for k in partners[atom]] for atom in atoms]))
    return sorted(found)


def _partners(
    numbers: NDArray[np.int64],
    positions: Array,
    cell: Array | None,
    pbc: NDArray[np.bool_] | bool,
    where: object | None,
) -> list[list[int]]:
    """Atoms that each atom is bonded to in the bonded graph."""
    (i, j), lengths = bonded_pairs(numbers, positions, GRAPH_BOND, cell, pbc)
    if lengths.min(initial=np.inf) < COINCIDENT:
        raise DataError(
            "two atoms lie at the same place", where=where, hint="remove one of them or correct positions and cell"
        )
    partners: list[list[int]] = [[] for _ in numbers]
    for centre, partner in zip(i.tolist(), j.tolist(), strict=True):
        partners[centre].append(partner)
    return partners


def _fingerprint(numbers: NDArray[np.int64], partners: list[list[int]]) -> str:
    colours = [str(number) for number in numbers.tolist()]
    classes = len(set(colours))
    while True:
        colours = [
            _digest([colour, *sorted(colours[k] for k in near)]) for colour, near in zip(colours, partners, strict=True)
        ]
        if len(set(colours)) == classes:  # another round would distinguish no more atoms
            break
        classes = len(set(colours))
    return f"{Symbols(numbers).get_chemical_formula()}-{_digest(sorted(colours))[:16]}"


def _digest(words: list[str]) -> str:
    return hashlib.sha256(" ".join(words).encode()).hexdigest()


def aligned(positions: Array, reference: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """Superpose a geometry on another by translation and proper rotation, atom on atom.

    Parameters
    ----------
    positions, reference
        ``(N, 3)``, Å, in the same order of atoms.
    weights
        ``(N,)``, such as masses; all equal by default.

    Returns
    -------
    positions, rotation
        ``(N, 3)`` on the reference, and the ``(3, 3)`` matrix that turned them (vectors turn as ``v @ rotation.T``).
    """
    centre, target = (np.average(x, axis=0, weights=weights) for x in (positions, reference))
    if len(positions) == 1:
        return reference.copy(), np.eye(3)
    with warnings.catch_warnings():  # about a linear molecule's axis any rotation is as good
        warnings.filterwarnings("ignore", message="Optimal rotation is not uniquely")
        rotation = Rotation.align_vectors(reference - target, positions - centre, weights)[0].as_matrix()
    return (positions - centre) @ rotation.T + target, rotation


def rmsd(positions: Array, reference: Array) -> float:
    """Root mean square distance of atoms after alignment, Å; equivalent atoms are not exchanged."""
    moved, _ = aligned(positions, reference)
    return float(np.sqrt(np.square(moved - reference).sum(axis=1).mean()))


def sorted_distances(numbers: NDArray[np.int64], positions: Array) -> Array:
    """All distances, sorted within each pair of elements: equal for copies, whatever their order and handedness.

    Returns ``(N (N - 1) / 2,)`` float64, Å, for positions ``(N, 3)``, Å.
    """
    distances = pdist(positions)
    i, j = np.triu_indices(len(numbers), 1)
    pair = np.maximum(numbers[i], numbers[j]) * 1000 + np.minimum(numbers[i], numbers[j])
    return distances[np.lexsort([distances, pair])]


def same_shape(first: Array, second: Array, tolerance: float) -> bool:
    """Whether two results of :func:`sorted_distances` agree in every distance, to a tolerance in Å."""
    return first.shape == second.shape and bool(np.abs(first - second).max(initial=0.0) < tolerance)


def invariants(numbers: NDArray[np.int64], positions: Array) -> Array:
    """Four numbers that depend on the shape of a molecule alone, to find copies without comparing all pairs.

    They are the repulsion of the nuclei Σ ZᵢZⱼ/rᵢⱼ, its moments Σᵢ Zᵢφᵢ² and Σᵢ Zᵢφᵢ³ with φᵢ = Σⱼ Zⱼ/rᵢⱼ, and Σ
    ZᵢZⱼrᵢⱼ², for positions in Å.
    """
    charges = numbers.astype(np.float64)
    distances = np.maximum(cdist(positions, positions), 1e-3)  # coincident atoms are another check's business
    inverse = 1 / distances
    np.fill_diagonal(inverse, 0)
    potential = inverse @ charges
    spread = charges @ (distances**2) @ charges
    return np.array([charges @ potential, charges @ potential**2, charges @ potential**3, spread])


def molecule_rng(seed: int | tuple[int, ...], name: str) -> np.random.Generator:
    """Make the random stream of one molecule, which does not depend on the other molecules or on their order."""
    seeds = (seed,) if isinstance(seed, int) else seed
    return np.random.default_rng([*seeds, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")])
