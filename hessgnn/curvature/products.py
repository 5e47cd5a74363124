"""Energy, forces and products with the Hessian from one graph, by reverse over reverse differentiation."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hessgnn.curvature.graph import ForceGraph
from hessgnn.curvature.model import ClosedFormModel, EnergyModel, Prediction, has_closed_form
from hessgnn.curvature.refusals import require_sound_modules
from hessgnn.data.batch import Batch
from hessgnn.errors import UserError

logger = logging.getLogger(__name__)

Backend = Literal["loop", "vmap", "replicate", "auto"]
"""How K products are formed.

``loop``: one backward pass after another. ``vmap``: one pass vectorised over the vectors; every operation of the
potential must know how to be (``hessgnn check`` says). ``replicate``: one pass for K copies of the batch, which costs
K forward and force passes but asks nothing of the potential. ``auto``: the fastest, measured once, see
:func:`fastest`; equal runs may then differ in their last digits.
"""


def predict(
    potential: EnergyModel,
    batch: Batch,
    *,
    forces: bool = True,
    vectors: Tensor | None = None,
    create_graph: bool = False,
    backend: Backend = "loop",
) -> Prediction:
    """Compute what is asked for, and nothing else.

    Parameters
    ----------
    potential, batch
        The energy is differentiated in the positions of the batch.
    forces
        Whether forces are wanted.
    vectors
        ``(K, n_atoms, 3)``, in the type and on the device of the positions.
    create_graph
        Keep the graph for a loss. Without it nothing that is returned holds a graph.
    backend
        See :data:`Backend`.

    Raises
    ------
    UserError
        When the vectors have the wrong shape, type or device.
    """
    if vectors is not None:
        check_vectors(vectors, batch)
    if not forces and vectors is None:
        with torch.set_grad_enabled(create_graph):
            return Prediction(potential.total_energy(batch))
    with torch.enable_grad():
        if has_closed_form(potential):
            if vectors is not None:
                require_sound_modules(potential, batch)
            with torch.set_grad_enabled(create_graph):
                energy, gradient, products = potential.derivatives(batch, vectors)
        elif vectors is None:
            graph = ForceGraph.of(potential, batch, derivatives=1, create_graph=create_graph)
            energy, gradient, products = graph.energy, graph.gradient, None
        else:
            if backend == "auto":
                backend = fastest(potential, batch, vectors, create_graph)
            energy, gradient, products = _with_products(potential, batch, vectors, create_graph, backend)
    if not create_graph:
        energy, gradient = energy.detach(), gradient.detach()
    return Prediction(energy, -gradient if forces else None, products if vectors is not None else None)


def check_vectors(vectors: Tensor, batch: Batch) -> None:
    """Raise :class:`UserError` for vectors of the wrong shape, type or device."""
    expected = tuple(batch.positions.shape)
    if vectors.ndim != 3 or tuple(vectors.shape[1:]) != expected:
        raise UserError(f"vectors have shape {tuple(vectors.shape)}", hint=f"give (K, {expected[0]}, 3)")
    for name in ("dtype", "device"):
        got, wanted = getattr(vectors, name), getattr(batch.positions, name)
        if got != wanted:
            raise UserError(f"vectors have {name} {got}, positions {wanted}", hint="convert one with .to()")


Candidate = Literal["loop", "vmap", "replicate"]
CANDIDATES: tuple[Candidate, ...] = ("vmap", "loop", "replicate")
REPEATS = 3

_chosen: dict[tuple[object, ...], Candidate] = {}


def fastest(potential: EnergyModel, batch: Batch, vectors: Tensor, create_graph: bool) -> Candidate:
    """Choose a backend by measuring each one once.

    The choice is kept for the class and configuration of the potential, the number of edges (rounded to a power of
    two), K, type, device, and whether a loss will be differentiated (measured too then). The timings are logged once,
    and so is the reason why a backend does not work for this potential. Errors of ``loop`` pass: without it the
    potential has no second derivatives.
    """
    if len(vectors) < 2:
        return "loop"
    device, dtype = batch.positions.device, batch.positions.dtype
    edges = batch.edge_index.shape[1].bit_length()
    name = f"{type(potential).__qualname__}: {len(vectors)} products, up to {2**edges} edges, {dtype}, {device.type}"
    key = (type(potential), getattr(potential, "config", None), edges, len(vectors), device.type, dtype, create_graph)
    if key not in _chosen:
        seconds = {c: _median(potential, batch, vectors, create_graph, c) for c in CANDIDATES}
        works = {candidate: value for candidate, value in seconds.items() if value is not None}
        _chosen[key] = min(works, key=lambda candidate: works[candidate])
        logger.info("%s: %s of %s", name, _chosen[key], {c: f"{1e3 * s:.1f} ms" for c, s in works.items()})
    return _chosen[key]


def _median(
    potential: EnergyModel, batch: Batch, vectors: Tensor, create_graph: bool, backend: Candidate
) -> float | None:
    """Seconds of one use, or ``None`` if the potential cannot be used so."""
    seconds = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        try:
            out = predict(potential, batch, vectors=vectors, create_graph=create_graph, backend=backend)
            if create_graph:
                parameters = [p for p in potential.parameters() if p.requires_grad]
                loss = out.energy.sum() + out.forces.square().sum() + out.products.square().sum()
                torch.autograd.grad(loss, parameters, allow_unused=True)
        except (RuntimeError, UserError) as error:
            if backend == "loop" or isinstance(error, torch.OutOfMemoryError):
                raise
            logger.warning("%s cannot use backend %r: %s", type(potential).__qualname__, backend, error)
            return None
        if batch.positions.is_cuda:
            torch.cuda.synchronize(batch.positions.device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def _with_products(
    potential: EnergyModel, batch: Batch, vectors: Tensor, create_graph: bool, backend: Backend
) -> tuple[Tensor, Tensor, Tensor]:
    """Energy, gradient and products."""
    if backend == "replicate" and len(vectors) > 1:
        copies = ForceGraph.of(potential, batch.repeat(len(vectors)), derivatives=2, create_graph=True)
        flat = copies.products(vectors.flatten(0, 1).unsqueeze(0), create_graph=create_graph, vectorised=False)
        return copies.energy[: batch.n_structures], copies.gradient[: len(batch.numbers)], flat.view_as(vectors)
    graph = ForceGraph.of(potential, batch, derivatives=2, create_graph=True)
    products = graph.products(vectors, create_graph=create_graph, vectorised=backend == "vmap")
    return graph.energy, graph.gradient, products


MEMORY = 2**30
"""Bytes that the products of one chunk may take, roughly."""

MOST = 2**16
"""Products of a chunk where nothing else limits it."""

MOST_BY_FORMULAS = 8
"""Products of a chunk by a model's own formulas: more do not fit the cache, fewer repeat the force pass too often."""


@dataclass(frozen=True)
class Chunks:
    """How many products are formed at a time.

    Attributes
    ----------
    size
        Products formed at a time: memory grows with it, not with the number of products. By default as many as fit into
        ``memory``.
    memory
        Bytes for the products of a chunk. A product touches what the force pass saved, so that is what it is taken to
        need; a chunk is never smaller than one product.
    backend
        How the products of a chunk are formed; a model's own formulas know one way only.
    """

    size: int | None = None
    memory: int = MEMORY
    backend: Backend = "vmap"

    def products(
        self,
        potential: EnergyModel,
        batch: Batch,
        number: int,
        vectors: Callable[[Tensor], Tensor],
        graph_of: Callable[..., ForceGraph] = ForceGraph.of,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Multiply the Hessian with vectors that are made when they are needed.

        Parameters
        ----------
        potential, batch
            See :func:`predict`.
        number
            How many vectors there are.
        vectors
            Makes those of given indices, in the shape that the graph multiplies.
        graph_of
            Runs the force pass: :meth:`ForceGraph.of` or :meth:`ForceGraph.of_edges`.

        Yields
        ------
        tuple of Tensor
            Indices of a chunk, and its products without a graph.
        """
        if has_closed_form(potential) and graph_of == ForceGraph.of:
            yield from self._by_formulas(potential, batch, number, vectors)
            return
        size, backend, shared = self.size, self.backend, None
        if backend != "replicate" or size in (None, 1):
            saved = _Bytes()
            with torch.enable_grad(), saved.counted():
                shared = graph_of(potential, batch, derivatives=2, create_graph=True)
            size = size or max(1, min(self.memory // max(1, saved.total), _most_at_once(potential, batch)))
        assert size is not None
        if backend == "auto":
            sample = batch.positions.new_zeros(min(size, number), *batch.positions.shape)
            backend = fastest(potential, batch, sample, create_graph=False)
        # The pass that was run to measure the bytes serves one vector, copies of the batch the others.
        first = 1 if shared is not None and backend == "replicate" else size
        for part in torch.arange(number).tensor_split(list(range(first, number, size))):
            given = vectors(part)
            if shared is not None and (backend != "replicate" or len(part) == 1):
                products = shared.products(given, create_graph=False, vectorised=backend == "vmap", keep=True)
            else:
                with torch.enable_grad():
                    copies = graph_of(potential, batch.repeat(len(part)), derivatives=2, create_graph=True)
                flat = given.flatten(0, 1).unsqueeze(0)
                products = copies.products(flat, create_graph=False, vectorised=False).view_as(given)
            yield part, products

    @torch.no_grad()
    def _by_formulas(
        self, potential: ClosedFormModel, batch: Batch, number: int, vectors: Callable[[Tensor], Tensor]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        size = self.size or max(1, min(MOST_BY_FORMULAS, self.memory // max(1, potential.product_bytes(batch))))
        require_sound_modules(potential, batch)
        for part in torch.arange(number).split(size):
            yield part, potential.derivatives(batch, vectors(part))[2]


def _most_at_once(potential: EnergyModel, batch: Batch) -> int:
    """Products that a potential wants to form in one pass at most; a GPU takes as many as fit into its memory."""
    most: int | None = getattr(potential, "products_at_once", None)
    return MOST if most is None or batch.positions.is_cuda else most


class _Bytes:
    """Counts what a graph saves for its backward passes; each storage once."""

    def __init__(self) -> None:
        self.seen: dict[int, int] = {}

    @property
    def total(self) -> int:
        return sum(self.seen.values())

    def counted(self) -> torch.autograd.graph.saved_tensors_hooks:
        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            self.seen[storage.data_ptr()] = storage.nbytes()
            return tensor

        return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
