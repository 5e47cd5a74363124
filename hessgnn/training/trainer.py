"""The trainer: one loop for every architecture, loss and device."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch

from hessgnn.errors import ConfigError, DataError, TrainingError
from hessgnn.potentials.base import Potential
from hessgnn.potentials.saved import foreign_checkpoint, load, load_weights, save_checkpoint
from hessgnn.runtime.config import load as load_config
from hessgnn.runtime.config import parse
from hessgnn.runtime.files import find_resource
from hessgnn.runtime.machine import warn_of_busy_waiting
from hessgnn.training.build import Setup, build
from hessgnn.training.config import RunConfig
from hessgnn.training.distributed import Ranks
from hessgnn.training.lora import merge, merged_state
from hessgnn.training.loss import LossValue
from hessgnn.training.run import Run, ValidationPoint
from hessgnn.training.sources import TrainedOn
from hessgnn.training.start import Origin
from hessgnn.training.step import NonFiniteLoss
from hessgnn.training.validation import Errors, validate
from hessgnn.training.validation import score as joint_score

T = TypeVar("T")

Observer = Callable[[int, ValidationPoint | None], None]
"""Callback invoked after every step with the number of steps done, and with the validation where there was one."""


@dataclass
class Progress:
    """What a run has done so far, on what: counters, costs and the curve.

    ``waited`` counts validations since ``flat_since``, the step of the last improvement that ``validation.patience``
    counts, to ``flat_score``. ``ended`` is true when a rule has ended the run before its steps were used up, and
    ``converged`` when it was flat by then and its rate was not to be lowered any more. ``compiled`` says for each shape
    of batch from which step on it was compiled under ``training.step: auto``, -1 for one that stays eager.
    """

    device: str = ""
    threads: int = 0
    step: int = 0
    device_seconds: float = 0.0
    products: int = 0
    best_score: float = math.inf
    best_step: int = 0
    waited: int = 0
    flat_score: float = math.inf
    flat_since: int = 0
    ended: bool = False
    converged: bool = False
    compiled: dict[str, int] = field(default_factory=dict)
    seconds_per_step: list[float] = field(default_factory=list)
    curve: list[ValidationPoint] = field(default_factory=list)

    @property
    def kept_start(self) -> bool:
        """Whether a run that started from weights has no checkpoint with a better score than these."""
        return self.step > 0 and self.best_step == 0

    @property
    def ending(self) -> str:
        """How the run ended, as a line for people."""
        if self.converged:
            return f"converged: validation flat since step {self.flat_since}"
        if self.ended and not math.isfinite(self.curve[-1].score):
            return "not converged: its last validation errors are not finite"
        if not self.step:
            return "nothing trained: training.steps is 0"
        if self.ended:
            return "not converged: validation.patience ended it before the schedule had lowered the rate"
        return "not converged: its steps were used up"


@dataclass(frozen=True)
class TrainingResult:
    """Outcome of a run.

    Attributes
    ----------
    run
        The run folder; ``None`` where nothing was written.
    score
        Best validation score.
    errors
        Validation errors of the best checkpoint; of Hessians only where they have a weight in the score.
    progress
        Counters, costs and the curve.
    """

    run: Run | None
    score: float
    errors: Errors
    progress: Progress
    _in_memory: Potential | None = field(default=None, repr=False, compare=False)

    @property
    def converged(self) -> bool:
        """Whether the run ended since its validation was flat, and not since its steps were used up."""
        return self.progress.converged

    @cached_property
    def potential(self) -> Potential:
        """The potential with the best validation score, its weights averaged, on the CPU and ready for evaluation."""
        if self._in_memory is not None:
            return self._in_memory
        assert self.run is not None
        return load(self.run.folder)


def train(
    config: RunConfig | Mapping[str, Any] | str | Path,
    folder: str | Path | None = None,
    *,
    resume: bool = False,
    observer: Observer | None = None,
) -> TrainingResult:
    """Train one potential; in torch's process group, if there is one, each process takes a part of every batch.

    Parameters
    ----------
    config
        The configuration: an instance, its content as a mapping, or a YAML file.
    folder
        The run folder. Nothing is written if absent.
    resume
        Resume from the folder's last checkpoint if there is one. Without it a folder that holds a run is an error.
    observer
        Callback invoked after every step.

    Returns
    -------
    TrainingResult
        The trained potential, its score and validation errors, and the curve.

    Raises
    ------
    ConfigError
        When the configuration cannot be used.
    TrainingError
        When the run cannot start, or its loss is no longer finite. The last good checkpoint stays.
    """
    if isinstance(config, str | Path):
        config = load_config(RunConfig, find_resource(config))
    elif not isinstance(config, RunConfig):
        config = parse(RunConfig, config, where="config")
    if folder is None and resume:
        raise ConfigError("a run without a folder cannot be resumed", where="resume", hint="name the folder")
    run = None if folder is None else Run(Path(folder))
    ranks = Ranks.here()
    if run is not None and not resume:
        ranks.from_first(run.require_new)
    resumed: Origin | None = None
    begun: tuple[TrainedOn, ...] = ()
    if run is not None and resume:
        resumed, begun = ranks.from_first(lambda: run.begun(config))
    try:
        setup = build(config, ranks, resumed=resumed, begun=begun)
        warn_of_busy_waiting()
        try:
            return Trainer(setup, run, resume=resume).fit(observer)
        finally:
            setup.step.close()
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(folder) from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error):
            raise _out_of_memory(folder) from error
        raise


class Trainer:
    """The loop: steps, validations, checkpoints, and resuming from them.

    Parameters
    ----------
    setup
        The objects of the run, see :func:`hessgnn.training.build.build`.
    run
        The run folder. Nothing is written if absent.
    resume
        Resume from the folder's last checkpoint if there is one.

    Raises
    ------
    TrainingError
        When the folder holds a run that is not to be resumed.
    """

    def __init__(self, setup: Setup, run: Run | None = None, *, resume: bool = False) -> None:
        self.setup, self.run, self.ranks = setup, run, setup.ranks
        self.progress = Progress(device=setup.device.type, threads=torch.get_num_threads())
        self._best: dict[str, Any] | None = None  # weights, where no folder keeps them
        if run is None:
            return
        if resume and self.ranks.from_first(run.last.exists):
            self._restore(run)
            return
        if not resume:
            self.ranks.from_first(run.require_new)
        sources = [stream.source.trained_on() for stream in setup.streams]
        self.ranks.from_first(lambda: run.begin(setup.config, setup.origin, sources))

    def fit(self, observer: Observer | None = None) -> TrainingResult:
        """Run the loop from where it stands to its end; the observer is called after every step."""
        settings, progress = self.setup.config.training, self.progress
        since_validation: list[LossValue] = []
        started = time.perf_counter()
        if not progress.curve and (self.setup.origin is not None or not settings.steps):
            as_it_starts = self._validate([])
            self._save()
            if observer is not None:
                observer(0, as_it_starts)
            started = time.perf_counter()
        while progress.step < settings.steps and not progress.ended:
            since_validation.append(self._step())
            point = None
            if self._validation_is_due():
                self._checked(self.setup.step.finish)
                self._account(time.perf_counter() - started, len(since_validation))
                point = self._validate(since_validation)
                since_validation = []
                self._save()
                started = time.perf_counter()
            if observer is not None:
                observer(progress.step, point)
        best = next(point for point in progress.curve if point.step == progress.best_step)
        errors = Errors(best.energy_rmse, best.forces_rmse, best.hessian_rmse, best.energy_molecule_rmse)
        return TrainingResult(self.run, progress.best_score, errors, progress, self._best_in_memory())

    def _validation_is_due(self) -> bool:
        step, every = self.progress.step, self.setup.config.validation.every
        if step == self.setup.config.training.steps:
            return True
        if every != "epoch":
            return step % every == 0
        source, own = self.setup.streams.order.locate(step - 1)  # epochs are those of the first store
        return source == 0 and self.setup.loader.plan.locate(own + 1)[1] == 0

    def _step(self) -> LossValue:
        progress = self.progress
        value = self._checked(lambda: self.setup.step(progress.step))
        progress.products += value.n_products
        progress.step += 1
        return value

    def _checked(self, function: Callable[[], T]) -> T:
        """Call what raises where a loss is not finite, and name the checkpoint that is left."""
        try:
            return function()
        except NonFiniteLoss as error:
            progress = self.progress
            kept = f"; the last good checkpoint is of step {progress.best_step}" if progress.curve else ""
            where = None if self.run is None else self.run.folder
            raise TrainingError(f"{error.what}{kept}", where=where, hint=error.hint) from error

    def _validate(self, losses: list[LossValue]) -> ValidationPoint:
        """Validate the averaged weights, and keep them if they are the best."""
        setup, progress, config = self.setup, self.progress, self.setup.config.validation
        potential, schedule = setup.average.potential, setup.step.schedule
        weights = {str(name): weight for name, weight in config.weights.items()}
        streams = setup.streams.streams
        errors = {
            number: validate(potential, stream.validation, config, self.ranks)
            for number, stream in enumerate(streams)
            if stream.validation is not None
        }
        score = joint_score([(found, streams[number].source.weight) for number, found in errors.items()], weights)
        first, *others = (
            self._point(number, found, found.score(weights) if number else score, losses)
            for number, found in errors.items()
        )
        names = [streams[number].source.name for number in errors][1:]
        point = replace(first, others=dict(zip(names, others, strict=True)))
        progress.curve.append(point)
        if progress.step:  # what a run starts from is no improvement, nor waited for
            schedule.observe(score, progress.step)
        if progress.step >= max(1, schedule.config.warmup):
            progress.waited += 1
            if score < progress.flat_score * (1 - config.min_improvement):
                progress.flat_score, progress.flat_since, progress.waited = score, progress.step, 0
        if score < progress.best_score or not self._has_best():
            progress.best_score, progress.best_step = score, progress.step
            self._keep(potential)
        self._judge_end()
        if schedule.flat:
            progress.flat_since = schedule.best_step
        return point

    def _point(self, number: int, errors: Errors, score: float, losses: Sequence[LossValue]) -> ValidationPoint:
        """What is known of a store, given by its number; ``losses`` are those of the last steps, of all stores."""
        progress, streams = self.progress, self.setup.streams
        order, plan = streams.order, streams.streams[number].loader.plan
        steps = range(progress.step - len(losses), progress.step)
        found = [value for step, value in zip(steps, losses, strict=True) if order.locate(step)[0] == number]
        losses_of = {
            f"loss_{name}": _mean(value.terms[name] for value in found if name in value.terms)
            for name in ("energy", "forces", "hessian")
        }
        errors_of = {f"{name}_rmse": error for name, error in asdict(errors).items()}
        return ValidationPoint(
            step=progress.step,
            epoch=plan.epochs(order.done(progress.step)[number]),
            lr=self.setup.step.schedule.lr(progress.step - 1) if progress.step else 0.0,
            device_seconds=progress.device_seconds,
            products=progress.products,
            score=score,
            loss=_mean(float(value.total) for value in found),
            **losses_of | errors_of,
        )

    def _has_best(self) -> bool:
        return self._best is not None if self.run is None else self.ranks.from_first(self.run.best.exists)

    def _keep(self, potential: Potential) -> None:
        if self.run is None:
            self._best = copy.deepcopy(merged_state(potential))
        elif self.ranks.first:
            save_checkpoint(self.run.best, {"potential": merged_state(potential), "step": self.progress.step})

    def _best_in_memory(self) -> Potential | None:
        if self._best is None:
            return None
        potential = copy.deepcopy(self.setup.potential)
        merge(potential)
        potential.load_state_dict(self._best)
        return potential.cpu().eval()

    def _judge_end(self) -> None:
        """See whether the run ends here, and whether it has converged."""
        progress, schedule = self.progress, self.setup.step.schedule
        patience = self.setup.config.validation.patience
        progress.ended = schedule.flat or (patience is not None and progress.waited >= patience)
        # Where the rate was still to fall, a lower one might have improved more.
        lowest = schedule.flat or schedule.config.kind == "constant"
        progress.converged = progress.ended and lowest and math.isfinite(progress.curve[-1].score)

    def _account(self, seconds: float, n_steps: int) -> None:
        device = self.setup.device
        if device.type == "cuda":
            before = time.perf_counter()
            torch.cuda.synchronize(device)
            seconds += time.perf_counter() - before
        self.progress.device_seconds += seconds * self.ranks.number
        self.progress.seconds_per_step.append(seconds / n_steps)

    def _save(self) -> None:
        if self.progress.step:  # before, the first batches decide what is compiled
            self.progress.compiled = self.setup.step.gradient.settle(self.progress.step)
        if self.run is None or not self.ranks.first:
            return
        setup = self.setup
        progress = asdict(self.progress) | {"curve": [point.content() for point in self.progress.curve]}
        content = {
            "potential": setup.potential.state_dict(),
            "averaged": setup.average.state_dict(),
            "optimizer": setup.step.update.state_dict(),
            "schedule": setup.step.schedule.state_dict(),
            "progress": progress,
            "data": self._data(),
        }
        save_checkpoint(self.run.last, content)
        self.run.write_metrics(self.progress.curve)

    def _data(self) -> dict[str, Any]:
        """Fingerprints of what the run is trained on."""
        first, *others = (
            {"content_hash": store.attributes.content_hash, "split_hash": store.attributes.split_hash}
            for store in (stream.source.store for stream in self.setup.streams)
        )
        return {**first, "others": others} if others else {**first}

    def _require_same_data(self, begun_with: Mapping[str, Any]) -> None:
        now = self._data()
        if begun_with == now:
            return
        before, others = [begun_with, *begun_with.get("others", ())], [now, *now.get("others", ())]
        keys = ("content_hash", "split_hash")
        pairs = zip(before, others, strict=True)
        differ = [any(one[key] != other[key] for key in keys) for one, other in pairs]
        changed = self.setup.streams.streams[differ.index(True)]
        raise DataError(
            "has other structures, labels or splits than when the run was begun",
            where=changed.source.store.path,
            hint="restore the data, or begin another run",
        )

    def _restore(self, run: Run) -> None:
        setup = self.setup
        saved = self.ranks.from_first(run.config)
        if not saved.training.steps and setup.config.training.steps:
            raise ConfigError(
                "nothing was trained in this run, and it is complete",
                where=run.folder,
                hint=f"train in another folder, with training.start={run.folder}",
            )
        more = saved.training.schedule.kind != "cosine" and setup.config.training.steps > saved.training.steps
        begun_as = saved.with_steps(setup.config.training.steps) if more else saved
        run.require_same(begun_as, setup.config.without_trust())
        content = self.ranks.from_first(run.checkpoint)
        self._require_same_data(content.get("data", self._data()))  # files of versions before 0.4.0 do not say
        if more and self.ranks.first:
            run.save(setup.config)
        load_weights(setup.potential, content["potential"], where=run.last)
        state = content["progress"]
        try:
            setup.average.load_state_dict(content["averaged"])
            setup.step.update.load_state_dict(content["optimizer"])
            best = {"flat_score": state["best_score"], "flat_since": state["best_step"]}  # version 0.1.0 has no others
            curve = [ValidationPoint.read(point) for point in state["curve"]]
            self.progress = Progress(**{**best, **state, "curve": curve})
            setup.step.schedule.load_state_dict({"best_step": state["best_step"], **content["schedule"]})
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise foreign_checkpoint(run.last) from error
        if self.progress.step:
            setup.step.gradient.restore(self.progress.compiled)
        self._judge_end()


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return statistics.fmean(values) if values else None


def _out_of_memory(folder: str | Path | None) -> TrainingError:
    return TrainingError(
        "out of memory",
        where=folder,
        hint="raise training.parts (same numbers), or lower training.batch_size, loss.probes.number or "
        "loss.probes.fraction; in a validation, lower validation.batch_size",
    )
