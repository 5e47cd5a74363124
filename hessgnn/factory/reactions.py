"""Where reactions are written down, and which of them a recipe takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt, field_validator

from hessgnn.errors import ConfigError, did_you_mean
from hessgnn.factory.geometries import BUNDLED as MOLECULES
from hessgnn.factory.geometries import read_molecules
from hessgnn.factory.reaction import (
    FAMILIES,
    Family,
    Inversion,
    Reaction,
    Rotation,
    Torsion,
    bonds,
    n_heavy,
    parse_pair,
)
from hessgnn.factory.rules import RULE_NAMES, enumerate_reactions
from hessgnn.runtime.config import Settings, parse, read_yaml
from hessgnn.runtime.files import find_resource

BUNDLED = Path(__file__).with_name("reactions.yaml")
"""The reactions that ship with the package."""


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

    bundled: bool = Field(default=True, description="take the reactions that ship with hessgnn")
    files: list[Path] = Field(default=[], description="data files of reactions")
    rules: list[str] = Field(default=[], description="as family/name, or `all`; applied to the molecules")
    molecules: Path | None = Field(default=None, description="data file; what ships with hessgnn by default")
    rule_limit: PositiveInt | None = Field(default=None, description="so many of each rule, small molecules first")
    families: list[Family] = Field(default=list(FAMILIES), min_length=1)
    max_heavy_atoms: PositiveInt = 9
    names: list[str] | None = Field(default=None, description="only these; all by default")
    limit: PositiveInt | None = Field(default=None, description="the first so many of each family; all by default")

    @field_validator("families", mode="before")
    @classmethod
    def _known_family(cls, families: Any) -> Any:
        return _only(families, FAMILIES, "family")

    @field_validator("rules")
    @classmethod
    def _known_rule(cls, rules: list[str]) -> list[str]:
        if rules == ["all"]:
            return list(RULE_NAMES)
        return _only(rules, RULE_NAMES, "rule")


def _only(names: Any, known: tuple[str, ...], what: str) -> Any:
    for name in names if isinstance(names, list) else ():
        if name not in known:
            raise ValueError(f"no such {what}, {did_you_mean(str(name), known)}")
    return names


def reactions(settings: ReactionSettings) -> list[Reaction]:
    """List the reactions of a recipe, sorted by family; written ones before those made by rule.

    No reaction made by rule repeats a written one. Raises :class:`ConfigError` when a source cannot be used, or a
    reaction is asked for by a name that does not exist.
    """
    found: dict[str, Reaction] = {}
    for path in ([BUNDLED] if settings.bundled else []) + [find_resource(path) for path in settings.files]:
        for reaction in read_reactions(path):
            if reaction.name in found:
                raise ConfigError("the name is taken", where=f"{path}, {reaction.name}", hint="choose another name")
            found[reaction.name] = reaction
    found |= {reaction.name: reaction for reaction in _by_rule(settings, list(found.values()))}
    for name in settings.names or ():
        if name not in found:
            raise ConfigError("no such reaction", where=name, hint=did_you_mean(name, found))
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


def _by_rule(settings: ReactionSettings, written: list[Reaction]) -> list[Reaction]:
    names = [name for name in settings.rules if name.split("/")[0] in settings.families]
    if not names:
        return []
    path = MOLECULES if settings.molecules is None else find_resource(settings.molecules)
    return enumerate_reactions(
        names,
        read_molecules(path),
        max_heavy_atoms=settings.max_heavy_atoms,
        limit=settings.rule_limit,
        known=written,
    )


def read_reactions(path: Path) -> list[Reaction]:
    """Read a data file of reactions, each checked, in the order of the file.

    It is a YAML file with the key ``reactions``, a list of :class:`ReactionEntry`. Raises :class:`ConfigError` with
    file, entry and hint, when something is wrong.
    """
    content = read_yaml(path)
    entries = content.get("reactions")
    if set(content) != {"reactions"} or not isinstance(entries, list):
        raise ConfigError("holds no list of reactions", where=path, hint="write one under the key `reactions`")
    found: dict[str, Reaction] = {}
    for number, content in enumerate(entries, start=1):
        if not isinstance(content, Mapping):
            raise ConfigError("is not a mapping", where=f"{path}, reaction {number}", hint="write `name: …` first")
        where = f"{path}, {content.get('name', f'reaction {number}')}"
        if content.get("family") not in FAMILIES:
            hint = did_you_mean(str(content.get("family")), FAMILIES)
            raise ConfigError("the family is not known", where=where, hint=hint)
        entry = parse(ReactionEntry, content, where=where)
        try:
            reaction = _reaction(entry)
        except ConfigError as error:
            place = where if error.where is None else f"{where}, {error.where}"
            raise ConfigError(error.what, where=place, hint=error.hint) from error
        if reaction.name in found:
            raise ConfigError("stands twice", where=where, hint="choose another name")
        found[reaction.name] = reaction
    return list(found.values())


def _reaction(entry: ReactionEntry) -> Reaction:
    name = f"{entry.family}/{entry.name}"
    moves = bool(entry.rotate) + (entry.invert is not None)
    if entry.molecule:
        if entry.reactant or entry.product or moves != 1:
            raise ConfigError(
                "a molecule stands for both sides and needs one move", hint="give it `rotate` or `invert`, no sides"
            )
        sides = parse_pair(entry.molecule, entry.molecule)
        known = {atom.GetAtomMapNum() for atom in sides[0].GetAtoms()} - {0}
        used = {number for torsion in entry.rotate for number in torsion.atoms}
        used |= set() if entry.invert is None else {entry.invert}
        if unknown := sorted(used - known):
            raise ConfigError(f"the move names atom {unknown[0]}", hint="use map numbers of the molecule")
        if entry.invert is None:
            return Reaction(name, entry.family, entry.molecule, entry.molecule, _rotation(entry))
        _check_inversion(sides[0], entry.invert)
        return Reaction(name, entry.family, entry.molecule, entry.molecule, Inversion(entry.invert))
    if moves or not (entry.reactant and entry.product):
        raise ConfigError("needs both sides and no move", hint="give `reactant` and `product`")
    before, after = parse_pair(entry.reactant, entry.product)
    if bonds(before) == bonds(after):
        raise ConfigError("no bond changes", hint="write it as a `molecule` with `rotate` or `invert`")
    return Reaction(name, entry.family, entry.reactant, entry.product)


def _rotation(entry: ReactionEntry) -> Rotation:
    for torsion in entry.rotate:
        if len(set(torsion.atoms)) < 4:
            raise ConfigError("a torsion names an atom twice", hint="name four atoms")
        if abs(torsion.start - torsion.end) % 360 < 1:
            raise ConfigError("a torsion does not turn", hint="let `start` and `end` differ")
    return Rotation(tuple(Torsion(t.atoms, t.start, t.end) for t in entry.rotate))


def _check_inversion(molecule: Any, number: int) -> None:
    degree = next(atom.GetDegree() for atom in molecule.GetAtoms() if atom.GetAtomMapNum() == number)
    if degree != 3:
        raise ConfigError(f"atom {number} has {degree} partners", hint="invert an atom with three")
