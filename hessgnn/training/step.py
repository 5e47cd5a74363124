"""A training step: batch, probes, loss and gradient, update of the parameters, and their average."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hessgnn.data.loader import Loader
from hessgnn.data.store.store import Store
from hessgnn.errors import TrainingError
from hessgnn.potentials.base import Potential
from hessgnn.training.config import RunConfig
from hessgnn.training.distributed import Ranks
from hessgnn.training.loss import Loss, LossValue, Weights
from hessgnn.training.optimizer import Average, NonFiniteGradient, Schedule, Update
from hessgnn.training.part import Part


class NonFiniteLoss(TrainingError):
    """The loss or its gradient is infinite or not a number; the parameters were not updated."""


@dataclass
class TrainingStep:
    """One step of a run: batch, probes, loss and gradient, update of the parameters, and their average.

    The store names the structures whose loss is not finite.
    """

    config: RunConfig
    ranks: Ranks
    loader: Loader
    loss: Loss
    gradient: EagerStep
    update: Update
    average: Average
    schedule: Schedule
    store: Store

    def __call__(self, number: int) -> LossValue:
        """Take step ``number``, counted from 0.

        Batch, probes, weights of the loss and learning rate follow from it and the seed.

        Returns
        -------
        LossValue
            The loss before the update. Its ``n_products`` are those that this process formed, in all evaluations.

        Raises
        ------
        NonFiniteLoss
            Naming the structures.
        """
        settings, ranks = self.config.training, self.ranks
        generator = torch.Generator().manual_seed(_mix(settings.seed, number))
        self.update.set_lr(self.schedule.lr(number))
        batch = self.loader.batch(number)
        weights = Weights.at(number, self.config.loss, settings.seed)
        parts = self.loss.parts(batch, weights, generator, settings.parts * ranks.number)
        own, trained = ranks.own(parts), list(self.gradient.trained.values())
        values: list[LossValue] = []

        def evaluate() -> Tensor:
            values.append(LossValue.of(parts, ranks.joined(parts, [self.gradient(part) for part in own], trained)))
            if not math.isfinite(float(values[-1].total)):
                raise self._not_finite("loss", number, _not_finite_structures(values[-1]))
            return values[-1].total

        try:
            self.update(evaluate)
        except NonFiniteGradient:
            assert batch.index is not None
            found = _not_finite_structures(values[-1]) or batch.index.tolist()
            raise self._not_finite("gradient", number, found) from None
        self.average.update(number + 1)
        # Products of different devices are formed at the same time, each for its part of the batch.
        return replace(values[0], n_products=len(values) * sum(part.n_products for part in own))

    def timed(self, number: int) -> float:
        """Take a round of steps that forms products as often as the run does, and return mean seconds of a step.

        Rounds are numbered from 0.
        """
        loss, device = self.config.loss, next(iter(self.gradient.trained.values())).device
        every = loss.probes.every if loss.hessian else 1
        start = time.perf_counter()
        for step in range(number * every, (number + 1) * every):
            self(step)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - start) / every

    def _not_finite(self, what: str, number: int, structures: list[int]) -> NonFiniteLoss:
        names = ", ".join(dict.fromkeys(self.store.names[index] for index in structures))
        return NonFiniteLoss(
            f"the {what} of step {number} is not finite for {names}",
            hint="lower training.schedule.lr or the loss weights, or check these structures",
        )


class EagerStep:
    """The gradient by autograd's own backward pass."""

    def __init__(self, loss: Loss, potential: Potential) -> None:
        self.loss, self.potential = loss, potential
        self.trained = {name: p for name, p in potential.named_parameters() if p.requires_grad}

    def __call__(self, part: Part) -> dict[str, Tensor]:
        """Add the gradient of a part's loss to that of the parameters.

        Returns
        -------
        dict
            Term -> ``(n_structures,)``, errors without their graph.
        """
        errors = self.loss.errors(self.potential, part)
        # The graph reaches back to the positions too; nobody wants that gradient, so it is not computed.
        part.total(errors).backward(inputs=list(self.trained.values()))
        return {name: error.detach() for name, error in errors.items()}

    def settle(self, step: int) -> dict[str, int]:  # noqa: ARG002
        """Decide at a checkpoint, after ``step`` steps, how the next ones are computed.

        Returns
        -------
        dict
            What :meth:`restore` needs to go on in the same way: shape of a batch -> step from which it is compiled.
        """
        return {}

    def restore(self, compiled: Mapping[str, int]) -> None:
        """Compute the steps after a checkpoint as the run did that wrote it."""

    def close(self) -> None:
        """End what works in the background."""


def _not_finite_structures(value: LossValue) -> list[int]:
    return [
        index
        for positions, errors in value.per_structure.values()
        for index in positions[~torch.isfinite(errors)].tolist()
    ]


def _mix(seed: int, step: int) -> int:
    """One seed for each step of each run, well apart (SplitMix64's increment)."""
    return (seed * 1_000_003 + step * 0x9E3779B97F4A7C15) % 2**63
