"""Starting geometries of minima: the G2 set, SMILES, files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from ase import Atoms
from ase.collections import g2
from ase.data import atomic_numbers
from ase.io import iread
from pydantic import Field, PositiveInt, field_validator

from hessgnn.errors import ConfigError, did_you_mean
from hessgnn.factory.smiles import conformers
from hessgnn.runtime.config import Seed, Settings, read_yaml
from hessgnn.runtime.files import find_resource

BUNDLED = Path(__file__).with_name("molecules.yaml")
"""Closed-shell molecules of C, H, N, O with up to nine heavy atoms."""


class SourceSettings(Settings):
    """What every source is asked for."""

    source: str
    elements: list[str] = Field(default=["H", "C", "N", "O"], min_length=1)
    min_atoms: int = Field(default=2, ge=2, description="a single atom has no internal motion to learn")
    max_atoms: PositiveInt = 50
    names: list[str] | None = Field(default=None, description="only these molecules; all by default")

    @field_validator("elements")
    @classmethod
    def _known(cls, elements: list[str]) -> list[str]:
        unknown = [symbol for symbol in elements if symbol not in atomic_numbers]
        if unknown:
            raise ValueError(f"no such element: {', '.join(unknown)}")
        return elements


class G2Settings(SourceSettings):
    """Closed-shell molecules of the G2 set, as shipped with ASE.

    L. A. Curtiss, K. Raghavachari, P. C. Redfern, J. A. Pople, J. Chem. Phys. 106, 1063 (1997).
    """

    source: Literal["g2"] = "g2"


class SmilesSettings(SourceSettings):
    """Molecules written as SMILES, embedded by RDKit."""

    source: Literal["smiles"] = "smiles"
    molecules: list[str] = Field(default=[], description="SMILES, which are the names too")
    files: list[Path] = Field(default=[], description="YAML files, see hessgnn.factory.geometries")
    bundled: bool = Field(default=False, description="take the molecules that ship with hessgnn")
    conformers: PositiveInt = Field(default=1, description="of each molecule at most, the lowest first")
    embeddings: PositiveInt = Field(default=20, description="tried for each molecule")
    seed: Seed = Field(default=0, description="of the embedding")


class FileSettings(SourceSettings):
    """Frames of files that ASE reads."""

    source: Literal["files"] = "files"
    paths: list[str] = Field(min_length=1, description="files or patterns such as start/*.xyz")


SOURCES: dict[str, type[SourceSettings]] = {"g2": G2Settings, "smiles": SmilesSettings, "files": FileSettings}
"""Name -> what the recipe may say."""

Geometries = tuple[dict[str, Atoms], dict[str, str]]
"""Name -> geometry, sorted by name; and name -> reason for those of the wanted elements that were left out."""


def starting_geometries(sources: Sequence[SourceSettings]) -> Geometries:
    """Choose molecules, see :data:`Geometries`. A name that two sources have is taken from the first.

    Raises :class:`ConfigError` when a source cannot be read, or has no molecule of a name that is asked for.
    """
    chosen: dict[str, Atoms] = {}
    skipped: dict[str, str] = {}
    for settings in sources:
        for name, atoms in _LISTS[settings.source](settings):
            if not set(atoms.get_chemical_symbols()) <= set(settings.elements):
                continue
            reason = _unfit(atoms, settings) or ("the name is taken by an earlier source" if name in chosen else None)
            if reason:
                skipped[name] = reason
            else:
                chosen[name] = Atoms(numbers=atoms.numbers, positions=atoms.positions)
    return dict(sorted(chosen.items())), dict(sorted(skipped.items()))


def read_molecules(path: Path = BUNDLED) -> list[str]:
    """Read a data file of molecules: SMILES, in the order of the file.

    It is a YAML file with the key ``molecules``: a mapping of headings to SMILES, separated by blanks. Raises
    :class:`ConfigError` when it holds something else, or a SMILES twice.
    """
    content = read_yaml(path)
    sections = content.get("molecules")
    if (
        set(content) != {"molecules"}
        or not isinstance(sections, dict)
        or not all(isinstance(text, str) for text in sections.values())
    ):
        raise ConfigError(
            "holds no molecules", where=path, hint="write `heading: SMILES SMILES …` under the key `molecules`"
        )
    found = [smiles for text in sections.values() for smiles in text.split()]
    twice = sorted({smiles for smiles in found if found.count(smiles) > 1})
    if twice:
        raise ConfigError("stands twice", where=f"{path}, {twice[0]}", hint="remove one of them")
    return found


def _wanted(settings: SourceSettings, names: Sequence[str]) -> list[str]:
    for name in settings.names or ():
        if name not in names:
            raise ConfigError(f"no such molecule in {settings.source}", where=name, hint=did_you_mean(name, names))
    return list(settings.names or names)


def _g2(settings: G2Settings) -> Iterator[tuple[str, Atoms]]:
    return ((name, g2[name]) for name in _wanted(settings, g2.names))


def _smiles(settings: SmilesSettings) -> Iterator[tuple[str, Atoms]]:
    molecules = list(settings.molecules)
    for path in ([BUNDLED] if settings.bundled else []) + [find_resource(path) for path in settings.files]:
        molecules += read_molecules(path)
    for smiles in _wanted(settings, list(dict.fromkeys(molecules))):
        found = conformers(smiles, number=settings.embeddings, seed=settings.seed)
        for k, atoms in enumerate(found[: settings.conformers]):
            yield (f"{smiles}/conformer-{k}" if k else smiles), atoms


def _files(settings: FileSettings) -> Iterator[tuple[str, Atoms]]:
    frames: dict[str, Atoms] = {}
    for pattern in settings.paths:
        paths = sorted(Path().glob(pattern)) if "*" in pattern else [find_resource(pattern)]
        for path in paths:
            try:
                images = list(iread(path))
            except Exception as error:  # ASE's readers raise whatever their format's parser does
                raise ConfigError(f"cannot be read by ASE ({error})", where=path, hint="check the file") from error
            stem = Path(path).stem
            frames |= {(stem if len(images) == 1 else f"{stem}-{k}"): image for k, image in enumerate(images)}
    return ((name, frames[name]) for name in _wanted(settings, list(frames)))


_LISTS: dict[str, Callable[[Any], Iterator[tuple[str, Atoms]]]] = {"g2": _g2, "smiles": _smiles, "files": _files}


def _unfit(atoms: Atoms, settings: SourceSettings) -> str | None:
    if len(atoms) < settings.min_atoms:
        return f"fewer than {settings.min_atoms} atoms"
    if len(atoms) > settings.max_atoms:
        return f"more than {settings.max_atoms} atoms"
    if atoms.numbers.sum() % 2:
        return "odd number of electrons"
    if atoms.get_initial_magnetic_moments().any():
        return "open shell"
    return None
