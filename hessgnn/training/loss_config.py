"""Settings of the loss: weights, forms and probes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
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
from hessgnn.errors import ConfigError, did_you_mean
from hessgnn.runtime.config import Settings
from hessgnn.training.regimes import LossRegime, regime_of


def require_probes(kind: str, key: str, *others: str) -> str:
    """Give back a kind of probes that can be found, or one of ``others``."""
    if kind in others:
        return kind
    try:
        PROBES[kind]
    except ConfigError as error:
        hint = error.hint if ":" in kind else did_you_mean(kind, [*others, *PROBES])
        raise ConfigError(error.what, where=f"key {key!r}, {error.where!r}", hint=hint) from error
    return kind


def list_probes(*others: str) -> Callable[[dict[str, Any]], None]:
    """Name the known kinds of probes in a JSON schema; another one is given by its import path."""

    def extend(schema: dict[str, Any]) -> None:
        schema["anyOf"] = [{"enum": [*others, *PROBES]}, {"pattern": r"^[\w.]+:\w+$"}]

    return extend


class ProbeConfig(Settings):
    """What the Hessian is compared on in a training step."""

    kind: str = Field(
        default="rademacher", description="a registered name or module:Kind", json_schema_extra=list_probes()
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
        return require_probes(kind, "loss.probes.kind")

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
