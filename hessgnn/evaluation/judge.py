"""Running tasks on a surface: what is saved is not computed again, what fails is counted, the rest goes on."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from hessgnn.data.store.store import Store
from hessgnn.errors import DataError, UserError
from hessgnn.evaluation.journal import Journal, Result
from hessgnn.evaluation.predictions import Predictions
from hessgnn.evaluation.record import METRICS, DataSource, Failure, Metric, PredictionFile, Record
from hessgnn.evaluation.tasks import accuracy
from hessgnn.evaluation.tasks.base import Subject, Task
from hessgnn.evaluation.tasks.cost import CostTask
from hessgnn.evaluation.tasks.curvature import curvature_metrics, curvature_values, save_curvature
from hessgnn.evaluation.tasks.profiles import profile_metrics, profile_values
from hessgnn.evaluation.tasks.registry import ACCURACY, TaskSettings
from hessgnn.evaluation.together import run_alone, run_shares, run_together
from hessgnn.runtime.allocator import keep_freed_memory
from hessgnn.runtime.blas import one_blas_thread
from hessgnn.runtime.processes import end_with
from hessgnn.surface.base import Surface
from hessgnn.surface.potential import PotentialSurface
from hessgnn.training.run import versions

Observer = Callable[[str, int, int], None]
"""Called with what is being done, the number of structures done, and their total."""


@dataclass
class Verdict:
    """What the tasks found."""

    metrics: dict[str, dict[str, Metric]] = field(default_factory=dict)
    predictions: dict[str, PredictionFile] = field(default_factory=dict)
    results: dict[str, PredictionFile] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    reason: str | None = None
    """Why the accuracy of some split is not known: this fails the record as a whole."""

    @classmethod
    def of(cls, record: Record) -> Verdict:
        """What a record says already."""
        return cls(
            metrics={split: dict(found) for split, found in record.metrics.items()},
            predictions=dict(record.predictions),
            results=dict(record.results),
            failures=list(record.failures),
            reason=record.reason,
        )

    def forget(self, task: str, split: str) -> None:
        """Make room for new results."""
        old = self.metrics.get(split, {})
        mine = accuracy.DIAGNOSTICS if task == ACCURACY else (f"{task}_",)
        self.metrics[split] = {
            name: metric
            for name, metric in old.items()
            if not (name.startswith(mine) or (task == ACCURACY and name in METRICS))
        }
        self.failures = [f for f in self.failures if (f.task, f.split) != (task, split)]
        self.results.pop(f"{task} {split}", None)
        if not self.metrics[split]:
            del self.metrics[split]

    def add(self, split: str, metrics: dict[str, Metric]) -> None:
        """Join metrics to those of a split."""
        self.metrics[split] = {**self.metrics.get(split, {}), **metrics}


def judge(
    surface: Surface,
    store: Store,
    splits: Sequence[str],
    folder: Path,
    names: Sequence[str],
    settings: TaskSettings,
    source: DataSource,
    *,
    verdict: Verdict,
    all_splits: bool,
    processes: int = 1,
    observer: Observer | None = None,
) -> Verdict:
    """Run tasks on splits.

    Parameters
    ----------
    surface
        What is judged.
    store, splits
        The data.
    folder
        Where results are saved.
    names
        Of the tasks, see :data:`~hessgnn.evaluation.tasks.registry.TASKS`.
    settings
        Of the tasks.
    source
        What the record says of the data.
    verdict
        What is known already of the same surface, data and versions; it is added to.
    all_splits
        Whether a split that holds nothing for a task is a failure of it. It is if no split holds anything, too.
    processes
        That subjects of a task are divided between, one thread each; tasks that compute them together use this one.
    observer
        Told of the progress.

    Returns
    -------
    Verdict
        The one that was given.
    """

    def tell(label: str, done: int, total: int) -> None:
        if observer is not None:
            observer(label, done, total)

    if ACCURACY in names:
        verdict.reason = None
        with one_blas_thread():
            for split in splits:
                _accuracy(surface, store, split, folder, source, verdict, tell)
    for task in (task for name, task in settings.tasks().items() if name in names):
        subjects = {split: spread(task.subjects(store, split), settings.subjects) for split in splits}
        if not all_splits and any(subjects.values()):
            subjects = {split: found for split, found in subjects.items() if found}
        for split, found in subjects.items():
            verdict.forget(task.name, split)
            if not found:
                reason = f"the split holds no {task.needs}"
                verdict.failures.append(Failure(task=task.name, split=split, structure=None, reason=reason))
                continue
            try:
                key = _key(task, settings, surface, split, source)
                _simulate(task, surface, found, split, folder, key, verdict, processes, tell)
            except UserError as error:
                verdict.failures.append(Failure(task=task.name, split=split, structure=None, reason=str(error)))
    return verdict


def _accuracy(
    surface: Surface, store: Store, split: str, folder: Path, source: DataSource, verdict: Verdict, tell: Observer
) -> None:
    total, done = store.splits[split], 0
    path, curvature_path = folder / f"predictions-{split}.npz", folder / f"curvature-{split}.jsonl"
    saved = f"{ACCURACY} {split}"
    files = (verdict.predictions.get(split), path), (verdict.results.get(saved), curvature_path)
    there = all(known is not None and known.is_at(at) for known, at in files)
    if there and METRICS.keys() <= verdict.metrics.get(split, {}).keys():
        tell(f"{ACCURACY} on {split}", total, total)
        return
    verdict.forget(ACCURACY, split)

    def advance(n: int) -> None:
        nonlocal done
        done += n
        tell(f"{ACCURACY} on {split}", done, total)

    key = json.dumps([surface.fingerprint, split, source.content_hash, source.split_hash, versions()])
    predictions = _saved(path, key)
    if predictions is None:
        try:
            made = replace(accuracy.predict_split(surface, store, split, observer=advance), key=key)
        except UserError as error:
            verdict.reason = f"no predictions for {split!r}: {error}"
            return
        verdict.predictions[split] = made.save(path)
        predictions = Predictions.load(path)  # numbers are those of the file, whenever they are computed
    else:
        advance(total)
        verdict.predictions[split] = PredictionFile.of(path)
    bad = accuracy.not_finite(predictions)
    if bad:
        verdict.reason = f"predictions are not finite for {len(bad)} structures of {split!r}, first {bad[0]!r}"
        return
    curvature = curvature_values(predictions)
    save_curvature(curvature, curvature_path, key)
    verdict.results[saved] = PredictionFile.of(curvature_path)
    profiles = profile_metrics(profile_values(predictions))
    verdict.add(split, {**accuracy.metrics(predictions), **curvature_metrics(curvature), **profiles})


def _saved(path: Path, key: str) -> Predictions | None:
    """Predictions that an evaluation left behind which was ended before it wrote its record."""
    try:
        found = Predictions.load(path)
    except DataError:
        return None
    return found if found.key == key else None


def spread(subjects: Sequence[Subject], number: int | None) -> Sequence[Subject]:
    """Choose some subjects, spread evenly over a split.

    Parameters
    ----------
    subjects
        All of them.
    number
        How many at most; all if absent.

    Returns
    -------
    sequence
        In their order. The same ones whatever is judged.
    """
    if number is None or number >= len(subjects):
        return subjects
    return [subjects[k * len(subjects) // number] for k in range(number)]


def _key(task: Task, settings: TaskSettings, surface: Surface, split: str, source: DataSource) -> Result:
    """What saved results belong to."""
    some = {} if settings.subjects is None else {"subjects": settings.subjects}
    return some | {
        "task": task.name,
        "version": task.version,
        "settings": task.settings.model_dump(mode="json"),
        "surface": surface.fingerprint,
        "split": split,
        "data": [source.content_hash, source.split_hash],
    }


def _simulate(
    task: Task,
    surface: Surface,
    subjects: Sequence[Subject],
    split: str,
    folder: Path,
    key: Result,
    verdict: Verdict,
    processes: int,
    tell: Observer,
) -> None:
    journal = Journal(folder / f"{task.name}-{split}.jsonl", key)

    def finished(name: str) -> bool:
        return name in journal.results and journal.results[name].get("finished", True)

    label, total = f"{task.name} on {split}", len(subjects)
    pending = [s for s in subjects if not finished(s.name)]
    tell(label, total - len(pending), total)
    if pending:
        # Times are to be those that a user of the surface finds, whatever numpy does there.
        with nullcontext() if isinstance(task, CostTask) else one_blas_thread():
            for name, result in _results(task, surface, pending, journal.results, processes):
                journal.add(name, result)
                tell(label, sum(finished(s.name) for s in subjects), total)
    verdict.results[f"{task.name} {split}"] = journal.file()
    verdict.failures += [
        Failure(task=task.name, split=split, structure=name, reason=result["failure"])
        for name, result in journal.results.items()
        if "failure" in result
    ]
    verdict.add(split, task.metrics(journal.results))


def _results(
    task: Task, surface: Surface, pending: Sequence[Subject], unfinished: Mapping[str, Result], processes: int
) -> Iterator[tuple[str, Result]]:
    """Results as they come: in this process or in others, many subjects together where surface and task allow it."""
    alone = min(processes, len(pending)) < 2 or task.side_by_side
    if task.together and isinstance(surface, PotentialSurface):
        if alone:
            yield from run_together(task, surface, pending)
        else:
            yield from run_shares(task, surface, pending, min(processes, len(pending)))
        return
    if alone:
        yield from task.run(surface, pending, unfinished)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads
    with ProcessPoolExecutor(min(processes, len(pending)), context, _begin, (os.getpid(),)) as pool:
        running = [pool.submit(run_alone, task, surface, subject) for subject in pending]
        try:
            for one in as_completed(running):
                yield from one.result()
        except BrokenProcessPool as error:
            raise UserError("a process was ended by the system", remedy="ask for fewer --processes") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _begin(parent: int) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    end_with(parent)
