"""The surface that a published potential has before it is trained on: what is replayed, and what is lost.

A store of the potential's own predictions holds molecules unlike the training data, which are replayed (``train``) or
held out (``others``), and held-out structures of the data (``alike``). On the latter the new labels contradict the old
surface, so there a difference is not only what was forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hessgnn.data.store.store import Store, write_store
from hessgnn.data.structure import Structure
from hessgnn.evaluation.evaluate import evaluate_surface
from hessgnn.evaluation.record import Record
from hessgnn.evaluation.run import ProgressCallback
from hessgnn.evaluation.tasks.accuracy import sampled
from hessgnn.experiments.frames import CLOSEST, FRAME
from hessgnn.experiments.transfer_config import OriginalSettings
from hessgnn.factory.smiles import conformers
from hessgnn.molecules.geometry import molecule_rng
from hessgnn.potentials.base import Potential
from hessgnn.potentials.saved import load
from hessgnn.surface.potential import PotentialSurface

OTHERS, ALIKE = "others", "alike"
"""Held-out splits: molecules with other elements, and a sample of a split of the data."""


def unlike_molecules(settings: OriginalSettings, elements: Sequence[int]) -> list[Structure]:
    """Displaced frames of the molecules of the settings, in splits ``train`` and ``others``.

    ``elements`` are those that the potential knows. Compositions take turns between the splits, so none is in both.
    """
    found: dict[str, list[Structure]] = {}
    for smiles in settings.molecules:
        atoms = conformers(smiles, number=1, seed=settings.seed)[0]
        if not set(atoms.numbers.tolist()) <= set(elements):
            continue
        rng = molecule_rng((settings.seed,), smiles)
        frames: list[Structure] = []
        while len(frames) < settings.frames:
            spread = settings.displacement * rng.uniform()
            positions = atoms.positions + rng.normal(scale=spread, size=atoms.positions.shape)
            distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
            if distances[np.triu_indices(len(positions), 1)].min() < CLOSEST:
                continue
            frames.append(
                Structure(
                    numbers=atoms.numbers,
                    positions=positions,
                    name=f"{smiles}/{len(frames):02d}",
                    group=atoms.get_chemical_formula(),
                    kind=FRAME,
                )
            )
        found.setdefault(frames[0].group, []).extend(frames)
    return [
        replace(frame, split=("train", OTHERS)[place % 2])
        for place, group in enumerate(found)
        for frame in found[group]
    ]


def label_original(potential: Potential, settings: OriginalSettings, data: Path, path: Path, name: str) -> None:
    """Write the store of the potential's own predictions; held-out structures have Hessians.

    Parameters
    ----------
    potential
        Before it is trained on.
    data
        The store that it will be trained on.
    path
        Of the store that is written.
    name
        The level of theory, such as ``SevenNet-0``.
    """
    store = Store.open(data)
    unlike = unlike_molecules(settings, potential.elements)
    replayed = [structure for structure in unlike if structure.split == "train"]
    groups = dict.fromkeys(structure.group for structure in unlike if structure.split == OTHERS)
    each = math.ceil(settings.sample / max(1, len(groups)))
    others = [s for group in groups for s in [s for s in unlike if (s.split, s.group) == (OTHERS, group)][:each]]
    alike = [replace(store[int(i)], split=ALIKE) for i in sampled(store, settings.split, settings.sample)]
    surface = PotentialSurface(potential, name)
    labelled = []
    for structure in replayed:
        energy, forces = surface.energy_forces(structure.to_atoms())
        labelled.append(replace(structure, energy=energy, forces=forces))
    held_out = [*others, *alike]
    for structure, answer in zip(held_out, surface.answers(held_out), strict=True):
        unknown: dict[str, Any] = {"hessian_asymmetry": None, "directions": None, "parent": ""}
        own = replace(structure, energy=answer.energy, forces=answer.forces, hessian=answer.hessian, **unknown)
        labelled.append(own)
    write_store(path, labelled, level_of_theory=name, provenance=f"predictions of {name} before it was trained on")


def evaluate_original(
    run: Path, path: Path, references: Mapping[int, float], observer: ProgressCallback | None = None
) -> Record:
    """How far a trained potential is from its own old predictions, in the folder ``original`` of its run.

    ``references`` are the reference energies of before: new ones are for another level of theory.
    """
    potential = load(run)
    potential.set_scaling(references, float(potential.scale))
    surface = PotentialSurface(potential, "original")
    return evaluate_surface(surface, path, run / "original", splits=[OTHERS, ALIKE], observer=observer)


def scales(path: Path) -> dict[str, dict[str, float]]:
    """Root mean square of the forces and Hessians of the old surface, split -> metric -> value, as of the errors."""
    store = Store.open(path)
    found: dict[str, dict[str, float]] = {}
    for split in (OTHERS, ALIKE):
        structures = [store[int(i)] for i in store.indices(split)]
        columns: dict[str, list[Any]] = {
            "forces_rmse": [1e3 * np.asarray(s.forces) for s in structures],
            "hessian_rmse": [np.asarray(s.hessian) for s in structures],
        }
        found[split] = {
            name: float(np.sqrt(np.mean([np.mean(np.square(one)) for one in values])))
            for name, values in columns.items()
        }
    return found
