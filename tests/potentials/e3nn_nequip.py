"""The plain build of the NequIP-like potential from e3nn's own modules, with our weights, to compare with."""

from __future__ import annotations

import torch
from e3nn import o3
from hessgnn_bench.e3nn_nequip import Convolution, Reference
from torch import Tensor, nn

from hessgnn.potentials.nequip.model import NequIP


def reference_with_weights_of(ours: NequIP) -> Reference:
    """Build the reference and copy our weights; those of irreps that we leave out stay as they are drawn."""
    theirs = Reference(ours.config).double()
    irreps = [o3.Irrep("0e")]
    with torch.no_grad():
        theirs.embedding.weight.copy_(ours.embedding.flatten())
        for mine, other in zip(ours.layers, theirs.layers, strict=True):
            _copy(mine, other, irreps, ours.config.channels)
            irreps = mine.gate.irreps
    return theirs


def _copy(mine: nn.Module, other: Convolution, irreps_in: list[o3.Irrep], channels: int) -> None:
    def part(tensor: Tensor, k: int) -> Tensor:
        return tensor[k * channels : (k + 1) * channels]

    theirs_in = [ir for _, ir in other.product.irreps_in1]
    for _, instruction, weight in other.before.weight_views(yield_instruction=True):
        ir = theirs_in[instruction.i_in]
        if ir in irreps_in:
            weight.copy_(mine.before[irreps_in.index(ir)])
    # The weights of each path, and our path for each slot of the messages.
    other.radial[0].weight.copy_(mine.radial[0].weight)
    path_of_slot = {}
    for k, instruction in enumerate(other.product.instructions):
        ir, out = theirs_in[instruction.i_in1], other.product.irreps_out[instruction.i_out].ir
        degree = other.product.irreps_in2[instruction.i_in2].ir.l
        path = (irreps_in.index(ir), degree, out) if ir in irreps_in else None
        if path in mine.product.paths:
            number = mine.product.paths.index(path)
            part(other.radial[2].weight, k).copy_(part(mine.radial[2].weight, number))
            path_of_slot[instruction.i_out] = number
    # Even scalars: first themselves, then those that gate the other irreps, in an order of e3nn's.
    gated = [ir for _, ir in other.gate.irreps_gated]
    ours_gated = [ir for ir in mine.gate.irreps if ir.l]
    blocks = {block.irrep: k for k, block in enumerate(mine.product.blocks)}

    def copy_columns(theirs: Tensor, ours: Tensor, ir: o3.Irrep) -> None:
        part(theirs.T, 0).copy_(part(ours.T, 0))
        if ir == o3.Irrep("0e"):
            for k, gate in enumerate(ours_gated):
                part(theirs.T, 1 + gated.index(gate)).copy_(part(ours.T, 1 + k))

    for _, instruction, weight in other.after.weight_views(yield_instruction=True):
        ir = other.after.irreps_in[instruction.i_in].ir
        if ir not in blocks:
            continue
        block = mine.product.blocks[blocks[ir]]
        slots = [k for k, (_, other_ir) in enumerate(other.product.irreps_out) if other_ir == ir]
        for k, slot in enumerate(slots):
            row = path_of_slot[slot] - block.first_path
            copy_columns(part(weight, k), part(mine.after[blocks[ir]], row), ir)
    kept = [ir for ir in mine.gate.irreps if ir in irreps_in]
    for _, instruction, weight in other.self_connection.weight_views(yield_instruction=True):
        ir = theirs_in[instruction.i_in1]
        if ir in kept:
            copy_columns(weight.flatten(0, 1), mine.self_connection[kept.index(ir)], ir)
