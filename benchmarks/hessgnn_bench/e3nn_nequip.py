"""The plain build of the NequIP-like potential from e3nn's own modules, with all irreps, to compare with."""

from __future__ import annotations

import e3nn
import torch
from e3nn import o3
from e3nn.nn import Gate
from torch import Tensor, nn

from hessgnn.data.batch import Batch
from hessgnn.potentials.base import Potential
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

    def atomic_energies(self, ours: NequIP | ByE3nn, batch: Batch) -> Tensor:
        """Dimensionless energies with the basis and read-out of another potential.

        Parameters
        ----------
        ours
            The other potential.
        batch
            The structures.

        Returns
        -------
        Tensor
            ``(n_atoms,)``.
        """
        vectors = batch.edge_vectors()
        distances = vectors.norm(dim=-1)
        basis = ours.basis(distances) * ours.envelope(distances).unsqueeze(-1)
        elements = nn.functional.one_hot(ours.species(batch), len(ours.elements)).to(vectors.dtype)
        x = self.embedding(elements)
        for layer in self.layers:
            x = layer(x, elements, self.harmonics(vectors), basis, batch)
        return ours.readout(x).squeeze(-1)


class ByE3nn(Potential):
    """NequIP as a user of e3nn writes it: a potential for the same loss, with every derivative left to autograd.

    Parameters
    ----------
    config
        As of ours.
    """

    Config = NequIP.Config

    def __init__(self, config: NequIP.Config) -> None:
        super().__init__(config)
        ours = NequIP(config)
        self.basis, self.envelope, self.readout = ours.basis, ours.envelope, ours.readout
        self.reference = Reference(config).to(torch.get_default_dtype())

    def atomic_energies(self, batch: Batch) -> Tensor:
        """Dimensionless energy of each atom, ``(n_atoms,)``."""
        return self.reference.atomic_energies(self, batch)


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
