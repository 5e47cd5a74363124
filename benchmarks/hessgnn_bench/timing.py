"""Times of several pieces of work measured side by side, so that what else the machine does hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hessgnn.data.batch import Batch
from hessgnn.potentials.base import Potential
from hessgnn.training.loss import Loss, Weights
from hessgnn.training.loss_config import LossConfig
from hessgnn.training.optimizer import Update

Observer = Callable[[int, int], None]
"""Called with the number of pieces of work done, and their total."""


@dataclass(frozen=True)
class Times:
    """Seconds of the repeats of one piece of work, in the order in which they were taken."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median, s."""
        return statistics.median(self.seconds)

    def quartiles_over(self, other: Times) -> tuple[float, float, float]:
        """Quartiles of the ratio to another piece of work, of repeats that were taken one after the other."""
        ratios = [mine / theirs for mine, theirs in zip(self.seconds, other.seconds, strict=True)]
        if len(ratios) == 1:  # Python before 3.13 has no quartiles of one number
            ratios *= 2
        lower, median, upper = statistics.quantiles(ratios, n=4, method="inclusive")  # never beyond what was measured
        return lower, median, upper


def interleaved(
    work: Mapping[str, Callable[[], object]],
    repeats: int,
    warmup: int = 2,
    observer: Observer | None = None,
    clock: Callable[[], float] | None = None,
) -> dict[str, Times]:
    """Time pieces of work in turn.

    Parameters
    ----------
    work
        Name -> what is to be timed.
    repeats
        Rounds; each holds every piece once.
    warmup
        Rounds before that are not counted.
    observer
        Told of the progress.
    clock
        What tells the time; ``time.perf_counter`` by default. On a busy machine that of the processor, with one thread.

    Returns
    -------
    dict
        Name -> its times.
    """
    clock = clock or time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in work}
    done, total = 0, (warmup + repeats) * len(work)
    for turn in range(warmup + repeats):
        for name, run in work.items():
            start = clock()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn >= warmup:
                seconds[name].append(clock() - start)
            done += 1
            if observer is not None:
                observer(done, total)
    return {name: Times(tuple(values)) for name, values in seconds.items()}


class Step:
    """An update of the parameters as the trainer does it: gradient, clipping and AdamW.

    Parameters
    ----------
    potential
        The potential; its parameters change.
    loss
        Gives the loss with its graph.
    """

    def __init__(self, potential: Potential, loss: Callable[[], Tensor]) -> None:
        self.potential, self.loss = potential, loss
        self.parameters = [p for p in potential.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(self.parameters, lr=1e-6, fused=True)  # so small that the weights stay sound
        self.update = Update(self.parameters, [optimizer], 10.0)

    def __call__(self) -> Tensor:
        """Do one step and return the loss."""
        losses: list[Tensor] = []

        def evaluate() -> Tensor:
            losses.append(self.gradient())
            return losses[-1]

        self.update(evaluate)
        return losses[0]

    def gradient(self) -> Tensor:
        """Add the gradient of the loss to that of the parameters, and return the loss."""
        total = self.loss()
        total.backward(inputs=self.parameters)
        return total.detach()


class TrainingStep(Step):
    """A training step with the package's own loss on one batch.

    Parameters
    ----------
    potential
        The potential; its parameters change.
    batch
        With labels.
    config
        Weights and probes. A Hessian weight of 0 makes it an E-F step.
    """

    def __init__(self, potential: Potential, batch: Batch, config: LossConfig) -> None:
        loss, weights = Loss(config), Weights(config.forces, config.hessian)
        generator = torch.Generator().manual_seed(0)
        super().__init__(potential, lambda: loss(potential, batch, weights, generator).total)
