"""Averages of the weights over the steps: what is validated and saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from hessgnn.potentials.base import Potential
from hessgnn.runtime.config import Settings


class AverageConfig(Settings):
    """How the weights are averaged over the steps."""

    kind: Literal["ema", "swa", "none"] = Field(
        default="ema", description="exponential moving average, or equal weights from a step on (stochastic averaging)"
    )
    decay: float = Field(default=0.99, ge=0, lt=1, description="ema: smaller in the first steps, (1 + n) / (10 + n)")
    start: NonNegativeInt | None = Field(default=None, description="swa: steps before the average begins")
    every: PositiveInt = Field(default=1, description="swa: steps between two contributions")

    @model_validator(mode="after")
    def _swa_has_a_start(self) -> AverageConfig:
        if self.kind == "swa" and self.start is None:
            raise ValueError("kind swa needs the number of steps before the average begins: add start")
        return self


class Average:
    """The average of a potential's weights.

    Parameters
    ----------
    potential
        The potential that is trained, on the device that it stays on.
    config
        How to average.
    """

    def __init__(self, potential: Potential, config: AverageConfig) -> None:
        self.config, self.trained = config, potential
        self._model = None
        if config.kind != "none":
            self._model = AveragedModel(potential, multi_avg_fn=_ema(config.decay) if config.kind == "ema" else None)

    @property
    def potential(self) -> Potential:
        """The potential with averaged weights; the trained one where nothing has been averaged."""
        if self._model is None or (self.config.kind == "swa" and not int(self._model.n_averaged)):
            return self.trained
        return cast(Potential, self._model.module)

    def update(self, step: int) -> None:
        """Let the present weights contribute.

        Parameters
        ----------
        step
            Number of steps done.
        """
        if self._model is None:
            return
        if self.config.kind == "swa":
            since = step - (self.config.start or 0)
            if since <= 0 or since % self.config.every:
                return
        self._model.update_parameters(self.trained)

    def state_dict(self) -> dict[str, Any] | None:
        """What changes during a run; ``None`` where nothing is averaged."""
        return None if self._model is None else self._model.state_dict()

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Restore :meth:`state_dict`."""
        if self._model is not None:
            assert state is not None, "the checkpoint belongs to a run without averages"
            self._model.load_state_dict(state)


def _ema(decay: float) -> Any:
    """Exponential moving average whose decay grows with the number of steps, so that the start is forgotten."""

    def update(averages: Sequence[Tensor], current: Sequence[Tensor], n_averaged: Tensor | int) -> None:
        n = float(n_averaged)
        torch._foreach_lerp_(list(averages), list(current), 1 - min(decay, (1 + n) / (10 + n)))

    return update
