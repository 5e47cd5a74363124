"""What models and engines predict for the structures of a pool: forces, and products with random directions."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from ase import Atoms

from hessgnn.data.directions import random_signs
from hessgnn.data.structure import Array
from hessgnn.factory.selection import Indices, Pool
from hessgnn.potentials.base import Potential
from hessgnn.runtime.terminal import tracked
from hessgnn.surface.base import SurfaceError
from hessgnn.surface.differences import central_product
from hessgnn.surface.engines.base import Engine
from hessgnn.surface.potential import batch_of, by_size, passes

ATOMS, STRUCTURES = 512, 64
"""Most of a pass."""


def directions(pool: Pool, index: int) -> Array:
    """Draw random signs for a structure, ``(K, N, 3)``: the same for every model and every choice of candidates."""
    rng = np.random.default_rng((pool.seed, int(index)))
    return random_signs(rng, (pool.directions, int(pool.store.n_atoms[index]), 3))


def predict(model: Potential, pool: Pool, indices: Indices, what: Literal["forces", "products"]) -> list[Array]:
    """Compute forces ``(N, 3)`` (eV/Å), or products with :func:`directions`, ``(K, N, 3)`` (eV/Å²), of structures.

    They are in the order of ``indices``; NaN and infinity of a model become NaN.
    """
    sizes = pool.store.n_atoms[indices]
    device = model.reference_energies.device
    found: dict[int, Array] = {}
    for chosen in tracked(list(passes(by_size(sizes), sizes, ATOMS, STRUCTURES)), f"{what} of a model"):
        batch = batch_of([pool.geometry(indices[k]) for k in chosen], model.cutoff).to(device)
        if what == "forces":
            values = model.forces(batch).unsqueeze(0)
        else:
            vectors = np.concatenate([directions(pool, indices[k]) for k in chosen], axis=1)
            values = model.hvp(batch, torch.from_numpy(vectors).to(device))
        parts = np.split(values.detach().cpu().numpy(), np.cumsum(sizes[chosen])[:-1], axis=1)
        found |= zip(chosen, (part[0] if what == "forces" else part for part in parts), strict=True)
    return [_finite(found[k]) for k in range(len(indices))]


def differenced_products(engine: Engine, pool: Pool) -> list[Array]:
    """Products of each candidate with :func:`directions` by central differences of an engine's forces, ``(K, N, 3)``.

    NaN where a calculation fails.
    """
    found = []
    for i in tracked(pool.candidates.tolist(), f"products of {engine.name}"):
        geometry = pool.geometry(i)
        atoms = Atoms(geometry.numbers, geometry.positions, cell=geometry.cell, pbc=geometry.pbc)
        vectors = directions(pool, i)
        try:
            forces = engine.forces_of(atoms)
            found.append(np.stack([central_product(forces, atoms.positions, v, engine.step) for v in vectors]))
        except SurfaceError:
            found.append(np.full(vectors.shape, np.nan))
    return found


def _finite(values: Array) -> Array:
    return values if np.isfinite(values).all() else np.full(values.shape, np.nan)
