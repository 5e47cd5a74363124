"""Settings of a sweep: what is tuned, for which architectures, under which budget."""

from __future__ import annotations

from typing import Any, Literal

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from hessgnn.config import Settings, merge, parse, set_dotted
from hessgnn.training.config import RunConfig

Regime = Literal["E", "E-F", "E-F-H"]


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
        return self

    def distribution(self) -> BaseDistribution:
        """The same for Optuna."""
        if self.integer:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)


class Choice(Settings):
    """One of some values."""

    choices: tuple[str | int | float | bool | None, ...] = Field(min_length=1)

    def distribution(self) -> BaseDistribution:
        """The same for Optuna."""
        return CategoricalDistribution(self.choices)


class SweepConfig(Settings):
    """A sweep. Every architecture gets the same trials, steps, data and rule of selection."""

    name: str = Field(pattern=r"^[\w.-]+$", description="of the study, and of its folder under runs/")
    architectures: dict[str, dict[str, Any]] = Field(
        min_length=1,
        description="label -> what its training configuration adds to the base; its potential's name is the label",
    )
    base: dict[str, Any] = Field(default_factory=dict, description="a training configuration without its potential")
    space: dict[str, Range | Choice] = Field(
        default={
            "loss.forces": Range(low=0.01, high=10.0, log=True),
            "loss.hessian": Range(low=1e-4, high=1.0, log=True),
        },
        description="dotted key of the training configuration -> values to try",
    )
    trials: PositiveInt = Field(default=6, description="for each architecture, in total: raise it to go on")
    startup: PositiveInt = Field(default=3, description="trials before the sampler learns from the others")
    trial_steps: PositiveInt = 200
    final_steps: PositiveInt = 800
    regimes: tuple[Regime, ...] = Field(default=("E-F", "E-F-H"), min_length=1, description="retrained and compared")
    seeds: tuple[NonNegativeInt, ...] = Field(default=(1,), min_length=1, description="of the retraining")
    workers: PositiveInt = Field(default=2, description="processes, one thread each")
    storage: str | None = Field(default=None, description="Optuna storage URL; a journal file in the folder if absent")
    seed: NonNegativeInt = Field(default=0, description="of the sampler and of the trials")

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
        for key in self.space:  # also refuses a dotted key that a training configuration does not have
            values = self.space[key]
            value = values.choices[0] if isinstance(values, Choice) else values.low
            for architecture in self.architectures:
                self.run_config(architecture, {key: value}, steps=self.trial_steps, seed=self.seed)
        for architecture in self.architectures:
            self.run_config(architecture, {}, steps=self.trial_steps, seed=self.seed)
        return self

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
