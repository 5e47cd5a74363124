"""The main job: tune each architecture, retrain its best, judge it, compare.

::

    runs/quickstart/
    ├── sweep.yaml          the resolved settings; a different sweep is refused here
    ├── study.journal       the Optuna studies, one for each architecture
    ├── trials/ANI/000/     run folder of each trial
    ├── final/              run folders of the retraining, with records and predictions
    ├── best/ANI.yaml       trains as it is
    ├── trials.csv          every trial: values, score, cost, reason of a failure
    └── leaderboard/        index.html, leaderboard.md, .csv, .json
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hessgnn.benchmark.evaluate import record_failure, record_mean_predictor
from hessgnn.benchmark.record import Cost, read_record
from hessgnn.config import save
from hessgnn.data.store import Store
from hessgnn.errors import TrainingError
from hessgnn.files import write_text
from hessgnn.sweep.config import SweepConfig, folder_name
from hessgnn.sweep.folder import locked, require_same
from hessgnn.sweep.study import Study, Task, device_seconds_of, mend_journal, reason_of, regime_of, slot_of
from hessgnn.sweep.worker import Evaluation, Job, Report, Submit, Workers, run_chains
from hessgnn.training.config import DataConfig
from hessgnn.training.run import Run


@dataclass(frozen=True)
class Plan:
    """How much a sweep will do: what ``--dry-run`` prints and what the bar counts."""

    trials: int
    trial_steps: int
    finals: int
    final_steps: int

    @property
    def steps(self) -> int:
        """Training steps of everything."""
        return self.trials * self.trial_steps + self.finals * self.final_steps


def plan(config: SweepConfig) -> Plan:
    """Count the runs and steps of a sweep.

    Parameters
    ----------
    config
        The sweep.

    Returns
    -------
    Plan
        Over all architectures.
    """
    n = len(config.architectures)
    finals = n * len(config.regimes) * len(config.seeds)
    return Plan(n * config.trials, config.trial_steps, finals, config.final_steps)


def sweep(config: SweepConfig, folder: Path, observer: Callable[[Report], None]) -> list[Path]:
    """Run a sweep, or go on with it.

    Parameters
    ----------
    config
        What to do.
    folder
        The sweep's folder.
    observer
        Told what the workers report.

    Returns
    -------
    list of Path
        Folders with the records of the leaderboard, the mean predictor first.

    Raises
    ------
    ConfigError
        When the folder holds another sweep, or one that is still running.
    TrainingError
        When no architecture could be trained.
    """
    with locked(folder):
        _begin(config, folder)
        workers = Workers(config.workers)
        try:
            finals = _run_all(config, folder, workers, observer)
            workers.close()
        except BrokenProcessPool as error:
            raise TrainingError(
                "a worker process was killed (out of memory?)",
                where=folder,
                remedy="run the same command to go on; lower `workers` or the batch size if it happens again",
            ) from error
    mean = folder / "final" / "mean-predictor"
    first = config.run_config(next(iter(config.architectures)), {}, steps=1, seed=0)
    record_mean_predictor(mean, DataConfig.model_validate(first.data.model_dump()))
    return [mean, *finals]


def _run_all(config: SweepConfig, folder: Path, workers: Workers, observer: Callable[[Report], None]) -> list[Path]:
    """One chain for each architecture."""
    chains = [partial(_tune_and_retrain, config, architecture, folder) for architecture in config.architectures]
    found = run_chains(workers, chains, observer)
    _write_trials(config, folder)
    finals = [path for paths in found for path in paths]
    if all(read_record(Run(path).record).status == "failed" for path in finals):
        raise TrainingError(
            "no architecture could be trained", where=folder / "trials.csv", remedy="see its column `reason`"
        )
    return finals


def _tune_and_retrain(config: SweepConfig, architecture: str, folder: Path, submit: Submit) -> list[Path]:
    """Everything for one architecture; the same budget for each."""
    study = Study(config, architecture, folder)
    while (task := study.next()) is not None:
        outcome = submit(_trial_job(config, architecture, task, folder)).result()
        if outcome.score is None:
            study.fail(task, outcome.reason or "no score")
        else:
            study.complete(task, outcome.score, outcome.device_seconds)
    spent = Cost(
        sweep_trials=len(study.trials()),
        sweep_device_seconds=sum(device_seconds_of(trial) for trial in study.trials()),
    )
    best = study.best()
    values, chosen = ({}, "failed") if best is None else (best.params, f"trial{slot_of(best):03d}")
    jobs = []
    for seed in config.seeds:
        for regime in config.regimes:
            # The twin without Hessians was not tuned on its own: it has its partner's other settings.
            run = config.run_config(architecture, values, steps=config.final_steps, seed=seed, regime=regime)
            path = folder / "final" / f"{folder_name(architecture)}-{regime}-{chosen}-seed{seed}"
            jobs.append(Job(run, path, architecture, f"final {regime}", Evaluation(spent, tasks=config.tasks)))
    if best is None:
        reason = f"no trial could be trained; the last: {reason_of(study.trials()[-1])}"
        for job in jobs:
            record_failure(job.folder, job.config, reason, spent)
    else:
        tuned = config.run_config(architecture, values, steps=config.final_steps, seed=config.seeds[0])
        save(tuned, folder / "best" / f"{folder_name(architecture)}.yaml")
        for future in [submit(job) for job in jobs]:  # `wait` would wait for ever for one that a stop has cancelled
            future.result()
    return [job.folder for job in jobs]


def _trial_job(config: SweepConfig, architecture: str, task: Task, folder: Path) -> Job:
    run = config.run_config(architecture, task.values, steps=config.trial_steps, seed=config.seed, regime=task.regime)
    path = folder / "trials" / folder_name(architecture) / f"{task.slot:03d}"
    return Job(run, path, architecture, f"trial {task.slot + 1}/{config.trials}")


def _begin(config: SweepConfig, folder: Path) -> None:
    """Keep the settings, or refuse to mix two sweeps in one folder."""
    path = folder / "sweep.yaml"
    require_same(config, path)
    store = Store.open(_data(config).path)
    for split in (_data(config).train, _data(config).validation):
        store.indices(split)
    mend_journal(folder)
    for architecture in config.architectures:
        Study(config, architecture, folder)  # an unreachable storage is told before any work
    save(config, path)


def _data(config: SweepConfig) -> DataConfig:
    return config.run_config(next(iter(config.architectures)), {}, steps=1, seed=0).data


def _write_trials(config: SweepConfig, folder: Path) -> None:
    """Every trial of every architecture as one table."""
    text = io.StringIO()
    columns = ["architecture", "trial", "regime", *config.space, "score", "device_seconds", "state", "reason"]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for architecture in config.architectures:
        for trial in Study(config, architecture, folder).trials():
            row: dict[str, Any] = {
                "architecture": architecture,
                "trial": slot_of(trial),
                "regime": regime_of(trial),
                **trial.params,
                "score": trial.value,
                "device_seconds": device_seconds_of(trial),
                "state": trial.state.name.lower(),
                "reason": reason_of(trial),
            }
            writer.writerow(row)
    write_text(folder / "trials.csv", text.getvalue())
