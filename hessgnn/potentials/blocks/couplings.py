"""Tensor products of e3nn's convolutions in fewer and smaller operations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from e3nn import o3
from torch import Tensor, nn


class _Input(NamedTuple):
    """One block of the input with the paths that start from it."""

    block: int
    multiplicity: int
    widths: list[int]
    """How wide the result of each path is for one channel."""
    weights: list[int]
    """Which of the blocks of weights scales each path."""
    places: list[int]
    """Which block of the output each path gives."""


class EdgeProduct(nn.Module):
    """The tensor product of a convolution: features of an edge's neighbour times harmonics of the edge.

    The result is that of an :class:`e3nn.o3.TensorProduct` with 'uvu' paths and one weight per edge, path and channel.
    e3nn forms the outer product of features and harmonics for each path. Here the harmonics of an edge are contracted
    with the coupling coefficients first, which gives one small matrix per edge and block of the input, whatever the
    number of channels. The coefficients are in float64 where the features are; e3nn's stay rounded to float32.

    Parameters
    ----------
    product
        What is replaced; see :func:`can_replace`.
    """

    def __init__(self, product: Any) -> None:
        super().__init__()
        self.irreps_in1, self.irreps_in2, self.irreps_out = product.irreps_in1, product.irreps_in2, product.irreps_out
        self.weight_numel = product.weight_numel
        blocks, harmonics = defaultdict(list), self.irreps_in2.slices()
        for number, one in enumerate(product.instructions):
            blocks[one.i_in1].append((number, one))
        self.block_sizes = [part.dim for part in self.irreps_in1]
        self.weight_sizes = [self.irreps_in1[one.i_in1].mul for one in product.instructions]
        self.inputs: list[_Input] = []
        self.exact: list[Tensor] = []
        for i, paths in blocks.items():
            mul, irrep = self.irreps_in1[i]
            couplings = []
            for _, one in paths:
                other, out = self.irreps_in2[one.i_in2].ir, self.irreps_out[one.i_out].ir
                coupling = torch.zeros(self.irreps_in2.dim, irrep.dim, out.dim, dtype=torch.float64)
                found = o3.wigner_3j(irrep.l, other.l, out.l, dtype=torch.float64) * one.path_weight
                coupling[harmonics[one.i_in2]] = found.transpose(0, 1)
                couplings.append(coupling)
            widths = [coupling.shape[2] for coupling in couplings]
            self.inputs.append(_Input(i, mul, widths, [k for k, _ in paths], [one.i_out for _, one in paths]))
            self.exact.append(torch.cat(couplings, dim=2))
        for k, coupling in enumerate(self.exact):
            self.register_buffer(f"coupling_{k}", coupling.to(torch.get_default_dtype()), persistent=False)
        self._register_load_state_dict_pre_hook(_forget)

    def forward(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """Features ``(n, in1)``, harmonics ``(n, in2)`` and weights ``(n, weight_numel)`` to ``(n, out)``."""
        # Splits rather than slices: the derivative of each slice would be a tensor of zeros of the whole size.
        blocks, weights = x.split(self.block_sizes, dim=1), weight.split(self.weight_sizes, dim=1)
        found: list[Tensor] = [x] * len(self.irreps_out)
        for k, (block, mul, widths, scales, places) in enumerate(self.inputs):
            coupling = getattr(self, f"coupling_{k}")
            matrices = (y @ coupling.flatten(1)).view(-1, *coupling.shape[1:])
            products = blocks[block].reshape(-1, mul, coupling.shape[1]) @ matrices
            for part, scale, place in zip(products.split(widths, dim=2), scales, places, strict=True):
                found[place] = (part * weights[scale].unsqueeze(-1)).flatten(1)
        return torch.cat(found, dim=1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> EdgeProduct:
        """Move and convert as any module, but do not make float64 from rounded coefficients."""
        super()._apply(fn, recurse)
        for k, exact in enumerate(self.exact):
            setattr(self, f"coupling_{k}", exact.to(getattr(self, f"coupling_{k}")))
        return self


def _forget(state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Leave out the constants that e3nn's module stores in a state dict."""
    for name in [name for name in state if name.startswith(prefix)]:
        del state[name]


def can_replace(module: Any) -> bool:
    """Whether :class:`EdgeProduct` gives what a module gives."""
    return (
        type(module) is o3.TensorProduct
        and not (module.internal_weights or module.shared_weights)
        and all(mul == 1 for mul, _ in module.irreps_in2)
        and sorted(one.i_out for one in module.instructions) == list(range(len(module.irreps_out)))
        and all(one.connection_mode == "uvu" and one.has_weight for one in module.instructions)
    )


def replace_products(module: nn.Module) -> None:
    """Exchange the tensor products inside a module for :class:`EdgeProduct` where that gives the same."""
    for part in list(module.modules()):
        for name, child in part.named_children():
            if can_replace(child):
                setattr(part, name, EdgeProduct(child))
