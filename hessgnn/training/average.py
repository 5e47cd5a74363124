"""Averages of the weights over the steps of a run."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
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
    """The average of a potential's weights over the steps, which is validated and saved."""

    def __init__(self, potential: Potential, config: AverageConfig) -> None:
        self.config, self.trained = config, potential
        self._model, self._number = None, 0
        if config.kind != "none":
            self._model = AveragedModel(potential)

    @property
    def potential(self) -> Potential:
        """The potential with averaged weights; the trained one where nothing has been averaged."""
        if self._model is None or (self.config.kind == "swa" and not self._number):
            return self.trained
        return cast(Potential, self._model.module)

    def update(self, step: int) -> None:
        """Let the present weights contribute, after so many steps.

        As ``AveragedModel.update_parameters``, which reads the number of contributions back from the device each time.
        """
        if self._model is None:
            return
        if self.config.kind == "swa":
            since = step - (self.config.start or 0)
            if since <= 0 or since % self.config.every:
                return
        averages, present = ([p.detach() for p in m.parameters()] for m in (self._model.module, self.trained))
        n = float(self._number)
        if not n:
            torch._foreach_copy_(averages, present)
        elif self.config.kind == "swa":
            change = torch._foreach_sub(present, averages)
            torch._foreach_div_(change, n + 1)
            torch._foreach_add_(averages, change)
        else:
            torch._foreach_lerp_(averages, present, 1 - min(self.config.decay, (1 + n) / (10 + n)))
        if buffers := list(self._model.module.buffers()):
            torch._foreach_copy_(buffers, list(self.trained.buffers()))
        self._number += 1
        self._model.n_averaged.fill_(self._number)  # stays on the CPU

    def state_dict(self) -> dict[str, Any] | None:
        """What changes during a run; ``None`` where nothing is averaged."""
        return None if self._model is None else self._model.state_dict()

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Restore :meth:`state_dict`."""
        if self._model is not None:
            assert state is not None, "the checkpoint belongs to a run without averages"
            self._model.load_state_dict(state)
            self._number = int(self._model.n_averaged)
