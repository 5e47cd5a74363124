"""Probe vectors for Hessian-vector products, used when comparing full Hessians is too expensive.

For a residual ``A = H - H_ref`` of a structure with N atoms, every kind gives vectors ``v_k`` and weights ``w_k`` with
``E[Σ_k w_k ‖A v_k‖²] = ‖A‖²_F``. Random vectors with ``E[v vᵀ] = 1`` do so with ``w = 1/K``; R of the 3N unit vectors
do so with ``w = 3N/R``, also for any other function of the entries of A, since each row is seen as it is.

A kind is a subclass of :class:`ProbeKind` in a module of this package, registered by ``@PROBES.register("name")``.
Other packages announce theirs in the entry-point group ``hessgnn.probes``, and a config may name
``package.module:Kind``.

``hessgnn_bench.probes`` measures which kind brings least noise into the gradient for its cost: random signs along the
modes of the reference Hessian, divided among the products.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from hessgnn.data.batch import Batch
from hessgnn.data.labels import Preparation
from hessgnn.errors import UserError
from hessgnn.runtime.registry import Registry, subclass_of


@dataclass(frozen=True)
class Probes:
    """Vectors for every structure of a batch, with the weights that make the estimate unbiased.

    Attributes
    ----------
    vectors
        ``(K, n_atoms, 3)``. A structure with fewer than K probes has zero vectors for the rest.
    weights
        ``(K, n_structures)``: zero for those.
    rows
        ``(K, n_structures)`` int64: which unit vector of each structure a probe is, ``3N`` or more for a zero vector;
        ``None`` where probes are not unit vectors.
    stored
        ``(K, n_structures)`` int64: which stored direction of each structure a probe is, -1 where it is none of them;
        ``None`` where no probe is one.
    """

    vectors: Tensor
    weights: Tensor
    rows: Tensor | None = None
    stored: Tensor | None = None

    @property
    def number(self) -> int:
        """How many products are formed."""
        return self.vectors.shape[0]

    def select(self, structures: Tensor, atoms: Tensor) -> Probes:
        """Keep some structures, ``(n_structures,)`` bool, and their atoms, ``(n_atoms,)`` bool."""
        rows = None if self.rows is None else self.rows[:, structures]
        stored = None if self.stored is None else self.stored[:, structures]
        return Probes(self.vectors[:, atoms], self.weights[:, structures], rows, stored)


class ProbeKind(ABC):
    """A kind of probes. It is made without arguments and keeps nothing between calls."""

    whole_rows: ClassVar[bool | None] = False
    """Whether probes are unit vectors, so that any function of the residual's entries is estimated without bias; None
    where that is up to the stored directions."""

    @abstractmethod
    def draw(self, number: int, batch: Batch, generator: Generator | None) -> Probes:
        """Draw probes for each structure independently, see :func:`draw`."""

    def labelled(self, has_hessian: Tensor, has_directions: Tensor) -> Tensor:  # noqa: ARG002 (for kinds that override it)
        """Structures that have what the products are compared with: a Hessian by default. All ``(n_structures,)`` bool.

        ``has_hessian`` and ``has_directions`` say which structures have a Hessian, and which have stored products.
        """
        return has_hessian

    def preparation(self, number: int) -> Preparation | None:  # noqa: ARG002 (for kinds that override it)
        """What the loader computes of each structure's reference Hessian for ``number`` probes; nothing by default."""
        return None

    def prepared(self, number: int, batch: Batch) -> dict[str, Tensor]:
        """What :meth:`preparation` gives for a batch with labels: name -> padded tensor.

        What the labels do not hold is computed at every call, which costs more than the products do: have the loader
        compute it once (:class:`hessgnn.data.labels.Prepared`).

        Raises
        ------
        UserError
            When the batch has no labels.
        """
        preparation = self.preparation(number)
        if preparation is None:
            return {}
        if batch.labels is None:
            raise UserError(
                "these probes are made from reference Hessians, and this batch has no labels", hint="use rademacher"
            )
        return batch.labels.prepare(preparation).tensors


PROBES: Registry[type[ProbeKind]] = Registry(
    "kind of probes", "hessgnn.curvature.probes", group="hessgnn.probes", check=subclass_of(ProbeKind)
)
"""Kinds of probes by name."""


def draw(kind: str, number: int, batch: Batch, generator: Generator | None = None) -> Probes:
    """Draw probes for each structure of a batch independently.

    Parameters
    ----------
    kind
        Name in :data:`PROBES`, or ``package.module:Kind``.
    number
        How many; what is counted is said by each kind.
    batch
        The structures.
    generator
        Source of randomness, on the CPU, so that every device sees the same probes.

    Returns
    -------
    Probes
        In the type and on the device of the positions.

    Raises
    ------
    ConfigError
        When there is no such kind.
    """
    return PROBES[kind]().draw(number, batch, generator)


def all_rows(batch: Batch) -> Probes:
    """All ``3N`` unit vectors of each structure, in order: ``3 max(N)`` vectors with weights 1."""
    column = torch.arange(3 * batch.max_atoms, device=batch.n_atoms.device)
    return unit_vectors(column.expand(batch.n_structures, -1), batch)


def averaged(vectors: Tensor, batch: Batch) -> Probes:
    """Random vectors ``(K, n_atoms, 3)`` with ``E[v vᵀ] = 1``, in the type of the batch; weights 1/K."""
    vectors = vectors.to(batch.positions)
    return Probes(vectors, vectors.new_full((len(vectors), batch.n_structures), 1 / len(vectors)))


def shuffled(sizes: Tensor, generator: Generator | None) -> Tensor:
    """Random order of ``0 … size-1`` for each structure, ``(n_structures, max(sizes))``; the rest follows behind."""
    keys = torch.rand(len(sizes), int(sizes.max()), generator=generator, dtype=torch.float64).to(sizes.device)
    beyond = torch.arange(keys.shape[1], device=sizes.device) >= sizes.unsqueeze(1)
    return (keys + beyond).argsort(dim=1)  # keys lie in [0, 1): what lies beyond the size comes last


def unit_vectors(rows: Tensor, batch: Batch) -> Probes:
    """Unit vectors for rows ``(n_structures, K)``, chosen evenly; rows at or beyond 3N are masked."""
    valid = rows < 3 * batch.n_atoms.unsqueeze(1)
    padded = batch.positions.new_zeros(rows.shape[1], batch.n_structures, 3 * batch.max_atoms)
    padded.scatter_(2, rows.T.unsqueeze(2), valid.T.unsqueeze(2).to(padded.dtype))
    weights = valid * (3 * batch.n_atoms / valid.sum(1)).unsqueeze(1)
    return Probes(batch.unpad(padded), weights.T.to(padded.dtype), rows.T)
