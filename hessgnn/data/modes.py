"""Modes of the reference Hessian, divided into parts that hardly couple: what ``modes`` probes are made of.

A probe ``v = U s`` with eigenvectors U of the reference Hessian and random signs s is unbiased as any other, but its
noise comes only from what the residual couples between different modes. With K products the modes are divided into K
parts and each product takes one ("dilution", Foley et al., Comput. Phys. Commun. 172, 145 (2005)): couplings between
parts give no noise any more, so those that are large should lie between parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SWEEPS = 4
"""Of the greedy division; it rarely changes anything after the third."""


@dataclass(frozen=True)
class StructureModes:
    """Modes of one structure.

    Attributes
    ----------
    vectors
        ``(3N, 3N)``, orthonormal columns.
    part
        ``(3N,)``: which of the parts each mode belongs to.
    """

    vectors: NDArray[np.float64]
    part: NDArray[np.int64]


@dataclass(frozen=True)
class Modes:
    """Modes of a batch.

    Attributes
    ----------
    vectors
        ``(n_structures, D, D)`` with ``D = 3 max(N)``; zero behind each ``3N``.
    part
        ``(n_structures, D)`` int64; -1 behind each ``3N``.
    number
        How many parts there are.
    """

    vectors: Tensor
    part: Tensor
    number: int

    @classmethod
    def join(cls, modes: list[StructureModes], number: int, dtype: torch.dtype) -> Modes:
        """Put the modes of structures into padded tensors.

        Parameters
        ----------
        modes
            Of each structure.
        number
            Of parts.
        dtype
            Floating type of the batch.
        """
        vectors, part = join_modes(modes)
        return cls(torch.from_numpy(vectors).to(dtype), torch.from_numpy(part), number)

    def to(self, device: torch.device | str) -> Modes:
        """Move to a device."""
        return Modes(self.vectors.to(device), self.part.to(device), self.number)

    def select(self, structures: Tensor, width: int) -> Modes:
        """Keep some structures, and ``width`` of the padded columns."""
        return Modes(self.vectors[structures][:, :width, :width], self.part[structures][:, :width], self.number)


def join_modes(modes: Sequence[StructureModes]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Vectors and parts of several structures as the padded arrays of :class:`Modes`."""
    width = max(len(one.part) for one in modes)
    vectors, part = np.zeros((len(modes), width, width)), np.full((len(modes), width), -1)
    for k, one in enumerate(modes):
        n = len(one.part)
        vectors[k, :n, :n], part[k, :n] = one.vectors, one.part
    return vectors, part


def reference_modes(hessian: NDArray[np.float64] | None, number: int, n_atoms: int) -> StructureModes:
    """Eigenvectors of a reference Hessian, not mass weighted, divided into parts.

    Parameters
    ----------
    hessian
        ``(3N, 3N)``, eV/Å². Without one the modes are the unit vectors, dealt out in turn.
    number
        Of parts.
    n_atoms
        N.

    Returns
    -------
    StructureModes
        The same for the same arguments.
    """
    if hessian is None:
        return StructureModes(np.eye(3 * n_atoms), np.arange(3 * n_atoms) % number)
    stiffness, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
    return StructureModes(vectors, _parts(_couplings(np.abs(stiffness), vectors), number))


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
