"""Learning rate of each step."""

from __future__ import annotations

import math

from hessgnn.training.config import ScheduleConfig


class Schedule:
    """Warm-up followed by a cosine, a plateau rule, or nothing.

    Parameters
    ----------
    config
        The rule.
    n_steps
        Length of the run.
    """

    def __init__(self, config: ScheduleConfig, n_steps: int) -> None:
        self.config, self.n_steps = config, n_steps
        self.reduction, self.best, self.waited = 1.0, math.inf, 0

    def lr(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        config = self.config
        if step < config.warmup:
            return config.lr * (step + 1) / config.warmup
        if config.kind == "cosine":
            share = (step - config.warmup) / max(1, self.n_steps - config.warmup)
            return config.lr * (config.final + (1 - config.final) * (1 + math.cos(math.pi * share)) / 2)
        return config.lr * self.reduction

    def observe(self, score: float) -> None:
        """Take note of a validation score; the plateau rule lowers the learning rate when it does not improve.

        Parameters
        ----------
        score
            Lower is better.
        """
        if self.config.kind != "plateau":
            return
        if score < self.best:
            self.best, self.waited = score, 0
            return
        self.waited += 1
        if self.waited >= self.config.patience:
            self.waited = 0
            self.reduction = max(self.config.final, self.reduction * self.config.factor)

    def state_dict(self) -> dict[str, float]:
        """What changes during a run."""
        return {"reduction": self.reduction, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore :meth:`state_dict`."""
        self.reduction, self.best, self.waited = state["reduction"], state["best"], int(state["waited"])
