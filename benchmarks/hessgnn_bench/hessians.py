"""What the Hessians of a batch cost, by this package and by what a user would do without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from hessgnn.curvature.hessian import hessians
from hessgnn.data.batch import Batch
from hessgnn.errors import UserError
from hessgnn.potentials.ani.model import ANI
from hessgnn.potentials.base import Potential, resolve
from hessgnn_bench.experiment import Experiment, Pieces
from hessgnn_bench.plain import ByTorchani, left_to_autograd
from hessgnn_bench.workload import Workload

OURS = "hessgnn"
ROWS = "autograd.grad by molecule and row"
FUNC = "torch.func.hessian by molecule"
TORCHANI = "torchani.grad.hessians"
BOUND = 1e-4
"""Largest deviation from the rows by ``autograd.grad``, as a share of the largest entry, in float32."""

Candidate = Callable[[], list[Tensor]]


def experiment(workload: Workload, repeats: int) -> Experiment:
    """Compare ways to the full Hessians of a batch.

    Parameters
    ----------
    workload
        Architecture and batch.
    repeats
        Of each way.

    Returns
    -------
    Experiment
        Over torchani's own for ANI, else over rows by ``autograd.grad``.
    """
    return Experiment(
        title=f"{workload.architecture}: full Hessians",
        pieces=partial(candidates, workload),
        baseline=TORCHANI if TORCHANI in candidates(workload) else ROWS,
        molecules=workload.batch_size,
        repeats=repeats,
        warmup=1,
        facts=workload.facts(),
        verify=partial(require_agreement, workload.architecture),
    )


def candidates(workload: Workload) -> Pieces:
    """Ways to the Hessians of a batch, each a list of ``(3N, 3N)``.

    All but ours use the potential left to autograd, as a user has it.

    Parameters
    ----------
    workload
        Architecture and batch.

    Returns
    -------
    Pieces
        One :data:`Candidate` each.
    """
    build, batch = workload.build, workload.batch
    found = candidates_of(workload.architecture, build, batch)
    return {OURS: found.pop(OURS), FUNC: partial(_one_by_one, build, batch, _func), **found}


def candidates_of(
    architecture: str, build: Callable[[], Potential], batch: Batch
) -> dict[str, Callable[[], Candidate]]:
    """Ways to the Hessians of any batch; all but ours as users have them.

    Parameters
    ----------
    architecture
        Its name.
    build
        Makes the potential.
    batch
        On the device of the potential.

    Returns
    -------
    dict
        Name -> what prepares a :data:`Candidate`; ours first.
    """
    found: dict[str, Callable[[], Candidate]] = {
        OURS: partial(_ours, build, batch),
        ROWS: partial(_one_by_one, build, batch, _rows),
    }
    periodic = bool(batch.edge_shift.any())  # torchani finds its own neighbours, in a molecule
    if issubclass(resolve(architecture), ANI) and not periodic:
        found[TORCHANI] = partial(_torchani, build, batch)
    return found


def require_agreement(architecture: str, work: Mapping[str, Callable[[], Any]]) -> None:
    """Refuse to time candidates that do not compute the same.

    Parameters
    ----------
    architecture
        Named in the error.
    work
        Candidates, :data:`ROWS` among them.

    Raises
    ------
    UserError
        Naming the one that fails or differs, and by how much.
    """
    expected: list[Tensor] = work[ROWS]()
    scale = max(float(h.abs().max()) for h in expected)
    for name, candidate in work.items():
        try:
            found: list[Tensor] = candidate()
        except (RuntimeError, NotImplementedError) as error:
            raise UserError(
                f"{name} fails ({error})", where=architecture, hint=f"run `hessgnn check {architecture}`"
            ) from error
        pairs = zip(found, expected, strict=True)
        deviation = max(float((a - b).abs().max()) for a, b in pairs) / max(scale, torch.finfo(torch.float32).tiny)
        if not deviation <= BOUND:  # so that NaN is refused
            raise UserError(
                f"Hessians by {name} deviate from {ROWS} by {deviation:.1e} of their largest entry, "
                f"{BOUND:.0e} is allowed: nothing is compared",
                where=architecture,
                hint=f"run `hessgnn check {architecture}`",
            )


def _ours(build: Callable[[], Potential], batch: Batch) -> Candidate:
    potential = build()
    return lambda: hessians(potential, batch)


def _one_by_one(
    build: Callable[[], Potential], batch: Batch, hessian: Callable[[Potential, Batch], Tensor]
) -> Candidate:
    potential = left_to_autograd(build())
    singles = [
        batch.select(chosen) for chosen in torch.eye(batch.n_structures, dtype=torch.bool, device=batch.n_atoms.device)
    ]
    return lambda: [hessian(potential, one) for one in singles]


def _rows(potential: Potential, one: Batch) -> Tensor:
    """What a user writes who has an energy and autograd."""
    positions = one.positions.clone().requires_grad_(True)
    energy = potential.total_energy(one.replace(positions=positions)).sum()
    (gradient,) = torch.autograd.grad(energy, positions, create_graph=True)
    rows = [torch.autograd.grad(g, positions, retain_graph=True)[0].flatten() for g in gradient.flatten()]
    return torch.stack(rows)


def _func(potential: Potential, one: Batch) -> Tensor:
    """Forward over reverse, vectorised over the columns."""

    def energy(positions: Tensor) -> Tensor:
        return potential.total_energy(one.replace(positions=positions)).sum()

    size = one.positions.numel()
    return torch.func.hessian(energy)(one.positions).reshape(size, size).detach()


def _torchani(build: Callable[[], Potential], batch: Batch) -> Candidate:
    """Torchani's own Hessians of the padded batch, with the same weights and its own neighbour list."""
    from torchani.grad import hessians as torchanis

    potential = ByTorchani.of(cast(ANI, build()))
    places = batch.batch * batch.max_atoms + batch.slot
    species = torch.full((batch.n_structures * batch.max_atoms,), -1, device=places.device)
    species = species.index_copy(0, places, potential.species(batch)).view(batch.n_structures, -1)
    coordinates = batch.pad(batch.positions).view(batch.n_structures, -1, 3)
    sizes = (3 * batch.n_atoms).tolist()

    def run() -> list[Tensor]:
        moved = coordinates.clone().requires_grad_(True)
        aev = potential.aev(species, moved)
        (gradient,) = torch.autograd.grad(potential.networks(species, aev).sum(), moved, create_graph=True)
        return [h[:n, :n] for h, n in zip(torchanis(-gradient, moved), sizes, strict=True)]

    return run
