"""Reactions enumerated by rule: reaction SMARTS applied to molecules, torsions that turn, atoms that invert."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from itertools import product as pairs_of
from typing import Any

from hessgnn.errors import ConfigError
from hessgnn.factory.reaction import (
    Family,
    Inversion,
    Mol,
    Move,
    Reaction,
    Rotation,
    Torsion,
    bonds,
    parse,
    parse_pair,
    rdkit_module,
    reaction_key,
    union,
    write_mapped,
)


@dataclass(frozen=True)
class Rule:
    """A pattern of reaction.

    Attributes
    ----------
    smarts : str
        A reaction SMARTS with all atoms mapped, whose hydrogens are atoms; ``(A.B)>>C`` for two molecules. For moves,
        the pattern of the four atoms of a torsion, or of the atom that inverts with its partners.
    angles : (float, float) or None
        Start and end of the torsion, degrees.
    """

    name: str
    family: Family
    smarts: str
    angles: tuple[float, float] | None = None


RULES = (
    Rule("1-3", "hydrogen-shift", "[C,N,O:1]([H:4])-[C,N:2]=[C,N,O:3]>>[*:1]=[*:2]-[*:3][H:4]"),
    Rule("1-3-propargyl", "hydrogen-shift", "[C,N:1]([H:4])-[C:2]#[C,N;+0:3]>>[*:1]=[*:2]=[*:3][H:4]"),
    Rule("1-3-ketene", "hydrogen-shift", "[C,N:1]([H:4])=[C:2]=[O,N;+0:3]>>[*:1]#[*:2]-[*:3][H:4]"),
    Rule("1-5", "hydrogen-shift", "[C:1]([H:6])-[C,N:2]=[C,N:3]-[C:4]=[C,N,O:5]>>[*:1]=[*:2]-[*:3]=[*:4]-[*:5][H:6]"),
    Rule("1-5", "proton-transfer", "[O,N:1]([H:6])-[C:2]=[C:3]-[C:4]=[N,O:5]>>[*:1]=[*:2]-[*:3]=[*:4]-[*:5][H:6]"),
    Rule(
        "water-1-3",
        "proton-transfer",
        "([C,N,O:1]([H:5])-[C,N:2]=[N,O:3].[OH2:4][H:6])>>([*:1]=[*:2]-[*:3][H:6].[*:4][H:5])",
    ),
    Rule("h2", "elimination", "[C,N,O:1]([H:3])-[C:2][H:4]>>([*:1]=[*:2].[H:3][H:4])"),
    Rule("water-or-ammonia", "elimination", "[C,N,O:1]([H:4])-[C:2]-[OH1,NH2,$(OC):3]>>([*:1]=[*:2].[*:3][H:4])"),
    Rule("hcn", "elimination", "[C,N,O:1]([H:4])-[C:2]-[$(C#N):3]>>([*:1]=[*:2].[*:3][H:4])"),
    Rule("carbon-dioxide", "elimination", "[C:1]-[C:2](=[O:3])-[O:4][H:5]>>([*:1][H:5].[*:3]=[*:2]=[*:4])"),
    Rule("carbon-monoxide", "elimination", "[C,N,O:1]-[C:2](=[O:3])[H:4]>>([*:1][H:4].[C-:2]#[O+:3])"),
    Rule(
        "retro-ene",
        "elimination",
        "[C,N,O;+0:1]=[C:2]-[C,O:3]-[C:4]-[C,O,N:5][H:6]>>([H:6][*:1]-[*:2]=[*:3].[*:4]=[*:5])",
    ),
    Rule("dinitrogen", "elimination", "[C:1]([H:5])-[N:2]=[N+:3]=[N-:4]>>([*:1]=[*:2][H:5].[N+0:3]#[N+0:4])"),
    Rule(
        "diels-alder",
        "cycloaddition",
        "([C,N,O;+0:1]=[C,N:2]-[C:3]=[C,N,O;+0:4].[C,N:5]=[C,N,O;+0:6])>>[*:1]1-[*:2]=[*:3]-[*:4]-[*:5]-[*:6]1",
    ),
    Rule(
        "retro-diels-alder",
        "cycloaddition",
        "[C,N,O:1]1-[C:2]=[C,N:3]-[C,N,O:4]-[C,N,O:5]-[C,N,O:6]1>>([*:1]=[*:2]-[*:3]=[*:4].[*:5]=[*:6])",
    ),
    Rule(
        "dipole-alkene",
        "cycloaddition",
        "([C,N:1]=[N+:2]=[N-:3].[C,N:4]=[C,N,O;+0:5])>>[*:1]1-[N+0:2]=[N+0:3]-[*:5]-[*:4]1",
    ),
    Rule(
        "dipole-alkyne",
        "cycloaddition",
        "([C,N:1]=[N+:2]=[N-:3].[C:4]#[C,N;+0:5])>>[*:1]1-[N+0:2]=[N+0:3]-[*:5]=[*:4]1",
    ),
    Rule(
        "nitrile-oxide",
        "cycloaddition",
        "([C:1]#[N+:2]-[O-:3].[C,N:4]=[C,N,O;+0:5])>>[*:1]1=[N+0:2]-[O+0:3]-[*:5]-[*:4]1",
    ),
    Rule("ketene", "cycloaddition", "([C,N:1]=[C:2]=[O:3].[C,N:4]=[C,N,O;+0:5])>>[*:1]1-[*:2](=[*:3])-[*:5]-[*:4]1"),
    Rule("retro-ketene", "cycloaddition", "[C,N,O:1]1-[C:2](=[O:3])-[C,N,O:5]-[C:4]1>>([*:1]=[*:2]=[*:3].[*:5]=[*:4])"),
    Rule("ring-4", "electrocyclic", "[C,N,O:1]1-[C,N:2]=[C,N:3]-[C,N,O:4]1>>[*:1]=[*:2]-[*:3]=[*:4]"),
    Rule(
        "ring-6",
        "electrocyclic",
        "[C,N,O:1]1-[C,N:2]=[C,N:3]-[C,N:4]=[C,N:5]-[C,N,O:6]1>>[*:1]=[*:2]-[*:3]=[*:4]-[*:5]=[*:6]",
    ),
    Rule(
        "azide-or-diazo",
        "electrocyclic",
        "[C,N,O;+0:1]=[C:2]-[C,N:3]=[N+:4]=[N-:5]>>[*:1]1-[*:2]=[*:3]-[N+0:4]=[N+0:5]1",
    ),
    Rule(
        "3-3",
        "sigmatropic",
        "[C,N,O;+0:1]=[C,N;+0:2]-[C,N,O:3]-[C,N,O:4]-[C,N;+0:5]=[C,N,O;+0:6]>>[*:3]=[*:2]-[*:1]-[*:6]-[*:5]=[*:4]",
    ),
    Rule(
        "3-3-alkyne",
        "sigmatropic",
        "[C:1]#[C:2]-[C:3]-[C,N,O:4]-[C,N;+0:5]=[C,N,O;+0:6]>>[*:3]=[*:2]=[*:1]-[*:6]-[*:5]=[*:4]",
    ),
    Rule("1-3-carbon", "sigmatropic", "[C,N,O;+0:1]=[C:2]-[C:3]1-[C:4]-[C,N,O:5]1>>[*:1]1-[*:2]=[*:3]-[*:5]-[*:4]1"),
    Rule("three-ring-carbonyl", "ring-opening", "[C:1]1-[C:2]([H:4])-[O,N:3]1>>[H:4][*:1]-[*:2]=[*:3]"),
    Rule("three-ring-allyl", "ring-opening", "[C:1]1-[C:2](-[C:4][H:5])-[O,N:3]1>>[*:1](-[*:3][H:5])-[*:2]=[*:4]"),
    Rule("cyclopropane-propene", "ring-opening", "[C:1]1-[C:2]-[C:3]1[H:4]>>[H:4][*:1]-[*:3]=[*:2]"),
    Rule("cyclopropene-alkyne", "ring-opening", "[C:1]1-[C:2]=[C:3]1[H:4]>>[H:4][*:1]-[*:3]#[*:2]"),
    Rule("cyclopropanol", "ring-opening", "[O,N:4]([H:5])-[C:1]1-[C:2]-[C:3]1>>[*:4]=[*:1]-[*:3]-[*:2][H:5]"),
    Rule("azirine", "ring-opening", "[C:1]1-[C:2]([H:4])=[N:3]1>>[*:1]=[*:2]=[*:3][H:4]"),
    Rule("isocyanide-nitrile", "isomerisation", "[C,N:1]-[N+:2]#[C-:3]>>[*:1]-[C+0:3]#[N+0:2]"),
    Rule("nitro-nitrite", "isomerisation", "[C:1]-[N+:2](=[O:3])-[O-:4]>>[*:1]-[O+0:4]-[N+0:2]=[*:3]"),
    Rule(
        "wolff", "isomerisation", "[*:6]-[C:1](=[O:2])-[C,N:3]=[N+:4]=[N-:5]>>([*:6]-[*:3]=[C:1]=[*:2].[N+0:4]#[N+0:5])"
    ),
    Rule("imidate-methyl", "isomerisation", "[CH3:1]-[O:2]-[C:3]=[N,O:4]>>[*:2]=[*:3]-[*:4]-[*:1]"),
    Rule("anti-gauche", "rotation", "[C,N,O:1]-[CX4;!R:2]-!@[CX4:3]-[C,N,O:4]", (180, 60)),
    Rule("hydroxyl", "rotation", "[#6:1]-[CX4:2]-[OH1:3]-[H:4]", (180, 60)),
    Rule("allylic", "rotation", "[C,N,O:1]=[C:2]-!@[CX4:3]-[C,N,O:4]", (0, 120)),
    Rule("conjugated", "rotation", "[C,N,O;+0:1]=[C:2]-!@[C:3]=[C,N,O;+0:4]", (180, 0)),
    Rule("acid", "rotation", "[O:1]=[C:2]-[O:3]-[H:4]", (0, 180)),
    Rule("ester", "rotation", "[O:1]=[C:2]-!@[O:3]-[C:4]", (0, 180)),
    Rule("amide", "rotation", "[O:1]=[C:2]-!@[NX3:3]-[C,#1:4]", (0, 180)),
    Rule("ether", "rotation", "[C:1]-[CX4:2]-!@[O:3]-[C:4]", (180, 70)),
    Rule("amine", "inversion", "[NX3;+0;!$(N-*=,#*);!$(N-c):1]"),
    Rule("imine", "inversion", "[C,#1:1]-[C:2]=[NX2;!R:3]-[C,#1:4]", (180, 0)),
)
RULE_NAMES = tuple(f"{rule.family}/{rule.name}" for rule in RULES)

_CHARGES = ("[NX3+](=O)[O-]", "[C,N]=[N+]=[N-]", "[N+]#[C-]", "[NH+]#[C-]", "C#[N+][O-]", "[C-]#[O+]")
"""The only ways in which charges may stand in an enumerated molecule."""

_STRAINED = (
    "[*;r3,r4,r5,r6,r7]#[*;R]",
    "*=@[*;r3,r4,r5,r6,r7]=@*",
    "[x3;r3,r4;!a]=@*",  # at the fusion of small rings
    "[N,O]-[O]-[N,O]",
    "[NX3]-[NX3]-[NX3]",
)
"""What no enumerated molecule may contain."""


def enumerate_reactions(
    names: Sequence[str],
    molecules: Sequence[str],
    *,
    max_heavy_atoms: int,
    limit: int | None = None,
    known: Iterable[Reaction] = (),
) -> list[Reaction]:
    """Apply rules, named as in :data:`RULE_NAMES`, to molecules given as SMILES.

    Their stereochemistry is dropped: how a reaction goes decides the geometry. Molecules, and pairs of molecules, with
    more than ``max_heavy_atoms`` are left out; ``limit`` is the number of reactions of each rule, all by default. The
    reactions come in the order of the rules, small molecules first; none occurs twice, in either direction, nor is one
    ``known``. Names tell family, rule and formula, ``hydrogen-shift/1-3-C2H4O-1``.
    """
    small = [mol for mol in map(_plain, dict.fromkeys(molecules)) if _n_heavy(mol) <= max_heavy_atoms]
    small.sort(key=_n_heavy)  # stable: within a size as they were given
    seen = set(map(reaction_key, known))
    found: list[Reaction] = []
    for rule in (rule for rule, name in zip(RULES, RULE_NAMES, strict=True) if name in names):
        found += islice(_new(rule, small, max_heavy_atoms, seen), limit)
    return found


def _new(rule: Rule, molecules: list[Mol], max_heavy_atoms: int, seen: set[str]) -> Iterator[Reaction]:
    """Reactions of a rule that were not seen, with their names."""
    counts: Counter[str] = Counter()
    for reactant, product, move in _candidates(rule, molecules, max_heavy_atoms):
        formula = rdkit_module("Chem.rdMolDescriptors").CalcMolFormula(parse(reactant))
        name = f"{rule.family}/{rule.name}-{formula}-{counts[formula] + 1}"
        reaction = Reaction(name, rule.family, reactant, product, move)
        key = reaction_key(reaction)
        if key not in seen:
            seen.add(key)
            counts[formula] += 1
            yield reaction


Candidate = tuple[str, str, Move | None]
"""Reactant, product, move."""


def _candidates(rule: Rule, molecules: list[Mol], max_heavy_atoms: int) -> Iterator[Candidate]:
    if rule.family in ("rotation", "inversion"):
        for molecule in molecules:
            yield from _moves(rule, molecule)
        return
    reaction = rdkit_module("Chem.rdChemReactions").ReactionFromSmarts(rule.smarts)
    for molecule in _pairs(reaction, molecules, max_heavy_atoms) if rule.smarts[0] == "(" else molecules:
        for (outcome,) in reaction.RunReactants((molecule,)):
            sides = _mapped(molecule, outcome)
            if sides is not None and _sensible(*sides):
                yield *sides, None


def _plain(smiles: str) -> Mol:
    molecule = parse(smiles)
    rdkit_module("Chem").RemoveStereochemistry(molecule)
    return molecule


def _pairs(reaction: Any, molecules: list[Mol], max_heavy_atoms: int) -> Iterator[Mol]:
    """Two molecules side by side, each with one of the two patterns of the reaction, small ones first."""
    chem = rdkit_module("Chem")
    patterns = chem.GetMolFrags(reaction.GetReactantTemplate(0), asMols=True, sanitizeFrags=False)
    for pattern in patterns:
        pattern.UpdatePropertyCache(strict=False)
    first, second = ([mol for mol in molecules if mol.HasSubstructMatch(pattern)] for pattern in patterns)
    pairs = [(a, b) for a, b in pairs_of(first, second) if _n_heavy(a) + _n_heavy(b) <= max_heavy_atoms]
    for a, b in sorted(pairs, key=lambda pair: _n_heavy(pair[0]) + _n_heavy(pair[1])):
        yield chem.CombineMols(a, b)


def _n_heavy(molecule: Mol) -> int:
    return int(molecule.GetNumHeavyAtoms())


def _mapped(molecule: Mol, outcome: Mol) -> tuple[str, str] | None:
    """Both sides with map numbers: heavy atoms, and hydrogens that change their partner."""
    chem, base = rdkit_module("Chem"), rdkit_module("rdBase")
    with base.BlockLogs():
        if chem.SanitizeMol(outcome, catchErrors=True) != chem.SANITIZE_NONE:
            return None
    origin = [atom.GetIntProp("react_atom_idx") for atom in outcome.GetAtoms()]
    if sorted(origin) != list(range(molecule.GetNumAtoms())):
        return None
    if any(
        atom.GetNumExplicitHs() + atom.GetNumImplicitHs() + atom.GetNumRadicalElectrons() for atom in outcome.GetAtoms()
    ):
        return None
    reactant, product = chem.Mol(molecule), chem.RenumberAtoms(outcome, [origin.index(k) for k in range(len(origin))])
    number = 0
    for before, after in sorted(
        zip(reactant.GetAtoms(), product.GetAtoms(), strict=True), key=lambda pair: bool(pair[0].GetAtomicNum() == 1)
    ):
        partners = [{n.GetIdx() for n in atom.GetNeighbors()} for atom in (before, after)]
        if before.GetAtomicNum() > 1 or partners[0] != partners[1]:
            number += 1
            before.SetAtomMapNum(number)
            after.SetAtomMapNum(number)
        else:
            after.SetAtomMapNum(0)
    return write_mapped(reactant), write_mapped(product)


def _sensible(reactant: str, product: str) -> bool:
    """Whether both sides are molecules that one would draw, and all of them take part."""
    try:
        sides = parse_pair(reactant, product)
    except ConfigError:
        return False
    if bonds(sides[0]) == bonds(sides[1]) or len(rdkit_module("Chem").GetMolFrags(union(*sides))) > 1:
        return False
    for side in sides:
        allowed = {index for smarts in _CHARGES for match in _matches(side, smarts) for index in match}
        if any(atom.GetFormalCharge() and atom.GetIdx() not in allowed for atom in side.GetAtoms()):
            return False
        if any(_matches(side, smarts) for smarts in _STRAINED):
            return False
    return True


@cache
def _pattern(smarts: str) -> Mol:
    return rdkit_module("Chem").MolFromSmarts(smarts)


def _matches(molecule: Mol, smarts: str) -> tuple[tuple[int, ...], ...]:
    return tuple(molecule.GetSubstructMatches(_pattern(smarts)))


def _moves(rule: Rule, molecule: Mol) -> Iterator[Candidate]:
    """Torsions or inversions of one molecule."""
    chem = rdkit_module("Chem")
    heavy = [atom.GetIdx() for atom in molecule.GetAtoms() if atom.GetAtomicNum() > 1]
    for match in _matches(molecule, rule.smarts):
        mapped = chem.Mol(molecule)
        numbers = {index: k for k, index in enumerate(dict.fromkeys([*heavy, *match]), start=1)}
        for index, number in numbers.items():
            mapped.GetAtomWithIdx(index).SetAtomMapNum(number)
        smiles = write_mapped(mapped)
        if rule.angles is None:
            yield smiles, smiles, Inversion(numbers[match[0]])
        else:
            a, b, c, d = (numbers[k] for k in match)
            yield smiles, smiles, Rotation((Torsion((a, b, c, d), *rule.angles),))
