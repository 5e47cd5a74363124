"""The gradient of the Hessian loss in two stages: a prototype, kept to show what it costs.

First ``u_k = 2 w_k (H v_k - H_ref v_k) / 9N²`` without a graph towards the parameters, then one pass for the gradient
of ``Σ_k u_k·H v_k``, which is that of the loss since u does not depend on the parameters there. With reverse mode the
second stage must form the products again, with their graph, so it costs what the one-stage form costs and the first
stage comes on top. It pays only with a second stage that needs no products, which takes forward mode through every
operation of a potential.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hessgnn.curvature.graph import ForceGraph
from hessgnn.curvature.probes import Probes
from hessgnn.data.batch import Batch
from hessgnn.potentials.base import Potential


def two_stage_gradient(
    potential: Potential, batch: Batch, probes: Probes, parameters: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Gradient of the mean over structures of ``Σ_k w_k ‖ΔH v_k‖² / 9N²``.

    Parameters
    ----------
    potential
        The potential.
    batch
        Each structure with a Hessian.
    probes
        Vectors and weights.
    parameters
        To differentiate by.

    Returns
    -------
    tuple of Tensor
        One for each parameter.
    """
    labels = batch.labels
    assert labels is not None
    graph = ForceGraph.of(potential, batch, derivatives=2, create_graph=True)
    products = graph.products(probes.vectors, create_graph=False, vectorised=True, keep=True)
    reference = torch.einsum("sij,ksj->ksi", labels.hessian, batch.pad(probes.vectors))
    share = 2 * probes.weights / (9 * batch.n_atoms.square() * batch.n_structures)
    adjoint = batch.unpad(share.unsqueeze(-1) * (batch.pad(products) - reference))
    contracted = (graph.products(probes.vectors, create_graph=True, vectorised=True) * adjoint).sum()
    return torch.autograd.grad(contracted, list(parameters), allow_unused=True, materialize_grads=True)
