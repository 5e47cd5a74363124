"""Running a transfer study: from published or pre-trained weights to other data, with several labels.

::

    runs/finetune/
    ├── study.yaml          the resolved settings; a different study is refused here
    ├── data/               training sets, old predictions of published potentials, chosen learning rates
    ├── rates/              short runs that the learning rates were chosen by
    ├── pretrained/         what others start from
    ├── runs/               run folders, with records and predictions
    ├── transfer.json       errors of each arm, answers to the questions
    ├── study.html, .md     the same to read
    └── study.log           what was finished when
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from hessgnn.data.store.store import Store
from hessgnn.errors import DataError, NothingTrained, TrainingError
from hessgnn.evaluation.evaluate import record_mean_predictor
from hessgnn.experiments.config import folder_name
from hessgnn.experiments.folder import locked, require_same
from hessgnn.experiments.frames import FRAME
from hessgnn.experiments.job import EvaluationRequest, Job, JobProgress, JobResult, Note, Observer, run_job
from hessgnn.experiments.labels import TrainingSets
from hessgnn.experiments.original import evaluate_original, label_original
from hessgnn.experiments.transfer_config import BEFORE, NOTHING, PUBLISHED, Arm, TransferConfig
from hessgnn.experiments.transfer_report import write_transfer
from hessgnn.experiments.transfer_value import Finished, TransferValue, transfer_value
from hessgnn.experiments.workers import JobScheduler, Workers
from hessgnn.potentials.base import Potential
from hessgnn.potentials.saved import create_from, load
from hessgnn.runtime.config import save
from hessgnn.runtime.files import write_text
from hessgnn.runtime.worker import Link, Stopped
from hessgnn.surface.potential import batch_of
from hessgnn.training.config import RunConfig
from hessgnn.training.regimes import label_set
from hessgnn.training.run import Run

WEIGHTS = "weights"
"""All starts but :data:`NOTHING`."""
DIGITS = 6
"""Of reference energies in eV: fewer than float64 has, so that a run that is resumed has the same settings."""


class Cell(NamedTuple):
    """One training of a study."""

    arm: Arm
    seed: int

    @property
    def label(self) -> str:
        """What messages call it, besides the architecture."""
        return f"{self.arm.key}, seed {self.seed}"

    def folder(self, root: Path) -> Path:
        """Of the run."""
        arm = self.arm
        parts = [folder_name(arm.architecture), *(name.replace("/", "_") for name in (arm.start, arm.labels))]
        replay = [f"replay{arm.replay}"] if arm.replay else []
        return root / "runs" / "-".join([*parts, f"{arm.fraction:g}", *replay, f"seed{self.seed}"])


def cells_of(config: TransferConfig) -> list[Cell]:
    """List the trainings; all arms have had a seed before the next begins. Published weights are the same for all."""
    first = config.seeds[0]
    return [
        Cell(arm, seed)
        for seed in config.seeds
        for arm in config.arms()
        if seed == first or (arm.start, arm.labels) != (PUBLISHED, BEFORE)
    ]


class TransferStudy:
    """A study in its folder.

    Parameters
    ----------
    config
        The settings.
    folder
        Of the study.
    observer
        Callback invoked with every event, also while frames are labelled.
    """

    def __init__(self, config: TransferConfig, folder: Path, observer: Observer) -> None:
        self.config, self.folder, self.observer = config, folder, observer
        self.store = Store.open(config.data.path)
        self.sets = TrainingSets(config, self.store, folder / "data", observer)
        self.elements = set(self.store.elements())
        self._before: TrainingSets | None = None
        if config.original is not None:
            self.elements |= set(config.original.elements)
        if config.pretraining is not None:
            study = config.pretraining_study()
            before = Store.open(study.data.path)
            self.elements |= set(before.elements())
            self._before = TrainingSets(study, before, folder / "data" / "pretraining", observer)

    def run(self) -> None:
        """Run it, or resume it."""
        config, path = self.config, self.folder / "study.yaml"
        with locked(self.folder):
            require_same(config, path)
            cells = self.cells()
            if done := sum(self.finished(cell) for cell in cells):
                self.observer(Note("resumed", f"{done} of {len(cells)} runs were finished"))
            save(config, path)
            jobs = JobScheduler(Workers(config.workers))
            for seed in config.seeds:
                self._label(seed)
                self._chains(jobs, [partial(self._original, name, jobs) for name in self._published()])
                pairs = [(name, start) for start in self._pretrained() for name in config.architectures]
                self._chains(jobs, [partial(self._pretrain, *pair, seed, jobs) for pair in pairs])
                if seed == config.seeds[0] and config.rates:
                    self._choose_rates(jobs)
                self._chains(jobs, [partial(self._train, cell, jobs) for cell in cells if cell.seed == seed])
                self.report()
            jobs.workers.close()
            if not any(self.finished(cell) for cell in cells):
                raise NothingTrained("no run could be trained", where=self.folder, hint="see study.log for the reasons")

    def report(self) -> TransferValue:
        """Write the report of what is finished; nothing is trained or labelled.

        Raises
        ------
        DataError
            When no run is finished.
        """
        cells = self.cells()
        value = transfer_value(
            Finished(
                self.config,
                self.sets,
                {(cell.arm, cell.seed): cell.folder(self.folder) for cell in cells if self.finished(cell)},
                len(cells),
                self.rates(),
                self.learning_rates(),
                self.old_predictions,
            )
        )
        if not value.arms:
            raise DataError("no run is finished", where=self.folder, hint="wait, or start the study without --report")
        write_transfer(value, self.folder)
        return value

    def board(self) -> list[Path]:
        """Folders of the records of the leaderboard, the mean predictor first."""
        most = self.config.fractions[-1]
        mean = self.folder / "runs" / "mean-predictor"
        record_mean_predictor(mean, self.config.data, sample=self.config.evaluate.sample)
        cells = [cell for cell in self.cells() if cell.arm.fraction in (0, most) and self.finished(cell)]
        return [mean, *(cell.folder(self.folder) for cell in cells)]

    def finished(self, cell: Cell) -> bool:
        """Whether a run is trained and evaluated."""
        folder = cell.folder(self.folder)
        other = self.config.original is None or (folder / "original" / "record.json").is_file()
        return Run(folder).record.is_file() and other

    def old_predictions(self, architecture: str) -> Path:
        """The store of a published potential's own predictions."""
        return self.folder / "data" / f"original-{folder_name(architecture)}.h5"

    def cells(self) -> list[Cell]:
        """All trainings, see :func:`cells_of`."""
        return cells_of(self.config)

    def learning_rates(self) -> dict[str, dict[str, float]]:
        """Architecture -> ``nothing`` or ``weights`` -> learning rate of all arms."""
        kinds = dict.fromkeys(NOTHING if start == NOTHING else WEIGHTS for start in self.config.starts)
        return {name: {kind: self._rate(name, kind) for kind in kinds} for name in self.config.architectures}

    def _rate(self, architecture: str, kind: str) -> float:
        run = self.config.run_config(architecture, {}, steps=1, seed=0, regime=self.config.regimes[0])
        return float(self.rates().get(architecture, {}).get(kind, {}).get("factor", 1.0)) * run.training.schedule.lr

    def rates(self) -> dict[str, dict[str, Any]]:
        """Architecture -> ``nothing`` or ``weights`` -> what was tried and chosen; empty before that."""
        path = self.folder / "data" / "learning-rates.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}

    def _chains(self, jobs: JobScheduler, chains: Sequence[Any]) -> None:
        if chains:
            jobs.run(chains, self.observer)

    def _published(self) -> list[str]:
        wanted = self.config.architectures if self.config.original is not None else {}
        return [name for name in wanted if not self.old_predictions(name).is_file()]

    def _pretrained(self) -> list[str]:
        return [start for start in self.config.starts if start not in (NOTHING, PUBLISHED)]

    def _label(self, seed: int) -> None:
        """Make the training sets of a seed, by all processes together."""
        for arm in self.config.arms():
            if arm.labels != BEFORE:
                self.sets.path(arm.labels, fraction=arm.fraction, draw=seed)
        for start in self._pretrained():
            assert self._before is not None
            self._before.path(start, fraction=1.0, draw=seed)

    def _settings(self, arm: Arm, seed: int, *, rate: float | None = None) -> RunConfig:
        """The training configuration of an arm. Reference energies of weights that exist are fitted when they run."""
        config, most = self.config, self.config.fractions[-1]
        before = arm.labels == BEFORE
        fraction, regime = (most, "E-F") if before else (arm.fraction, arm.labels)
        values: dict[str, Any] = {
            "name": f"{arm.architecture} {arm.key}",
            "data.path": str(self.sets.path(regime, fraction=fraction, draw=seed)),
            "potential.elements": sorted(self.elements),
        }
        if arm.start == NOTHING:
            fitted = self.sets.changes(fraction=fraction, draw=seed)["data.reference_energies"]
            values["data.reference_energies"] = dict.fromkeys(sorted(self.elements), 0.0) | fitted
        elif arm.start != PUBLISHED:
            values["training.start"] = str(self._pretrained_folder(arm.architecture, arm.start, seed))
        steps = 0 if before else config.steps_of(arm.architecture) * (1 + arm.replay)
        kind = NOTHING if arm.start == NOTHING else WEIGHTS
        values["training.schedule.lr"] = self._rate(arm.architecture, kind) if rate is None else rate
        if arm.replay:
            assert config.original is not None
            values["data.also"] = [
                {
                    "path": str(self.old_predictions(arm.architecture)),
                    "validation": None,
                    "replay": arm.replay,
                    "batch_size": config.original.batch_size,
                    "labels": ["energy", "forces"],
                    "reference_energies": dict.fromkeys(sorted(self.elements), 0.0),
                }
            ]
        return config.run_config(arm.architecture, values, steps=steps, seed=seed, regime=regime)

    def _pretrained_folder(self, architecture: str, start: str, seed: int) -> Path:
        return self.folder / "pretrained" / f"{folder_name(architecture)}-{label_set(start).file_name}-seed{seed}"

    def _pretrain(self, architecture: str, start: str, seed: int, jobs: JobScheduler) -> None:
        assert self._before is not None
        part = {"fraction": 1.0, "draw": seed}
        folder, study = self._pretrained_folder(architecture, start, seed), self.config.pretraining_study()
        fitted = self._before.changes(**part)["data.reference_energies"]  # type: ignore[arg-type]
        values = {
            "name": f"{architecture} {start}",
            "data.path": str(self._before.path(start, **part)),  # type: ignore[arg-type]
            "data.reference_energies": dict.fromkeys(sorted(self.elements), 0.0) | fitted,
            "potential.elements": sorted(self.elements),
        }
        run = study.run_config(architecture, values, steps=study.steps, seed=seed, regime=start)
        result = jobs.submit(Job(run, folder, architecture, f"{start}, seed {seed}", stage="pre-training"))
        if result.score is None:
            self.observer(Note("pre-training", f"{architecture} {start}, seed {seed} failed: {result.reason}"))

    def _original(self, architecture: str, jobs: JobScheduler) -> None:
        arm = Arm(architecture, PUBLISHED, self.config.regimes[0], self.config.fractions[-1])
        run = self._settings(arm, self.config.seeds[0])
        job = Job(run, self.folder / "data", architecture, "", stage="old predictions of")
        path = self.old_predictions(architecture)
        result = jobs.submit(job, work=partial(_label_original, settings=self.config, path=path))
        if result.reason:
            raise TrainingError(result.reason, where=path)

    def _choose_rates(self, jobs: JobScheduler) -> None:
        """Try each learning rate once, and keep the best of each architecture, from nothing and from weights."""
        if self.rates():
            return
        config = self.config
        scores: dict[tuple[str, str], dict[float, list[float]]] = {}

        def one(factor: float, arm: Arm) -> None:
            plain = config.run_config(arm.architecture, {}, steps=1, seed=0, regime=arm.labels)
            run = self._settings(arm, config.seeds[0], rate=factor * plain.training.schedule.lr)
            label = f"{arm.key} {factor:g}"
            folder = self.folder / "rates" / folder_name(f"{arm.architecture}-{label}")
            work = partial(_adapt, weights=arm.start != NOTHING, original=None)
            result = jobs.submit(Job(run, folder, arm.architecture, label, stage="rate"), work=work)
            score = math.inf if result.score is None else result.score
            of = scores.setdefault((arm.architecture, NOTHING if arm.start == NOTHING else WEIGHTS), {})
            of.setdefault(factor, []).append(score)

        self._chains(jobs, [partial(one, *trial) for trial in config.rate_trials()])
        found: dict[str, dict[str, Any]] = {}
        for (name, kind), of in scores.items():
            means = {factor: math.exp(statistics.fmean(map(math.log, values))) for factor, values in of.items()}
            best = min(sorted(means), key=lambda factor: means[factor])
            shown = {f"{factor:g}": round(means[factor], 6) for factor in sorted(means)}
            found.setdefault(name, {})[kind] = {"factor": best, "scores": shown}
            self.observer(Note("learning rates", f"{name}, {kind}: factor {best:g} of {shown}"))
        write_text(self.folder / "data" / "learning-rates.json", json.dumps(found, indent=1) + "\n")

    def _train(self, cell: Cell, jobs: JobScheduler) -> None:
        """Train and evaluate one cell, in a worker."""
        if self.finished(cell):
            return
        config, arm = self.config, cell.arm
        before = arm.labels == BEFORE
        own = None if before else arm.labels
        if before and arm.start != PUBLISHED:
            own = arm.start
        spent = self.sets.cost(
            arm.architecture,
            "E-F" if before else arm.labels,
            fraction=arm.fraction or config.fractions[-1],
            draw=cell.seed,
        )
        evaluation = EvaluationRequest(
            spent.model_copy(update={"label_gradients": 0}) if before else spent,
            tasks=config.tasks,
            settings=config.evaluate,
            data=str(self.store.path),
            regime=own,
            demonstration=config.demonstration,
        )
        job = Job(self._settings(arm, cell.seed), cell.folder(self.folder), arm.architecture, cell.label, evaluation)
        original = self.old_predictions(arm.architecture) if config.original is not None else None
        work = partial(_adapt, weights=arm.start != NOTHING, original=original)
        jobs.submit_recorded(job, work=work)


def _adapt(job: Job, link: Link, *, weights: bool, original: Path | None) -> JobResult:
    """Train from weights that exist, with new reference energies, and compare with the old surface."""
    before: dict[int, float] = {}
    if weights:
        try:
            config, before = with_references(job.config)
        except (TrainingError, DataError) as error:
            return JobResult(None, reason=str(error))
        job = replace(job, config=config)
    result = run_job(job, link)
    if original is None or not Run(job.folder).record.is_file() or result.reason is not None:
        return result

    def observer(what: str, done: int, total: int) -> None:
        link.report(JobProgress(job.title, done, total, task=f"evaluating {what}, its old surface"))
        if link.stopping:
            raise Stopped

    evaluate_original(job.folder, original, before, observer)
    return result


def with_references(config: RunConfig) -> tuple[RunConfig, dict[int, float]]:
    """Fit reference energies of weights that exist to stationary points of the training split.

    They are changed as little as the energies demand (least squares of least norm), so that few structures, which do
    not determine all elements, change no element without need.

    Returns
    -------
    config
        With the new reference energies.
    before
        Atomic number -> eV, of the weights that the run starts from.
    """
    potential = starting_potential(config)
    store = Store.open(config.data.path)
    train = store.indices(config.data.train)
    fitted_to = [int(i) for i in train if store.kinds[i] != FRAME and store.has_energy[i]]
    structures = [store[i] for i in fitted_to]
    with torch.no_grad():
        parts = [structures[k : k + 32] for k in range(0, len(structures), 32)]
        energies = torch.cat([potential.double().energy(batch_of(part, potential.cutoff)) for part in parts]).numpy()
    counts = store.composition(list(potential.elements), np.array(fitted_to)).astype(np.float64)
    shift = np.linalg.lstsq(counts, store.energies[fitted_to] - energies, rcond=None)[0]
    before = dict(zip(potential.elements, potential.reference_energies.tolist(), strict=True))
    after = {z: round(before[z] + float(s), DIGITS) for z, s in zip(potential.elements, shift, strict=True)}
    data = config.data.model_copy(update={"reference_energies": after})
    return config.model_copy(update={"data": data}), before


def starting_potential(config: RunConfig) -> Potential:
    """The potential that a run starts from, before any step; its elements are named."""
    if config.training.start is not None:
        return load(config.training.start)
    return create_from(config.potential, config.training.dtype).eval()


def _label_original(job: Job, link: Link, *, settings: TransferConfig, path: Path) -> JobResult:  # noqa: ARG001
    """Label the store of a published potential's own predictions."""
    assert settings.original is not None
    potential = starting_potential(job.config)
    name = f"{job.architecture}, published"
    label_original(potential, settings.original, Path(settings.data.path), path, name)
    return JobResult(0.0)


def run_transfer(config: TransferConfig, folder: Path, observer: Observer) -> list[Path]:
    """Run a transfer study, or resume it; the folders with the records of the leaderboard are returned.

    Raises
    ------
    UserError
        When the folder holds another study, or the data, the engine or a package cannot be used.
    NothingTrained
        When no run could be trained.
    """
    study = TransferStudy(config, folder, observer)
    study.run()
    return study.board()


def report_transfer(config: TransferConfig, folder: Path) -> TransferValue:
    """Write the report of what is finished, also while the study runs; :class:`DataError` where nothing is."""
    return TransferStudy(config, folder, lambda _: None).report()
