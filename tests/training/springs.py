"""Small molecules held by springs: labels in closed form, trained on in a moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase.build import molecule

from hessgnn.data.store import write_store
from hessgnn.data.structure import Structure

TINY = {"name": "schnet", "width": 8, "n_interactions": 1, "n_basis": 8}


def spring_structure(name: str, split: str, **without: None) -> Structure:
    """Bonded by springs to where it stands: energy, forces and Hessian in closed form, about a displaced minimum."""
    atoms = molecule(name)
    rng = np.random.default_rng(len(name))
    positions = atoms.positions - atoms.positions.mean(0)
    displaced = positions + rng.normal(scale=0.05, size=positions.shape)
    n = 3 * len(atoms)
    hessian = 20.0 * (np.eye(n) - np.kron(np.ones((len(atoms),) * 2) / len(atoms), np.eye(3)))
    step = (displaced - positions).ravel()
    labels = {
        "energy": float(0.5 * step @ hessian @ step) - 10.0 * len(atoms) - atoms.numbers.sum(),
        "forces": -(hessian @ step).reshape(-1, 3),
        "hessian": hessian,
    }
    return Structure(
        numbers=atoms.numbers,
        positions=displaced,
        name=f"{name}-{split}",
        group=f"{name}-{split}",
        split=split,
        **(labels | without),
    )


def write_springs(path: Path) -> Path:
    """Five molecules to train on, one to validate, one to test."""
    train = [spring_structure(name, "train") for name in ("H2O", "CH4", "NH3", "CO2", "HCN")]
    held_out = [spring_structure("H2CO", "validation"), spring_structure("CH3OH", "test")]
    write_store(path, [*train, *held_out], level_of_theory="springs")
    return path
