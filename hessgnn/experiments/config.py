"""Settings of experiments: what a sweep and a study share, and those of a study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from hessgnn.data.store.splits import is_for_tests
from hessgnn.evaluation.record import Budget
from hessgnn.evaluation.run import DEFAULT_TASKS, TaskSettings, chosen_tasks
from hessgnn.evaluation.tasks.base import TASKS
from hessgnn.runtime.config import Seed, Settings, get_dotted, merge, parse, set_dotted
from hessgnn.surface.engines.base import EngineChoice
from hessgnn.surface.engines.tblite import TBLiteSettings
from hessgnn.training.config import RunConfig
from hessgnn.training.data_config import DataConfig, joined
from hessgnn.training.regimes import StudyRegime, any_frames, label_set

OWN_DATA = {"energy_scale"}
"""Settings of the data that may differ between architectures, and be tuned."""
HALF = 0.5
"""Share of the structures of an epoch of ``E-F+H`` that have a Hessian: half of the cost, half of the steps."""


def folder_name(label: str) -> str:
    """A label as the name of a folder or file."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in label)


class LabelSettings(Settings):
    """Displaced frames and products, parts of the data, and what labels cost."""

    engine: EngineChoice = TBLiteSettings()
    mode_engine: EngineChoice = Field(
        default=TBLiteSettings(method="GFN1-xTB"),
        description="cheaper than the engine: its Hessians give the modes of E-F-M2 and E-F-S1, and cost no gradients",
    )
    hessian_gradients: PositiveFloat | Literal["measured"] = Field(
        default=6.0,
        description="gradients that a Hessian costs, for each atom: 6 for central differences; measured: in seconds",
    )
    displacement: PositiveFloat = Field(
        default=0.1, description="largest standard deviation of a coordinate's displacement in a frame, Å"
    )
    attempts: PositiveInt = Field(default=20, description="draws for a frame before the structure counts as failed")
    seed: Seed = Field(
        default=0, description="of the displacements; of the parts of the data, with the seed of the run"
    )


class ExperimentConfig(Settings):
    """Architectures that are trained on the same data with the same settings, on several kinds of labels."""

    KIND: ClassVar[str]
    """What messages call it."""
    MAY_CHANGE: ClassVar[dict[str, Any]] = {"workers": True}
    """Settings that may differ when the same experiment is resumed."""

    name: str = Field(pattern=r"^\w[\w.-]*$", description="of the experiment, and of its folder under runs/")
    architectures: dict[str, dict[str, Any]] = Field(
        min_length=1,
        description="label -> what its training configuration adds to the base; its potential's name is the label",
    )
    base: dict[str, Any] = Field(default_factory=dict, description="a training configuration without its potential")
    regimes: tuple[StudyRegime, ...] = Field(
        default=("E-F", "E-F-H"), min_length=1, description="labels that are compared"
    )
    fraction: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="of the training molecules and reactions, drawn anew for each seed",
    )
    labels: LabelSettings = LabelSettings()
    equal_seconds: bool | tuple[StudyRegime, ...] = Field(
        default=False,
        description="train again, the other regimes, or those named, for the device-seconds that E-F-H took",
    )
    step_costs: dict[str, dict[StudyRegime, PositiveFloat]] = Field(
        default_factory=dict,
        description="architecture -> regime -> cost of a training step, in any unit: what equal_seconds counts with; "
        "measured once and kept in the folder if absent",
    )
    seeds: tuple[Seed, ...] = Field(default=(1,), min_length=1)
    tasks: tuple[str, ...] = Field(default=DEFAULT_TASKS, min_length=1, description="of the evaluation")
    evaluate: TaskSettings = TaskSettings()
    demonstration: bool = Field(
        default=False, description="too short to be evidence: the leaderboard says so, and makes no claims"
    )
    workers: NonNegativeInt = Field(
        default=2, description="processes, each with one run at a time; 0: none, jobs run in this one (for debugging)"
    )
    rules: Literal[2, 3] = Field(
        default=3, description="version of the rules of comparison, kept with the settings; not to be set"
    )

    @field_validator("tasks")
    @classmethod
    def _tasks_are_known(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(chosen_tasks(tasks))

    @model_validator(mode="before")
    @classmethod
    def _keys_are_where_they_belong(cls, content: Any) -> Any:
        """Say where a key belongs that is a training configuration's, or not one's."""
        base = content.get("base") if isinstance(content, Mapping) else None
        if isinstance(base, Mapping) and "data" in base:  # one form for all who set a key of it
            base = {**base, "data": joined(base["data"])}
            content = {**content, "base": base}
        for given, prefix, known, other in (
            (content, "base.", RunConfig.model_fields, cls.model_fields),
            (base, "", cls.model_fields, RunConfig.model_fields),
        ):
            for key, value in given.items() if isinstance(given, Mapping) else ():
                if key in known and key not in other and key != "potential":
                    while isinstance(value, Mapping) and len(value) == 1:
                        ((part, value),) = value.items()
                        key = f"{key}.{part}"
                    raise ValueError(f"{'' if prefix else 'base.'}{key} is no key here; did you mean {prefix}{key}?")
        return content

    @model_validator(mode="after")
    def _frames_are_used(self) -> Self:
        # The default stands in the settings that every experiment keeps.
        if self.labels.displacement != LabelSettings().displacement and not any_frames(self.regimes):
            raise ValueError(
                f"labels.displacement: no kind of labels in {', '.join(self.regimes)} has displaced frames"
            )
        return self

    @field_validator("regimes", "seeds", "fractions", check_fields=False)
    @classmethod
    def _none_is_twice(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if twice := [value for value in values if values.count(value) > 1]:
            raise ValueError(f"{twice[0]} is there twice: its runs would count twice")
        return values

    @model_validator(mode="after")
    def _data_are_the_same(self) -> Self:
        for label, settings in self.architectures.items():
            own = get_dotted(settings, "data")
            if isinstance(own, dict) and (other := set(own) - OWN_DATA):
                raise ValueError(f"{label}: data.{min(other)} is the same for all architectures: it stands in base")
        data = get_dotted(self.base, "data")
        others = data.get("also") if isinstance(data, dict) else None
        for store in (data, *(others if isinstance(others, list | tuple) else ())):
            for key in ("train", "validation"):
                split = store.get(key) if isinstance(store, dict) else None
                if isinstance(split, str) and is_for_tests(split):
                    raise ValueError(f"data.{key}: split {split!r} is for tests, so nothing is learnt or chosen by it")
        return self

    @model_validator(mode="after")
    def _architectures_are_distinct(self) -> Self:
        if "potential" in self.base:
            raise ValueError("base holds no potential: architectures says which")
        folders = [folder_name(label) for label in self.architectures]
        twice = [label for label in self.architectures if folders.count(folder_name(label)) > 1]
        if twice:
            raise ValueError(f"architectures {' and '.join(twice)} would share a folder: their labels are too alike")
        if self.equal_seconds and "E-F-H" not in self.regimes:
            raise ValueError("equal_seconds needs the regime E-F-H, whose seconds the others get")
        for label, costs in self.step_costs.items():
            if label not in self.architectures:
                raise ValueError(f"step_costs: {label!r} is none of the architectures")
            wanted = self.timed or self.regimes
            if missing := [regime for regime in wanted if regime not in costs]:
                raise ValueError(f"step_costs.{label} lacks {', '.join(missing)}: give all regimes, or none")
        again = self.equal_seconds if isinstance(self.equal_seconds, tuple) else ()
        if unknown := [regime for regime in again if regime not in self.regimes]:
            raise ValueError(f"equal_seconds: {unknown[0]} is none of the regimes")
        return self

    @property
    def data(self) -> DataConfig:
        """The data that all runs are trained on."""
        return self.run_config(next(iter(self.architectures)), {}, steps=1, seed=0, regime=self.regimes[0]).data

    @property
    def retrained(self) -> list[str]:
        """Regimes that are trained again for the device-seconds of E-F-H.

        With curvature labels of every structure a step is that of E-F-H, so equal steps are equal seconds.
        """
        if isinstance(self.equal_seconds, tuple):
            return [regime for regime in self.regimes if regime in self.equal_seconds and regime != "E-F-H"]
        return [regime for regime in self.regimes if self.equal_seconds and not label_set(regime).steps_like_hessians]

    @property
    def timed(self) -> list[str]:
        """Regimes whose cost of a step is needed."""
        wanted = {*self.retrained, "E-F", "E-F-H"} if self.equal_seconds else set()
        return [regime for regime in self.regimes if regime in wanted]

    def identity(self) -> dict[str, Any]:
        """All settings that results depend on: an experiment with another identity is a different one.

        Settings of tasks that are not run do not count, so that their defaults may change with the version.
        """
        found = self.model_dump(mode="json", exclude=self.MAY_CHANGE)
        kept = {"subjects", "sample", *(TASKS[name].name for name in self.tasks)}
        found["evaluate"] = {key: value for key, value in found["evaluate"].items() if key in kept}
        return found

    def run_config(
        self,
        architecture: str,
        values: dict[str, Any],
        *,
        steps: int,
        seed: int,
        regime: StudyRegime = "E-F-H",
        budget: Budget = "steps",
    ) -> RunConfig:
        """The training configuration of one run.

        Parameters
        ----------
        architecture
            Its label.
        values
            Dotted key -> value, on top of the base.
        steps, seed
            Of the run.
        regime
            Weights of labels outside it are set to 0.
        budget
            What it shares with the other regimes.

        Returns
        -------
        RunConfig
            Checked.

        Raises
        ------
        ConfigError
            When it is not valid.
        """
        content = merge({"potential": {"name": architecture}}, self.base, self.architectures[architecture])
        given = [get_dotted(content, f"training.{key}") for key in ("hessian_share", "composition")]
        if regime == "E-F+H" and given == [None, None]:
            set_dotted(content, "training.hessian_share", HALF)
        content["name"] = f"{architecture} {regime}" + (", equal time" if budget == "seconds" else "")
        fixed = {"training.steps": steps, "training.seed": seed, **self.fixed_values()}
        labels = label_set(regime)
        needed: dict[str, Any] = {f"loss.{term}": 0.0 for term in labels.zero_weights}
        if labels.probes is not None:
            needed["loss.probes.kind"] = labels.probes
        for key, value in {**fixed, **values, **needed}.items():
            set_dotted(content, key, value)
        return parse(RunConfig, content, where=self.where(architecture))

    def fixed_values(self) -> dict[str, Any]:
        """Dotted key -> value that every run has."""
        return {}

    def where(self, architecture: str) -> str:
        """The part of the settings that belongs to an architecture, for messages."""
        return f"{self.KIND} {self.name!r}, architecture {architecture!r}"


class StudyConfig(ExperimentConfig):
    """A study. Every regime of an architecture has the same settings but for the labels that it sees."""

    KIND: ClassVar[str] = "study"

    fractions: tuple[float, ...] = Field(
        default=(1.0,),
        min_length=1,
        description="of the training molecules and reactions, drawn anew for each seed, each part inside the next",
    )
    steps: PositiveInt = 800
    seeds: tuple[Seed, ...] = Field(default=(1, 2, 3), min_length=1)
    tasks: tuple[str, ...] = Field(default=DEFAULT_TASKS, min_length=1, description="of the runs on all of the data")
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
        if not all(0 < fraction <= 1 for fraction in fractions):
            raise ValueError("fractions are numbers above 0 and up to 1")
        return tuple(sorted(fractions))

    @model_validator(mode="after")
    def _every_configuration_is_valid(self) -> Self:
        if self.fraction != 1:
            raise ValueError(f"a study has fractions: write fractions: [{self.fraction:g}]")
        for architecture in self.architectures:
            for regime in self.regimes:
                run = self.run_config(architecture, {}, steps=self.steps, seed=0, regime=regime)
                if run.loss.regime != label_set(regime).of_loss:
                    raise ValueError(f"{self.where(architecture)}: a loss weight is 0, so there is no regime {regime}")
        return self

    def fixed_values(self) -> dict[str, Any]:
        """Workers have one thread each."""
        return {"training.threads": 1}
