"""Item of the contract about the range: how many edges away an atom can influence the energy of another."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hessgnn.curvature.sparse import interacting_atoms
from hessgnn.testing.subject import Subject, require


def influence(subject: Subject) -> None:
    """No atom farther away than n_hops edges, and with one no edge of another atom, changes an atom's energy."""
    potential = subject.potential
    if potential.n_hops is None:
        return
    place = np.arange(2 * potential.n_hops + 7)
    zigzag = 0.1 * potential.cutoff
    chain = np.stack([0.42 * potential.cutoff * place, zigzag * (place % 2), zigzag * (place % 3)], axis=1)
    numbers = [potential.elements[k % len(potential.elements)] for k in place]
    batch = subject.batch([subject.atoms(numbers, chain)]).replace(derivatives=2)
    positions = batch.positions.detach().requires_grad_(True)
    slopes = _slopes(potential.atomic_energies(batch.replace(positions=positions)), positions)
    beyond = torch.from_numpy(~interacting_atoms(batch, potential.n_hops).toarray()).to(slopes.device)
    require(bool(beyond.any()), "no atom of the chain is out of range")  # a fault of this test, not of the potential
    far = float((slopes * beyond).max())
    edges = f"{potential.n_hops} edge" + "s" * (potential.n_hops > 1)
    require(
        far == 0, f"an atom more than {edges} away changes the energy of an atom by {far:.1e} per Å, n_hops denies it"
    )
    if potential.n_hops > 1:
        return
    shifts = batch.edge_shift.detach().requires_grad_(True)
    slopes = _slopes(potential.atomic_energies(batch.replace(edge_shift=shifts)), shifts)
    others = batch.edge_index[0] != torch.arange(len(batch.numbers), device=slopes.device).unsqueeze(1)
    foreign = float((slopes * others).max())
    require(foreign == 0, f"an edge of another atom changes the energy of an atom by {foreign:.1e} per Å, n_hops is 1")


def _slopes(energies: Tensor, leaf: Tensor) -> Tensor:
    """Largest derivative of each energy in each row of a leaf, ``(n_atoms, n_rows)``."""
    rows = [torch.autograd.grad(energy, leaf, retain_graph=True, allow_unused=True)[0] for energy in energies]
    return torch.stack([torch.zeros_like(leaf) if row is None else row for row in rows]).abs().amax(-1)
