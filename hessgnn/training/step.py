"""A training step: batch, probes, loss and gradient, update of the parameters, and their average."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hessgnn.errors import TrainingError
from hessgnn.potentials.base import Potential
from hessgnn.training.average import Average
from hessgnn.training.config import RunConfig
from hessgnn.training.distributed import Ranks
from hessgnn.training.feed import Feed, Given
from hessgnn.training.loss import Loss, LossValue, Weights
from hessgnn.training.optimizer import NonFiniteGradient, Schedule, Update
from hessgnn.training.part import Part
from hessgnn.training.sources import Streams
from hessgnn.training.transfer import Reading


class NonFiniteLoss(TrainingError):
    """The loss or its gradient is infinite or not a number; the parameters were not updated."""


@dataclass
class TrainingStep:
    """One step of a run: batch, probes, loss and gradient, update of the parameters, and their average.

    A GPU is given one step after the other: the host makes
    batches ahead (:mod:`hessgnn.training.feed`) and looks at a loss when the next step has been launched.
    """

    config: RunConfig
    ranks: Ranks
    streams: Streams
    loss: Loss
    gradient: EagerStep
    update: Update
    average: Average
    schedule: Schedule

    def __post_init__(self) -> None:
        self.feed = Feed(self._make, next(iter(self.gradient.trained.values())).device)
        self._unread: deque[_Unread] = deque()

    def __call__(self, number: int) -> LossValue:
        """Take step ``number``, counted from 0.

        Batch, probes, weights of the loss and learning rate follow from it and the seed.

        Returns
        -------
        LossValue
            The loss before the update. Its ``n_products`` are those that this process formed, in all evaluations.
            Reading the loss waits for a GPU.

        Raises
        ------
        NonFiniteLoss
            Naming the step and the structures. Where the update does not look at loss and gradient itself (on a GPU,
            see :attr:`Update.reads`), this is raised by the next step or by :meth:`finish`.
        """
        value = self.launch(number, self.feed(number))
        while len(self._unread) > _BEHIND:
            self._read(self._unread.popleft())
        return value

    def finish(self) -> None:
        """Look at the steps that nobody has looked at yet, before something is made of the weights.

        Raises
        ------
        NonFiniteLoss
            See :meth:`__call__`.
        """
        while self._unread:
            self._read(self._unread.popleft())

    def close(self) -> None:
        """End the threads and processes that make batches or compile."""
        self.gradient.close()
        self.feed.close()
        self.streams.close()

    def launch(self, number: int, given: Given) -> LossValue:
        """Compute a step from what it is given. On a GPU nothing here waits until it is done."""
        ranks, trained = self.ranks, list(self.gradient.trained.values())
        values: list[LossValue] = []
        self.update.set_lr(self.schedule.lr(number))

        def evaluate() -> Tensor | None:
            errors = [self.gradient(part) for part in given.own]
            values.append(LossValue.of(*ranks.joined(given.joint, given.parts, errors, trained)))
            if not self.update.reads:
                return None
            if not math.isfinite(float(values[-1].total)):
                raise self._not_finite("loss", number, _not_finite_structures(values[-1]))
            return values[-1].total

        try:
            norm = self.update(evaluate)
        except NonFiniteGradient:
            raise self._not_finite_gradient(number, values[-1], given.index) from None
        if not self.update.reads:
            self._unread.append(_Unread(number, values[-1], Reading({"norm": norm}, torch.device("cpu")), given.index))
        self.average.update(number + 1)
        # Products of different devices are formed at the same time, each for its part of the batch.
        values[0].n_products = len(values) * sum(part.n_products for part in given.parts)
        return values[0]

    def _make(self, number: int) -> tuple[Tensor, Part, Sequence[Part]]:
        """Batch, probes and targets of a step, on the host: a function of nothing but the step and the seed."""
        settings, ranks = self.config.training, self.ranks
        generator = torch.Generator().manual_seed(_mix(settings.seed, number))
        stream, own = self.streams.locate(number)
        batch, config = stream.loader.batch(own, torch.device("cpu")), stream.source.config
        weights = Weights.at(number, config.loss, config.training.seed, own)
        joint, parts = self.loss.divide(batch, weights, generator, settings.parts, ranks.share(batch))
        assert batch.index is not None
        return batch.index, joint, parts

    def _read(self, unread: _Unread) -> None:
        """Raise for a step whose loss or gradient was not finite."""
        number, value = unread.number, unread.value
        if not math.isfinite(float(value.total)):
            raise self._not_finite("loss", number, _not_finite_structures(value))
        if not math.isfinite(float(unread.norm.tensors()["norm"])):
            raise self._not_finite_gradient(number, value, unread.index)

    def _not_finite_gradient(self, number: int, value: LossValue, index: Tensor) -> NonFiniteLoss:
        return self._not_finite("gradient", number, _not_finite_structures(value) or index.tolist())

    def timed(self, number: int) -> float:
        """Take a round of steps that forms products as often as the run does, and return mean seconds of a step.

        Rounds are numbered from 0.
        """
        loss, device = self.config.loss, next(iter(self.gradient.trained.values())).device
        every = self.streams.order.period * (loss.probes.every if loss.hessian else 1)
        start = time.perf_counter()
        for step in range(number * every, (number + 1) * every):
            self(step)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - start) / every

    def _not_finite(self, what: str, number: int, structures: list[int]) -> NonFiniteLoss:
        source = self.streams.locate(number)[0].source
        names = ", ".join(dict.fromkeys(source.store.names[index] for index in structures))
        return NonFiniteLoss(
            f"the {what} of step {number} is not finite for {names}",
            hint="lower training.schedule.lr or the loss weights, or check these structures",
        )


@dataclass(frozen=True)
class _Unread:
    """A step whose loss and gradient nobody has looked at yet."""

    number: int
    value: LossValue
    norm: Reading
    index: Tensor


_BEHIND = 1
"""Steps that a GPU may still have to do when the next one is launched."""


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
