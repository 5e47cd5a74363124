"""``hessgnn bench …``: what training steps, Hessians and loading cost on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID

from hessgnn.errors import ConfigError
from hessgnn.runtime.terminal import say

if TYPE_CHECKING:  # torch and its company take seconds to import
    from hessgnn_bench.conditions import Conditions
    from hessgnn_bench.experiment import Experiment
    from hessgnn_bench.workload import Workload

app = typer.Typer(help="Measure what training steps, Hessians and loading cost on this machine.", no_args_is_help=True)


class Size(StrEnum):
    """Which hyper-parameters the potentials have."""

    small = "small"
    real = "real"


class Device(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


Architectures = Annotated[
    list[str], typer.Option(help="Registered names or module:Class, separated by commas; all registered by default.")
]
Probes = Annotated[list[str], typer.Option(help="Numbers of probes, separated by commas.")]
Sizes = Annotated[list[str], typer.Option(help="Structures in our files, separated by commas.")]
Estimators = Annotated[list[str], typer.Option(help="A name or module:name; repeat for several; all by default.")]
Repeats = Annotated[int, typer.Option(min=1, help="Rounds; each times everything once, interleaved.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Structures in a batch.")]
Data = Annotated[str, typer.Option(metavar="FILE_OR_NAME", help="A store, or the name of a bundled set.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; torch's default if absent.")]
DeviceOption = Annotated[Device, typer.Option("--device", help="auto uses CUDA if available.")]
KeepMemory = Annotated[bool, typer.Option("--keep-memory", help="Keep freed memory for the next tensors (glibc).")]
Memory = Annotated[
    bool, typer.Option("--memory", help="Also measure peak memory; on a CPU in a process for each piece, ~5 s.")
]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="JSON file with every repeat.")]
SizeOption = Annotated[
    Size, typer.Option("--size", help="small: each architecture's defaults; real: what people train.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be measured.")]


@app.command()
def steps(
    architectures: Architectures = [],  # noqa: B006 (typer copies it)
    probes: Probes = ["1,2,4"],  # noqa: B006
    repeats: Repeats = 21,
    batch_size: BatchSize = 32,
    data: Data = "rtp-mini",
    size: SizeOption = Size.small,
    threads: Threads = None,
    device: DeviceOption = Device.auto,
    keep_memory: KeepMemory = False,
    memory: Memory = False,
    output: Output = None,
    dry_run: DryRun = False,
) -> None:
    """Time training steps: E-F, E-F-H by every backend, full Hessians, and what others do instead."""
    from hessgnn_bench.steps import experiments

    conditions = _prepare(device, threads, keep_memory)
    numbers = _numbers(probes)
    planned = [
        experiment
        for name in _names(architectures)
        for experiment in experiments(_workload(name, data, batch_size, conditions, size), numbers, repeats)
    ]
    settings = {"architectures": _names(architectures), "probes": numbers, "repeats": repeats, "data": data}
    settings["size"] = size.value
    _run("steps", settings | {"batch_size": batch_size}, planned, conditions, memory, output, dry_run)


@app.command()
def hessian(
    architectures: Architectures = [],  # noqa: B006
    repeats: Repeats = 5,
    batch_size: BatchSize = 32,
    data: Data = "rtp-mini",
    size: SizeOption = Size.small,
    threads: Threads = None,
    device: DeviceOption = Device.auto,
    keep_memory: KeepMemory = False,
    memory: Memory = False,
    output: Output = None,
    dry_run: DryRun = False,
) -> None:
    """Time the full Hessians of a batch, against torch.func, rows by autograd.grad and torchani."""
    from hessgnn_bench.hessians import experiment

    conditions = _prepare(device, threads, keep_memory)
    names = _names(architectures)
    planned = [experiment(_workload(name, data, batch_size, conditions, size), repeats) for name in names]
    settings = {"architectures": names, "repeats": repeats, "data": data, "batch_size": batch_size}
    settings["size"] = size.value
    _run("hessian", settings, planned, conditions, memory, output, dry_run)


@app.command()
def loader(
    structures: Annotated[int, typer.Option(min=1, help="Generated structures of 15 atoms, for both.")] = 2000,
    sizes: Sizes = ["1000,10000"],  # noqa: B006
    repeats: Repeats = 5,
    batch_size: BatchSize = 32,
    threads: Threads = None,
    output: Output = None,
    dry_run: DryRun = False,
) -> None:
    """Time the loader on the CPU, against that of torch-geometric, and on files of growing size."""
    from hessgnn_bench.loader import experiments

    numbers = _numbers(sizes, "--sizes")
    settings = {"structures": structures, "sizes": ",".join(map(str, numbers)), "repeats": repeats}
    settings |= {"batch_size": batch_size}
    conditions = _prepare(Device.cpu, threads, keep_memory=False)
    planned = experiments(structures, numbers, batch_size, repeats)
    _run("loader", settings, planned, conditions, False, output, dry_run)


@app.command()
def probes(
    architectures: Architectures = [],  # noqa: B006
    numbers: Probes = ["1,2,4"],  # noqa: B006
    structures: Annotated[int, typer.Option(min=2, help="Of each set: trained-on minima, held-out frames.")] = 16,
    directions: Annotated[int, typer.Option(min=2, help="In parameter space, that the gradient is seen along.")] = 24,
    draws: Annotated[int, typer.Option(min=2, help="Of each estimator on each structure.")] = 500,
    steps: Annotated[int, typer.Option(min=1, help="Until a potential counts as half trained.")] = 300,
    batch_size: Annotated[int, typer.Option(min=1, help="That variances are for, and steps are timed with.")] = 16,
    repeats: Repeats = 11,
    estimators: Estimators = [],  # noqa: B006
    seed: Annotated[int, typer.Option(min=0, help="Of everything.")] = 0,
    threads: Threads = None,
    output: Output = None,
    dry_run: DryRun = False,
) -> None:
    """Measure the noise of estimators of the Hessian loss against their cost, on the bundled data, on the CPU."""
    from hessgnn_bench.estimators import all_estimators
    from hessgnn_bench.probes import Settings, study

    conditions = _prepare(Device.cpu, threads, keep_memory=False)
    settings = Settings(tuple(_numbers(numbers)), structures, directions, draws, steps, batch_size, repeats, seed)
    chosen = estimators or all_estimators()
    console, names = _console(conditions, output), _names(architectures)
    if dry_run:
        console.print(f"{', '.join(names)}: {settings}", markup=False, highlight=False)
        console.print("\n".join(f"  {name}" for name in chosen), markup=False, highlight=False)
        return
    with console.status("", spinner="line") as status:
        found = study(names, settings, lambda what: status.update(escape(what)), chosen)
    for table in found.tables():
        console.print(table)
    if output is not None:
        found.write(output, conditions)
        say(console, f"report: {output}")


@app.command()
def show(report: Annotated[Path, typer.Argument(help="JSON file of another verb.")]) -> None:
    """Print the tables of a stored report again."""
    from hessgnn_bench.report import Report

    console, found = Console(), Report.read(report)
    console.print(f"hessgnn bench {found.verb}, {found.date}, {_described(found.conditions)}", highlight=False)
    for comparison in found.comparisons:
        console.print(comparison.table())
    for starts in found.starts:
        console.print(starts.table())


def _run(
    verb: str,
    settings: dict[str, Any],
    experiments: Sequence[Experiment],
    conditions: Conditions,
    memory: bool,
    output: Path | None,
    dry_run: bool,
) -> None:
    """Measure, print each table when it is done, and keep what is done in the file."""
    from hessgnn_bench.report import Report

    console = _console(conditions, output)
    if dry_run:
        for experiment in experiments:
            console.print(f"{escape(experiment.title)}, {experiment.repeats} repeats:", highlight=False)
            for name in experiment.pieces():
                console.print(f"  {escape(name)}", highlight=False)
        return
    report = Report(verb=verb, settings=settings, conditions=conditions)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        for experiment in experiments:
            task = progress.add_task(escape(experiment.title), total=None)
            advance = partial(_advance, progress, task)
            comparison = experiment.measure(conditions, memory=memory, observer=advance)
            progress.remove_task(task)
            console.print(comparison.table())
            report = report.model_copy(update={"comparisons": [*report.comparisons, comparison]})
            if output is not None:
                report.write(output)
    if output is not None:
        say(console, f"report: {output}")


def _console(conditions: Conditions, output: Path | None) -> Console:
    """A console that has said on what is measured, once the file can be written."""
    if output is not None and output.is_dir():
        raise ConfigError("is a folder", where=output, hint="name a file, such as steps.json")
    console = Console()
    console.print(_described(conditions), highlight=False)
    return console


def _advance(progress: Progress, task: TaskID, done: int, total: int) -> None:
    progress.update(task, completed=done, total=total)


def _workload(name: str, data: str, batch_size: int, conditions: Conditions, size: Size) -> Workload:
    """An architecture of the wanted size; those that have only one keep it."""
    from hessgnn_bench.workload import REAL, Workload

    settings = REAL.get(name, {}) if size is Size.real else {}
    return Workload(name, data, batch_size, conditions.device, settings)


def _prepare(device: Device, threads: int | None, keep_memory: bool) -> Conditions:
    from hessgnn_bench.conditions import Conditions

    return Conditions.prepare(device.value, threads, keep_memory)


def _described(conditions: Conditions) -> str:
    threads = f"{conditions.threads} thread{'s' * (conditions.threads > 1)}"
    kept = ", freed memory kept" * conditions.keep_memory
    return escape(f"{conditions.hardware}, {conditions.device}, {threads}, torch {conditions.versions['torch']}{kept}")


def _names(architectures: Sequence[str]) -> list[str]:
    from hessgnn.potentials import base

    return _divided(architectures) or base.architectures()


def _numbers(values: Sequence[str], option: str = "--probes") -> list[int]:
    parts = _divided(values)
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ConfigError("not positive whole numbers", where=f"{option} {','.join(parts)}", hint="write it as 1,2,4")
    return [int(part) for part in parts]


def _divided(values: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(part.strip() for value in values for part in value.split(",") if part.strip()))
