"""The plain build of the NequIP-like potential from e3nn's own modules, with all irreps, to compare with."""

from __future__ import annotations

import e3nn
import torch
from e3nn import o3
from e3nn.nn import Gate
from torch import Tensor, nn

from hessgnn.data.batch import Batch
from hessgnn.potentials.blocks.layers import Activation, mlp
from hessgnn.potentials.nequip.model import NequIP


class Convolution(nn.Module):
    """Gated tensor-product convolution with an element-wise self-connection."""

    def __init__(
        self,
        irreps_in: o3.Irreps,
        irreps_edge: o3.Irreps,
        irreps_hidden: o3.Irreps,
        n_elements: int,
        n_basis: int,
        radial_width: int,
        average_neighbors: float,
    ) -> None:
        super().__init__()
        self.normalisation = average_neighbors**-0.5
        self.gate = _gate(irreps_in, irreps_edge, irreps_hidden)
        irreps_mid, instructions = _paths(irreps_in, irreps_edge, self.gate.irreps_in)
        self.product = o3.TensorProduct(
            irreps_in, irreps_edge, irreps_mid, instructions, shared_weights=False, internal_weights=False
        )
        self.radial = mlp(n_basis, radial_width, self.product.weight_numel, act="silu", bias=False)
        self.before = o3.Linear(irreps_in, irreps_in)
        self.after = o3.Linear(irreps_mid.simplify(), self.gate.irreps_in)
        self.self_connection = o3.FullyConnectedTensorProduct(irreps_in, f"{n_elements}x0e", self.gate.irreps_in)
        self.irreps_out = self.gate.irreps_out

    def forward(
        self,
        x: Tensor,
        elements: Tensor,
        harmonics: Tensor,
        basis: Tensor,
        batch: Batch,
    ) -> Tensor:
        """Features ``(n_atoms, irreps_out.dim)``."""
        i, j = batch.edge_index
        message = self.product(self.before(x).index_select(0, j), harmonics, self.radial(basis))
        gathered = message.new_zeros(len(x), message.shape[-1]).index_add(0, i, message) * self.normalisation
        return self.gate(self.self_connection(x, elements) + self.after(gathered))


class Reference(nn.Module):
    """All irreps in all layers, every path an operation of its own, every derivative left to autograd."""

    def __init__(self, config: NequIP.Config) -> None:
        super().__init__()
        n_elements, channels = len(config.elements), config.channels
        irreps_edge = o3.Irreps.spherical_harmonics(config.l_max)
        natural = [(channels, (degree, (-1) ** degree)) for degree in range(config.l_max + 1)]
        opposite = [(channels, (degree, -((-1) ** degree))) for degree in range(config.l_max + 1)]
        irreps_hidden = o3.Irreps(natural + opposite if config.parity else natural)
        before, dtype = e3nn.get_optimization_defaults()["jit_mode"], torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)  # for e3nn's constants
        e3nn.set_optimization_defaults(jit_mode="eager")
        self.harmonics = o3.SphericalHarmonics(irreps_edge, normalize=True, normalization="component")
        self.embedding = o3.Linear(f"{n_elements}x0e", f"{channels}x0e")
        irreps, layers = self.embedding.irreps_out, []
        for layer in range(config.n_layers):
            target = o3.Irreps(f"{channels}x0e") if layer == config.n_layers - 1 else irreps_hidden
            layers.append(
                Convolution(
                    irreps,
                    irreps_edge,
                    target,
                    n_elements,
                    config.n_basis,
                    config.radial_width,
                    config.average_neighbors,
                )
            )
            irreps = layers[-1].irreps_out
        e3nn.set_optimization_defaults(jit_mode=before)
        torch.set_default_dtype(dtype)
        self.layers = nn.ModuleList(layers)

    def atomic_energies(self, ours: NequIP, batch: Batch) -> Tensor:
        """Energies with the basis and read-out of ours."""
        vectors = batch.edge_vectors()
        distances = vectors.norm(dim=-1)
        basis = ours.basis(distances) * ours.envelope(distances).unsqueeze(-1)
        elements = nn.functional.one_hot(ours.species(batch), len(ours.elements)).to(vectors.dtype)
        x = self.embedding(elements)
        for layer in self.layers:
            x = layer(x, elements, self.harmonics(vectors), basis, batch)
        return ours.readout(x).squeeze(-1)


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


def _paths(
    irreps_in: o3.Irreps, irreps_edge: o3.Irreps, irreps_wanted: o3.Irreps
) -> tuple[o3.Irreps, list[tuple[int, int, int, str, bool]]]:
    """All 'uvu' paths from features and harmonics to irreps that are wanted, sorted so that equal ones touch."""
    mid: list[tuple[int, o3.Irrep]] = []
    instructions = []
    for a, (mul, ir_in) in enumerate(irreps_in):
        for b, (_, ir_edge) in enumerate(irreps_edge):
            for ir_out in ir_in * ir_edge:
                if ir_out in irreps_wanted:
                    instructions.append((a, b, len(mid), "uvu", True))
                    mid.append((mul, ir_out))
    irreps_mid, permutation, _ = o3.Irreps(mid).sort()
    return irreps_mid, [(a, b, permutation[c], mode, train) for a, b, c, mode, train in instructions]


def _gate(irreps_in: o3.Irreps, irreps_edge: o3.Irreps, irreps_hidden: o3.Irreps) -> Gate:
    """Scalars through SiLU (even) or tanh (odd), the rest multiplied by even scalars through SiLU."""
    reachable = [ir for _, ir_in in irreps_in for _, ir_edge in irreps_edge for ir in ir_in * ir_edge]
    kept = [(mul, ir) for mul, ir in irreps_hidden if ir in reachable]
    scalars = o3.Irreps([(mul, ir) for mul, ir in kept if ir.l == 0])
    gated = o3.Irreps([(mul, ir) for mul, ir in kept if ir.l > 0])
    gates = o3.Irreps([(mul, "0e") for mul, _ in gated])
    activations = {1: Activation("silu"), -1: Activation("tanh")}
    return Gate(
        scalars,
        [activations[ir.p] for _, ir in scalars],
        gates,
        [activations[1] for _ in gates],
        gated,
    )
