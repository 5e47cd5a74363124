"""Potentials without this package's fast paths: what the same architecture costs with every derivative by autograd.

ANI is torchani's then, environment vectors and networks: what its users have.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from hessgnn.data.batch import Batch
from hessgnn.potentials.ani.model import ANI
from hessgnn.potentials.base import Potential
from hessgnn.potentials.blocks.layers import Activation, Form


def left_to_autograd(potential: Potential) -> Potential:
    """The same potential with every derivative left to autograd.

    Parameters
    ----------
    potential
        Its activations are replaced; do not use it any longer.

    Returns
    -------
    Potential
        With the same weights and the same values: torch's own activations, not told what will be differentiated, and
        torchani's code where there is some.
    """
    if isinstance(potential, ANI):
        potential = ByTorchani.of(potential)
    for module in list(potential.modules()):
        for name, child in module._modules.items():  # named_children would leave out a second use of one module
            if isinstance(child, Activation):
                setattr(module, name, _Plain(child.form))
    return Undeclared(potential)


class Undeclared(Potential):
    """A potential that is not told how many derivatives will be taken, so that it must be ready for any number.

    Parameters
    ----------
    potential
        The potential; weights and scaling are shared with it.
    """

    def __init__(self, potential: Potential) -> None:
        super().__init__(potential.config)
        self.potential, self.not_c2 = potential, potential.not_c2
        for name, buffer in potential.named_buffers(recurse=False):
            if name in self._buffers:
                setattr(self, name, buffer)

    def atomic_energies(self, batch: Batch) -> Tensor:
        """Dimensionless energy of each atom, ``(n_atoms,)``."""
        return self.potential.atomic_energies(batch.replace(derivatives=None))


class ByTorchani(ANI):
    """ANI by torchani's own code, with the neighbour list of the batch."""

    closed_form = False

    @classmethod
    def of(cls, potential: ANI) -> ByTorchani:
        """The same weights."""
        made = cls(cast(ANI.Config, potential.config)).to(potential.scale.device, potential.scale.dtype)
        made.load_state_dict(potential.state_dict())
        return made

    def atomic_energies(self, batch: Batch) -> Tensor:
        """Dimensionless energy of each atom, ``(n_atoms,)``."""
        from torchani.neighbors import Neighbors  # after hessgnn.potentials.ani.model, which silences torchani's import

        species = self.species(batch)
        aev = batch.positions.new_zeros(len(species), self.aev.out_dim)
        if batch.edge_index.shape[1]:  # torchani cannot sort an empty list of neighbours
            once = batch.pair_edges()
            vectors = -batch.edge_vectors(once)  # torchani's point from the second to the first atom
            neighbors = Neighbors(batch.edge_index[:, once], vectors.norm(dim=-1), vectors)
            positions = batch.positions.unsqueeze(0)
            aev = self.aev.compute_from_neighbors(species.unsqueeze(0), positions, neighbors)[0]
        # torchani sees the whole batch as one molecule
        return self.networks(species.unsqueeze(0), aev.unsqueeze(0), atomic=True).squeeze(0)


class _Plain(nn.Module):
    """An activation by torch's own function."""

    def __init__(self, form: type[Form]) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        return self.form(x).derivative(0)
