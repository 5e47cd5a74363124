"""Structures with local environments that are far from all that have curvature labels: farthest-point sampling.

An environment is described by ANI's vector (Smith, Isayev, Roitberg, Chem. Sci. 8, 3192 (2017)), which is invariant
under translations, rotations and the order of atoms.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from hessgnn.data.structure import Array
from hessgnn.factory.selection import SELECTORS, Indices, Pool, Selector
from hessgnn.runtime.terminal import tracked
from hessgnn.surface.potential import batch_of

MOST_ELEMENTS = 10
"""The features of an environment grow with the square of the number of elements; with more, neighbours have none."""
DISTANCES = 2**22
"""Computed at a time."""

Features = NDArray[np.float32]


@SELECTORS.register("distance")
class Distance(Selector):
    """Distance of a structure's environments from those of structures that are covered when it is selected.

    It is the root mean square, over the atoms, of the Euclidean distance to the nearest covered environment of the same
    element. Covered are structures with curvature labels and those selected before. Where no environment of an element
    is covered, an isolated atom counts as one. Scores of structures that are not selected are those after the last
    selection.
    """

    def scores(self, pool: Pool) -> Array:
        """See :meth:`Selector.scores`."""
        features, elements, structure = _environments(pool, pool.candidates)
        nearest = _from_covered(pool, features, elements)
        members = np.split(np.arange(len(structure)), np.flatnonzero(np.diff(structure)) + 1)
        scores = np.full(len(members), np.nan)
        sizes = np.bincount(structure)
        of_element = {z: np.flatnonzero(elements == z) for z in np.unique(elements)}
        for _ in tracked(range(min(pool.number, len(members))), "farthest structures"):
            mean = np.bincount(structure, weights=nearest) / sizes
            mean[~np.isnan(scores)] = -1.0  # selected already
            chosen = int(mean.argmax())
            scores[chosen] = np.sqrt(mean[chosen])
            own = members[chosen]
            for z in np.unique(elements[own]):
                rows = of_element[z]
                squares = _nearest(features[rows], features[own[elements[own] == z]])
                nearest[rows] = np.minimum(nearest[rows], squares)
        rest = np.isnan(scores)
        scores[rest] = np.sqrt((np.bincount(structure, weights=nearest) / sizes)[rest])
        return scores


def _from_covered(pool: Pool, features: Features, elements: NDArray[np.int64]) -> Array:
    """Squared distance of each environment from the nearest covered one of its element."""
    known, known_elements = features[:0], elements[:0]
    if len(pool.covered):
        known, known_elements, _ = _environments(pool, pool.covered)
    nearest = np.zeros(len(features))
    for z in np.unique(elements):
        rows, others = elements == z, known[known_elements == z]
        isolated = np.zeros((1, features.shape[1]), dtype=np.float32)
        nearest[rows] = _nearest(features[rows], others if len(others) else isolated)
    return nearest


def _nearest(features: Features, others: Features) -> Array:
    """Squared distance of each row from the nearest of others, block by block."""
    blocks = torch.from_numpy(features).split(max(1, DISTANCES // len(others)))
    # Not by products of matrices, in which what is left of near environments is rounding.
    found = [
        torch.cdist(block, torch.from_numpy(others), compute_mode="donot_use_mm_for_euclid_dist").amin(1)
        for block in blocks
    ]
    return torch.cat(found).double().square().numpy()


def _environments(pool: Pool, indices: Indices) -> tuple[Features, NDArray[np.int64], NDArray[np.int64]]:
    """Environments of the atoms of structures ``(n, n_features)``, their elements, and the structure of each."""
    from hessgnn.potentials.ani.aev import Environment  # torchani is loaded for this rule alone
    from hessgnn.potentials.ani.model import ANI

    occurring = pool.store.elements(np.concatenate([pool.candidates, pool.covered]))
    told_apart = occurring if len(occurring) <= MOST_ELEMENTS else occurring[:1]
    ani = ANI(ANI.Config(elements=tuple(told_apart), hidden=(1,))).double()
    features, elements = [], []
    blocks = [indices[start : start + 64] for start in range(0, len(indices), 64)]
    for block in tracked(blocks, "environments"):
        batch = batch_of([pool.geometry(i) for i in block], ani.cutoff)
        i, j = batch.edge_index
        species = ani.species(batch) if told_apart == occurring else torch.zeros_like(batch.numbers)
        vectors = Environment(ani.aev, len(species), i, species[j], batch.edge_vectors(), 0).jet().squeeze(1)
        features.append(vectors.detach().float().numpy())
        elements.append(batch.numbers.numpy())
    sizes = pool.store.n_atoms[indices]
    return np.concatenate(features), np.concatenate(elements), np.repeat(np.arange(len(indices)), sizes)
