"""Settings of a training run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from pydantic import (
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

from hessgnn.curvature.probes import PROBES
from hessgnn.data.labels import Preparation
from hessgnn.errors import ConfigError, did_you_mean
from hessgnn.potentials.base import Potential, PotentialConfig, resolve
from hessgnn.runtime.config import Seed, Settings, parse
from hessgnn.training.average import AverageConfig
from hessgnn.training.optimizer import OptimizerConfig, ParameterGroupConfig, ScheduleConfig
from hessgnn.training.regimes import LossRegime, regime_of


class DataConfig(Settings):
    """Where the labels come from."""

    path: str = Field(default="rtp-mini", description="an HDF5 store, or the name of a bundled one")
    train: str = Field(default="train", description="split to train on")
    validation: str = Field(default="validation", description="split that the best checkpoint is chosen by")
    reference_energies: dict[int, float] | None = Field(
        default=None, description="eV for each atomic number; fitted to the training split by least squares if absent"
    )
    energy_scale: PositiveFloat = Field(
        default=1.0,
        description="eV: one unit of the network's output. The same for all kinds of labels that are compared, since "
        "it decides the size of the first steps; tune it like a learning rate",
    )


def _require_probes(kind: str, key: str, *others: str) -> str:
    """Give back a kind of probes that can be found, or one of ``others``."""
    if kind in others:
        return kind
    try:
        PROBES[kind]
    except ConfigError as error:
        hint = error.hint if ":" in kind else did_you_mean(kind, [*others, *PROBES])
        raise ConfigError(error.what, where=f"key {key!r}, {error.where!r}", hint=hint) from error
    return kind


def _list_probes(*others: str) -> Callable[[dict[str, Any]], None]:
    """Name the known kinds of probes in a JSON schema; another one is given by its import path."""

    def extend(schema: dict[str, Any]) -> None:
        schema["anyOf"] = [{"enum": [*others, *PROBES]}, {"pattern": r"^[\w.]+:\w+$"}]

    return extend


class ProbeConfig(Settings):
    """What the Hessian is compared on in a training step."""

    kind: str = Field(
        default="rademacher", description="a registered name or module:Kind", json_schema_extra=_list_probes()
    )
    number: PositiveInt = Field(default=1, description="rows, atoms, random vectors or parts of the modes, a step")
    fraction: PositiveFloat = Field(default=1.0, le=1.0, description="share of the batch that is probed in a step")
    every: PositiveInt = Field(
        default=4,
        description="steps from one with Hessian products to the next; the term then counts as many times as much, so "
        "that the sum over the steps has the same mean. Which step is the first follows from the seed. Validations "
        "that follow each other in fewer steps may have no loss_hessian between them",
    )
    backend: Literal["vmap", "loop", "replicate"] = Field(
        default="vmap", description="how products are formed; fixed, so that a resumed run repeats every digit"
    )

    def first(self, seed: int) -> int:
        """First of the steps with Hessian products, from 0 to ``every`` - 1: uniformly distributed over the seeds.

        A fixed phase would always meet the same place in cycles of the data or of the learning rate.
        """
        return int(torch.randint(self.every, (), generator=torch.Generator().manual_seed(seed)))

    @field_validator("kind")
    @classmethod
    def _kind_is_known(cls, kind: str) -> str:
        return _require_probes(kind, "loss.probes.kind")

    @model_validator(mode="before")
    @classmethod
    def _of_older_versions(cls, content: Any) -> Any:
        """Take products in every step where all other keys are given, as the files of runs before 0.3.0 do."""
        if isinstance(content, dict) and content.keys() == cls.model_fields.keys() - {"every"}:
            return content | {"every": 1}
        return content


class WeightRamp(Settings):
    """Linear growth of the force and Hessian weights from 0 to their full value."""

    start: NonNegativeInt = Field(default=0, description="last step with weight 0")
    stop: PositiveInt = Field(description="first step with the full weight")

    @model_validator(mode="after")
    def _in_order(self) -> WeightRamp:
        if self.start >= self.stop:
            raise ValueError("start must come before stop")
        return self


class LossConfig(Settings):
    """Weights and forms of the loss terms. The energy's weight is 1: the others are relative to it."""

    forces: NonNegativeFloat = Field(default=0.30, description="Å²")
    hessian: NonNegativeFloat = Field(default=0.09, description="Å⁴")
    energy_form: Literal["per_atom", "per_sqrt_atom"] = Field(
        default="per_sqrt_atom",
        description="mean of ΔE²/√N as in arXiv 2503.07839, which the weights 0.30 and 0.09 belong to, or of (ΔE/N)². "
        "The second is smaller by N^1.5, so the same weights put N^1.5 times more on forces and Hessian",
    )
    hessian_function: Literal["squared", "l1", "huber"] = "squared"
    huber_delta: PositiveFloat = Field(default=1.0, description="eV/Å²: where Huber turns from squared to linear")
    probes: ProbeConfig = ProbeConfig()
    ramp: WeightRamp | None = Field(default=None, description="constant weights if absent")

    @model_validator(mode="after")
    def _probes_suit_the_function(self) -> LossConfig:
        if self.hessian_function != "squared" and PROBES[self.probes.kind].whole_rows is False:
            raise ValueError(
                f"hessian_function {self.hessian_function!r} needs whole rows: random probes mix the entries of a row. "
                f"Use one of probes.kind {', '.join(name for name, kind in PROBES.items() if kind.whole_rows)}"
            )
        return self

    def ramped(self, step: int) -> float:
        """Share of the force and Hessian weights in a step, counted from 0: 1 without a ramp."""
        if self.ramp is None:
            return 1.0
        return min(1.0, max(0.0, (step - self.ramp.start) / (self.ramp.stop - self.ramp.start)))

    @property
    def regime(self) -> LossRegime:
        """Which labels the loss sees."""
        return regime_of(self.forces, self.hessian)

    def preparation(self) -> Preparation | None:
        """What the loader computes of each structure for the probes."""
        return PROBES[self.probes.kind]().preparation(self.probes.number) if self.hessian else None


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
        json_schema_extra=_list_probes("probes"),
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
        return _require_probes(hessian, "validation.hessian", "probes")

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


class CompositionConfig(Settings):
    """How many structures of two kinds each batch holds. Each kind is shuffled and starts over for itself."""

    curvature: PositiveInt = Field(description="with a Hessian or product that loss.probes.kind can use")
    other: PositiveInt = Field(description="without one")


_WEIGHT_DECAY, _EMA = 1e-6, 0.99

Optimizers = Annotated[
    Annotated[OptimizerConfig, Tag("[one]")]
    | Annotated[tuple[ParameterGroupConfig, ...], Field(min_length=1), Tag("[groups]")],
    Discriminator(lambda value: "[groups]" if isinstance(value, list | tuple) else "[one]"),
]
"""One optimiser, or a list of parameter groups."""


class TrainingConfig(Settings):
    """The optimisation."""

    steps: PositiveInt = Field(
        default=2000, description="most steps; a run ends before when its validation is flat, see schedule.kind plateau"
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
        if self.average.kind == "swa" and (self.average.start or 0) + self.average.every > self.steps:
            raise ValueError("average.start + average.every must not be larger than steps: nothing would be averaged")
        return self

    @model_serializer(mode="wrap")
    def _without_new_defaults(
        self, serialize: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        """Leave out of files the defaults of keys that version 0.1.0 did not know, so that it can read them."""
        content: dict[str, Any] = serialize(self)
        if info.mode == "json":
            if self.composition is None:
                content.pop("composition", None)
            if self.optimizer == OptimizerConfig():
                del content["optimizer"]
            if self.average is None:
                del content["average"]
        return content

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

    name: str = Field(default="", description="what the leaderboard calls it; architecture and regime if empty")
    potential: dict[str, Any] = Field(description="name, and settings of that architecture")
    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()
    training: TrainingConfig = TrainingConfig()
    validation: ValidationConfig = ValidationConfig()

    @model_validator(mode="after")
    def _potential_is_known(self) -> RunConfig:
        self.potential_config()
        return self

    @model_validator(mode="after")
    def _hessians_are_seen(self) -> RunConfig:
        """Refuse a run whose regime is E-F-H in name only."""
        probes, steps = self.loss.probes, self.training.steps
        first = probes.first(self.training.seed)
        last = steps - 1 - (steps - 1 - first) % probes.every  # of the steps with products; a ramp only grows
        if self.loss.hessian and (last < 0 or not self.loss.ramped(last)):
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

    @property
    def entry(self) -> str:
        """What the leaderboard joins the seeds of this configuration under."""
        return self.name or f"{self.potential['name']} {self.loss.regime}"

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

    def with_resolved_potential(self, elements: list[int]) -> RunConfig:
        """Fill in the architecture's defaults, and the elements of the data where none are given."""
        settings = {"elements": elements, **self.potential}
        name = settings.pop("name")
        config = parse(self.potential_class().Config, settings, where=f"potential {name!r}")
        return self.model_copy(update={"potential": {"name": name, **config.model_dump(mode="json")}})

    def with_settings_of(self, potential: Potential) -> RunConfig:
        """Fill in what is known when the potential is made, such as the hash of the weights that it started from."""
        settings = potential.config.model_dump(mode="json")
        return self.model_copy(update={"potential": {"name": self.potential["name"], **settings}})
