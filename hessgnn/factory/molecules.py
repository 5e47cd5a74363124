"""The molecules that ship with the package."""

from __future__ import annotations

from pathlib import Path

from hessgnn.errors import ConfigError
from hessgnn.runtime.config import read_yaml

BUNDLED = Path(__file__).with_name("molecules.yaml")
"""Closed-shell molecules of C, H, N, O with up to nine heavy atoms."""


def read_molecules(path: Path = BUNDLED) -> list[str]:
    """Read a data file of molecules.

    Parameters
    ----------
    path
        A YAML file with the key ``molecules``: a mapping of headings to SMILES, separated by blanks.

    Returns
    -------
    list of str
        In the order of the file.

    Raises
    ------
    ConfigError
        When it holds something else, or a SMILES twice.
    """
    content = read_yaml(path)
    sections = content.get("molecules")
    if (
        set(content) != {"molecules"}
        or not isinstance(sections, dict)
        or not all(isinstance(text, str) for text in sections.values())
    ):
        raise ConfigError(
            "holds no molecules", where=path, remedy="write `heading: SMILES SMILES …` under the key `molecules`"
        )
    found = [smiles for text in sections.values() for smiles in text.split()]
    twice = sorted({smiles for smiles in found if found.count(smiles) > 1})
    if twice:
        raise ConfigError("stands twice", where=f"{path}, {twice[0]}", remedy="remove one of them")
    return found
