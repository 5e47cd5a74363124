"""``hessgnn train`` and ``hessgnn evaluate``."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from hessgnn.data.store.store import Store
from hessgnn.errors import ConfigError, UserError
from hessgnn.evaluation.evaluate import evaluate as evaluate_run
from hessgnn.evaluation.evaluate import evaluate_calculator, record_mean_predictor, source
from hessgnn.evaluation.predictions import PRODUCTS
from hessgnn.evaluation.published import divided, published_run, splits_of
from hessgnn.evaluation.record import Record
from hessgnn.evaluation.run import DEFAULT_TASKS, TaskSettings, chosen_tasks
from hessgnn.evaluation.tasks.accuracy import METRICS
from hessgnn.leaderboard.collect import collect
from hessgnn.leaderboard.tables import MISSING
from hessgnn.potentials.saved import BEST
from hessgnn.runtime.config import dump, load, override, parse
from hessgnn.runtime.files import find_resource
from hessgnn.runtime.machine import keep_freed_memory
from hessgnn.runtime.terminal import Interrupted, ProgressLog, say
from hessgnn.training import bar
from hessgnn.training.build import (
    build_potential,
    build_update,
    describe_run,
    read_start,
    require_usable,
    warn_of_sources,
)
from hessgnn.training.config import RunConfig
from hessgnn.training.curvature_labels import epoch_steps
from hessgnn.training.data_config import DataConfig
from hessgnn.training.distributed import ranks_of_torchrun
from hessgnn.training.references import has_learned, refits, require_same_level, scale_to_data
from hessgnn.training.run import Run, ValidationPoint
from hessgnn.training.sources import elements_of, open_sources
from hessgnn.training.start import describe_trained, prepare, resolved
from hessgnn.training.trainer import Observer, TrainingResult
from hessgnn.training.trainer import train as run_training


def train(
    config: Path | None, overrides: list[str], *, output: Path | None, resume: Path | None, dry_run: bool
) -> None:
    """Train one potential or resume a run; together with the other processes, if torchrun started several."""
    keep_freed_memory()  # as in the workers of a sweep, so that a step costs the same in both
    with ranks_of_torchrun() as ranks:
        console = Console(quiet=not ranks.first)
        settings, folder = _what_and_where(config, overrides, output, resume)
        if dry_run:
            _print_plan(console, settings, folder, None if resume is None else Run(resume))
            return
        console.print(bar.legend(hessian=settings.validation.compares_hessians), style="dim")
        with bar.progress_bar(console) as progress:
            task = progress.add_task(settings.entry, total=settings.training.steps, errors="")
            log = ProgressLog(console, None if console.quiet else folder / "train.log")
            observer = _logged(log, settings, bar.observe(progress, task))
            with _shown(progress.console), _told_how_to_resume(folder):
                result = run_training(settings, folder, resume=resume is not None, observer=observer)
            progress.update(task, total=result.progress.step, errors=result.progress.ending)
        end = f"{result.progress.ending}, at step {result.progress.step}"
        kept = "; no checkpoint is better than the start" if result.progress.kept_start else ""
        log.line(_title(settings), end + kept)
        _print_result(console, result, folder)


@contextmanager
def _shown(console: Console) -> Iterator[None]:
    """Print what is logged about a training: that a step is being compiled takes minutes, for example."""
    logger, handler = logging.getLogger("hessgnn.training"), _Lines(console)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


class _Lines(logging.Handler):
    """Lines above the bar of a console."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        say(self._console, record.getMessage())


@contextmanager
def _told_how_to_resume(folder: Path) -> Iterator[None]:
    """Give Ctrl-C the command that resumes the run, once there is one."""
    try:
        yield
    except KeyboardInterrupt as error:
        if Run(folder).config_path.is_file():
            raise Interrupted(f"hessgnn train --resume {shlex.quote(str(folder))}") from error
        raise


def _what_and_where(
    config: Path | None, overrides: list[str], output: Path | None, resume: Path | None
) -> tuple[RunConfig, Path]:
    """Settings of a run and its folder."""
    if resume is not None:
        if config is not None and "=" in str(config):  # the first word may be an override
            config, overrides = None, [str(config), *overrides]
        if config is not None or output is not None:
            raise ConfigError("takes neither a config nor an output folder", where="--resume", hint="leave them out")
        Run(resume).config()  # says what is wrong with a folder that holds no run
        return load(RunConfig, Run(resume).config_path, overrides), resume
    if config is None:
        raise ConfigError("no config is given", hint="name a YAML file, for example configs/schnet.yaml")
    settings = load(RunConfig, find_resource(config), overrides)
    return settings, output or default_folder(settings)


def _logged(log: ProgressLog, settings: RunConfig, observer: Observer) -> Observer:
    """An observer that writes a line for each validation, too."""
    title = _title(settings)

    def observe(step: int, point: ValidationPoint | None) -> None:
        observer(step, point)
        if point is not None:
            log.line(title, f"{step}/{settings.training.steps} steps  {bar.describe(point)}")

    return observe


def _title(settings: RunConfig) -> str:
    return f"train {settings.entry} seed {settings.training.seed}"


def evaluate(
    run: Path | None,
    overrides: list[str],
    *,
    potential: str | None,
    calculator: str | None,
    data: str | None,
    output: Path | None,
    tasks: list[str] | None,
    splits: list[str] | None,
    device: str,
    processes: int,
) -> bool:
    """Evaluate a run, a published potential or a calculator, and print metrics; whether every task could be run."""
    if run is not None and "=" in str(run):  # the first word may be an override where no run is evaluated
        run, overrides = None, [str(run), *overrides]
    if sum(one is not None for one in (run, potential, calculator)) != 1:
        hint = "name a run folder, or give --potential or --calculator"
        raise ConfigError("one of a run, a potential and a calculator is evaluated", where="evaluate", hint=hint)
    names = chosen_tasks(tasks or DEFAULT_TASKS)  # before their settings: one from outside is known by then
    own, overrides = ({}, overrides) if potential is None else divided(potential, overrides)
    settings = parse(TaskSettings, override({}, overrides), where="evaluate")
    if run is not None and output is not None:
        raise ConfigError("a run keeps its record in its own folder", where="--output", hint="leave it out")
    keep_freed_memory()
    console = Console()
    folder = run or output or Path("runs") / str(potential or calculator).replace(":", ".")
    title = f"evaluate {run or potential or calculator}"
    if potential is not None:
        with _shown(console):
            published_run(potential, folder, data or "rtp-mini", own)
        config = Run(folder).config()
        data, splits = config.data.path, splits or splits_of(Store.open(config.data.path), config)
        if config.data.train in (splits or ()):
            say(console, f"the energy of each element was fitted to the split {config.data.train!r} itself")
    log = ProgressLog(console, folder / "evaluate.log")
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bars: dict[str, TaskID] = {}

        def advance(label: str, done: int, total: int) -> None:
            if label not in bars:
                bars[label] = progress.add_task(label, total=total)
            progress.update(bars[label], completed=done)
            log.progress(title, label, done, total, f"{label} {done}/{total}")

        common: dict[str, Any] = {"tasks": names, "splits": splits, "settings": settings, "processes": processes}
        common["observer"] = advance
        if calculator is not None:
            record = evaluate_calculator(calculator, data or "rtp-mini", folder, **common)
        else:
            record = evaluate_run(folder, device=device, data=data, **common)
    for table in _metric_tables(record):
        console.print(table)
    for failure in record.failures:
        where = failure.split if failure.structure is None else f"{failure.split}, {failure.structure}"
        console.print(
            f"{failure.task} on {where} failed: {failure.reason}", highlight=False, markup=False, soft_wrap=True
        )
    console.print(f"record: {folder / 'record.json'}", highlight=False, markup=False)
    if record.status == "failed":
        console.print(f"failed: {record.reason}", highlight=False, markup=False)
    return record.status == "ok" and not any(failure.structure is None for failure in record.failures)


def default_folder(config: RunConfig) -> Path:
    """Where a run is saved when no folder is named: ``runs/<entry>-seed<seed>``."""
    entry = re.sub(r"[^\w.-]+", "-", config.entry).strip("-")
    return Path("runs") / f"{entry}-seed{config.training.seed}"


def _print_plan(console: Console, settings: RunConfig, folder: Path, run: Run | None) -> None:
    """Say what a run would do; ``run`` is the one that is resumed."""
    sources = open_sources(settings)
    elements = elements_of(sources)
    resumed, begun = (None, ()) if run is None else run.begun(settings)
    start = read_start(settings) if resumed is None else None
    settings = resolved(settings, elements, resumed if start is None else start.origin)
    sources = tuple(source.with_potential(settings.potential) for source in sources)
    potential = build_potential(settings)
    console.print(dump(settings), markup=False)
    require_usable(sources)
    require_same_level(settings, sources, None if start is None else start.origin)
    parameters = potential.n_parameters()  # before any is frozen
    origin = prepare(potential, settings, start, elements)
    build_update(settings, potential)  # says what is wrong with groups of parameters
    training, first = settings.training, sources[0]
    per_epoch = f"{settings.order.step(0, epoch_steps(first.config, first.store))} steps an epoch"
    if training.max_atoms or training.max_edges:
        per_epoch = f"at least {per_epoch}"
    console.print(
        f"{len(first.train)} training structures, {per_epoch}, {training.steps} steps, {parameters} parameters, "
        f"into {folder}",
        markup=False,
        highlight=False,
    )
    about = describe_trained(potential, resumed)
    if resumed is None and not has_learned(settings, potential):
        sources = scale_to_data(potential, settings, sources)
    elif resumed is None and origin is not None:
        about = [origin.described(), *about]
        number = first.labelled()["energy"]
        fits = refits(settings, potential)
        how = (
            f"fitted to {number} training structures when the run begins"
            if fits
            else str(settings.data.reference_energies)
        )
        about.append(f"reference energies: {how}")
    if len(begun) == len(sources):
        sources = tuple(source.shifted(was.shift) for source, was in zip(sources, begun, strict=True))
    for line in (*about, *describe_run(settings, sources)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if not console.quiet:
        warn_of_sources(sources)


def _print_result(console: Console, result: TrainingResult, folder: Path) -> None:
    progress = result.progress
    best = next(point for point in progress.curve if point.step == progress.best_step)
    console.print(f"best validation at step {best.step}: {bar.describe(best)}  (score {best.score:.3g})", markup=False)
    if progress.kept_start:
        about = f"no checkpoint is better than the start, so {BEST} holds the weights of the start"
        console.print(about, style="yellow", markup=False, highlight=False, soft_wrap=True)
    ending = f"{progress.ending}  (curve: {folder / 'metrics.csv'})"
    console.print(ending, markup=False, highlight=False, soft_wrap=True)
    for shape, step in progress.compiled.items():
        how = "stays eager" if step < 0 else f"compiled from step {step}"
        console.print(f"{how}: {shape}", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"{progress.device_seconds:.1f} device-seconds, {progress.products} Hessian products, {folder}",
        markup=False,
        highlight=False,
    )


def _metric_tables(record: Record) -> Iterator[Table]:
    """The accuracy, a line for each split, and the other tasks, a line for each metric."""
    name = record.entry if record.seed is None else f"{record.entry}, seed {record.seed}"
    complete = {split: found for split, found in record.metrics.items() if METRICS.keys() <= found.keys()}
    if complete:
        table = Table(title=name)
        table.add_column("split")
        for title, unit in METRICS.values():
            table.add_column(f"{title}\n{unit}", justify="right")
        for split, found in complete.items():
            cells = {key: _text(found[key].value) for key in METRICS}
            if found["hessian_rmse"].value is None and PRODUCTS in found:
                cells["hessian_rmse"] = f"≈ {_text(found[PRODUCTS].value)}"
                table.caption = "≈: estimated from products"
            table.add_row(split, *cells.values())
        yield table
    for split, found in record.metrics.items():
        others = [metric for key, metric in found.items() if key not in METRICS]
        if others:
            table = Table(title=f"{name}, {split}")
            table.add_column("metric")
            for heading in ("value", "unit", "subjects"):
                table.add_column(heading, justify="right")
            for metric in others:
                table.add_row(metric.title, _text(metric.value), metric.unit, str(metric.n))
            yield table


def _text(value: float | None) -> str:
    return MISSING if value is None else f"{value:.4g}"


def mean_predictor_of(runs: Sequence[Path], folder: Path) -> list[Path]:
    """Record the mean predictor in ``folder`` where none of the runs is one; nothing where their data are not at hand.

    The overall score and ranks of a leaderboard need it.
    """
    loaded = collect(runs)
    if any(item.record.regime == "mean" for item in loaded):
        return []
    for item in loaded:
        record, run = item.record, Run(item.path.parent)
        own = [run.config().data] if run.config_path.is_file() else []
        for data in (*own, DataConfig(path=record.data.name)):
            with suppress(UserError):
                found = source(Store.open(data.path))
                same = (found.content_hash, found.split_hash) == (record.data.content_hash, record.data.split_hash)
                counts = [metric.n for metrics in record.metrics.values() for metric in metrics.values()]
                if same and counts:
                    record_mean_predictor(folder, data, list(record.metrics), sample=max(counts))
                    return [folder]
    return []
