"""Settings of a sweep: what is tuned, for which architectures, under which budget."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import Discriminator, Field, NonNegativeInt, PositiveInt, Tag, field_validator, model_validator

from hessgnn.benchmark.tasks import ACCURACY, chosen_tasks
from hessgnn.config import Settings, merge, parse, set_dotted
from hessgnn.training.config import RunConfig

Regime = Literal["E", "E-F", "E-F-H"]

_MAY_CHANGE = {"trials", "workers"}
"""Settings that the same sweep may be resumed with: a larger budget, other hands."""


class Range(Settings):
    """Numbers between two bounds."""

    low: float
    high: float
    log: bool = Field(default=False, description="equal chances for equal ratios; needs low > 0")
    integer: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"the range is empty: low {self.low} is not below high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError("a logarithmic range needs low > 0")
        if self.integer and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError("an integer range needs whole numbers as bounds")
        return self

    def extremes(self) -> tuple[Any, ...]:
        """Values that are valid settings if all are."""
        return (int(self.low), int(self.high)) if self.integer else (self.low, self.high)

    def distribution(self) -> BaseDistribution:
        """The same for Optuna."""
        if self.integer:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)


class Choice(Settings):
    """One of some values."""

    choices: tuple[str | int | float | bool | None, ...] = Field(min_length=1)

    def extremes(self) -> tuple[Any, ...]:
        """Values that are valid settings if all are."""
        return self.choices

    def distribution(self) -> BaseDistribution:
        """The same for Optuna."""
        return CategoricalDistribution(self.choices)


def _kind(values: Any) -> str:
    return "[choice]" if isinstance(values, Choice) or (isinstance(values, dict) and "choices" in values) else "[range]"


# Told apart by the key `choices`, so that an error is about the one that was meant.
Values = Annotated[Annotated[Range, Tag("[range]")] | Annotated[Choice, Tag("[choice]")], Discriminator(_kind)]


class SweepConfig(Settings):
    """A sweep. Every architecture gets the same trials, steps, data and rule of selection."""

    name: str = Field(pattern=r"^\w[\w.-]*$", description="of the study, and of its folder under runs/")
    architectures: dict[str, dict[str, Any]] = Field(
        min_length=1,
        description="label -> what its training configuration adds to the base; its potential's name is the label",
    )
    base: dict[str, Any] = Field(default_factory=dict, description="a training configuration without its potential")
    space: dict[str, Values] = Field(
        default={
            "loss.forces": Range(low=0.01, high=10.0, log=True),
            "loss.hessian": Range(low=1e-4, high=1.0, log=True),
        },
        description="dotted key of the training configuration -> values to try",
    )
    trials: int = Field(
        default=6, ge=2, description="for each architecture, in total: raise it to go on. The first is E-F alone"
    )
    startup: PositiveInt = Field(default=3, description="trials before the sampler learns from the others")
    trial_steps: PositiveInt = 200
    final_steps: PositiveInt = 800
    regimes: tuple[Regime, ...] = Field(default=("E-F", "E-F-H"), min_length=1, description="retrained and compared")
    seeds: tuple[NonNegativeInt, ...] = Field(default=(1,), min_length=1, description="of the retraining")
    tasks: tuple[str, ...] = Field(default=(ACCURACY,), min_length=1, description="that the retrained are judged by")
    workers: PositiveInt = Field(default=2, description="processes, one thread each")
    storage: str | None = Field(default=None, description="Optuna storage URL; a journal file in the folder if absent")
    seed: NonNegativeInt = Field(default=0, description="of the sampler and of the trials")

    @field_validator("tasks")
    @classmethod
    def _tasks_are_known(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(chosen_tasks(tasks))

    @field_validator("space")
    @classmethod
    def _space_holds_the_hessian_weight(cls, space: dict[str, Range | Choice]) -> dict[str, Range | Choice]:
        if "loss.hessian" not in space:
            raise ValueError("must tune loss.hessian: that is what a sweep is for")
        reserved = {"training.steps", "training.seed", "training.threads"} & set(space)
        if reserved:
            raise ValueError(f"cannot tune {', '.join(sorted(reserved))}: the budget is equal for every trial")
        tuned = [key for key in space if key.startswith("validation.")]
        if tuned:
            raise ValueError(f"cannot tune {tuned[0]}: the objective must be the same for every trial")
        return space

    @model_validator(mode="after")
    def _every_configuration_is_valid(self) -> SweepConfig:
        if "potential" in self.base:
            raise ValueError("base holds no potential: architectures says which")
        folders = [folder_name(label) for label in self.architectures]
        twice = [label for label in self.architectures if folders.count(folder_name(label)) > 1]
        if twice:
            raise ValueError(f"architectures {' and '.join(twice)} would share a folder: their labels are too alike")
        for architecture in self.architectures:
            self.run_config(architecture, {}, steps=self.trial_steps, seed=self.seed)
            for key, values in self.space.items():  # also refuses a key that a training configuration does not have
                for value in values.extremes():
                    self.run_config(architecture, {key: value}, steps=self.trial_steps, seed=self.seed)
        return self

    def identity(self) -> dict[str, Any]:
        """What makes it this sweep and no other: all settings that its trials and retrainings depend on."""
        return self.model_dump(mode="json", exclude=_MAY_CHANGE)

    def run_config(
        self, architecture: str, values: dict[str, Any], *, steps: int, seed: int, regime: Regime = "E-F-H"
    ) -> RunConfig:
        """The training configuration of a trial or of a retraining.

        Parameters
        ----------
        architecture
            Its label.
        values
            Dotted key -> value, on top of the base.
        steps
            Length of the run.
        seed
            Of the run.
        regime
            Weights of labels outside it are set to 0.

        Returns
        -------
        RunConfig
            Checked.
        """
        content = merge({"potential": {"name": architecture}}, self.base, self.architectures[architecture])
        content["name"] = f"{architecture} {regime}"
        fixed = {"training.steps": steps, "training.seed": seed, "training.threads": 1}
        off = {"E": {"loss.forces": 0.0, "loss.hessian": 0.0}, "E-F": {"loss.hessian": 0.0}}.get(regime, {})
        for key, value in {**values, **fixed, **off}.items():
            set_dotted(content, key, value)
        return parse(RunConfig, content, where=f"sweep {self.name!r}, architecture {architecture!r}")


def folder_name(label: str) -> str:
    """A label as the name of a folder or file."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in label)
