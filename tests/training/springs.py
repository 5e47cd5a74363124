"""Small molecules held by springs: labels in closed form, trained on in a moment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from ase.build import molecule

from hessgnn.data.directions import Directions
from hessgnn.data.store.store import write_store
from hessgnn.data.structure import Structure

TINY = {"name": "schnet", "width": 8, "n_interactions": 1, "n_basis": 8}


STIFFNESS = 20.0  # eV/Å²


def spring_structure(name: str, split: str, **without: None) -> Structure:
    """Atoms bonded to each other by springs, each to each: energy, forces and Hessian about a displaced minimum."""
    atoms = molecule(name)
    rng = np.random.default_rng(len(name))
    positions = atoms.positions - atoms.positions.mean(0)
    displaced = positions + rng.normal(scale=0.05, size=positions.shape)
    energy, forces, hessian = springs(positions, displaced)
    labels = {"energy": energy - 10.0 * len(atoms) - atoms.numbers.sum(), "forces": forces, "hessian": hessian}
    return Structure(
        numbers=atoms.numbers,
        positions=displaced,
        name=f"{name}-{split}",
        group=f"{name}-{split}",
        split=split,
        **(labels | without),
    )


def springs(rest: np.ndarray, positions: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Labels of E = Σ_{i<j} k (r_ij − r⁰_ij)² / 2, which neither moving nor turning the whole changes."""
    energy, forces, hessian = 0.0, np.zeros_like(positions), np.zeros((len(positions), 3) * 2)
    for i, j in zip(*np.triu_indices(len(positions), 1), strict=True):
        vector = positions[j] - positions[i]
        length = np.linalg.norm(vector)
        along, stretch = vector / length, length - np.linalg.norm(rest[j] - rest[i])
        energy += STIFFNESS * stretch**2 / 2
        forces[i] += STIFFNESS * stretch * along
        forces[j] -= STIFFNESS * stretch * along
        block = STIFFNESS * (np.outer(along, along) + stretch / length * (np.eye(3) - np.outer(along, along)))
        for first, second, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
            hessian[first, :, second] += sign * block
    return float(energy), forces, hessian.reshape(positions.size, positions.size)


def write_springs(path: Path) -> Path:
    """Five molecules to train on, one to validate, one to test."""
    train = [spring_structure(name, "train") for name in ("H2O", "CH4", "NH3", "CO2", "HCN")]
    held_out = [spring_structure("H2CO", "validation"), spring_structure("CH3OH", "test")]
    write_store(path, [*train, *held_out], level_of_theory="springs")
    return path


def with_products(structure: Structure, vectors: np.ndarray, kind: str, *, keep_hessian: bool = False) -> Structure:
    """Products of the structure's Hessian with vectors ``(M, N, 3)``, instead of the Hessian or beside it."""
    assert structure.hessian is not None
    products = (vectors.reshape(len(vectors), -1) @ structure.hessian).reshape(vectors.shape)
    made = Directions.make(vectors, products, kind)
    return replace(structure, hessian=structure.hessian if keep_hessian else None, directions=made)


def random_products(structure: Structure, number: int, kind: str = "rademacher", **options: bool) -> Structure:
    """Products with random signs, whatever the kind is said to be."""
    rng = np.random.default_rng(number + len(structure))
    signs = rng.choice([-1.0, 1.0], size=(number, len(structure), 3))
    return with_products(structure, signs, kind, **options)


def mixed_structures(split: str = "train") -> list[Structure]:
    """Two with products, one with a Hessian, one with both, and one with neither."""
    water, methane, ammonia, dioxide, cyanide = (
        spring_structure(name, split) for name in ("H2O", "CH4", "NH3", "CO2", "HCN")
    )
    return [
        random_products(water, 3),
        methane,
        replace(ammonia, hessian=None),
        random_products(dioxide, 2, keep_hessian=True),
        random_products(cyanide, 1),
    ]


def write_mixed(path: Path) -> Path:
    """As :func:`write_springs`, of :func:`mixed_structures`; the validation split has one of two kinds of labels."""
    held_out = [spring_structure("H2CO", "validation"), random_products(spring_structure("CH3OH", "validation"), 2)]
    write_store(path, [*mixed_structures(), *held_out], level_of_theory="springs")
    return path
