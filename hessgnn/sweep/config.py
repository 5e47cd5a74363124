"""Settings of a sweep: what is tuned, for which architectures and kinds of labels, under which budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    field_validator,
    model_validator,
)

from hessgnn.evaluation.run import DEFAULT_TASKS, chosen_tasks
from hessgnn.experiments.config import OWN_DATA, ExperimentConfig, LabelSettings, folder_name
from hessgnn.runtime.config import Seed, Settings, get_dotted, parse
from hessgnn.training.config import RunConfig
from hessgnn.training.regimes import StudyRegime, label_set

PAPER_WEIGHTS = {"loss.forces": 0.30, "loss.hessian": 0.09}
"""Å² and Å⁴, of arXiv 2503.07839."""

Plain = str | int | float | bool | None
"""What a choice may be."""


class Values(Settings):
    """Values of one key."""

    when: dict[str, Plain | tuple[Plain, ...]] = Field(
        default_factory=dict,
        description="key -> value or values: tried only where these keys, choices above it in the space, have them",
    )

    def extremes(self) -> tuple[Any, ...]:
        """Values that are valid settings if all are."""
        raise NotImplementedError

    def nearest(self, value: Any) -> Any:
        """The allowed value nearest to one that is known to be good; ``None`` if there is nothing like it."""
        raise NotImplementedError


class Range(Values):
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
        """Both bounds."""
        return (int(self.low), int(self.high)) if self.integer else (self.low, self.high)

    def nearest(self, value: Any) -> Any:
        """The value itself, or the bound nearest to it."""
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None  # switched off in the base
        lowest, highest = self.extremes()
        return min(max(value, lowest), highest)


class Choice(Values):
    """One of some values."""

    choices: tuple[Plain, ...] = Field(min_length=1)

    def extremes(self) -> tuple[Any, ...]:
        """All of them."""
        return self.choices

    def nearest(self, value: Any) -> Any:
        """The value if it is among them."""
        return value if value in self.choices else None


def _kind(values: Any) -> str:
    return "[choice]" if isinstance(values, Choice) or (isinstance(values, dict) and "choices" in values) else "[range]"


# Told apart by the key `choices`, so that an error is about the one that was meant.
Either = Annotated[Annotated[Range, Tag("[range]")] | Annotated[Choice, Tag("[choice]")], Discriminator(_kind)]
Space = dict[str, Either]
"""Dotted key of the training configuration, or :data:`DISPLACEMENT` -> its values."""

DISPLACEMENT = "labels.displacement"
"""The key of a space that chooses the displaced frames, which are no part of a training configuration."""

_SCHEDULE = "training.schedule."  # whose settings limit each other


@dataclass(frozen=True)
class Subject:
    """What is tuned on its own: an architecture with a kind of labels."""

    architecture: str
    regime: StudyRegime

    def __str__(self) -> str:
        return f"{self.architecture} {self.regime}"

    @property
    def folder(self) -> str:
        """Of its trials, relative to that of all trials."""
        return f"{folder_name(self.architecture)}/{label_set(self.regime).file_name}"

    @property
    def file(self) -> str:
        """Stem of its files."""
        return f"{folder_name(self.architecture)} {label_set(self.regime).file_name}"

    @property
    def has_hessians(self) -> bool:
        """Whether it is trained on Hessians, or on products of them."""
        return label_set(self.regime).has_curvature


def is_used(key: str, regime: StudyRegime) -> bool:
    """Whether a key of a space matters to a kind of labels.

    ``loss.hessian`` and what says how Hessians are compared need Hessians, ``loss.forces`` needs forces, and
    :data:`DISPLACEMENT` needs displaced frames.
    """
    if key == DISPLACEMENT:
        return label_set(regime).has_frames
    if key.startswith(("loss.hessian", "loss.probes", "loss.huber")):
        return label_set(regime).has_curvature
    return not key.startswith(("loss.forces", "loss.ramp")) or label_set(regime).forces


def check_conditions(space: Mapping[str, Values]) -> None:
    """Refuse a condition that could never be met, or not be known in time.

    Raises
    ------
    ValueError
        Naming the key.
    """
    above: dict[str, Values] = {}
    for key, values in space.items():
        for other, wanted in values.when.items():
            if not isinstance(above.get(other), Choice):
                raise ValueError(f"{key} depends on {other!r}, which is no choice above it in the space")
            allowed = above[other].extremes()
            missing = [value for value in several(wanted) if value not in allowed]
            if missing:
                raise ValueError(f"{key} depends on {other} = {missing[0]!r}, which is not among its choices {allowed}")
        above[key] = values


def corners(space: Mapping[str, Values], prefix: str) -> list[dict[str, Any]]:
    """All combinations of the extremes of those keys that begin so."""
    found: list[dict[str, Any]] = [{}]
    for key, values in space.items():
        if key.startswith(prefix):
            unmet = [one for one in found if any(k in one and one[k] not in several(w) for k, w in values.when.items())]
            met = [one for one in found if one not in unmet]
            found = [*unmet, *({**one, key: value} for one in met for value in values.extremes())]
    return found


def several(wanted: Any) -> tuple[Any, ...]:
    """The values of a condition, which may name one or several."""
    return wanted if isinstance(wanted, tuple) else (wanted,)


class BudgetConfig(Settings):
    """What each architecture with each kind of labels may spend on tuning. No trial is begun once any is spent."""

    trials: PositiveInt = Field(default=6, description="in total: raise it to go on. The first has the paper's weights")
    steps: PositiveInt = Field(default=200, description="of a trial")
    hours: PositiveFloat | None = Field(default=None, description="that the trials may take together, by the clock")
    device_seconds: PositiveFloat | None = Field(default=None, description="of training, over all trials")
    trial_hours: PositiveFloat | None = Field(
        default=None, description="that one trial may take; a longer one has failed"
    )


class SamplerConfig(Settings):
    """Who proposes the values."""

    kind: Literal["tpe", "gp", "cmaes", "random", "qmc"] = Field(
        default="tpe",
        description="tree-structured Parzen estimator (multivariate), Gaussian process, CMA-ES, random, quasi-random",
    )
    startup: PositiveInt = Field(default=3, description="trials before it learns from the others")


class PrunerConfig(Settings):
    """Who stops trials that promise little."""

    kind: Literal["none", "median", "hyperband"] = "none"
    startup: PositiveInt = Field(default=3, description="median: trials that are not stopped")
    warmup: NonNegativeInt = Field(default=0, description="steps before which no trial is stopped")
    reduction: int = Field(default=3, ge=2, description="hyperband: share of the trials that go on is one in so many")


_UNITS = {"energy": "meV/atom", "forces": "10 meV/Å", "hessian": "0.1 eV/Å²"}


class ObjectiveConfig(Settings):
    """What a trial is judged by: its validation errors in fixed units, the same for all kinds of labels."""

    weights: dict[Literal["energy", "forces", "hessian"], NonNegativeFloat] = Field(
        default={"energy": 1.0, "forces": 1.0, "hessian": 0.0},
        description="exponents of the errors in their geometric mean; checkpoints are chosen by the same",
    )
    cost: Literal["device_seconds", "products"] | None = Field(
        default=None, description="a second objective, of training: every compromise is kept (Pareto front)"
    )

    def describe(self) -> str:
        """Say what a score is."""
        used = {name: weight for name, weight in self.weights.items() if weight}
        equal = len(set(used.values())) == 1
        errors = [f"{name} ({_UNITS[name]})" + ("" if equal else f" to the power {used[name]:g}") for name in used]
        mean = "" if len(used) == 1 else f"{'' if equal else 'weighted '}geometric mean of the "
        return f"{mean}validation RMSE of {' and '.join(errors)}; lower is better"


class RankingConfig(Settings):
    """Whether trials are ranked alike after as many steps as the retraining has."""

    trials: NonNegativeInt = Field(
        default=0, description="best trials, beside the worst one, that are trained for final_steps; 0: no check"
    )


class SweepConfig(ExperimentConfig):
    """A sweep. Every architecture with every kind of labels gets the same budget, data and rule of selection."""

    KIND: ClassVar[str] = "sweep"
    MAY_CHANGE: ClassVar[dict[str, Any]] = {
        "budget": {"trials", "hours", "device_seconds", "trial_hours"},
        "check_ranking": True,
        "workers": True,
        "threads": True,
        "max_retries": True,
        "heartbeat": True,
        "storage": True,
    }

    seeds: tuple[Seed, ...] = Field(default=(1,), min_length=1, description="of the retraining")
    space: Space = Field(
        default={
            "training.schedule.lr": Range(low=5e-4, high=1e-2, log=True),
            "loss.forces": Range(low=0.03, high=30.0, log=True),
            "loss.hessian": Range(low=3e-3, high=3.0, log=True),
        },
        description="dotted key of the training configuration, or labels.displacement -> values to try; each kind of "
        "labels has those that it uses",
    )
    objective: ObjectiveConfig = ObjectiveConfig()
    budget: BudgetConfig = BudgetConfig()
    sampler: SamplerConfig = SamplerConfig()
    pruner: PrunerConfig = PrunerConfig()
    transfer: bool = Field(
        default=False,
        description="try each architecture with the weights of each other, where Hessians are used",
    )
    check_ranking: RankingConfig = RankingConfig()
    final_steps: PositiveInt = Field(
        default=800, description="at most, of the retraining; it ends earlier where its validation is flat"
    )
    equal_seconds_tasks: tuple[str, ...] = Field(
        default=DEFAULT_TASKS, min_length=1, description="tasks of the runs that were retrained for equal time"
    )
    threads: PositiveInt | None = Field(
        default=None, description="CPU threads of each worker; the cores divided between them if absent"
    )
    storage: str | None = Field(
        default=None,
        description="where trials are kept and shared by several machines: an Optuna URL (postgresql://, mysql://, "
        "sqlite:///), journal:PATH or grpc://HOST:PORT; a journal file in the folder if absent",
    )
    max_retries: NonNegativeInt = Field(
        default=3, description="times that a trial whose process died is tried again, from its last checkpoint"
    )
    heartbeat: PositiveFloat = Field(
        default=15.0, description="seconds between heartbeats; a trial that misses three counts as dead"
    )
    seed: Seed = Field(default=0, description="of the sampler and of the trials")

    @field_validator("sampler", "pruner", mode="before")
    @classmethod
    def _kind_alone(cls, given: Any) -> Any:
        return {"kind": given} if isinstance(given, str) else given

    @field_validator("equal_seconds_tasks")
    @classmethod
    def _equal_seconds_tasks_are_known(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(chosen_tasks(tasks))

    @field_validator("space")
    @classmethod
    def _space_is_fair(cls, space: dict[str, Range | Choice]) -> dict[str, Range | Choice]:
        reserved = {"training.steps", "training.seed", "training.threads"} & set(space)
        if reserved:
            raise ValueError(f"cannot tune {', '.join(sorted(reserved))}: the budget is equal for every trial")
        tuned = [key for key in space if key.startswith(("validation.", "objective."))]
        if tuned:
            raise ValueError(f"cannot tune {tuned[0]}: the objective must be the same for every trial")
        if fixed := [key for key in space if key.partition(".")[0] == "data" and key[5:] not in OWN_DATA]:
            raise ValueError(f"cannot tune {fixed[0]}: the data must be the same for every trial")
        check_conditions(space)
        return space

    @model_validator(mode="after")
    def _parts_suit_each_other(self) -> Self:
        if self.objective.cost is not None:
            if self.pruner.kind != "none":
                raise ValueError(
                    f"the pruner {self.pruner.kind!r} cannot weigh two objectives: "
                    "leave objective.cost out, or set pruner.kind to none"
                )
            if self.sampler.kind == "cmaes":
                raise ValueError("the sampler 'cmaes' has one objective only: choose tpe, gp, random or qmc")
        conditional = [key for key, values in self.space.items() if values.when]
        if conditional and self.sampler.kind not in ("tpe", "random"):
            raise ValueError(
                f"the sampler {self.sampler.kind!r} knows no conditions, and {conditional[0]} has one: "
                "choose tpe or random"
            )
        checked = self.check_ranking.trials
        if checked and self.budget.trials <= checked:
            raise ValueError(
                f"check_ranking.trials = {checked} compares with a worse trial, and budget.trials is "
                f"{self.budget.trials}: give it more than {checked}, or leave the check out"
            )
        if not sum(self.objective.weights.values()) > 0:
            raise ValueError("objective.weights: at least one must be positive")
        return self

    @model_validator(mode="after")
    def _every_configuration_is_valid(self) -> Self:
        for where in (self.base, *self.architectures.values()):
            if get_dotted(where, "validation.weights") is not None:
                raise ValueError("validation.weights is objective.weights in a sweep: write it there")
        unused = [key for key in self.space if not any(is_used(key, regime) for regime in self.regimes)]
        if unused:
            raise ValueError(f"no kind of labels in regimes uses {unused[0]}: leave it out of the space")
        for subject in self.subjects:
            space = self.space_of(subject.regime)
            for together in corners(space, _SCHEDULE):
                self.trial_config(subject, together)
            for key, values in space.items():  # also refuses an unknown key
                for value in () if key.startswith(_SCHEDULE) else values.extremes():
                    self.trial_config(subject, {key: value})
                    if key == DISPLACEMENT:
                        labels = {**self.labels.model_dump(), "displacement": value}
                        parse(LabelSettings, labels, where=f"space of sweep {self.name!r}, {key}")
        for regime in self.regimes:
            if self.budget.trials > 1 and not self.space_of(regime):
                raise ValueError(
                    f"the space holds nothing that {regime} uses, so its trials would all be the same: "
                    "add training.schedule.lr"
                )
        return self

    @property
    def subjects(self) -> list[Subject]:
        """What is tuned on its own, kind by kind for each architecture."""
        return [Subject(architecture, regime) for architecture in self.architectures for regime in self.regimes]

    def space_of(self, regime: StudyRegime) -> Space:
        """The part of the space that a kind of labels uses; a key that depends on an unused one is unused too."""
        found: Space = {}
        for key, values in self.space.items():
            if is_used(key, regime) and all(other in found for other in values.when):
                found[key] = values
        return found

    def fixed_values(self) -> dict[str, Any]:
        """Checkpoints are chosen by the objective."""
        return {"validation.weights": dict(self.objective.weights)}

    def trial_config(self, subject: Subject, values: Mapping[str, Any], *, steps: int | None = None) -> RunConfig:
        """The training configuration of a trial, of ``budget.steps`` if no other number is given."""
        return self.run_config(
            subject.architecture,
            run_values(values),
            steps=steps or self.budget.steps,
            seed=self.seed,
            regime=subject.regime,
        )

    def count_runs(self) -> RunCounts:
        """Count the runs of the whole sweep."""
        n, runs, checked = len(self.subjects), len(self.seeds), self.check_ranking.trials
        others = len(self.architectures) * len(self.retrained)
        foreign = sum(subject.has_hessians for subject in self.subjects) * (len(self.architectures) - 1)
        return RunCounts(
            trials=n * self.budget.trials,
            trial_steps=self.budget.steps,
            transfers=foreign if self.transfer else 0,
            checks=n * min(checked + 1, self.budget.trials) if checked else 0,
            finals=n * runs,
            final_steps=self.final_steps,
            equal_seconds=others * runs,
        )


def run_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a trial's values that belong to a training configuration."""
    return {key: value for key, value in values.items() if key != DISPLACEMENT}


@dataclass(frozen=True)
class RunCounts:
    """Numbers of runs and their steps: what ``--dry-run`` prints and what the progress bar counts."""

    trials: int
    trial_steps: int
    transfers: int
    checks: int
    """Trials that are trained again for ``final_steps``, to check their ranking."""
    finals: int
    final_steps: int
    equal_seconds: int

    @property
    def runs(self) -> int:
        """All of them."""
        return self.trials + self.transfers + self.checks + self.finals + self.equal_seconds

    @property
    def steps(self) -> int:
        """Training steps of all runs; one for equal time counts as ``final_steps``, like the others."""
        tuning = (self.trials + self.transfers) * self.trial_steps
        return tuning + (self.checks + self.finals + self.equal_seconds) * self.final_steps
