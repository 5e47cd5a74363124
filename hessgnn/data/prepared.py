"""What is computed once per structure from its reference Hessian, and carried with the labels of its batches.

A loader computes it for each structure when it is first needed and keeps it for the next epochs. The loader, its worker
processes and the labels know nothing about what the arrays mean.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

StructureArrays = dict[str, NDArray[Any]]
"""Name -> array of one structure."""


class Preparation(ABC):
    """Something to be computed from the reference Hessian of each structure.

    Instances are sent to worker processes, so the class must stand at the top level of a module. Two instances of one
    class with equal attributes are equal: what one has computed is used for the other.
    """

    fill: ClassVar[Mapping[str, float]] = {}
    """Name of an array -> value that it is padded with in a batch; 0 where it is not named."""

    @abstractmethod
    def of_structure(self, hessian: NDArray[np.float64] | None, n_atoms: int) -> StructureArrays:
        """Compute the arrays of one structure.

        Parameters
        ----------
        hessian
            ``(3N, 3N)``, eV/Å²; ``None`` where the structure has none.
        n_atoms
            N.

        Returns
        -------
        dict
            Name -> array of any shape; the same names and numbers of axes for every structure.
        """

    def in_type(self, dtype: torch.dtype, hessian: NDArray[np.float64] | None, n_atoms: int) -> StructureArrays:
        """As :meth:`of_structure`, with floating numbers in the type of a batch."""
        return {
            name: torch.from_numpy(array).to(dtype).numpy() if array.dtype.kind == "f" else array
            for name, array in self.of_structure(hessian, n_atoms).items()
        }

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(type(self))


@dataclass(frozen=True)
class Prepared:
    """What a preparation computed for the structures of a batch.

    Attributes
    ----------
    preparation
        What computed it.
    structures
        Arrays of each structure, not padded; shared with the loader, so they must not be changed.
    device
        Of :attr:`tensors`.
    """

    preparation: Preparation
    structures: Sequence[StructureArrays]
    device: torch.device | str = "cpu"

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Name -> ``(n_structures, ...)``, each axis padded at its end to the longest of the structures."""
        return {name: self._padded(name).to(self.device) for name in self.structures[0]}

    def select(self, structures: Tensor) -> Prepared:
        """Keep some structures, ``(n_structures,)`` bool."""
        chosen = zip(self.structures, structures.tolist(), strict=True)
        return replace(self, structures=[one for one, kept in chosen if kept])

    def to(self, device: torch.device | str) -> Prepared:
        """Make the tensors on another device."""
        return replace(self, device=device)

    def _padded(self, name: str) -> Tensor:
        arrays = [one[name] for one in self.structures]
        shape = np.max([array.shape for array in arrays], axis=0)
        padded = np.full((len(arrays), *shape), self.preparation.fill.get(name, 0), dtype=arrays[0].dtype)
        for k, array in enumerate(arrays):
            place: tuple[int | slice, ...] = (k, *(slice(length) for length in array.shape))
            padded[place] = array
        return torch.from_numpy(padded)
