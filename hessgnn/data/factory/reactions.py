"""Reactions: what they are, where they are written down, and which of them a recipe takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, PositiveInt, field_validator

from hessgnn.config import Settings, parse, read_yaml
from hessgnn.data.factory.mapping import bonds, parse_pair
from hessgnn.errors import ConfigError, did_you_mean
from hessgnn.files import find_resource

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

BUNDLED = Path(__file__).with_name("reactions.yaml")
"""The reactions that ship with the package."""


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
        Mapped SMILES, see :mod:`hessgnn.data.factory.mapping`.
    move : Rotation, Inversion or None
        What happens where no bond changes; reactant and product are the same SMILES then.
    """

    name: str
    family: Family
    reactant: str
    product: str
    move: Move | None = None


class TorsionEntry(Settings):
    """A torsion that turns."""

    atoms: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = Field(description="map numbers")
    start: float = Field(ge=-360, le=360, description="of the reactant, degrees")
    end: float = Field(ge=-360, le=360, description="of the product, degrees")


class ReactionEntry(Settings):
    """One reaction of a data file: ``reactant`` and ``product``, or ``molecule`` and ``rotate`` or ``invert``."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_+-]*$")
    family: Family
    reactant: str = ""
    product: str = ""
    molecule: str = ""
    rotate: tuple[TorsionEntry, ...] = ()
    invert: PositiveInt | None = None
    comment: str = ""


class ReactionSettings(Settings):
    """Which reactions a recipe takes."""

    files: list[Path] = Field(default=[], description="data files beside the bundled one")
    bundled: bool = Field(default=True, description="take the reactions that ship with hessgnn")
    families: list[Family] = Field(default=list(FAMILIES), min_length=1)
    max_heavy_atoms: PositiveInt = 9
    names: list[str] | None = Field(default=None, description="only these; all by default")
    limit: PositiveInt | None = Field(default=None, description="the first so many of each family; all by default")

    @field_validator("families", mode="before")
    @classmethod
    def _known(cls, families: Any) -> Any:
        for family in families if isinstance(families, list) else ():
            if family not in FAMILIES:
                raise ValueError(f"no such family, {did_you_mean(str(family), FAMILIES)}")
        return families


def reactions(settings: ReactionSettings) -> list[Reaction]:
    """List the reactions of a recipe.

    Parameters
    ----------
    settings
        Sources and filters.

    Returns
    -------
    list of Reaction
        Sorted by family, then in the order of their sources.

    Raises
    ------
    ConfigError
        When a source cannot be used, or a reaction is asked for by a name that does not exist.
    """
    found: dict[str, Reaction] = {}
    for path in ([BUNDLED] if settings.bundled else []) + [find_resource(path) for path in settings.files]:
        for reaction in read_reactions(path):
            if reaction.name in found:
                raise ConfigError("the name is taken", where=f"{path}, {reaction.name}", remedy="choose another name")
            found[reaction.name] = reaction
    for name in settings.names or ():
        if name not in found:
            raise ConfigError("no such reaction", where=name, remedy=did_you_mean(name, found))
    chosen = []
    for family in sorted(settings.families):
        members = [
            reaction
            for reaction in found.values()
            if reaction.family == family
            and (settings.names is None or reaction.name in settings.names)
            and n_heavy(reaction) <= settings.max_heavy_atoms
        ]
        chosen += members[: settings.limit]
    return chosen


def n_heavy(reaction: Reaction) -> int:
    """Count the atoms other than hydrogen.

    Parameters
    ----------
    reaction
        Any.

    Returns
    -------
    int
        Of one side.
    """
    return int(parse_pair(reaction.reactant, reaction.product)[0].GetNumHeavyAtoms())


def read_reactions(path: Path) -> list[Reaction]:
    """Read a data file of reactions.

    Parameters
    ----------
    path
        A YAML file with the key ``reactions``, a list of :class:`ReactionEntry`.

    Returns
    -------
    list of Reaction
        In the order of the file, each checked.

    Raises
    ------
    ConfigError
        With file, entry and remedy, when something is wrong.
    """
    content = read_yaml(path)
    entries = content.get("reactions")
    if set(content) != {"reactions"} or not isinstance(entries, list):
        raise ConfigError("holds no list of reactions", where=path, remedy="write one under the key `reactions`")
    found: dict[str, Reaction] = {}
    for number, content in enumerate(entries, start=1):
        if not isinstance(content, Mapping):
            raise ConfigError("is not a mapping", where=f"{path}, reaction {number}", remedy="write `name: …` first")
        where = f"{path}, {content.get('name', f'reaction {number}')}"
        if content.get("family") not in FAMILIES:
            remedy = did_you_mean(str(content.get("family")), FAMILIES)
            raise ConfigError("the family is not known", where=where, remedy=remedy)
        entry = parse(ReactionEntry, content, where=where)
        try:
            reaction = _reaction(entry)
        except ConfigError as error:
            place = where if error.where is None else f"{where}, {error.where}"
            raise ConfigError(error.what, where=place, remedy=error.remedy) from error
        if reaction.name in found:
            raise ConfigError("stands twice", where=where, remedy="choose another name")
        found[reaction.name] = reaction
    return list(found.values())


def _reaction(entry: ReactionEntry) -> Reaction:
    name = f"{entry.family}/{entry.name}"
    moves = bool(entry.rotate) + (entry.invert is not None)
    if entry.molecule:
        if entry.reactant or entry.product or moves != 1:
            raise ConfigError(
                "a molecule stands for both sides and needs one move", remedy="give it `rotate` or `invert`, no sides"
            )
        sides = parse_pair(entry.molecule, entry.molecule)
        known = {atom.GetAtomMapNum() for atom in sides[0].GetAtoms()} - {0}
        used = {number for torsion in entry.rotate for number in torsion.atoms}
        used |= set() if entry.invert is None else {entry.invert}
        if unknown := sorted(used - known):
            raise ConfigError(f"the move names atom {unknown[0]}", remedy="use map numbers of the molecule")
        if entry.invert is None:
            return Reaction(name, entry.family, entry.molecule, entry.molecule, _rotation(entry))
        _check_inversion(sides[0], entry.invert)
        return Reaction(name, entry.family, entry.molecule, entry.molecule, Inversion(entry.invert))
    if moves or not (entry.reactant and entry.product):
        raise ConfigError("needs both sides and no move", remedy="give `reactant` and `product`")
    before, after = parse_pair(entry.reactant, entry.product)
    if bonds(before) == bonds(after):
        raise ConfigError("no bond changes", remedy="write it as a `molecule` with `rotate` or `invert`")
    return Reaction(name, entry.family, entry.reactant, entry.product)


def _rotation(entry: ReactionEntry) -> Rotation:
    for torsion in entry.rotate:
        if len(set(torsion.atoms)) < 4:
            raise ConfigError("a torsion names an atom twice", remedy="name four atoms")
        if abs(torsion.start - torsion.end) % 360 < 1:
            raise ConfigError("a torsion does not turn", remedy="let `start` and `end` differ")
    return Rotation(tuple(Torsion(t.atoms, t.start, t.end) for t in entry.rotate))


def _check_inversion(molecule: Any, number: int) -> None:
    degree = next(atom.GetDegree() for atom in molecule.GetAtoms() if atom.GetAtomMapNum() == number)
    if degree != 3:
        raise ConfigError(f"atom {number} has {degree} partners", remedy="invert an atom with three")
