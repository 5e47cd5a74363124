"""``hessgnn train`` and ``hessgnn evaluate``."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from hessgnn.benchmark import evaluate as benchmark
from hessgnn.benchmark.record import METRICS, Record
from hessgnn.config import dump, load
from hessgnn.data.store import Store
from hessgnn.errors import ConfigError
from hessgnn.files import find_resource
from hessgnn.training import bar
from hessgnn.training.config import RunConfig
from hessgnn.training.run import Run, build
from hessgnn.training.trainer import Result, default_folder
from hessgnn.training.trainer import train as run_training


def train(
    config: Path | None, overrides: list[str], *, output: Path | None, resume: Path | None, dry_run: bool
) -> None:
    """Train one potential, or go on with a run."""
    console = Console()
    if resume is not None:
        if config is not None or output is not None:
            raise ConfigError("takes neither a config nor an output folder", where="--resume", remedy="leave them out")
        settings, folder = Run(resume).config(), resume
    elif config is None:
        raise ConfigError("no config is given", remedy="name a YAML file, for example configs/schnet.yaml")
    else:
        settings = load(RunConfig, find_resource(config), overrides)
        folder = output or default_folder(settings)
    if dry_run:
        _print_plan(console, settings, folder)
        return
    console.print(bar.LEGEND, style="dim")
    with bar.progress_bar(console) as progress:
        task = progress.add_task(settings.entry, total=settings.training.steps, errors="")
        result = run_training(settings, folder, resume=resume is not None, observer=bar.observe(progress, task))
    _print_result(console, result)


def evaluate(run: Path, *, tasks: list[str] | None, splits: list[str] | None, device: str) -> None:
    """Judge the best potential of a run and print its errors."""
    console = Console()
    with Progress(console=console) as progress:
        bars = {}

        def advance(split: str, done: int, total: int) -> None:
            if split not in bars:
                bars[split] = progress.add_task(f"accuracy on {split}", total=total)
            progress.update(bars[split], completed=done)

        record = benchmark.evaluate(run, tasks=tasks or benchmark.TASKS, splits=splits, device=device, observer=advance)
    console.print(_metrics_table(record))
    console.print(f"record: {Run(run).record}", highlight=False, markup=False)
    if record.status == "failed":
        console.print(f"failed: {record.reason}", highlight=False, markup=False)


def _print_plan(console: Console, settings: RunConfig, folder: Path) -> None:
    store = Store.open(settings.data.path)
    settings = settings.with_resolved_potential(store.elements())
    console.print(dump(settings), markup=False)
    train_size = len(store.indices(settings.data.train))
    per_epoch = -(-train_size // settings.training.batch_size)
    console.print(
        f"{train_size} training structures, {per_epoch} steps an epoch, {settings.training.steps} steps, "
        f"{build(settings).n_parameters()} parameters, into {folder}",
        markup=False,
        highlight=False,
    )


def _print_result(console: Console, result: Result) -> None:
    progress = result.progress
    best = next(point for point in progress.curve if point.step == progress.best_step)
    console.print(f"best validation at step {best.step}: {bar.describe(best)}  (score {best.score:.3g})", markup=False)
    console.print(
        f"{progress.device_seconds:.1f} device-seconds, {progress.products} Hessian products, {result.run.folder}",
        markup=False,
        highlight=False,
    )


def _metrics_table(record: Record) -> Table:
    table = Table(title=f"{record.entry}, seed {record.seed}")
    table.add_column("split")
    for title, unit in METRICS.values():
        table.add_column(f"{title}\n{unit}", justify="right")
    for split, metrics in record.metrics.items():
        values = (metrics[name].value for name in METRICS)
        table.add_row(split, *("null" if value is None else f"{value:.4g}" for value in values))
    return table
