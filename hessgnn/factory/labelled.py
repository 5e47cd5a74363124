"""Structures with all labels: of a given geometry, and of the frames around it."""

from __future__ import annotations

from ase import Atoms

from hessgnn.data.formats.common import composition
from hessgnn.data.kinds import MINIMUM, NMS, THERMAL
from hessgnn.data.structure import Array, Structure
from hessgnn.factory.displace import molecule_rng, sample_frames
from hessgnn.factory.recipe import Recipe
from hessgnn.factory.thermal import thermal_frames
from hessgnn.surface.engines import Engine, HessianLabel, LabelError


def label(
    engine: Engine, atoms: Atoms, *, name: str, kind: str, parent: str = "", hessian: HessianLabel | None = None
) -> Structure:
    """Label a geometry. Its group is its composition, so that no isomer and no reaction is divided between splits.

    Parameters
    ----------
    engine
        What computes labels.
    atoms
        The geometry.
    name, kind, parent
        Of the structure.
    hessian
        Where it is known already.

    Returns
    -------
    Structure
        With energy, forces and Hessian.

    Raises
    ------
    LabelError
        When a calculation fails.
    """
    energy, forces = engine.energy_forces(atoms)
    hessian = engine.hessian(atoms) if hessian is None else hessian
    return Structure(
        numbers=atoms.numbers,
        positions=atoms.positions,
        energy=energy,
        forces=forces,
        hessian=hessian.matrix,
        hessian_asymmetry=hessian.asymmetry,
        name=name,
        group=composition(atoms.numbers),
        kind=kind,
        parent=parent,
    )


def frames_around(recipe: Recipe, engine: Engine, structure: Structure) -> tuple[list[Structure], dict[str, str]]:
    """Make the frames that the recipe wants of a structure.

    Parameters
    ----------
    recipe
        How many of which kind.
    engine
        What computes labels.
    structure
        Labelled.

    Returns
    -------
    list of Structure, dict
        The frames ``NAME/nms-0``, … and ``NAME/thermal-0``, …; and name -> reason where there is none.
    """

    def energy(positions: Array) -> float:
        return engine.energy_forces(Atoms(structure.numbers, positions))[0]

    number = recipe.displaced.frames.get(structure.kind, 0)
    rng = molecule_rng(recipe.seed, structure.name)
    sources = {NMS: sample_frames(structure, number, energy, recipe.displaced, rng)}
    if structure.kind == MINIMUM and recipe.thermal.frames:
        sources[THERMAL] = thermal_frames(structure, engine, recipe.thermal, rng)
    made: list[Structure] = []
    failed: dict[str, str] = {}
    for kind, positions in sources.items():
        k = 0
        try:
            for k, frame in enumerate(positions):
                name = f"{structure.name}/{kind}-{k}"
                made.append(label(engine, Atoms(structure.numbers, frame), name=name, kind=kind, parent=structure.name))
        except LabelError as error:
            failed[f"{structure.name}/{kind}-{k}"] = str(error)
    return made, failed
