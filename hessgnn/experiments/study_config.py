"""Settings of a study: what is compared with what, on how much data, and for how much."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from hessgnn.evaluation.settings import DEFAULT_TASKS, TaskSettings, chosen_tasks
from hessgnn.runtime.config import Settings, merge, parse, set_dotted
from hessgnn.surface.engines.base import EngineChoice
from hessgnn.surface.engines.tblite import TBLiteSettings
from hessgnn.sweep.config import folder_name
from hessgnn.training.config import DataConfig, RunConfig

Regime = Literal["E", "E-F", "E-F+", "E-F-H"]
"""Labels that a potential is trained on: energies, forces, Hessians; ``E-F+`` has what Hessians cost in more frames."""

_MAY_CHANGE = {"workers"}


class LabelSettings(Settings):
    """The frames of ``E-F+``, and what labels cost."""

    engine: EngineChoice = TBLiteSettings()
    hessian_gradients: PositiveFloat | Literal["measured"] = Field(
        default=6.0,
        description="gradients that a Hessian costs, for each atom: 6 for central differences; or measured in seconds",
    )
    displacement: PositiveFloat = Field(
        default=0.1, description="largest standard deviation of a coordinate's displacement in a frame, Å"
    )
    attempts: PositiveInt = Field(default=20, description="draws for a frame before the structure counts as failed")
    seed: NonNegativeInt = Field(default=0, description="of the displacements, and of which part of the data is taken")


class StudyConfig(Settings):
    """A study. Every regime of an architecture has the same settings but for the labels that it sees."""

    name: str = Field(pattern=r"^\w[\w.-]*$", description="of its folder under runs/")
    architectures: dict[str, dict[str, Any]] = Field(
        min_length=1,
        description="label -> what its training configuration adds to the base; its potential's name is the label",
    )
    base: dict[str, Any] = Field(default_factory=dict, description="a training configuration without its potential")
    regimes: tuple[Regime, ...] = Field(default=("E-F", "E-F-H"), min_length=1)
    fractions: tuple[float, ...] = Field(
        default=(1.0,), min_length=1, description="of the groups of the training split, each part inside the next"
    )
    steps: PositiveInt = 800
    equal_seconds: bool = Field(
        default=False, description="train again, each regime for the device-seconds that E-F-H took"
    )
    seeds: tuple[NonNegativeInt, ...] = Field(default=(1, 2, 3), min_length=1)
    tasks: tuple[str, ...] = Field(default=DEFAULT_TASKS, min_length=1, description="of the runs on all of the data")
    evaluate: TaskSettings = TaskSettings()
    labels: LabelSettings = LabelSettings()
    workers: NonNegativeInt = Field(
        default=2, description="processes, one thread each; 0: none, jobs run in this one (for debugging)"
    )

    @field_validator("tasks")
    @classmethod
    def _tasks_are_known(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(chosen_tasks((*DEFAULT_TASKS, *tasks)))  # curves are drawn of errors

    @field_validator("fractions")
    @classmethod
    def _fractions_are_shares(cls, fractions: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < fraction <= 1 for fraction in fractions) or len(set(fractions)) < len(fractions):
            raise ValueError("fractions are different numbers above 0 and up to 1")
        return tuple(sorted(fractions))

    @model_validator(mode="after")
    def _every_configuration_is_valid(self) -> StudyConfig:
        if "potential" in self.base:
            raise ValueError("base holds no potential: architectures says which")
        folders = [folder_name(label) for label in self.architectures]
        twice = [label for label in self.architectures if folders.count(folder_name(label)) > 1]
        if twice:
            raise ValueError(f"architectures {' and '.join(twice)} would share a folder: their labels are too alike")
        if self.equal_seconds and "E-F-H" not in self.regimes:
            raise ValueError("equal_seconds needs the regime E-F-H, whose seconds the others get")
        for architecture in self.architectures:
            for regime in self.regimes:
                self.run_config(architecture, regime, seed=0, steps=self.steps)
        return self

    @property
    def data(self) -> DataConfig:
        """The whole data, of which the training split is divided into parts."""
        return self.run_config(next(iter(self.architectures)), self.regimes[0], seed=0, steps=1).data

    def identity(self) -> dict[str, Any]:
        """What makes it this study and no other."""
        return self.model_dump(mode="json", exclude=_MAY_CHANGE)

    def run_config(
        self, architecture: str, regime: Regime, *, seed: int, steps: int, changes: dict[str, Any] | None = None
    ) -> RunConfig:
        """The training configuration of a run.

        Parameters
        ----------
        architecture
            Its label.
        regime
            Weights of labels outside it are set to 0.
        seed, steps
            Of the run.
        changes
            Dotted key -> value, on top of the base.

        Returns
        -------
        RunConfig
            Checked.

        Raises
        ------
        ConfigError
            When it is not valid, or the regime finds a weight of 0.
        """
        content = merge({"potential": {"name": architecture}}, self.base, self.architectures[architecture])
        fixed = {"training.steps": steps, "training.seed": seed, "training.threads": 1, **(changes or {})}
        off = {"E": {"loss.forces": 0.0, "loss.hessian": 0.0}, "E-F": {"loss.hessian": 0.0}}
        off["E-F+"] = off["E-F"]
        for key, value in {**fixed, **off.get(regime, {})}.items():
            set_dotted(content, key, value)
        where = f"study {self.name!r}, architecture {architecture!r}"
        config = parse(RunConfig, content, where=where)
        if config.loss.regime != regime.rstrip("+"):
            raise ValueError(f"{where}: a loss weight is 0, so there is no regime {regime}")
        return config
