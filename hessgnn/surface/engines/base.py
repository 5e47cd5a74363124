"""Label engines: surfaces that are chosen by ``engine.name`` in a recipe, one file each."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Annotated, Any, ClassVar

from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from pydantic import BeforeValidator, Field, PositiveFloat, SerializeAsAny

from hessgnn.data.structure import Array
from hessgnn.runtime.config import Settings, parse_named
from hessgnn.runtime.registry import Registry, subclass_of
from hessgnn.surface.base import Surface, digest
from hessgnn.surface.differences import HESSIAN_STEP


class EngineSettings(Settings):
    """What a recipe says of any engine."""

    name: str
    step: PositiveFloat = Field(default=HESSIAN_STEP, le=0.1, description="central-difference step of the Hessian, Å")
    sum_rule_tolerance: PositiveFloat = Field(
        default=1e-3, description="largest |Σ_j H_ij| of a Hessian that is accepted, eV/Å²"
    )


class Engine(Surface):
    """A surface that computes labels. It writes :meth:`compute`, and :meth:`second_derivatives` where it knows better.

    Parameters
    ----------
    settings
        Of the class in :attr:`Settings`.
    level_of_theory
        What the labels are.
    """

    Settings: ClassVar[type[EngineSettings]] = EngineSettings
    """What a recipe says of this engine."""
    packages: ClassVar[Sequence[str]] = ()
    """Distributions whose versions belong to the labels."""
    of_data: ClassVar[bool] = False
    """Whether a data set may ask for it: its settings name no code and no file, so those of a stranger do no harm."""
    failures: ClassVar[tuple[type[Exception], ...]] = (RuntimeError, ValueError)

    def __init__(self, settings: Any, level_of_theory: str) -> None:
        codes = [f"{name} {version(name)}" for name in self.packages]
        super().__init__(level_of_theory, digest(type(self).__qualname__, settings.model_dump_json(), *codes))
        self.settings, self.level_of_theory = settings, level_of_theory
        self.step, self.sum_rule_tolerance = settings.step, settings.sum_rule_tolerance

    @abstractmethod
    def compute(self, atoms: Atoms) -> tuple[float, Array]:
        """Energy (eV) and analytic forces ``(N, 3)`` (eV/Å)."""

    def calculator(self) -> EngineCalculator:
        """See :meth:`Surface.calculator`."""
        return EngineCalculator(self)

    def versions(self) -> dict[str, str]:
        """Versions of the codes involved, distribution -> version."""
        return {name: version(name) for name in (*self.packages, "ase", "numpy", "hessgnn")}


class EngineCalculator(Calculator):
    """An engine as an ASE calculator, for ASE's and Sella's optimisers."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """See :meth:`ase.calculators.calculator.Calculator.calculate`."""
        super().calculate(atoms, properties, system_changes)
        energy, forces = self.engine.energy_forces(self.atoms)
        self.results = {"energy": energy, "forces": forces}

    def get_hessian(self, atoms: Atoms) -> Array:
        """Second derivatives ``(3N, 3N)``, eV/Å², as computed."""
        return self.engine.hessian(atoms).matrix


ENGINES: Registry[type[Engine]] = Registry(
    "engine", "hessgnn.surface.engines", group="hessgnn.engines", check=subclass_of(Engine)
)
"""Engines by name. Other packages announce theirs in the entry-point group ``hessgnn.engines``."""

engine = ENGINES.register


def _settings_of(content: Any) -> EngineSettings:
    """Check a section of a recipe against the settings of the engine that it names."""
    models: dict[str, Any] = dict.fromkeys(ENGINES)
    name = content.get("name", "tblite") if isinstance(content, Mapping) else None
    if isinstance(name, str) and (":" in name or name in models):
        models[name] = ENGINES[name].Settings
    return parse_named(models, content, key="name", where="engine", default="tblite")


EngineChoice = Annotated[SerializeAsAny[EngineSettings], BeforeValidator(_settings_of)]
"""A field of settings that holds those of any engine, by its name; tblite where none is given."""


def make_engine(settings: EngineSettings) -> Engine:
    """Make the engine that settings belong to; :class:`~hessgnn.errors.ConfigError` when its package is missing."""
    return ENGINES[settings.name](settings)  # type: ignore[call-arg]
