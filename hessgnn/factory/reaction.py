"""Reactions: two molecules as atom-mapped SMILES, or one that changes its shape.

The map says which atom of the product each atom of the reactant becomes. Heavy atoms carry map numbers, and so do
hydrogens that change their partner. The others stay on their atom and need no number: ``[CH3:1][CH:2]=[O:3]`` has four
of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from hessgnn.errors import ConfigError
from hessgnn.runtime.imports import require

Mol = Any
"""An ``rdkit.Chem.Mol``; rdkit is optional and carries no types."""

Pair = tuple[int, int]


def rdkit_module(name: str) -> Any:
    """Import ``rdkit.<name>``; raises :class:`ConfigError` with the pip line when rdkit is not installed."""
    return require(f"rdkit.{name}", package="rdkit", extra="factory", purpose="making geometries from SMILES")


def parse(smiles: str) -> Mol:
    """Read a SMILES of a closed-shell neutral species, with all its hydrogens as atoms, those that were implicit last.

    It may be mapped, hold several molecules, carbenes, and charges that cancel. Raises :class:`ConfigError` when it
    cannot be read, is charged or has an unpaired electron.
    """
    chem, base = rdkit_module("Chem"), rdkit_module("rdBase")
    options = chem.SmilesParserParams()
    options.removeHs = False
    with base.BlockLogs():
        molecule = chem.MolFromSmiles(smiles, options)
    if molecule is None or not molecule.GetNumAtoms():
        raise ConfigError("cannot be read as SMILES", where=smiles, hint="check valences, brackets and ring closures")
    molecule = chem.AddHs(molecule)
    if charge := chem.GetFormalCharge(molecule):
        raise ConfigError(f"has charge {charge:+d}", where=smiles, hint="only neutral species are handled")
    if any(atom.GetNumRadicalElectrons() % 2 for atom in molecule.GetAtoms()):
        raise ConfigError("is a radical", where=smiles, hint="check the hydrogens of atoms in brackets")
    return molecule


def parse_mapped(smiles: str) -> Mol:
    """Read a mapped SMILES into the atom order that reactant and product share.

    Mapped atoms come first, by number, then the other hydrogens by the number of their atom. Raises
    :class:`ConfigError` when :func:`parse` refuses it, a heavy atom has no number or two atoms have the same.
    """
    molecule = parse(smiles)
    keys = []
    seen: set[int] = set()
    for atom in molecule.GetAtoms():
        number = atom.GetAtomMapNum()
        if number in seen:
            raise ConfigError(f"maps {number} twice", where=smiles, hint="give each atom a number of its own")
        seen |= {number} - {0}
        if number:
            keys.append((0, number))
            continue
        hosts = [neighbor.GetAtomMapNum() for neighbor in atom.GetNeighbors()]
        if atom.GetAtomicNum() != 1 or not any(hosts):
            raise ConfigError(
                f"leaves {atom.GetSymbol()} without a number",
                where=smiles,
                hint="map all heavy atoms and the hydrogens that move, as in [CH3:1][OH:2]",
            )
        keys.append((1, hosts[0]))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return rdkit_module("Chem").RenumberAtoms(molecule, order)


def parse_pair(reactant: str, product: str) -> tuple[Mol, Mol]:
    """Read both sides of a reaction, as mapped SMILES, into one atom order and check that they hold the same atoms.

    Raises :class:`ConfigError` when a side is refused by :func:`parse_mapped`, or an atom is missing, changes its
    element or its number of unmapped hydrogens.
    """
    sides = parse_mapped(reactant), parse_mapped(product)
    before, after = ({atom.GetAtomMapNum(): atom for atom in side.GetAtoms() if atom.GetAtomMapNum()} for side in sides)
    where = f"{reactant}>>{product}"
    if missing := sorted(before.keys() ^ after.keys()):
        numbers = ", ".join(map(str, missing))
        raise ConfigError(f"only one side holds atom {numbers}", where=where, hint="map the same atoms on both sides")
    for number, atom in sorted(before.items()):
        other = after[number]
        if atom.GetAtomicNum() != other.GetAtomicNum():
            raise ConfigError(
                f"atom {number} is {atom.GetSymbol()} before and {other.GetSymbol()} after",
                where=where,
                hint="correct the numbers",
            )
        counts = [sum(not neighbor.GetAtomMapNum() for neighbor in a.GetNeighbors()) for a in (atom, other)]
        if counts[0] != counts[1]:
            raise ConfigError(
                f"atom {number} has {counts[0]} unmapped hydrogens before and {counts[1]} after",
                where=where,
                hint="map the hydrogens that move",
            )
    return sides


def bonds(molecule: Mol) -> frozenset[Pair]:
    """List which atoms are bonded, whatever the order of the bonds: pairs of indices, the smaller first."""
    return frozenset(
        (min(pair), max(pair)) for pair in ((b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in molecule.GetBonds())
    )


def union(before: Mol, after: Mol) -> Mol:
    """Join the bonds of both sides of a reaction, given in one atom order.

    The result is the first in Kekulé form, with bonds of order zero where only one side has a bond. It is not a
    molecule with sane valences, but all that reacts is connected.
    """
    chem = rdkit_module("Chem")
    joined = chem.RWMol(before)
    chem.Kekulize(joined, clearAromaticFlags=True)
    for pair in sorted(bonds(after) - bonds(before)):
        joined.AddBond(*pair, chem.BondType.ZERO)
    for pair in bonds(before) - bonds(after):
        joined.GetBondBetweenAtoms(*pair).SetBondType(chem.BondType.ZERO)
    joined.UpdatePropertyCache(strict=False)
    chem.FastFindRings(joined)
    return joined


def write_mapped(molecule: Mol) -> str:
    """Write a molecule with map numbers, as :func:`parse_mapped` reads it; bonds are in Kekulé form.

    Hydrogens without a number become part of their atom.
    """
    chem = rdkit_module("Chem")
    copy = chem.Mol(molecule)
    for atom in copy.GetAtoms():
        atom.SetNoImplicit(True)
    chem.SanitizeMol(copy)
    chem.Kekulize(copy, clearAromaticFlags=True)
    options = chem.RemoveHsParameters()
    options.removeMapped = False
    return str(chem.MolToSmiles(chem.RemoveHs(copy, options, sanitize=False), kekuleSmiles=True))


def change_graph(before: Mol, after: Mol) -> str:
    """Write which bonds a reaction changes, whatever the numbers of its atoms; both sides are in one atom order.

    Returns canonical SMILES of the atoms with a node on each bond that tells its order before and after.
    Stereochemistry and charges are ignored.
    """
    chem = rdkit_module("Chem")
    graph = chem.RWMol()
    for atom in before.GetAtoms():
        graph.AddAtom(chem.Atom(atom.GetAtomicNum()))
    for i, j in sorted(bonds(before) | bonds(after)):
        orders = [
            0 if bond is None else round(2 * bond.GetBondTypeAsDouble())
            for bond in (side.GetBondBetweenAtoms(i, j) for side in (before, after))
        ]
        node = chem.Atom(0)
        node.SetIsotope(1 + 10 * orders[0] + orders[1])
        k = graph.AddAtom(node)
        graph.AddBond(i, k, chem.BondType.SINGLE)
        graph.AddBond(k, j, chem.BondType.SINGLE)
    for atom in graph.GetAtoms():
        atom.SetNoImplicit(True)
    return str(chem.MolToSmiles(graph.GetMol()))


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
    """A torsion angle that a conformational change turns: map numbers of its atoms, and degrees at start and end."""

    atoms: tuple[int, int, int, int]
    start: float
    end: float


@dataclass(frozen=True)
class Rotation:
    """A change of conformation, told by the torsions that differ: one of a single bond, several of a ring."""

    torsions: tuple[Torsion, ...]


@dataclass(frozen=True)
class Inversion:
    """A pyramidal atom, told by its map number, that goes through the plane of its three partners."""

    atom: int


Move = Rotation | Inversion


@dataclass(frozen=True)
class Reaction:
    """An elementary step to be found, as it was written or enumerated.

    Attributes
    ----------
    name : str
        ``family/name``, unique; each part is good for a file name.
    reactant, product : str
        Mapped SMILES.
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

    Equal for equal reactions: the changes of bonds; or the molecule with the bonds that turn, or the atom that inverts,
    marked.
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
