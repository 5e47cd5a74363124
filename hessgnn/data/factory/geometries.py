"""Starting geometries: the closed-shell molecules of the G2 set, as shipped with ASE.

L. A. Curtiss, K. Raghavachari, P. C. Redfern, J. A. Pople, J. Chem. Phys. 106, 1063 (1997).
"""

from __future__ import annotations

from ase import Atoms
from ase.collections import g2

from hessgnn.data.factory.recipe import GeometrySettings
from hessgnn.errors import ConfigError, did_you_mean


def starting_geometries(settings: GeometrySettings) -> tuple[dict[str, Atoms], dict[str, str]]:
    """Choose molecules.

    Parameters
    ----------
    settings
        Source, elements and sizes.

    Returns
    -------
    dict, dict
        Name -> geometry, sorted by name; and name -> reason for those made of the wanted elements that were left out.

    Raises
    ------
    ConfigError
        When a molecule is asked for by a name that does not exist.
    """
    for name in settings.names or ():
        if name not in g2.names:
            raise ConfigError("no such molecule in g2", where=name, remedy=did_you_mean(name, g2.names))
    chosen: dict[str, Atoms] = {}
    skipped: dict[str, str] = {}
    for name in sorted(settings.names or g2.names):
        atoms = g2[name]
        if not set(atoms.get_chemical_symbols()) <= set(settings.elements):
            continue
        reason = _unfit(atoms, settings)
        if reason:
            skipped[name] = reason
        else:
            chosen[name] = Atoms(numbers=atoms.numbers, positions=atoms.positions)
    return chosen, skipped


def _unfit(atoms: Atoms, settings: GeometrySettings) -> str | None:
    if len(atoms) < settings.min_atoms:
        return f"fewer than {settings.min_atoms} atoms"
    if len(atoms) > settings.max_atoms:
        return f"more than {settings.max_atoms} atoms"
    if atoms.numbers.sum() % 2:
        return "odd number of electrons"
    if atoms.get_initial_magnetic_moments().any():
        return "open shell"
    return None
