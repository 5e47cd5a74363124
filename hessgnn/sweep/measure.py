"""What a few batches tell of an architecture: the cost of its runs, and the Hessian weight that balances the losses."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from hessgnn.data.store.store import Store
from hessgnn.errors import TrainingError, UserError
from hessgnn.experiments.config import ExperimentConfig, StudyConfig
from hessgnn.experiments.frames import require_same_level
from hessgnn.experiments.job import Job, JobResult
from hessgnn.experiments.labels import MEASURED, extra_gradients, measured_hessian_gradients, part_of
from hessgnn.experiments.study import cells_of
from hessgnn.experiments.transfer_config import TransferConfig
from hessgnn.experiments.workers import Workers
from hessgnn.runtime.memory import peak_resident
from hessgnn.runtime.worker import Link
from hessgnn.surface.engines.base import make_engine
from hessgnn.sweep.config import DISPLACEMENT, Choice, Subject, SweepConfig
from hessgnn.training.build import build
from hessgnn.training.config import RunConfig
from hessgnn.training.loss import Weights
from hessgnn.training.regimes import StudyRegime, label_set
from hessgnn.training.validation import validate

BATCHES, MOST_BATCHES = 4, 64
"""The first ones of a run with Hessians, which the losses are balanced on, and how many are looked at for them."""
_STEPS, _WARMUP = 5, 2


@dataclass(frozen=True)
class Estimate:
    """Measured cost of an architecture.

    Attributes
    ----------
    architecture
        Its label.
    plain_step, hessian_step
        Seconds of a step without and with Hessians.
    validation
        Seconds of a validation.
    every
        Steps between two validations.
    memory
        Peak resident memory of the process, bytes.
    reason
        Why nothing could be measured.
    """

    architecture: str
    plain_step: float = 0.0
    hessian_step: float = 0.0
    validation: float = 0.0
    every: int = 1
    memory: float = 0.0
    reason: str | None = None

    def seconds(self, config: ExperimentConfig) -> float:
        """Seconds of training and validation of all its runs, one after the other."""

        def run(steps: int, step: float) -> float:
            return steps * step + math.ceil(steps / self.every) * self.validation

        if isinstance(config, StudyConfig):
            own = [cell for cell in cells_of(config) if cell.architecture == self.architecture]
            curved = sum(cell.budget == "seconds" or label_set(cell.regime).has_curvature for cell in own)
            return curved * run(config.steps, self.hessian_step) + (len(own) - curved) * run(
                config.steps, self.plain_step
            )
        if isinstance(config, TransferConfig):
            return sum(
                run(steps, self.hessian_step if curved else self.plain_step)
                for steps, curved in config.trainings(self.architecture)
            )
        assert isinstance(config, SweepConfig)
        total, counted = 0.0, config.count_runs()
        each = len(config.subjects)  # of which every architecture has as many
        for regime in config.regimes:
            subject = Subject(self.architecture, regime)
            step = self.hessian_step if subject.has_hessians else self.plain_step
            foreign = len(config.architectures) - 1 if config.transfer and subject.has_hessians else 0
            total += (config.budget.trials + foreign) * run(config.budget.steps, step)
            total += (counted.checks / each + len(config.seeds)) * run(config.final_steps, step)
            if regime in config.retrained:
                total += len(config.seeds) * run(config.final_steps, self.hessian_step)
        return total


@dataclass(frozen=True)
class LabellingEstimate:
    """Displaced frames and products of a sweep: at most so many gradients, and seconds of one process for them."""

    gradients: int
    seconds: float


def labelling(config: SweepConfig) -> LabellingEstimate | None:
    """Count the gradients that a sweep labels with, and time a few of them; ``None`` where it needs no engine.

    Frames of a structure are shared by all runs with the same draw and displacement. Trials see those of the sweep's
    own draw with every displacement, retrainings those of their own draws with the displacements that were chosen.

    Raises
    ------
    ConfigError
        When the engine does not fit the data.
    """
    kinds = [labels for labels in map(label_set, config.regimes) if labels.needs_engine]
    if not kinds:
        return None
    subjects = [subject for subject in config.subjects if label_set(subject.regime).has_frames]
    if any(labels.name == "E-F+" for labels in kinds):  # whose frames those of E-F+H are among
        kinds = [labels for labels in kinds if not labels.half]
    store, labels, engine = Store.open(config.data.path), config.labels, make_engine(config.labels.engine)
    require_same_level(store, engine)
    drawn = {
        draw: [
            i for i in part_of(store, config.data.train, config.fraction, (labels.seed, draw)) if store.has_hessian[i]
        ]
        for draw in (config.seed, *config.seeds)
    }
    first = [store[i] for i in drawn[config.seed][:MEASURED]]
    per_atom = labels.hessian_gradients
    if per_atom == "measured":
        per_atom = measured_hessian_gradients(engine, first)
    space = config.space.get(DISPLACEMENT)
    values = len(space.choices) if isinstance(space, Choice) else len(subjects) * config.budget.trials if space else 1
    finals = min(values, len(subjects))
    gradients = 0.0
    for draw, part in drawn.items():
        sets = values if draw == config.seed else finals  # with other displacements
        for labels_of in kinds:
            price = sum(extra_gradients(labels_of, int(store.n_atoms[i]), float(per_atom)) for i in part)
            share = 0.5 if labels_of.half else 1 / labels_of.every
            gradients += share * price * (sets if labels_of.has_frames else 1)
    start = time.perf_counter()
    for structure in first:
        engine.energy_forces(structure.to_atoms())
    return LabellingEstimate(int(gradients), gradients * (time.perf_counter() - start) / max(1, len(first)))


def estimates(config: ExperimentConfig) -> list[Estimate]:
    """Measure each architecture of a sweep or a study with the settings of its base; nothing is written."""
    workers = Workers(1, config.threads if isinstance(config, SweepConfig) else None)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return [_estimate(config, workers, architecture, Path(folder)) for architecture in config.architectures]
    finally:
        workers.close()


def _estimate(config: ExperimentConfig, workers: Workers, architecture: str, folder: Path) -> Estimate:
    def run(regime: StudyRegime) -> RunConfig:
        return config.run_config(architecture, {}, steps=_STEPS + _WARMUP, seed=config.seeds[0], regime=regime)

    try:
        job = Job(run("E-F-H"), folder / architecture, architecture, "")
        outcome = workers.submit(job, work=partial(measure_steps, plain=run("E-F"))).result()
    except UserError as error:
        return Estimate(architecture, reason=str(error))
    if outcome.reason is not None:
        return Estimate(architecture, reason=outcome.reason)
    found = outcome.measured
    seconds = found["plain_step"], found["hessian_step"], found["validation"]
    return Estimate(architecture, *seconds, int(found["every"]), found["memory"])


def measure_steps(job: Job, link: Link, *, plain: RunConfig) -> JobResult:  # noqa: ARG001
    """Time a few steps with and without Hessians, which take turns, and a validation; nothing is written.

    Of each the fastest counts, which is slowed least by what else the machine does. ``measured`` holds the numbers of
    an :class:`Estimate`.
    """
    setups = {"plain_step": build(plain), "hessian_step": build(job.config)}
    times: dict[str, list[float]] = {name: [] for name in setups}
    for number in range(_WARMUP + _STEPS):
        for name, setup in setups.items():
            times[name].append(setup.step.timed(number))
    validations = []
    for _ in range(2):
        start = time.perf_counter()
        validate(setup.average.potential, setup.validation, job.config.validation)
        validations.append(time.perf_counter() - start)
    every = job.config.validation.every
    measured = {name: min(found[_WARMUP:]) for name, found in times.items()}
    measured |= {"validation": min(validations), "memory": peak_resident()}
    epoch = setup.streams.order.step(0, len(setup.loader))  # in which steps on other stores come between
    measured["every"] = epoch if every == "epoch" else every
    for setup in setups.values():
        setup.streams.close()
    return JobResult(None, measured=measured)


def measure_balance(job: Job, link: Link) -> JobResult:  # noqa: ARG001
    """Measure the Hessian weight that balances the losses, as a job without training; its score is the weight, Å⁴."""
    try:
        return JobResult(balanced_weight(job.config))
    except UserError as error:
        return JobResult(None, reason=str(error))


def balanced_weight(config: RunConfig) -> float:
    """Measure the Hessian weight ``w_H = w_F · L_F / L_H``, Å⁴, on the first batches, before a step is taken.

    Raises
    ------
    TrainingError
        When the losses are not finite or have no labels.
    """
    setup = build(config)
    found: dict[str, list[float]] = {"forces": [], "hessian": []}
    for step in range(MOST_BATCHES):
        if len(found["hessian"]) == BATCHES:  # where only some structures have one, not every batch has
            break
        generator = torch.Generator().manual_seed(step)
        value = setup.loss(setup.potential, setup.loader.batch(step), Weights(1.0, 1.0), generator)
        for name, values in found.items():
            if name in value.terms:
                values.append(value.terms[name])
    setup.streams.close()
    if not all(found.values()):
        raise TrainingError("the first batches lack forces or Hessians, so their losses cannot be balanced")
    forces, hessian = (statistics.fmean(found[name]) for name in ("forces", "hessian"))
    if not 0 < hessian < float("inf") or not 0 < forces < float("inf"):
        raise TrainingError(f"the first losses cannot be balanced: forces {forces:.3g}, Hessian {hessian:.3g}")
    return config.loss.forces * forces / hessian
