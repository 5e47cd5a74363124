"""``hessgnn study``: regimes of labels compared under fixed settings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean

from rich.console import Console
from rich.progress import TaskID
from rich.table import Table

from hessgnn.data.store.store import Store
from hessgnn.errors import UserError
from hessgnn.experiments.config import StudyConfig
from hessgnn.experiments.job import Event, JobFinished, JobLog, JobProgress, Note, Observer
from hessgnn.experiments.labels import TrainingSets
from hessgnn.experiments.study import cells_of
from hessgnn.experiments.study import report as report_study
from hessgnn.experiments.study import study as run_study
from hessgnn.experiments.transfer import cells_of as transfer_cells
from hessgnn.experiments.transfer import report_transfer, run_transfer
from hessgnn.experiments.transfer_config import TransferConfig
from hessgnn.leaderboard.report import compare
from hessgnn.runtime.config import load, read_yaml
from hessgnn.runtime.files import find_resource
from hessgnn.runtime.terminal import ProgressLog, say
from hessgnn.training import bar
from hessgnn.training.regimes import any_frames


def study(config: Path, overrides: list[str], *, output: Path | None, dry_run: bool, report: bool = False) -> None:
    """Train, evaluate and compare, with a bar for each running job and one for the whole study.

    ``report`` only writes the report of what is finished.
    """
    console, path = Console(), find_resource(config)
    if read_yaml(path).get("kind") is not None:
        transfer(load(TransferConfig, path, overrides), console, output=output, dry_run=dry_run, report=report)
        return
    settings = load(StudyConfig, path, overrides)
    folder = output or Path("runs") / settings.name
    console.print(_plan_table(settings, folder))
    if dry_run:
        _estimate(settings, console)
        return
    if report:
        found = report_study(settings, folder)
        done = sum(point.status == "ok" for point in found.points)
        say(console, f"{done} of {found.planned} trainings are finished: {folder / 'study.html'}")
        return
    validations = [settings.run_config(name, {}, steps=1, seed=0).validation for name in settings.architectures]
    console.print(bar.legend(hessian=any(one.compares_hessians for one in validations)), style="dim")
    cells = [str(cell.folder(folder)) for cell in cells_of(settings)]
    _run(partial(run_study, settings, folder), cells, folder, f"What Hessians buy: {settings.name}", console)


def transfer(settings: TransferConfig, console: Console, *, output: Path | None, dry_run: bool, report: bool) -> None:
    """Run a transfer study, or print its plan, or write its report."""
    folder = output or Path("runs") / settings.name
    console.print(_transfer_table(settings, folder))
    if dry_run:
        _estimate(settings, console)
        return
    if report:
        value = report_transfer(settings, folder)
        say(console, f"{value.finished} of {value.planned} trainings are finished: {folder / 'study.html'}")
        return
    cells = [str(cell.folder(folder)) for cell in transfer_cells(settings)]
    _run(partial(run_transfer, settings, folder), cells, folder, f"Transfer: {settings.name}", console)


def _estimate(settings: StudyConfig | TransferConfig, console: Console) -> None:
    """Print what a study would take."""
    from hessgnn.sweep.measure import estimates
    from hessgnn.sweep.view import estimate_table

    with console.status("measuring a few steps of each architecture"):
        measured = estimates(settings)
    console.print(estimate_table(settings, measured))


def _run(run: Callable[[Observer], list[Path]], cells: list[str], folder: Path, title: str, console: Console) -> None:
    """Run a study in its folder, and make its leaderboard."""
    log = ProgressLog(console, folder / "study.log")
    records = _watched(run, cells, console, log)
    compare(records, folder / "leaderboard", title, console)
    log.line("report", f"{folder / 'study.html'} and {folder / 'leaderboard'} written")
    say(console, f"study: {folder / 'study.html'}")


def _watched(run: Callable[[Observer], list[Path]], cells: list[str], console: Console, log: ProgressLog) -> list[Path]:
    """Run with a bar for each running job and one for all; ``cells`` are the folders that count."""
    jobs, runs = JobLog(log), set(cells)
    with bar.progress_bar(console) as progress:
        whole = progress.add_task("[bold]whole study", total=len(cells), errors="runs")
        lines: dict[str, TaskID] = {}

        def observer(event: Event) -> None:
            jobs.observe(event)
            if isinstance(event, Note) and console.is_terminal:
                say(console, f"{event.about}: {event.text}")
            if isinstance(event, JobFinished) and event.title.folder in runs:
                progress.advance(whole)
            if isinstance(event, JobFinished) and event.title.folder in lines:
                progress.update(lines[event.title.folder], visible=False)
            if isinstance(event, JobProgress):
                key = event.title.folder
                if key not in lines:
                    lines[key] = progress.add_task("", total=event.total, errors="")
                what = str(event.title) if event.task is None else f"{event.title}: {event.task}"
                visible = key in runs or event.step < event.total
                progress.update(lines[key], description=what, completed=event.step, total=event.total, visible=visible)
                if event.point is not None:
                    progress.update(lines[key], errors=bar.describe(event.point))

        records = run(observer)
        progress.update(whole, completed=len(cells))
    return records


def _transfer_table(settings: TransferConfig, folder: Path) -> Table:
    table = Table(title=f"transfer study {settings.name} into {folder}", show_header=False)
    table.add_row("architectures", ", ".join(settings.architectures))
    table.add_row("starts", ", ".join(settings.starts))
    table.add_row("labels", ", ".join(settings.regimes))
    table.add_row("data", ", ".join(f"{100 * fraction:g} %" for fraction in settings.fractions))
    table.add_row("replay", ", ".join(str(number) if number else "none" for number in settings.replay))
    table.add_row("seeds", ", ".join(map(str, settings.seeds)))
    table.add_row("steps", ", ".join(f"{name} {settings.steps_of(name):,}" for name in settings.architectures))
    table.add_row("evaluated by", ", ".join(settings.tasks))
    cells = transfer_cells(settings)
    text = f"{len(cells)} runs"
    if settings.pretraining is not None:
        before = len(settings.seeds) * len(settings.architectures) * len(settings.pretraining.regimes)
        text += f", {before} pre-trainings of {settings.pretraining.steps:,} steps"
    if (trials := len(settings.rate_trials())) > 0:
        text += f", {trials} short ones for the learning rates"
    table.add_row("in all", text)
    table.add_row("workers", f"{settings.workers} processes")
    return table


def _plan_table(settings: StudyConfig, folder: Path) -> Table:
    table = Table(title=f"study {settings.name} into {folder}", show_header=False)
    table.add_row("architectures", ", ".join(settings.architectures))
    table.add_row("labels", ", ".join(settings.regimes))
    table.add_row("data", ", ".join(f"{100 * fraction:g} %" for fraction in settings.fractions))
    table.add_row("seeds", ", ".join(map(str, settings.seeds)))
    budget = f"at most {settings.steps:,} steps"
    budget += ", and the other labels again for the device-seconds of E-F-H" if settings.equal_seconds else ""
    table.add_row("each for", budget)
    table.add_row("evaluated by", ", ".join(settings.tasks))
    equal = [cell for cell in cells_of(settings) if cell.budget == "steps"]
    others = len(cells_of(settings)) - len(equal)
    text = f"{len(equal)} trainings, at most {len(equal) * settings.steps:,} steps"
    table.add_row("in all", text + (f"; and {others} trainings for equal time" if others else ""))
    labels = settings.labels
    if any_frames(settings.regimes):
        table.add_row("displaced frames", f"by up to {labels.displacement:g} Å (standard deviation of a coordinate)")
    if labels.hessian_gradients == "measured":
        table.add_row("cost of the labels", "known when the cost of a Hessian has been measured")
    else:
        table.add_row("cost of the labels", _cost_of_labels(settings, folder))
    table.add_row("workers", f"{settings.workers} processes")
    return table


def _cost_of_labels(settings: StudyConfig, folder: Path) -> str:
    """Gradients of each set of labels of the largest part, mean over the seeds, which draw structures of their own."""
    largest = settings.fractions[-1]
    try:
        sets = TrainingSets(settings, Store.open(settings.data.path), folder / "data", lambda _: None)
    except UserError as error:  # the report of a finished study needs neither data nor engine
        return f"not known: {error}"
    costs = {
        regime: mean(sets.label_gradients(regime, fraction=largest, draw=seed) for seed in settings.seeds)
        for regime in settings.regimes
    }
    text = ", ".join(f"{regime} {cost:,.0f}" for regime, cost in costs.items())
    return f"{text} gradients for {100 * largest:g} % of the data{', mean over seeds' * (len(settings.seeds) > 1)}"
