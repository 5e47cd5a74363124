"""Which backend forms products fastest: measured once for each kind of potential, batch and number of vectors."""

from __future__ import annotations

import logging
import statistics
import time
from typing import Literal

import torch
from torch import Tensor

from hessgnn.curvature.products import predict
from hessgnn.data.batch import Batch
from hessgnn.errors import UserError
from hessgnn.potentials.base import Potential

logger = logging.getLogger(__name__)

Candidate = Literal["loop", "vmap", "replicate"]
CANDIDATES: tuple[Candidate, ...] = ("vmap", "loop", "replicate")
REPEATS = 3

_chosen: dict[tuple[object, ...], Candidate] = {}


def fastest(potential: Potential, batch: Batch, vectors: Tensor, create_graph: bool) -> Candidate:
    """Choose a backend.

    Parameters
    ----------
    potential
        The potential; its class and configuration count, not its weights.
    batch
        The structures; the number of their edges counts, rounded to a power of two.
    vectors
        ``(K, n_atoms, 3)``; K counts.
    create_graph
        Whether a loss will be differentiated; that is measured too then.

    Returns
    -------
    str
        ``loop``, ``vmap`` or ``replicate``. The timings go to this module's logger, once, with the reason why a
        candidate is out if it does not work for this potential.

    Raises
    ------
    Exception
        That of ``loop``, if it fails: then the potential has no second derivatives.
    """
    if len(vectors) < 2:
        return "loop"
    device, dtype = batch.positions.device, batch.positions.dtype
    edges = batch.edge_index.shape[1].bit_length()
    name = f"{type(potential).__qualname__}: {len(vectors)} products, up to {2**edges} edges, {dtype}, {device.type}"
    key = (type(potential), potential.config, edges, len(vectors), device.type, dtype, create_graph)
    if key not in _chosen:
        seconds = {c: _median(potential, batch, vectors, create_graph, c) for c in CANDIDATES}
        works = {candidate: value for candidate, value in seconds.items() if value is not None}
        _chosen[key] = min(works, key=lambda candidate: works[candidate])
        logger.info("%s: %s of %s", name, _chosen[key], {c: f"{1e3 * s:.1f} ms" for c, s in works.items()})
    return _chosen[key]


def _median(
    potential: Potential, batch: Batch, vectors: Tensor, create_graph: bool, backend: Candidate
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
