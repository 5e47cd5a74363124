"""What a loss knows of a batch before the potential is asked: targets and weights of each structure.

A loss is then ``Σ_s weight_s · error_s``, summed over its terms. Means over labelled structures are in the weights, so
the parts that a batch is divided in add up to the loss of the whole, and a structure of weight 0 is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from hessgnn.data.batch import Batch
from hessgnn.data.padding import Size, pad_to

_BATCH = ("numbers", "positions", "batch", "n_atoms", "edge_index", "edge_shift", "triplets", "pairs")


@dataclass(frozen=True)
class Part:
    """Structures with what their predictions are compared with. What no term asks for is ``None``.

    Attributes
    ----------
    batch
        The structures, without labels.
    energy
        ``(n_structures,)`` float64, eV.
    forces
        ``(n_atoms, 3)``, eV/Å.
    vectors
        ``(K, n_atoms, 3)``: what the Hessian is multiplied with.
    products
        ``(K, n_atoms, 3)``: products of the reference Hessian with them.
    probe_weights
        ``(K, n_structures)``: see :class:`hessgnn.curvature.probes.Probes`.
    energy_weight, forces_weight, hessian_weight
        ``(n_structures,)`` float64: weight of each structure's error, zero where it has no label.
    place
        ``(n_structures,)`` int64: place of each structure in the batch that several ranks share, else ``None``.
    """

    batch: Batch
    energy: Tensor | None = None
    forces: Tensor | None = None
    vectors: Tensor | None = None
    products: Tensor | None = None
    probe_weights: Tensor | None = None
    energy_weight: Tensor | None = None
    forces_weight: Tensor | None = None
    hessian_weight: Tensor | None = None
    place: Tensor | None = None

    @property
    def weights(self) -> dict[str, Tensor]:
        """Term -> weight of each structure's error, for the terms that are asked for."""
        given = {"energy": self.energy_weight, "forces": self.forces_weight, "hessian": self.hessian_weight}
        return {name: weight for name, weight in given.items() if weight is not None}

    @property
    def n_products(self) -> int:
        """Hessian products that are formed, each for all structures."""
        return 0 if self.vectors is None else len(self.vectors)

    def total(self, errors: dict[str, Tensor]) -> Tensor:
        """Sum of the weighted errors, scalar, of errors ``(n_structures,)`` for each of :attr:`weights`."""
        return weighted_sum(self.weights, errors)

    def split(self, number: int) -> list[Part]:
        """Divide into so many parts of about as many atoms each; fewer if there are fewer structures.

        The parts hold each structure once, in order.
        """
        if number == 1:
            return [self]
        n_atoms = self.batch.n_atoms
        middle = self.batch.first_atom + n_atoms / 2
        place = (middle * number / n_atoms.sum()).long().clamp(max=number - 1)
        return [self.select(place == i) for i in place.unique().tolist()]

    def select(self, structures: Tensor) -> Part:
        """Keep some structures ``(n_structures,)`` bool, with their weights."""
        atoms = structures[self.batch.batch]
        kept = {name: value[..., structures] for name, value in self._given(_PER_STRUCTURE).items()}
        kept |= {name: value[..., atoms, :] for name, value in self._given(_PER_ATOM).items()}
        place = None if self.place is None else self.place[structures]
        return Part(self.batch.select(structures), place=place, **kept)

    def pad_to(self, size: Size, cutoff: float) -> Part:
        """Fill up to a size with structures of weight 0; ``cutoff`` (Å) is that of the neighbour list."""
        own = Size.of(self.batch)
        padded = {
            name: torch.cat([value, value.new_zeros(*value.shape[:-1], size.n_structures - own.n_structures)], -1)
            for name, value in self._given(_PER_STRUCTURE).items()
        }
        padded |= {
            name: torch.cat([value, value.new_zeros(*value.shape[:-2], size.n_atoms - own.n_atoms, 3)], -2)
            for name, value in self._given(_PER_ATOM).items()
        }
        return Part(pad_to(self.batch, size, cutoff), **padded)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that a loss is computed from, by name."""
        batch = {name: value for name in _BATCH if (value := getattr(self.batch, name)) is not None}
        return batch | self._given(_PER_STRUCTURE + _PER_ATOM)

    def with_tensors(self, tensors: dict[str, Tensor]) -> Part:
        """The same part with other tensors, as of :meth:`tensors`."""
        given = {name: value for name, value in tensors.items() if name in _BATCH}
        # Counts belong to the shape, where a padded batch has them.
        batch = self.batch.replace(**given, element_counts=self.batch.element_counts)
        return replace(self, batch=batch, **{name: value for name, value in tensors.items() if name not in _BATCH})

    def _given(self, names: tuple[str, ...]) -> dict[str, Tensor]:
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def weighted_sum(weights: Mapping[str, Tensor], errors: Mapping[str, Tensor]) -> Tensor:
    """Sum of weighted errors, scalar: of each term ``(n_structures,)``."""
    return torch.stack([(weight * errors[name]).sum() for name, weight in weights.items()]).sum()


_PER_ATOM = ("forces", "vectors", "products")
_PER_STRUCTURE = tuple(field.name for field in fields(Part) if field.name not in ("batch", "place", *_PER_ATOM))
