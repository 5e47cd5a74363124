"""Settings of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from hessgnn.curvature.probes import PROBES
from hessgnn.data.labels import Preparation
from hessgnn.data.plan import Interleaved
from hessgnn.errors import ConfigError
from hessgnn.potentials.adapters.base import AdaptedPotential
from hessgnn.potentials.base import Potential, PotentialConfig, resolve
from hessgnn.potentials.saved import trusted_by_user
from hessgnn.runtime.config import GrownSettings, Seed, Settings, parse
from hessgnn.training.average import AverageConfig
from hessgnn.training.data_config import ALL_LABELS, CompositionConfig, DataConfig, joined
from hessgnn.training.lora import LoraConfig, Patterns
from hessgnn.training.loss_config import LossConfig, list_probes, require_probes
from hessgnn.training.optimizer import OptimizerConfig, Optimizers, ParameterGroupConfig, ScheduleConfig

ErrorName = Literal["energy", "energy_molecule", "forces", "hessian"]
"""Errors of a validation."""


class ValidationConfig(Settings):
    """How the best checkpoint is chosen. Never by the loss: its weights are being tuned."""

    every: PositiveInt | Literal["epoch"] = Field(
        default=100,
        description="steps between validations, each followed by a checkpoint; or after the last step of each epoch",
    )
    patience: PositiveInt | None = Field(
        default=None,
        description="end the run after so many without improvement, not counting the warm-up; it has converged only "
        "with schedule.kind constant. Not needed with plateau, which ends the run, too",
    )
    min_improvement: NonNegativeFloat = Field(
        default=0.0, lt=1.0, description="relative decrease of the score that patience takes for an improvement"
    )
    hessian: str = Field(
        default="full",
        description="probes: fixed Rademacher vectors; or another kind of probes, drawn once",
        json_schema_extra=list_probes("probes"),
    )
    n_probes: PositiveInt = Field(default=8, description="for each structure, if probes are used")
    batch_size: PositiveInt = 64
    weights: dict[ErrorName, NonNegativeFloat] = Field(
        default={"energy": 1.0, "forces": 1.0, "hessian": 0.0},
        description="exponents of the errors in the score, a weighted geometric mean; energy is per atom, "
        "energy_molecule per molecule. Hessians of the validation split are not computed when theirs is 0",
    )

    @field_validator("hessian")
    @classmethod
    def _hessian_is_known(cls, hessian: str) -> str:
        return require_probes(hessian, "validation.hessian", "probes")

    @model_validator(mode="after")
    def _some_weight(self) -> ValidationConfig:
        if not sum(self.weights.values()) > 0:
            raise ValueError("at least one of the weights must be positive")
        return self

    @property
    def compares_hessians(self) -> bool:
        """Whether the score contains the Hessian error."""
        return self.weights.get("hessian", 0.0) > 0

    @property
    def probes(self) -> str | None:
        """Kind of the fixed probes; ``None`` where whole Hessians are compared."""
        return {"full": None, "probes": "rademacher"}.get(self.hessian, self.hessian)

    def preparation(self) -> Preparation | None:
        """What the loader computes of each structure for the probes."""
        if self.probes is None or not self.compares_hessians:
            return None
        return PROBES[self.probes]().preparation(self.n_probes)


_WEIGHT_DECAY, _EMA = 1e-6, 0.99


class TrainingConfig(GrownSettings):
    """The optimisation."""

    ADDED = ("composition", "optimizer", "average", "start", "freeze", "lora")

    steps: NonNegativeInt = Field(
        default=2000,
        description="most steps; a run ends before when its validation is flat, see schedule.kind plateau. With 0 "
        "nothing is trained: reference energies are fitted, and the potential is validated and saved",
    )
    start: str | None = Field(
        default=None, description="weights to begin with: a run folder, or a checkpoint file; fresh weights if absent"
    )
    freeze: Patterns = Field(
        default=(), description="parameters that are not trained, shell patterns such as 'model.*'"
    )
    lora: LoraConfig | None = Field(
        default=None, description="train low-rank updates of matrices, and nothing else: rank, alpha, match, also_train"
    )
    batch_size: PositiveInt = Field(default=16, description="most structures in a batch")
    max_atoms: PositiveInt | None = Field(default=None, description="most atoms in a batch; no limit if absent")
    max_edges: PositiveInt | None = Field(
        default=None, description="most edges in a batch: what time and memory of most architectures grow with"
    )
    hessian_share: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="least share of the structures of an epoch that have a Hessian or product that loss.probes.kind "
        "can use: they are repeated until it is reached. As in the data if absent",
    )
    composition: CompositionConfig | None = Field(
        default=None, description="structures with and without curvature labels in each batch, whose size is their sum"
    )
    workers: NonNegativeInt = Field(
        default=0, description="processes that make the next batches ahead; does not change the batches"
    )
    parts: PositiveInt = Field(
        default=1, description="pieces that a batch is computed in, one after the other: less memory, same gradient"
    )
    step: Literal["eager", "auto", "compiled", "captured"] = Field(
        default="eager",
        description="how loss and gradient are computed: by autograd (eager), or recorded once for each shape of "
        "batch and fused (compiled: takes minutes, kept on disk) or replayed as a CUDA graph (captured); auto is eager "
        "until another process has compiled",
    )
    optimizer: Optimizers = Field(
        default=OptimizerConfig(),
        description="name and arguments, or a list of parameter groups: match (shell pattern), name, lr, arguments",
    )
    schedule: ScheduleConfig = ScheduleConfig()
    weight_decay: NonNegativeFloat = Field(
        default=_WEIGHT_DECAY, description="of matrices, for optimizers that have one and do not set their own"
    )
    clip: PositiveFloat | None = Field(default=10.0, description="largest norm of the gradient")
    ema: float | None = Field(
        default=_EMA,
        ge=0,
        lt=1,
        description="decay of the averaged weights, which are validated and saved; no average if null. Short for "
        "average: {kind: ema, decay: ...}",
    )
    average: AverageConfig | None = Field(default=None, description="replaces ema")
    dtype: Literal["float32", "float64"] = "float32"
    device: str = Field(default="auto", description="auto takes CUDA where there is one")
    threads: PositiveInt | None = Field(default=None, description="CPU threads; torch's choice if absent")
    seed: Seed = 0

    @model_validator(mode="after")
    def _weight_decay_is_used(self) -> TrainingConfig:
        if self.weight_decay not in (0, _WEIGHT_DECAY) and not any(g.takes_weight_decay for g in self.parameter_groups):
            names = ", ".join(group.name for group in self.parameter_groups)
            raise ValueError(f"weight_decay has no effect: {names} sets its own or has none. Leave it out")
        return self

    @model_validator(mode="after")
    def _batches_are_described_once(self) -> TrainingConfig:
        if self.composition is None:
            return self
        others = ("hessian_share", "max_atoms", "max_edges")
        if given := [key for key in others if getattr(self, key) is not None]:
            hint = "; training.parts saves memory with the same gradient" if given[-1].startswith("max") else ""
            raise ValueError(f"composition fixes what a batch holds: leave {', '.join(given)} out{hint}")
        sizes = self.composition
        total = sizes.curvature + sizes.other
        if "batch_size" in self.model_fields_set and self.batch_size != total:
            raise ValueError(
                f"batch_size {self.batch_size} is not that of composition, {sizes.curvature} + {sizes.other}: leave it "
                f"out, or set it to {total}"
            )
        object.__setattr__(self, "batch_size", total)  # for all who ask how large a batch is
        return self

    @model_validator(mode="after")
    def _frozen_once(self) -> TrainingConfig:
        if self.lora is not None and self.freeze:
            raise ValueError("lora freezes all other parameters: leave freeze out, or choose matrices by lora.match")
        return self

    @model_validator(mode="after")
    def _ends_below_its_rate(self) -> TrainingConfig:
        schedule = self.schedule
        if schedule.kind == "plateau" and schedule.stop_below is not None and schedule.stop_below >= schedule.lr:
            raise ValueError(
                f"schedule.stop_below {schedule.stop_below:g} is not below schedule.lr {schedule.lr:g}: the run would "
                "end before the rate was ever lowered"
            )
        return self

    @model_validator(mode="after")
    def _average_is_given_once(self) -> TrainingConfig:
        if self.average is None:
            return self
        if self.ema not in (None, _EMA):
            raise ValueError("average and ema exclude each other: leave ema out")
        if self.average.kind == "swa" and 0 < self.steps < (self.average.start or 0) + self.average.every:
            raise ValueError("average.start + average.every must not be larger than steps: nothing would be averaged")
        return self

    @property
    def parameter_groups(self) -> tuple[ParameterGroupConfig, ...]:
        """The optimizer of each group of parameters."""
        if isinstance(self.optimizer, tuple):
            return self.optimizer
        return (ParameterGroupConfig(name=self.optimizer.name, **self.optimizer.arguments),)

    @property
    def averaging(self) -> AverageConfig:
        """How the weights are averaged."""
        if self.average is not None:
            return self.average
        return AverageConfig(kind="none") if self.ema is None else AverageConfig(decay=self.ema)


class RunConfig(Settings):
    """Everything that decides what a run computes: its resolved form is kept in the run folder."""

    name: str = Field(
        default="",
        description="what the leaderboard calls it; architecture, labels, and how it was fine-tuned, if empty",
    )
    potential: dict[str, Any] = Field(description="name, and settings of that architecture")
    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()
    training: TrainingConfig = TrainingConfig()
    validation: ValidationConfig = ValidationConfig()

    @field_validator("data", mode="before")
    @classmethod
    def _stores_may_be_a_list(cls, data: Any) -> Any:
        return joined(data)

    @model_validator(mode="after")
    def _potential_is_known(self) -> RunConfig:
        self.potential_config()
        return self

    @model_validator(mode="after")
    def _hessians_are_seen(self) -> RunConfig:
        """Refuse a run whose regime is E-F-H in name only."""
        steps = self.training.steps
        if not steps:  # nothing is trained, and nobody says that it was
            return self
        if self.loss.hessian and not any(self._probed_last(number) for number in range(len(self.order))):
            late = not self.loss.ramped(steps - 1)
            raise ConfigError(
                f"none of the {steps} steps has Hessian products with a weight, though loss.hessian is "
                f"{self.loss.hessian:g}",
                where="key 'loss.ramp.start'" if late else "key 'loss.probes.every'",
                hint="let the ramp start earlier, or raise training.steps"
                if late
                else "set loss.probes.every=1, or raise training.steps",
            )
        return self

    def _probed_last(self, source: int) -> float:
        """Share of the Hessian's weight in the last step on one of the stores that has products; 0 if none has."""
        data = self.data if source == 0 else self.data.also[source - 1]
        probes, number = self.loss.probes, self.order.done(self.training.steps)[source]
        last = number - 1 - (number - 1 - probes.first(self.seed_of(source))) % probes.every
        if "curvature" not in (data.labels or ALL_LABELS) or last < 0:
            return 0.0
        return self.loss.ramped(self.order.step(source, last))

    @property
    def order(self) -> Interleaved:
        """Which of the stores each step is on."""
        return Interleaved([1.0, *(more.replay for more in self.data.also)])

    def seed_of(self, source: int) -> int:
        """Seed of the batches of one of the stores: that of the run for the first, and others for the others."""
        seed = self.training.seed
        return seed if source == 0 else int(np.random.SeedSequence([seed, source]).generate_state(1)[0])

    @property
    def entry(self) -> str:
        """What the leaderboard joins the seeds of this configuration under."""
        if self.name:
            return self.name
        architecture = self.potential["name"]
        adapted = issubclass(self.potential_class(), AdaptedPotential)
        if adapted and (weights := self.potential.get("weights")) is not None:
            usual = self.potential_class().Config.model_fields["weights"].default
            architecture += "" if weights == usual else f" {Path(str(weights)).stem}"
        if not self.training.steps:
            return f"{architecture} {'published' if adapted and self.training.start is None else 'as started'}"
        started, lora = adapted or self.training.start is not None, self.training.lora
        ways = ["fine-tuned"] if started else []
        ways += [f"LoRA r{lora.rank}"] if lora else ["frozen"] if self.training.freeze else []
        ways += ["replay" if started else "several stores"] if self.data.also else []
        return " ".join([architecture, self.loss.regime, *ways])

    def potential_class(self) -> type[Potential]:
        """The architecture's class."""
        if not isinstance(self.potential.get("name"), str):
            raise ConfigError("no name is given", where="key 'potential'", hint="write for example `name: schnet`")
        return resolve(self.potential["name"])

    def potential_config(self) -> PotentialConfig:
        """The architecture's settings, checked."""
        settings = {key: value for key, value in self.potential.items() if key != "name"}
        return parse(self.potential_class().Config, settings, where=f"potential {self.potential['name']!r}")

    def with_steps(self, steps: int) -> RunConfig:
        """The same with another length."""
        return self.model_copy(update={"training": self.training.model_copy(update={"steps": steps})})

    def without_trust(self) -> RunConfig:
        """The same without what the user says of the file of weights: it counts where it is said, not in a file."""
        return self.model_copy(update={"potential": trusted_by_user(self.potential)})

    def with_resolved_potential(self, elements: list[int]) -> RunConfig:
        """Fill in the architecture's defaults, and the data's elements; an adapted potential keeps its own."""
        adapted = issubclass(self.potential_class(), AdaptedPotential)
        settings = dict(self.potential) if adapted else {"elements": elements, **self.potential}
        name = settings.pop("name")
        config = parse(self.potential_class().Config, settings, where=f"potential {name!r}")
        return self.model_copy(update={"potential": {"name": name, **config.model_dump(mode="json")}})

    def with_settings_of(self, potential: Potential) -> RunConfig:
        """Fill in what is known when the potential is made, such as the hash of the weights that it started from."""
        settings = potential.config.model_dump(mode="json")
        return self.model_copy(update={"potential": {"name": self.potential["name"], **settings}})
