"""Random signs along the modes of the reference Hessian, divided into parts that hardly couple.

A probe ``v = U s`` with eigenvectors U of the reference Hessian and random signs s is unbiased as any other, but its
noise comes only from what the residual couples between different modes. With K products the modes are divided into K
parts and each product takes one ("dilution", Foley et al., Comput. Phys. Commun. 172, 145 (2005)): couplings between
parts give no noise any more, so those that are large should lie between parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator

from hessgnn.curvature.probes import PROBES, ProbeKind, Probes
from hessgnn.data.batch import Batch
from hessgnn.data.directions import random_signs
from hessgnn.data.labels import Preparation, StructureArrays

_SWEEPS = 4
"""Of the greedy division; it rarely changes anything after the third."""


@PROBES.register("modes")
class Modes(ProbeKind):
    """Random signs along the modes of the reference Hessian, which are divided into ``number`` parts, one per vector.

    Structures without a Hessian get signs along their coordinates.
    """

    def draw(self, number: int, batch: Batch, generator: Generator | None) -> Probes:
        """See :meth:`ProbeKind.draw`."""
        modes = self.prepared(number, batch)
        vectors, part = modes["vectors"], modes["part"]
        signs = torch.randint(0, 2, part.shape, generator=generator).to(vectors) * 2 - 1
        chosen = part == torch.arange(number, device=part.device).view(-1, 1, 1)  # (K, n_structures, D)
        padded = torch.einsum("sij,ksj->ksi", vectors, signs * chosen)
        return Probes(batch.unpad(padded), chosen.any(-1).to(padded.dtype))

    def preparation(self, number: int) -> ReferenceModes:
        """See :meth:`ProbeKind.preparation`."""
        return ReferenceModes(number)


@dataclass(frozen=True)
class ReferenceModes(Preparation):
    """Eigenvectors of the reference Hessian, not mass weighted, divided into ``number`` parts."""

    number: int
    fill: ClassVar[Mapping[str, float]] = {"part": -1}

    def of_structure(self, hessian: NDArray[np.float64] | None, n_atoms: int) -> StructureArrays:
        """Compute the modes of a structure. Without a Hessian they are the unit vectors, dealt out in turn.

        Returns
        -------
        dict
            ``vectors``: ``(3N, 3N)``, orthonormal columns. ``part``: ``(3N,)`` int64, the part of each mode.
        """
        if hessian is None:
            return {"vectors": np.eye(3 * n_atoms), "part": np.arange(3 * n_atoms) % self.number}
        stiffness, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
        return {"vectors": vectors, "part": _parts(_couplings(np.abs(stiffness), vectors), self.number)}


def signed_parts(hessian: NDArray[np.float64], number: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw the vectors of a structure's :class:`ReferenceModes`, ``(number, N, 3)``; that of an empty part is zero."""
    modes = ReferenceModes(number).of_structure(hessian, len(hessian) // 3)
    signed = modes["vectors"] * random_signs(rng, len(hessian))
    return np.array([signed[:, modes["part"] == k].sum(1).reshape(-1, 3) for k in range(number)])


def _couplings(stiffness: NDArray[np.float64], vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Size of the gradient's noise that two modes in one part are expected to bring.

    The noise is ``|(A ∂H)_ij + (A ∂H)_ji|²`` between modes i and j, for the residual A and a change ∂H of the predicted
    Hessian. With a residual as stiff as the reference, and a ∂H that acts on each coordinate independently, its mean is
    ``(|λ_i| + |λ_j|)² Σ_c u_ci² u_cj²``.
    """
    weights = np.square(vectors)
    couplings = np.square(stiffness[:, None] + stiffness) * (weights.T @ weights)
    np.fill_diagonal(couplings, 0.0)
    return couplings


def _parts(couplings: NDArray[np.float64], number: int) -> NDArray[np.int64]:
    """Divide so that little couples inside a part: one after the other into the part where it couples least."""
    size = len(couplings)
    if number == 1:
        return np.zeros(size, dtype=np.int64)
    inside = np.zeros((size, number))  # couplings of each mode with those that are in each part
    part = np.full(size, -1)
    order = np.argsort(-couplings.sum(1), kind="stable")
    for _ in range(_SWEEPS):
        for i in order:
            if part[i] >= 0:
                inside[:, part[i]] -= couplings[i]
            part[i] = inside[i].argmin()
            inside[:, part[i]] += couplings[i]
    return part
