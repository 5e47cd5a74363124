"""What a transfer study found out: errors of each arm, answers to its questions, and structures that a start saves."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from hessgnn.evaluation.tasks.base import task_of
from hessgnn.experiments.label_value import Array, Errors, Estimate, gradients_to_reach
from hessgnn.experiments.labels import TrainingSets
from hessgnn.experiments.original import scales
from hessgnn.experiments.transfer_config import BEFORE, NOTHING, PUBLISHED, Arm, Comparison, TransferConfig
from hessgnn.leaderboard.collect import Families, RunFiles, collect
from hessgnn.leaderboard.inference import Contrast, Verdict, contrast, decide
from hessgnn.runtime.config import Settings
from hessgnn.runtime.files import write_text

METRICS = (
    "energy_rmse",
    "forces_rmse",
    "hessian_rmse",
    "vibrations_reference_mae",
    "barriers_forces_mae",
    "barriers_forward_mae",
    "saddle_recognised",
    "saddle_success",
    "saddle_cosine",
)
"""What is told of each arm."""
ORIGINAL = "original"
"""Begins the name of a split of the potential's own old surface."""
TESTED, GAIN = "test", "hessian_rmse"
"""Split and error that structures are counted by."""


class ArmValue(Settings):
    """Errors of an arm."""

    key: str = Field(description="of the arm, among those of its architecture")
    architecture: str
    start: str
    labels: str
    fraction: float
    replay: int
    trainings: int
    structures: float = Field(description="of the data, mean over trainings")
    label_gradients: float = Field(description="spent on the labels of the training set, mean over trainings")
    steps: float = Field(description="of training, those of replay included")
    seconds_per_step: float | None
    errors: dict[str, dict[str, Estimate]] = Field(description="split -> metric -> error")


class Answer(Settings):
    """How an arm compares with another: ratio of errors in a typical family, or difference of shares."""

    question: str
    architecture: str
    without: str = Field(description="key of an arm")
    having: str
    split: str
    metric: str
    scale: str
    estimate: float | None
    low: float | None
    high: float | None
    rmse_ratio: float | None = Field(description="of the errors over all structures; null for shares")
    trainings: int
    families: int
    verdict: Verdict | None = Field(description="whether `having` is better, corrected for all tests; null: too few")


class Equivalent(Settings):
    """Structures that training from nothing needs for the same Hessian error, as long as they are among those tried."""

    architecture: str
    start: str
    labels: str
    structures: float = Field(description="of the arm itself")
    as_good_as: Estimate = Field(description="structures from nothing; null: more than were tried")
    at_most: bool = Field(description="the fewest that were tried from nothing are enough already")
    of_most: Estimate = Field(description="its error over that from nothing with the most structures")


class TransferValue(Settings):
    """All that a transfer study found out: what ``transfer.json`` holds."""

    name: str
    data: str
    level_of_theory: str
    split: str = Field(description="that structures are counted on")
    finished: int
    planned: int
    tested: dict[str, int] = Field(description="split -> structures or subjects that were tested")
    steps: dict[str, int] = Field(description="architecture -> steps on the data")
    rates: dict[str, dict[str, Any]] = Field(description="architecture -> start -> learning rates that were tried")
    learning_rates: dict[str, dict[str, float]] = Field(description="architecture -> start -> that of all arms")
    old_surface: dict[str, dict[str, dict[str, float]]] = Field(
        description="architecture -> split -> root mean square of the old surface itself"
    )
    arms: list[ArmValue]
    answers: list[Answer]
    equivalents: list[Equivalent]

    def arm(self, architecture: str, key: str) -> ArmValue | None:
        """An arm; ``None`` where it has no results yet."""
        return next((arm for arm in self.arms if (arm.architecture, arm.key) == (architecture, key)), None)


@dataclass(frozen=True)
class Finished:
    """What of a study is finished.

    Attributes
    ----------
    config, sets
        Its settings and training sets.
    runs
        Arm and seed -> folder of a finished run, in the order of the study.
    planned
        Runs of the whole study.
    rates, learning_rates
        See :class:`TransferValue`.
    old_predictions
        Gives the store of a published potential's own predictions.
    """

    config: TransferConfig
    sets: TrainingSets
    runs: Mapping[tuple[Arm, int], Path]
    planned: int
    rates: dict[str, dict[str, Any]]
    learning_rates: dict[str, dict[str, float]]
    old_predictions: Callable[[str], Path]


@dataclass(frozen=True)
class Loaded:
    """Results of an architecture: arm and seed -> the run, and its comparison with the old surface."""

    runs: Mapping[tuple[Arm, int], RunFiles]
    original: Mapping[tuple[Arm, int], RunFiles]

    def errors(self, split: str, metric: str) -> Errors | None:
        """Errors of all arms; a subject that has no value in one of them is left out of all."""
        task = task_of(metric)
        assert task is not None, metric
        defined = task.definitions[metric]
        old, name = split.startswith(f"{ORIGINAL} "), split.removeprefix(f"{ORIGINAL} ")
        runs = self.original if old else self.runs
        values: dict[tuple[str, int], dict[str, float]] = {}
        for (arm, seed), run in runs.items():
            found = run.values(task.name, name).get(metric, {}) if run.record.status == "ok" else {}
            known = {key: defined.worst if value is None else value for key, value in found.items()}
            if known := {key: value for key, value in known.items() if value is not None}:
                values[arm.key, seed] = known
        if not values:
            return None
        names = {name for found in values.values() for name in found}
        family = Families(list(runs.values())).of(task.name, name, names)
        return Errors.of(values, family, 2 if defined.root_mean_square else 1)


def transfer_value(study: Finished) -> TransferValue:
    """Say what a study found out so far."""
    config, store = study.config, study.sets.store
    arms, answers, equivalents, tested = [], [], [], {}
    old: dict[str, dict[str, dict[str, float]]] = {}
    for name in config.architectures:
        mine = tuple(dict.fromkeys(arm for arm, _ in study.runs if arm.architecture == name))
        if not mine:
            continue
        loaded = _load(study, name)
        if config.original is not None:
            old[name] = _scales(study.old_predictions(name))
        known = {
            f"{split} {metric}": errors
            for split, metric in _measured(loaded)
            if (errors := loaded.errors(split, metric)) is not None
        }
        for key, errors in known.items():
            tested[key] = int(errors.counts.sum())
        arms += [_arm(study.sets, arm, loaded, known) for arm in config.arms() if arm in mine]
        answers += _answers(config.compare, mine, known, name)
        if (errors := known.get(f"{TESTED} {GAIN}")) is not None:
            equivalents += _equivalents([arm for arm in arms if arm.architecture == name], errors)
    return TransferValue(
        name=config.name,
        data=store.path.stem,
        level_of_theory=store.attributes.level_of_theory,
        split=TESTED,
        finished=len(study.runs),
        planned=study.planned,
        tested=tested,
        steps={name: config.steps_of(name) for name in config.architectures},
        rates=study.rates,
        learning_rates=study.learning_rates,
        old_surface=old,
        arms=arms,
        answers=answers,
        equivalents=equivalents,
    )


def _load(study: Finished, architecture: str) -> Loaded:
    mine = {key: folder for key, folder in study.runs.items() if key[0].architecture == architecture}
    seeds = sorted({seed for _, seed in study.runs})

    def read(folders: Sequence[Path]) -> dict[tuple[Arm, int], RunFiles]:
        runs = dict(zip(mine, collect(folders), strict=True))
        for (arm, _), run in list(runs.items()):
            if (arm.start, arm.labels) == (PUBLISHED, BEFORE):  # one run, the same for all seeds
                runs |= {(arm, seed): run for seed in seeds}
        return runs

    folders = list(mine.values())
    old = read([folder / ORIGINAL for folder in folders]) if study.config.original is not None else {}
    return Loaded(read(folders), old)


def _measured(loaded: Loaded) -> list[tuple[str, str]]:
    """Splits and metrics that any run has."""
    pairs: dict[tuple[str, str], None] = {}
    for prefix, runs in (("", loaded.runs), (f"{ORIGINAL} ", loaded.original)):
        for run in runs.values():
            for split, metrics in run.record.metrics.items():
                pairs |= {(prefix + split, metric): None for metric in METRICS if metric in metrics}
    return list(pairs)


def _scales(path: Path) -> dict[str, dict[str, float]]:
    """Kept beside the store, which never changes."""
    kept = path.with_suffix(".json")
    if not kept.is_file():
        write_text(kept, Scales(scales=scales(path)).model_dump_json() + "\n")
    return Scales.model_validate_json(kept.read_text(encoding="utf-8")).scales


class Scales(Settings):
    """Root mean square of an old surface itself."""

    scales: dict[str, dict[str, float]]


def _arm(sets: TrainingSets, arm: Arm, loaded: Loaded, known: Mapping[str, Errors]) -> ArmValue:
    own = {seed: run.record for (one, seed), run in loaded.runs.items() if one == arm}
    records = [record for record in own.values() if record.status == "ok"]
    steps = [record.cost.seconds_per_step for record in records if record.cost.seconds_per_step is not None]
    errors: dict[str, dict[str, Estimate]] = {}
    for key, found in known.items():
        split, metric = key.rsplit(" ", 1)
        if arm.key in found.labels and (one := found.estimate([arm.key], lambda rmse: rmse[..., 0])) is not None:
            errors.setdefault(split, {})[metric] = one
    before = arm.labels == BEFORE
    sizes = [0 if before else len(sets.indices(fraction=arm.fraction, draw=seed)) for seed in own]
    return ArmValue(
        **vars(arm),
        key=arm.key,
        trainings=len(records),
        structures=statistics.fmean(sizes),
        label_gradients=statistics.fmean(record.cost.label_gradients or 0 for record in own.values()),
        steps=statistics.fmean(record.cost.steps for record in own.values()),
        seconds_per_step=statistics.median(steps) if steps else None,
        errors=errors,
    )


def _answers(
    questions: Sequence[Comparison], arms: tuple[Arm, ...], known: Mapping[str, Errors], architecture: str
) -> list[Answer]:
    """All tests of an architecture, corrected together."""
    asked, contrasts, better = [], [], []
    for question in questions:
        for without, having in question.pairs(arms):
            for key in question.measured:
                errors = known.get(key)
                if errors is None or not {without.key, having.key} <= set(errors.labels):
                    continue
                metric = key.rsplit(" ", 1)[1]
                task = task_of(metric)
                assert task is not None
                higher = task.definitions[metric].better == "higher"
                asked.append((question.question, without.key, having.key, key, errors))
                contrasts.append(_contrast(errors, without.key, having.key, share=higher))
                better.append(task.definitions[metric].better)
    found = []
    for (text, a, b, key, errors), decision in zip(asked, decide(contrasts, better), strict=True):
        one: Contrast | None = None if decision is None else decision.contrast
        split, metric = key.rsplit(" ", 1)
        ratio = errors.estimate([a, b], lambda rmse: rmse[..., 1] / rmse[..., 0])
        found.append(
            Answer(
                question=text,
                architecture=architecture,
                without=a,
                having=b,
                split=split,
                metric=metric,
                scale="ratio" if one is None else one.scale,
                estimate=None if one is None else one.estimate,
                low=None if one is None else one.low,
                high=None if one is None else one.high,
                rmse_ratio=None if ratio is None or (one is not None and one.scale == "difference") else ratio.value,
                trainings=int(errors.known([a, b]).sum()),
                families=len(errors.families),
                verdict=None if decision is None else decision.verdict,
            )
        )
    return found


def _contrast(errors: Errors, without: str, having: str, *, share: bool) -> Contrast | None:
    known = errors.known([without, having])
    if not known.any():
        return None
    a, b = (errors.labels.index(name) for name in (without, having))
    if share:
        means = errors.squares / errors.counts
        return contrast((means[b] - means[a])[known], "difference")
    return contrast((errors.logs[b] - errors.logs[a])[known])


def _equivalents(arms: Sequence[ArmValue], errors: Errors) -> list[Equivalent]:
    """Structures that starts save, for each start and number of structures."""
    found = []
    for labels in dict.fromkeys(arm.labels for arm in arms if arm.start == NOTHING):
        curve = sorted(
            (arm for arm in arms if (arm.start, arm.labels) == (NOTHING, labels)), key=lambda arm: arm.structures
        )
        sizes = [arm.structures for arm in curve]
        for arm in arms:
            if arm.start == NOTHING or arm.labels not in (labels, BEFORE):
                continue

            def number(rmse: Array, sizes: list[float] = sizes) -> Array:
                return gradients_to_reach(rmse[..., :-1], rmse[..., -1], sizes)

            enough = errors.estimate([*(one.key for one in curve), arm.key], number)
            most = errors.estimate([curve[-1].key, arm.key], lambda rmse: rmse[..., 1] / rmse[..., 0])
            if enough is not None and most is not None:
                found.append(
                    Equivalent(
                        architecture=arm.architecture,
                        start=arm.start,
                        labels=labels,
                        structures=arm.structures,
                        as_good_as=enough,
                        at_most=enough.value is not None and enough.value <= sizes[0] * (1 + 1e-9),
                        of_most=most,
                    )
                )
    return found
