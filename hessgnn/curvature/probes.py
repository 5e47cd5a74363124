"""Probe vectors: what the Hessian is multiplied with when it is too large to be compared whole.

For a residual ``A = H - H_ref`` of a structure with N atoms, every kind gives vectors ``v_k`` and weights ``w_k`` with
``E[Σ_k w_k ‖A v_k‖²] = ‖A‖²_F``. Random vectors with ``E[v vᵀ] = 1`` do so with ``w = 1/K``; R of the 3N unit vectors
do so with ``w = 3N/R``, also for any other function of the entries of A, since each row is seen as it is.

``hessgnn_bench.probes`` measures which kind brings least noise into the gradient for its cost: random signs along the
modes of the reference Hessian, divided among the products.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Generator, Tensor

from hessgnn.data.batch import Batch
from hessgnn.data.modes import Modes, reference_modes
from hessgnn.errors import UserError

ProbeKind = Literal["rows", "atoms", "rademacher", "gaussian", "modes", "full"]
"""Names of the kinds of probes, see :func:`draw`."""

WHOLE_ROWS: tuple[ProbeKind, ...] = ("rows", "atoms", "full")
"""Kinds that see rows of the residual as they are, so that any function of its entries is estimated without bias."""


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
    """

    vectors: Tensor
    weights: Tensor
    rows: Tensor | None = None

    @property
    def number(self) -> int:
        """How many products are formed."""
        return self.vectors.shape[0]


def draw(kind: ProbeKind, number: int, batch: Batch, generator: Generator | None = None) -> Probes:
    """Draw probes for each structure of a batch independently.

    Parameters
    ----------
    kind
        ``rows``: ``number`` rows of each Hessian, without replacement, at most its 3N. ``atoms``: the three rows of
        each of ``number`` atoms, without replacement. ``rademacher``, ``gaussian``: ``number`` random vectors.
        ``modes``: random signs along the modes of the reference Hessian, which are divided into ``number`` parts, one
        for each vector, see :mod:`hessgnn.data.modes`. Structures without a Hessian get signs along their coordinates.
        ``full``: all rows.
    number
        See above; ignored for ``full``.
    batch
        The structures. For ``modes`` with labels; modes that these do not hold are computed, which costs more than the
        products do: have the loader compute them once.
    generator
        Source of randomness, on the CPU, so that every device sees the same probes.

    Returns
    -------
    Probes
        In the type and on the device of the positions.
    """
    return _KINDS[kind](number, batch, generator)


def all_rows(batch: Batch) -> Probes:
    """All ``3N`` unit vectors of each structure, in order; weights 1.

    Parameters
    ----------
    batch
        The structures.

    Returns
    -------
    Probes
        ``3 max(N)`` vectors.
    """
    column = torch.arange(3 * batch.max_atoms, device=batch.n_atoms.device)
    return _unit_vectors(column.expand(batch.n_structures, -1), batch)


def _rows(number: int, batch: Batch, generator: Generator | None) -> Probes:
    order = _shuffled(3 * batch.n_atoms, generator)[:, :number]
    return _unit_vectors(order, batch)


def _atoms(number: int, batch: Batch, generator: Generator | None) -> Probes:
    order = _shuffled(batch.n_atoms, generator)[:, :number]
    rows = 3 * order.unsqueeze(-1) + torch.arange(3, device=order.device)
    return _unit_vectors(rows.flatten(1), batch)


def _rademacher(number: int, batch: Batch, generator: Generator | None) -> Probes:
    signs = torch.randint(0, 2, (number, *batch.positions.shape), generator=generator) * 2 - 1
    return _averaged(signs, batch)


def _gaussian(number: int, batch: Batch, generator: Generator | None) -> Probes:
    return _averaged(torch.randn(number, *batch.positions.shape, generator=generator, dtype=torch.float64), batch)


def _modes(number: int, batch: Batch, generator: Generator | None) -> Probes:
    modes = _modes_of(batch, number)
    signs = torch.randint(0, 2, modes.part.shape, generator=generator).to(modes.vectors) * 2 - 1
    number_of = torch.arange(number, device=modes.part.device).view(-1, 1, 1)
    chosen = modes.part == number_of  # (K, n_structures, D)
    padded = torch.einsum("sij,ksj->ksi", modes.vectors, signs * chosen)
    return Probes(batch.unpad(padded), chosen.any(-1).to(padded.dtype))


def _full(number: int, batch: Batch, generator: Generator | None) -> Probes:  # noqa: ARG001 (one signature for all)
    return all_rows(batch)


_KINDS: dict[str, Callable[[int, Batch, Generator | None], Probes]] = {
    "rows": _rows,
    "atoms": _atoms,
    "rademacher": _rademacher,
    "gaussian": _gaussian,
    "modes": _modes,
    "full": _full,
}
assert set(_KINDS) == set(get_args(ProbeKind))


def _modes_of(batch: Batch, number: int) -> Modes:
    labels = batch.labels
    if labels is None:
        raise UserError(
            "modes probes need the reference Hessians, and this batch has no labels", remedy="use rademacher"
        )
    if labels.modes is not None and labels.modes.number == number:
        return labels.modes
    sizes, hessians = batch.n_atoms.tolist(), replace(labels.hessians.to("cpu"), dtype=torch.float64).dense().numpy()
    modes = [
        reference_modes(hessians[s, : 3 * n, : 3 * n] if known else None, number, n)
        for s, (n, known) in enumerate(zip(sizes, labels.has_hessian.tolist(), strict=True))
    ]
    return Modes.join(modes, number, batch.positions.dtype).to(batch.positions.device)


def _averaged(vectors: Tensor, batch: Batch) -> Probes:
    vectors = vectors.to(batch.positions)
    return Probes(vectors, vectors.new_full((len(vectors), batch.n_structures), 1 / len(vectors)))


def _shuffled(sizes: Tensor, generator: Generator | None) -> Tensor:
    """Random order of ``0 … size-1`` for each structure, ``(n_structures, max(sizes))``; the rest follows behind."""
    keys = torch.rand(len(sizes), int(sizes.max()), generator=generator, dtype=torch.float64).to(sizes.device)
    beyond = torch.arange(keys.shape[1], device=sizes.device) >= sizes.unsqueeze(1)
    return (keys + beyond).argsort(dim=1)  # keys lie in [0, 1): what lies beyond the size comes last


def _unit_vectors(rows: Tensor, batch: Batch) -> Probes:
    """Unit vectors for chosen rows ``(n_structures, K)``; rows at or beyond 3N are masked."""
    valid = rows < 3 * batch.n_atoms.unsqueeze(1)
    padded = batch.positions.new_zeros(rows.shape[1], batch.n_structures, 3 * batch.max_atoms)
    padded.scatter_(2, rows.T.unsqueeze(2), valid.T.unsqueeze(2).to(padded.dtype))
    weights = valid * (3 * batch.n_atoms / valid.sum(1)).unsqueeze(1)
    return Probes(batch.unpad(padded), weights.T.to(padded.dtype), rows.T)
