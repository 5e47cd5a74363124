"""Potentials without this package's fast paths: what the same architecture costs with every derivative by autograd."""

from __future__ import annotations

from torch import Tensor, nn

from hessgnn.data.batch import Batch
from hessgnn.potentials.activations import Activation, Form
from hessgnn.potentials.base import Potential


def left_to_autograd(potential: Potential) -> Potential:
    """The same potential with every derivative left to autograd.

    Parameters
    ----------
    potential
        Its activations are replaced; do not use it any longer.

    Returns
    -------
    Potential
        With the same weights and the same values: torch's own activations, and not told what will be differentiated.
    """
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


class _Plain(nn.Module):
    """An activation by torch's own function."""

    def __init__(self, form: type[Form]) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        return self.form(x).derivative(0)
