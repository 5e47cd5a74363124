"""The one interface: an architecture writes ``atomic_energies``, the base class derives everything else.

Architectures have names: ours, those of installed packages, and ``package.module:Class``.
"""

from __future__ import annotations

import inspect
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from ase.data import chemical_symbols
from pydantic import Field, PositiveFloat, ValidationError, field_validator
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from hessgnn.curvature.hessian import hessians
from hessgnn.curvature.model import Prediction
from hessgnn.curvature.products import Backend, predict
from hessgnn.data.batch import Batch
from hessgnn.errors import ConfigError, DataError, UserError
from hessgnn.runtime.config import Settings, explain
from hessgnn.runtime.registry import Registry, subclass_of


class PotentialConfig(Settings):
    """What every architecture can be asked for. Subclasses add their own hyper-parameters."""

    elements: tuple[int, ...] = Field(default=(1, 6, 7, 8), description="atomic numbers that the potential knows")
    cutoff: PositiveFloat = Field(default=5.0, description="Å")

    @field_validator("elements")
    @classmethod
    def _sorted_and_known(cls, elements: tuple[int, ...]) -> tuple[int, ...]:
        if not elements or any(not 0 < z < len(chemical_symbols) for z in elements):
            raise ValueError("elements must be a list of atomic numbers such as [1, 6, 7, 8]")
        return tuple(sorted(set(elements)))


class Potential(nn.Module, ABC):
    """A machine-learning interatomic potential whose Hessian can be trained on.

    An architecture declares a ``Config`` and writes :meth:`atomic_energies`. It knows nothing of losses, rows or
    data. From it follow, with ``E = Σ_i (scale · ε_i + reference[Z_i])``:

    =====================  =======================================  ==================  ==========
    derived property       call                                     shape               unit
    =====================  =======================================  ==================  ==========
    energy                 ``energy(batch)``                        (n_structures,)     eV
    forces                 ``forces(batch)``                        (n_atoms, 3)        eV/Å
    Hessian products       ``hvp(batch, vectors)``                  (K, n_atoms, 3)     eV/Å²·[v]
    Hessians               ``hessian(batch)``                       list of (3N, 3N)    eV/Å²
    all in one graph       ``self(batch, forces=…, vectors=…)``     Prediction          as above
    =====================  =======================================  ==================  ==========

    ``H = +∂²E/∂R∂R`` with row index ``3·atom + xyz``. Energies are float64 whatever the training dtype, because
    the reference energies of a molecule swallow the digits of float32.

    Parameters
    ----------
    config
        An instance of the class's own ``Config``.
    """

    Config: ClassVar[type[PotentialConfig]] = PotentialConfig
    not_c2: str | None = None
    """Why the Hessian of this potential jumps, in words; ``None`` when it is continuous."""
    excused: Mapping[str, str] = MappingProxyType({})
    """Items of the contract that the architecture cannot keep, by name, each with the reason."""
    n_hops: int | None = None
    """How many edges away an atom can influence the energy of another: the number of message-passing layers. With 1,
    the energy of an atom must depend on the edges that it is the centre of only. ``None`` means unknown; Hessians of
    large structures then take 3N products."""

    products_at_once: int | None = None
    """Products of a full Hessian that one vectorised pass forms at most on a CPU, where more do not fit its cache; as
    many as the memory allows if ``None``."""

    triplet_cutoff: float | None = None
    """Å: pairs of edges up to this length with a common centre are wanted in :attr:`Batch.triplets`."""

    sorts_elements: bool = False
    """Whether shapes depend on the number of atoms of each element, which recorded steps then fix as well, see
    :attr:`Batch.element_counts`."""

    reference_energies: Tensor
    scale: Tensor
    element_index: Tensor

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not (isinstance(cls.Config, type) and issubclass(cls.Config, PotentialConfig)):
            raise TypeError(f"{cls.__name__}.Config must be a subclass of hessgnn.PotentialConfig")
        if not (inspect.isabstract(cls) or any(field.is_required() for field in cls.Config.model_fields.values())):
            cls.Config()  # a default that its own checks refuse is found here, not in the middle of a sweep

    def __init__(self, config: PotentialConfig) -> None:
        super().__init__()
        self.config = config
        self.cutoff = float(config.cutoff)
        element_index = torch.full((len(chemical_symbols),), -1)
        element_index[list(config.elements)] = torch.arange(len(config.elements))
        self.register_buffer("element_index", element_index, persistent=False)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("reference_energies", torch.zeros(len(config.elements), dtype=torch.float64))

    @abstractmethod
    def atomic_energies(self, batch: Batch) -> Tensor:
        """Dimensionless energy of each atom, ``(n_atoms,)``: all that an architecture writes."""

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that the potential knows."""
        return self.config.elements

    def species(self, batch: Batch) -> Tensor:
        """Index of each atom's element among ``self.elements``, ``(n_atoms,)``.

        Raises
        ------
        DataError
            When an atom's element is not among them. What is being traced or captured is not looked at.
        """
        species = self.element_index[batch.numbers]
        # An index of -1 would silently mean the last element.
        if batch.element_counts is not None:  # looking at the species themselves would wait for a GPU
            unknown = sorted(batch.element_counts.keys() - set(self.elements))
        elif not _is_recorded() and bool((species < 0).any()):
            unknown = sorted(set(batch.numbers[species < 0].tolist()))
        else:
            unknown = []
        if unknown:
            raise DataError(
                f"the potential knows {_symbols(self.elements)} only, the batch holds {_symbols(unknown)}",
                hint="train it with these elements, or leave the structures out",
            )
        return species

    def forward(
        self,
        batch: Batch,
        *,
        forces: bool = True,
        vectors: Tensor | None = None,
        create_graph: bool = False,
        backend: Backend = "loop",
    ) -> Prediction:
        """Energy, and in the same graph forces and products with the Hessian.

        Parameters
        ----------
        batch
            The structures.
        forces
            Whether forces are wanted.
        vectors
            ``(K, n_atoms, 3)``: the Hessian is multiplied with each; one product serves every structure.
        create_graph
            Keep the graph, so that a loss of forces and products can be differentiated in the parameters.
        backend
            How the products are formed, see :data:`hessgnn.curvature.products.Backend`.

        Returns
        -------
        Prediction
            Energy, forces and products.
        """
        return predict(self, batch, forces=forces, vectors=vectors, create_graph=create_graph, backend=backend)

    def energy(self, batch: Batch) -> Tensor:
        """Energies without a graph, ``(n_structures,)`` float64, eV."""
        return self(batch, forces=False).energy

    def forces(self, batch: Batch) -> Tensor:
        """Forces without a graph, ``(n_atoms, 3)``, eV/Å."""
        return self(batch).forces

    def hvp(self, batch: Batch, vectors: Tensor, create_graph: bool = False) -> Tensor:
        """Products with the Hessian, ``(K, n_atoms, 3)`` for vectors of that shape."""
        return self(batch, vectors=vectors, create_graph=create_graph).products

    def hessian(self, batch: Batch) -> list[Tensor]:
        """Full Hessians without a graph, one ``(3N, 3N)`` for each structure, eV/Å²."""
        return hessians(self, batch)

    def total_energy(self, batch: Batch) -> Tensor:
        """Energies with their graph, ``(n_structures,)`` float64, eV: what every derivative is taken of."""
        return self.energy_of(batch, self._learned(self.atomic_energies, batch, len(batch.numbers)))

    def energy_of(self, batch: Batch, atomic_energies: Tensor) -> Tensor:
        """Energies, ``(n_structures,)`` float64, eV, from what an architecture gives for each atom."""
        return self._referenced(batch, batch.sum_per_structure(atomic_energies))

    def _referenced(self, batch: Batch, learned: Tensor) -> Tensor:
        """Energies, ``(n_structures,)`` float64, eV, from what was learned of each structure, dimensionless."""
        reference = batch.sum_per_structure(self.reference_energies[self.species(batch)])
        return learned.double() * self.scale.double() + reference

    def _learned(self, method: Callable[[Batch], Tensor], batch: Batch, number: int) -> Tensor:
        """What an architecture gives, ``(number,)``; another shape would be broadcast to wrong energies.

        Raises
        ------
        UserError
            When it gives something else, or when a class from outside hessgnn fails, with the line of its code.
        """
        try:
            learned = method(batch)
        except Exception as error:
            if not _is_bug_of_others(type(self), error):
                raise
            raise _failed(type(self), f"{method.__name__} failed", error) from error
        if isinstance(learned, Tensor) and learned.shape == (number,):
            return learned
        got = f"shape {tuple(learned.shape)}" if isinstance(learned, Tensor) else f"a {type(learned).__name__}"
        raise UserError(
            f"{method.__name__} returned {got}, expected a tensor of shape ({number},)",
            where=type(self).__qualname__,
            hint="return one energy for each " + ("structure" if number == batch.n_structures else "atom"),
        )

    def set_scaling(self, reference_energies: Mapping[int, float], scale: float) -> None:
        """Fix the energy of each free element and the energy that one dimensionless unit stands for.

        Parameters
        ----------
        reference_energies
            eV for each atomic number of ``self.elements``.
        scale
            eV, positive.
        """
        missing = [z for z in self.elements if z not in reference_energies]
        if missing:
            raise ConfigError(f"no reference energy for {_symbols(missing)}", hint="give one for each element")
        values = [reference_energies[z] for z in self.elements]
        self.reference_energies.copy_(torch.tensor(values, dtype=torch.float64))  # float32 would lose 1e-4 eV
        self.scale.fill_(scale)

    def n_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Potential:
        """Move and convert as any module, but keep the reference energies in float64."""
        reference = self.reference_energies
        super()._apply(fn, recurse)
        self.reference_energies = reference.to(self.reference_energies.device)
        return self


class TotalEnergyPotential(Potential):
    """A potential that gives the energy of a structure as a whole, not as a sum over its atoms.

    It writes :meth:`structure_energies` instead of :meth:`~Potential.atomic_energies`; all else follows as for any
    other. Its Hessians of large structures take 3N products each, because nobody knows which atoms interact.
    """

    @abstractmethod
    def structure_energies(self, batch: Batch) -> Tensor:
        """Dimensionless energy of each structure, ``(n_structures,)``: all that such a potential writes."""

    def atomic_energies(self, batch: Batch) -> Tensor:
        """Not defined: raises :class:`NotImplementedError`."""
        raise NotImplementedError(f"{type(self).__name__} gives total energies only")

    def total_energy(self, batch: Batch) -> Tensor:
        """See :meth:`Potential.total_energy`."""
        return self._referenced(batch, self._learned(self.structure_energies, batch, batch.n_structures))


def _is_recorded() -> bool:
    """Whether operations are traced or captured now, so that nobody can look at a value."""
    return get_proxy_mode() is not None or (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())


def _is_bug_of_others(cls: type, error: Exception) -> bool:
    """Whether an error is one of a class from outside hessgnn, and no lack of memory."""
    ours = cls.__module__.partition(".")[0] == "hessgnn"
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
    return not (ours or memory or isinstance(error, UserError) or _is_recorded())


def _failed(cls: type, what: str, error: Exception) -> UserError:
    """An error of somebody else's class, with the line where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    libraries = tuple(str(Path(file).resolve().parent) for file in (torch.__file__, Path(__file__).parent))
    inside = [frame for frame in frames if not str(Path(frame.filename).resolve()).startswith(libraries)] or frames
    place = f"{Path(inside[-1].filename).name}, line {inside[-1].lineno}"
    reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return UserError(
        f"{what} in {place}: {type(error).__name__}: {reason}",
        where=cls.__qualname__,
        hint=f"`hessgnn check {cls.__module__}:{cls.__qualname__}` tries what it must be able to do",
    )


def _symbols(numbers: Any) -> str:
    return ", ".join(chemical_symbols[z] for z in numbers)


POTENTIALS: Registry[type[Potential]] = Registry(
    "potential", "hessgnn.potentials", check=subclass_of(Potential, "hessgnn.Potential")
)
"""Architectures by name. Other packages announce theirs in the entry-point group ``hessgnn.potentials``."""

register = POTENTIALS.register
resolve = POTENTIALS.__getitem__


def architectures() -> list[str]:
    """Names of the potentials that are no adapters of other packages: nothing but hessgnn is needed to make one."""
    return [name for name in POTENTIALS.names() if ".adapters." not in resolve(name).__module__]


def create(name: str, /, **settings: Any) -> Potential:
    """Build a potential from its name and settings.

    Parameters
    ----------
    name
        A registered name, an entry point, or ``package.module:Class``.
    **settings
        Fields of the architecture's ``Config``, for example ``elements=[1, 6, 7, 8], cutoff=5.0``.

    Returns
    -------
    Potential
        In float32, with fresh weights drawn from torch's global generator.

    Raises
    ------
    ConfigError
        When the name or a setting is wrong.
    """
    cls = resolve(name)
    try:
        config = cls.Config.model_validate(settings)
    except ValidationError as error:
        raise explain(error, cls.Config, where=f"potential {name!r}") from error
    try:
        return cls(config)
    except Exception as error:
        if not _is_bug_of_others(cls, error):
            raise
        raise _failed(cls, "cannot be made: __init__ failed", error) from error
