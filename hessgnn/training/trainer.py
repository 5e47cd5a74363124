"""The trainer: one loop for every architecture, loss and device."""

from __future__ import annotations

import math
import re
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from hessgnn.data.batch import Batch
from hessgnn.data.checks import require_sound
from hessgnn.data.loader import Loader
from hessgnn.data.padding import Buckets
from hessgnn.data.store.store import Store
from hessgnn.errors import ConfigError, TrainingError
from hessgnn.potentials.base import Potential
from hessgnn.runtime.machine import warn_of_busy_waiting
from hessgnn.training.config import RunConfig
from hessgnn.training.device import prepare_device
from hessgnn.training.distributed import Ranks
from hessgnn.training.loss import Loss, LossValue, Weights
from hessgnn.training.run import Point, Run, build, load_checkpoint, load_weights, save_checkpoint
from hessgnn.training.scaling import energy_scale, fit_reference_energies
from hessgnn.training.schedule import Schedule
from hessgnn.training.step import EagerStep, RecordedStep
from hessgnn.training.validation import Errors, validate

Observer = Callable[[int, Point | None], None]
"""Called with the number of steps done, after each step; with the validation where there was one."""


@dataclass
class Progress:
    """What a run has done so far, on what: counters, costs and the curve."""

    device: str = ""
    threads: int = 0
    step: int = 0
    device_seconds: float = 0.0
    products: int = 0
    best_score: float = math.inf
    best_step: int = 0
    waited: int = 0
    seconds_per_step: list[float] = field(default_factory=list)
    curve: list[Point] = field(default_factory=list)


@dataclass(frozen=True)
class Result:
    """Outcome of a run.

    Attributes
    ----------
    run
        The run folder.
    score
        Best validation score.
    errors
        Validation errors of the best checkpoint.
    progress
        Counters and costs.
    """

    run: Run
    score: float
    errors: Errors
    progress: Progress


def train(config: RunConfig, folder: str | Path, *, resume: bool = False, observer: Observer | None = None) -> Result:
    """Train one potential; in torch's process group, if there is one, each process takes a part of every batch.

    Parameters
    ----------
    config
        What to do.
    folder
        The run folder.
    resume
        Go on from the folder's last checkpoint if there is one. Without it a folder that holds a run is refused.
    observer
        Told of every step.

    Returns
    -------
    Result
        The best score and where the potential is.

    Raises
    ------
    TrainingError
        When the run cannot start, or its loss is no longer finite. The last good checkpoint stays.
    """
    folder = default_folder(config) if folder is None else Path(folder)
    trainer = Trainer(config, Run(folder), resume=resume)
    warn_of_busy_waiting()
    try:
        return trainer.fit(observer)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(folder) from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error):
            raise _out_of_memory(folder) from error
        raise
    finally:
        trainer.loader.close()


def default_folder(config: RunConfig) -> Path:
    """Where a run goes when no folder is named: ``runs/<entry>-seed<seed>``."""
    entry = re.sub(r"[^\w.-]+", "-", config.entry).strip("-")
    return Path("runs") / f"{entry}-seed{config.training.seed}"


class Trainer:
    """Everything that a run needs, made ready: data, potential, loss, optimiser, and where it left off.

    Parameters
    ----------
    config
        What to do.
    run
        The run folder.
    resume
        Whether to go on from its last checkpoint.
    """

    def __init__(self, config: RunConfig, run: Run, *, resume: bool = False) -> None:
        self.run, self.ranks = run, Ranks.here()
        if self.ranks.from_first(run.config_path.exists) and not resume:
            raise TrainingError("holds a run already", where=run.folder, remedy="resume it, or name another folder")
        self.device = prepare_device(config, self.ranks)
        store = Store.open(config.data.path)
        train, validation = store.indices(config.data.train), store.indices(config.data.validation)
        self.config = config = config.with_resolved_potential(store.elements())
        _require_labels(config, store, train)
        require_sound(store, np.concatenate([train, validation]))

        torch.manual_seed(config.training.seed)
        potential = build(config)
        if potential.not_c2 is not None and config.loss.hessian and self.ranks.first:
            warnings.warn(
                f"the Hessian of {config.potential['name']!r} jumps ({potential.not_c2}), so training on it is noisy",
                stacklevel=2,
            )
        settings, cutoff = config.training, potential.cutoff
        shared = (getattr(torch, settings.dtype), self.device, potential.triplet_cutoff)
        self.loader = Loader(
            store,
            train,
            cutoff,
            settings.batch_size,
            *shared,
            seed=settings.seed,
            preparation=config.loss.preparation(),
            max_atoms=settings.max_atoms,
            max_edges=settings.max_edges,
            workers=settings.workers,
        )
        prepared = config.validation.preparation()
        self.validation = Loader(store, validation, cutoff, config.validation.batch_size, *shared, preparation=prepared)
        reference = config.data.reference_energies or fit_reference_energies(store, train, potential.elements)
        potential.set_scaling(reference, energy_scale(store, train, reference))
        if self.ranks.number > 1:  # different machines may round the fit differently
            potential.load_state_dict(self.ranks.from_first(potential.state_dict))

        self.store = store
        self.potential = potential.to(self.device)
        self.averaged = _averaged(self.potential, settings.ema)
        self.loss = Loss(config.loss)
        self.gradient = self._gradient()
        # Biases and scales are not decayed: pulling them to zero is no regularisation.
        decayed = [p for p in self.potential.parameters() if p.ndim > 1]
        others = [p for p in self.potential.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": settings.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=settings.schedule.lr,
            fused=True,
        )
        self.schedule = Schedule(settings.schedule, settings.steps)
        self.progress = Progress(device=self.device.type, threads=torch.get_num_threads())
        if resume and self.ranks.from_first(run.last.exists):
            self._restore()
        else:
            self.ranks.from_first(lambda: run.begin(config))

    def _gradient(self) -> EagerStep:
        """How loss and gradient are computed."""
        settings = self.config.training
        if settings.step == "eager":
            return EagerStep(self.loss, self.potential)
        if settings.step == "captured" and self.ranks.number > 1:
            raise ConfigError(
                "a captured step is for one device: waiting for others has never been tried beside a capture",
                where="key 'training.step'",
                remedy="use training.step=eager or compiled, or one process",
            )
        typical = math.ceil(len(self.loader.indices) / len(self.loader))
        pieces = settings.parts * self.ranks.number
        buckets = Buckets.of(self.loader.n_atoms, self.loader.n_edges, math.ceil(typical / pieces))
        return RecordedStep(self.loss, self.potential, buckets, settings.step)

    def fit(self, observer: Observer | None = None) -> Result:
        """Run the loop from where it stands to its end.

        Parameters
        ----------
        observer
            Told of every step.

        Returns
        -------
        Result
            The best score and where the potential is.
        """
        settings, validation, progress = self.config.training, self.config.validation, self.progress
        since_validation: list[LossValue] = []
        started = time.perf_counter()
        while progress.step < settings.steps and not self._waited_enough():
            since_validation.append(self._step(progress.step))
            progress.step += 1
            point = None
            if progress.step % validation.every == 0 or progress.step == settings.steps:
                self._account(time.perf_counter() - started, len(since_validation))
                point = self._validate(since_validation)
                since_validation = []
                self._save()
                started = time.perf_counter()
            if observer is not None:
                observer(progress.step, point)
        best = next(point for point in progress.curve if point.step == progress.best_step)
        return Result(self.run, progress.best_score, _errors_of(best), progress)

    def _step(self, step: int) -> LossValue:
        """One step of the optimiser."""
        settings = self.config.training
        # Probes follow from seed and step alone, so a resumed run draws the same ones.
        generator = torch.Generator().manual_seed(_mix(settings.seed, step))
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.lr(step)
        batch = self.loader.batch(step)
        self.optimizer.zero_grad(set_to_none=True)
        ranks, weights = self.ranks, Weights.at(step, self.config.loss)
        parts = self.loss.parts(batch, weights, generator, settings.parts * ranks.number)
        own = ranks.own(parts)
        errors = ranks.joined(parts, [self.gradient(part) for part in own], list(self.gradient.trained.values()))
        value = LossValue.of(parts, errors)
        if not math.isfinite(float(value.total)):
            raise self._not_finite(value, step)
        norm = torch.nn.utils.clip_grad_norm_(self.potential.parameters(), settings.clip or math.inf)
        if not math.isfinite(float(norm)):
            raise self._not_finite(value, step, batch)
        self.optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.potential)
        # Products of different devices are formed at the same time, each for its part of the batch.
        self.progress.products += sum(part.n_products for part in own)
        return value

    def _validate(self, losses: list[LossValue]) -> Point:
        """Judge the averaged weights, and keep them if they are the best."""
        progress, judged = self.progress, self.judged
        errors = validate(judged, self.validation, self.config.validation, self.ranks)
        score = errors.score({str(name): weight for name, weight in self.config.validation.weights.items()})
        point = Point(
            step=progress.step,
            epoch=self.loader.plan.epochs(progress.step),
            lr=self.schedule.lr(progress.step - 1),
            device_seconds=progress.device_seconds,
            products=progress.products,
            score=score,
            loss=_mean(float(value.total) for value in losses),
            **{
                f"loss_{name}": _mean(value.terms[name] for value in losses if name in value.terms)
                for name in ("energy", "forces", "hessian")
            },
            **{f"{name}_rmse": error for name, error in asdict(errors).items()},
        )
        progress.curve.append(point)
        self.schedule.observe(score)
        progress.waited += 1
        if score < progress.best_score or not self.ranks.from_first(self.run.best.exists):
            progress.best_score, progress.best_step, progress.waited = score, progress.step, 0
            if self.ranks.first:
                save_checkpoint(self.run.best, {"potential": judged.state_dict(), "step": progress.step})
        return point

    @property
    def judged(self) -> Potential:
        """The potential that is validated and kept: the averaged weights, if they are averaged."""
        return self.potential if self.averaged is None else cast(Potential, self.averaged.module)

    def _waited_enough(self) -> bool:
        patience = self.config.validation.patience
        return patience is not None and self.progress.waited >= patience

    def _account(self, seconds: float, n_steps: int) -> None:
        if self.device.type == "cuda":
            before = time.perf_counter()
            torch.cuda.synchronize(self.device)
            seconds += time.perf_counter() - before
        self.progress.device_seconds += seconds * self.ranks.number
        self.progress.seconds_per_step.append(seconds / n_steps)

    def _save(self) -> None:
        if not self.ranks.first:
            return
        content = {
            "potential": self.potential.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "progress": asdict(self.progress),
        }
        save_checkpoint(self.run.last, content)
        self.run.write_metrics(self.progress.curve)

    def _restore(self) -> None:
        saved = self.ranks.from_first(self.run.config)
        if saved != self.config:
            raise ConfigError(
                "the configuration differs from the one that the run was begun with",
                where=self.run.config_path,
                remedy="resume with the same settings, or name another folder",
            )
        content = self.ranks.from_first(lambda: load_checkpoint(self.run.last))
        load_weights(self.potential, content["potential"], where=self.run.last)
        if self.averaged is not None:
            self.averaged.load_state_dict(content["averaged"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.schedule.load_state_dict(content["schedule"])
        state = content["progress"]
        self.progress = Progress(**{**state, "curve": [Point(**point) for point in state["curve"]]})

    def _not_finite(self, value: LossValue, step: int, batch: Batch | None = None) -> TrainingError:
        """Say which structures the loss is not finite for."""
        bad = [
            index
            for positions, errors in value.per_structure.values()
            for index in positions[~torch.isfinite(errors)].tolist()
        ]
        if not bad and batch is not None and batch.index is not None:
            bad = batch.index.tolist()
        names = ", ".join(dict.fromkeys(self.store.names[index] for index in bad))
        what = "loss" if batch is None else "gradient"
        kept = f"; the last good checkpoint is of step {self.progress.best_step}" if self.progress.curve else ""
        return TrainingError(
            f"the {what} of step {step} is not finite for {names}{kept}",
            where=self.run.folder,
            remedy="lower training.schedule.lr or the loss weights, or check these structures",
        )


def _require_labels(config: RunConfig, store: Store, train: Any) -> None:
    """Refuse a term that has a weight and finds no label, before the first step."""
    wanted = {"energy": 1.0, "forces": config.loss.forces, "hessian": config.loss.hessian}
    for name, weight in wanted.items():
        if weight and not getattr(store, f"has_{name}")[train].any():
            raise TrainingError(
                f"the loss weighs {name} but no structure of split {config.data.train!r} has that label",
                where=store.path,
                remedy="add the labels" if name == "energy" else f"set loss.{name}=0, or add the labels",
            )


def _averaged(potential: Potential, decay: float | None) -> AveragedModel | None:
    """Exponential moving average whose decay grows with the number of steps, so that the start is forgotten."""
    if decay is None:
        return None

    def update(averages: Sequence[Tensor], current: Sequence[Tensor], n_averaged: Tensor | int) -> None:
        n = float(n_averaged)
        torch._foreach_lerp_(list(averages), list(current), 1 - min(decay, (1 + n) / (10 + n)))

    return AveragedModel(potential, multi_avg_fn=update)


def _errors_of(point: Point) -> Errors:
    return Errors(point.energy_rmse, point.forces_rmse, point.hessian_rmse)


def _mean(values: Any) -> float | None:
    values = list(values)
    return statistics.fmean(values) if values else None


def _mix(seed: int, step: int) -> int:
    """One seed for each step of each run, well apart (SplitMix64's increment)."""
    return (seed * 1_000_003 + step * 0x9E3779B97F4A7C15) % 2**63


def _out_of_memory(folder: Path) -> TrainingError:
    return TrainingError(
        "out of memory",
        where=folder,
        remedy="raise training.parts (same numbers), or lower training.batch_size, loss.probes.number or "
        "loss.probes.fraction; in a validation, lower validation.batch_size",
    )
