"""Layer normalization whose third derivatives are right."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PlainLayerNorm(nn.LayerNorm):
    """``torch.nn.LayerNorm`` by elementary operations.

    The third derivatives of :func:`torch.nn.functional.layer_norm` are silently wrong (torch 2.13): its second backward
    takes mean and variance, which it has saved, for constants. Energies, forces and Hessians are right, but not the
    gradient of a loss of Hessian products.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """See ``torch.nn.LayerNorm``."""
        axes = tuple(range(-len(self.normalized_shape), 0))
        centred = input - input.mean(axes, keepdim=True)
        out = centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + self.eps)
        if self.elementwise_affine:
            out = out * self.weight
            out = out if self.bias is None else out + self.bias
        return out


def mend_layer_norms(module: nn.Module) -> None:
    """Let all layer normalizations inside a module use :class:`PlainLayerNorm`; names and weights stay."""
    for part in module.modules():
        if type(part) is nn.LayerNorm:
            part.__class__ = PlainLayerNorm
