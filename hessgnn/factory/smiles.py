"""Geometries from SMILES: conformers of a molecule, and the two ends of a reaction.

Both ends of a reaction come from one geometry halfway between them: embedded by distance geometry with bounds that lie
between those of the two molecules, it fixes for both at once how fragments approach each other, which face is attacked,
and which of several equivalent hydrogens is which. Each end is that geometry relaxed by its own force field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import minimize_rotation_and_translation

from hessgnn.data.structure import Array
from hessgnn.errors import ConfigError
from hessgnn.factory.reaction import (
    Inversion,
    Mol,
    Reaction,
    Rotation,
    Torsion,
    bonds,
    parse,
    parse_pair,
    rdkit_module,
    union,
)
from hessgnn.molecules.geometry import same_shape, sorted_distances

_STRETCH = 1.35
"""Length of a bond that breaks or forms, halfway, in units of its length when it is whole."""

_HYDROGEN = 0.6
"""Share of the stretch that a bond of hydrogen gets: it is transferred between partners that are close."""

_SLACK = 1.5
"""How much farther apart atoms may be per unit of stretch of a bond between them, Å: its length."""

_TOLERANCE = 0.07
"""Of the bounds of stretched bonds."""

_TRIALS = 10
"""Starts from which the ends of a reaction are built."""

_MOTION_PER_ENERGY = 0.01
"""How much closer (Å, RMSD) two ends must be to be preferred to a pair lower by 1 kcal/mol."""

_COPY = 0.1
"""Conformers are copies when all sorted distances agree so well, Å."""

_RELAX_STEPS = 500
_LEASH = (0.5, 20.0)
"""Motion of an atom that costs nothing while an end is relaxed, Å; spring constant beyond it, kcal/mol/Å²."""


def conformers(smiles: str, *, number: int, seed: int) -> list[Atoms]:
    """Make the conformers of a closed-shell, neutral molecule, those of the lowest force-field energy first.

    Embedded with ETKDGv3 (S. Wang et al., J. Chem. Inf. Model. 60, 2044 (2020)) and relaxed with a force field.
    ``number`` is how many to embed; fewer are left where some are equal but for symmetry or reflection. Raises
    :class:`ConfigError` when the SMILES cannot be read or embedded, is charged or a radical.
    """
    molecule = parse(smiles)
    found = [_relax(molecule, positions) for positions in _embed(molecule, number, seed, smiles)]
    found.sort(key=lambda pair: pair[0])
    kept: list[Atoms] = []
    prints: list[Array] = []
    for _, positions in found:
        atoms = _atoms(molecule, positions)
        fingerprint = sorted_distances(atoms.numbers, atoms.positions)
        if not any(same_shape(fingerprint, other, _COPY) for other in prints):
            kept.append(atoms)
            prints.append(fingerprint)
    return kept


def reaction_ends(reaction: Reaction, *, seed: int) -> tuple[Atoms, Atoms]:
    """Build geometries of reactant and product that are close to each other and in one atom order.

    Mapped atoms come first, by number, then the other hydrogens by the number of their atom; the product is superposed
    on the reactant. They are good starts for an optimisation, no more. Raises :class:`ConfigError` when the SMILES
    cannot be read, or no geometry obeys both.
    """
    reactant, product = parse_pair(reaction.reactant, reaction.product)
    if isinstance(reaction.move, Rotation):
        pairs = _rotated(reactant, reaction.move, seed, reaction.name)
    elif isinstance(reaction.move, Inversion):
        pairs = _inverted(reactant, reaction.move, seed, reaction.name)
    else:
        pairs = _relaxed_from_halfway(reactant, product, seed, reaction.name)
    best: tuple[float, tuple[Atoms, Atoms]] | None = None
    for energy, before, after in pairs:
        ends = _atoms(reactant, before), _atoms(product, after)
        minimize_rotation_and_translation(*ends)
        motion = float(np.sqrt(np.mean(np.sum((ends[0].positions - ends[1].positions) ** 2, axis=1))))
        cost = motion + _MOTION_PER_ENERGY * energy
        if (best is None or cost < best[0]) and _has_stereo(reactant, before) and _has_stereo(product, after):
            best = cost, ends
    if best is None:
        raise ConfigError(
            "no geometry has the stereochemistry of both sides",
            where=f"{reaction.name}, {reaction.reactant}>>{reaction.product}",
            hint="check the marks @, / and \\ of both sides",
        )
    return best[1]


def halfway(reaction: Reaction, *, seed: int, stretch: float = _STRETCH) -> list[Atoms]:
    """Build geometries between reactant and product, crude guesses of the saddle point, in one atom order.

    Bonds that break or form are stretched to ``stretch`` times their length when whole, those of hydrogen less.
    Torsions stand in the middle of their turn (the short way round); an atom that inverts lies in the plane of its
    partners. Raises :class:`ConfigError` when the SMILES cannot be read, or no geometry obeys both.
    """
    reactant, product = parse_pair(reaction.reactant, reaction.product)
    if isinstance(reaction.move, Rotation):
        middle = [Torsion(t.atoms, t.start, t.start + _short_way(t) / 2) for t in reaction.move.torsions]
        found = [after for _, _, after in _rotated(reactant, Rotation(tuple(middle)), seed, reaction.name)]
    elif isinstance(reaction.move, Inversion):
        found = [(before + after) / 2 for _, before, after in _inverted(reactant, reaction.move, seed, reaction.name)]
    else:
        found = _embed_halfway(reactant, product, seed, reaction.name, stretch)
    return [_atoms(reactant, positions) for positions in found]


def _short_way(torsion: Torsion) -> float:
    return (torsion.end - torsion.start + 180) % 360 - 180


Pairs = Iterator[tuple[float, Array, Array]]
"""Energy of a force field (kcal/mol, of both ends), positions of the reactant and the product."""


def _relaxed_from_halfway(reactant: Mol, product: Mol, seed: int, name: str) -> Pairs:
    for positions in _embed_halfway(reactant, product, seed, name, _STRETCH):
        energies, ends = zip(*(_relax(side, positions, leash=_LEASH) for side in (reactant, product)), strict=True)
        yield sum(energies), *ends


def _rotated(molecule: Mol, move: Rotation, seed: int, name: str) -> Pairs:
    transforms = rdkit_module("Chem.rdMolTransforms")
    index = _index_of(molecule)
    turns = [([index[number] for number in t.atoms], t.start, t.end) for t in move.torsions]
    free = [_turns_freely(molecule, atoms) for atoms, _, _ in turns]

    def turned(positions: Array, angles: list[tuple[list[int], float]]) -> tuple[float, Array]:
        conformer = _with(molecule, positions).GetConformer()
        for (atoms, angle), rigid in zip(angles, free, strict=True):
            if rigid:
                transforms.SetDihedralDeg(conformer, *atoms, angle)
        return _relax(molecule, conformer.GetPositions(), torsions=angles)

    for positions in _embed(molecule, _TRIALS, seed, name):
        energy, before = turned(positions, [(atoms, start) for atoms, start, _ in turns])
        other, after = turned(before, [(atoms, end) for atoms, _, end in turns])
        yield energy + other, before, after


def _inverted(molecule: Mol, move: Inversion, seed: int, name: str) -> Pairs:
    centre = _index_of(molecule)[move.atom]
    partners = [atom.GetIdx() for atom in molecule.GetAtomWithIdx(centre).GetNeighbors()]
    for positions in _embed(molecule, _TRIALS, seed, name):
        energy, before = _relax(molecule, positions)
        a, b, c = before[partners]
        normal = np.cross(b - a, c - a)
        normal /= np.linalg.norm(normal)
        mirrored = before.copy()
        mirrored[centre] -= 2 * ((before[centre] - a) @ normal) * normal
        other, after = _relax(molecule, mirrored, leash=_LEASH)
        yield energy + other, before, after


def _index_of(molecule: Mol) -> dict[int, int]:
    """Map number -> index."""
    return {atom.GetAtomMapNum(): atom.GetIdx() for atom in molecule.GetAtoms() if atom.GetAtomMapNum()}


def _turns_freely(molecule: Mol, atoms: list[int]) -> bool:
    pairs = [molecule.GetBondBetweenAtoms(i, j) for i, j in pairwise(atoms)]
    return all(pairs) and not pairs[1].IsInRing()


def _embed(molecule: Mol, number: int, seed: int, where: str) -> list[Array]:
    geometry = rdkit_module("Chem.rdDistGeom")
    options = geometry.ETKDGv3()
    options.randomSeed = seed + 1  # rdkit multiplies it by the number of the conformer: zero would give copies
    return _run_embedding(molecule, number, options, where)


def _embed_halfway(reactant: Mol, product: Mol, seed: int, where: str, stretch: float) -> list[Array]:
    geometry, distances = rdkit_module("Chem.rdDistGeom"), rdkit_module("DistanceGeometry")
    lower, upper = _bounds_between(reactant, product, stretch)
    matrix = upper + lower.T
    distances.DoTriangleSmoothing(matrix)
    options = geometry.EmbedParameters()
    options.randomSeed = seed + 1  # rdkit multiplies it by the number of the conformer: zero would give copies
    options.useRandomCoords = True
    options.ignoreSmoothingFailures = True  # the bounds of two molecules need not agree; the nearest geometry will do
    options.SetBoundsMat(matrix)
    # rdkit heeds given bounds only within one connected molecule
    return _run_embedding(union(reactant, product), _TRIALS, options, where)


def _run_embedding(molecule: Mol, number: int, options: Any, where: str) -> list[Array]:
    geometry, base = rdkit_module("Chem.rdDistGeom"), rdkit_module("rdBase")
    with base.BlockLogs():
        found = list(geometry.EmbedMultipleConfs(molecule, number, options))
    if not found:
        raise ConfigError("cannot be embedded in space", where=where, hint="check the SMILES for impossible rings")
    return [molecule.GetConformer(k).GetPositions() for k in found]


def _bounds_between(reactant: Mol, product: Mol, stretch: float) -> tuple[Array, Array]:
    """Bounds of distances halfway, in the upper triangles: what both molecules allow, or what lies between them."""
    geometry = rdkit_module("Chem.rdDistGeom")
    sides = [geometry.GetMoleculeBoundsMatrix(side) for side in (reactant, product)]
    lower, upper = [np.tril(side).T for side in sides], [np.triu(side) for side in sides]
    low, high = np.maximum(*lower), np.minimum(*upper)
    low, high = np.minimum(low, high), np.maximum(low, high)
    steps = [rdkit_module("Chem").GetDistanceMatrix(side) for side in (reactant, product)]
    high[np.triu(steps[0] != steps[1], 1)] += _SLACK * (stretch - 1)  # atoms that are joined across a changing bond
    before, after = bonds(reactant), bonds(product)
    for changed, whole in ((before - after, upper[0]), (after - before, upper[1])):
        for pair in changed:
            hydrogen = any(reactant.GetAtomWithIdx(k).GetAtomicNum() == 1 for k in pair)
            length = whole[pair] * (1 + (stretch - 1) * (_HYDROGEN if hydrogen else 1))
            low[pair], high[pair] = length * (1 - _TOLERANCE), length * (1 + _TOLERANCE)
    return low, high


def _relax(
    molecule: Mol,
    positions: Array,
    *,
    leash: tuple[float, float] | None = None,
    torsions: list[tuple[list[int], float]] | None = None,
) -> tuple[float, Array]:
    """Minimise with MMFF94, or UFF where that lacks parameters, or not at all; energy in kcal/mol."""
    forcefields, base = rdkit_module("Chem.rdForceFieldHelpers"), rdkit_module("rdBase")
    copy = _with(molecule, positions)
    with base.BlockLogs():
        properties = forcefields.MMFFGetMoleculeProperties(copy)
        if properties is not None:
            field = forcefields.MMFFGetMoleculeForceField(copy, properties, ignoreInterfragInteractions=False)
            add_position: Callable[..., None] = field.MMFFAddPositionConstraint
            add_torsion: Callable[..., None] = field.MMFFAddTorsionConstraint
        elif forcefields.UFFHasAllMoleculeParams(copy):
            field = forcefields.UFFGetMoleculeForceField(copy, ignoreInterfragInteractions=False)
            add_position, add_torsion = field.UFFAddPositionConstraint, field.UFFAddTorsionConstraint
        else:
            return 0.0, positions
    field.Initialize()
    if leash is not None:
        for k in range(copy.GetNumAtoms()):
            add_position(k, *leash)
    for atoms, angle in torsions or ():
        add_torsion(*atoms, False, angle - 1, angle + 1, 500.0)
    field.Minimize(maxIts=_RELAX_STEPS)
    return float(field.CalcEnergy()), copy.GetConformer().GetPositions()


def _with(molecule: Mol, positions: Array) -> Mol:
    """A copy that holds one conformer."""
    chem = rdkit_module("Chem")
    copy = chem.Mol(molecule)
    copy.RemoveAllConformers()
    conformer = chem.Conformer(copy.GetNumAtoms())
    conformer.SetPositions(np.ascontiguousarray(positions))
    copy.AddConformer(conformer, assignId=True)
    return copy


def _has_stereo(molecule: Mol, positions: Array) -> bool:
    """Whether a geometry has the configuration that the SMILES marks; what it leaves open may be anything."""
    chem = rdkit_module("Chem")
    seen = _with(molecule, positions)
    chem.AssignStereochemistryFrom3D(seen)
    atoms = zip(molecule.GetAtoms(), seen.GetAtoms(), strict=True)
    double_bonds = zip(molecule.GetBonds(), seen.GetBonds(), strict=True)
    return all(
        not wanted.HasProp("_CIPCode")
        or (got.HasProp("_CIPCode") and wanted.GetProp("_CIPCode") == got.GetProp("_CIPCode"))
        for wanted, got in atoms
    ) and all(wanted.GetStereo() in (chem.BondStereo.STEREONONE, got.GetStereo()) for wanted, got in double_bonds)


def _atoms(molecule: Mol, positions: Array) -> Atoms:
    return Atoms(numbers=[atom.GetAtomicNum() for atom in molecule.GetAtoms()], positions=positions)
