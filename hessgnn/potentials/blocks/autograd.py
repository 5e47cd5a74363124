"""What a backward pass written by hand has to know of torch's engine, which keeps it in private functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def needed_inputs(ctx: Any, tensors: Sequence[Tensor | None]) -> list[bool]:
    """Which of the inputs' gradients this backward pass will use; ``ctx.needs_input_grad`` says which could be."""
    edges = iter(ctx.next_functions)
    return [t is not None and _will_run(next(edges)[0]) for t in tensors]


def _will_run(node: Any) -> bool:
    if node is None:
        return False
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # a leaf that torch.autograd.grad was asked for
        return True


def _level() -> int:
    """Nesting of the vectorised backward passes that are under way."""
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    return level


def without_vectorisation(gradients: Sequence[Tensor | None]) -> tuple[list[Tensor | None], int]:
    """Gradients of a vectorised backward pass with the vectors as their K, and how many (0 if it is none).

    torch loses the graph of a custom function that is applied to vectorised tensors, so their contents are taken.
    """
    found = []
    copies = 0
    for g in gradients:
        if g is not None and torch._C._functorch.is_legacy_batchedtensor(g):
            g = torch._remove_batch_dim(g, _level(), 0, 1)
            copies = g.shape[1]
            g = g.flatten(1, 2)
        found.append(g)
    return found, copies


def vectorised(t: Tensor) -> Tensor:
    """Undo :func:`without_vectorisation`."""
    return torch._add_batch_dim(t.unsqueeze(2), 1, _level())
