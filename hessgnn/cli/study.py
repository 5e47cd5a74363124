"""``hessgnn study``: regimes of labels compared under fixed settings."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import TaskID
from rich.table import Table

from hessgnn.cli.leaderboard import leaderboard
from hessgnn.experiments.job import Left, Report
from hessgnn.experiments.study import plan
from hessgnn.experiments.study import study as run_study
from hessgnn.experiments.study_config import StudyConfig
from hessgnn.runtime.config import load
from hessgnn.runtime.files import find_resource
from hessgnn.training import bar


def study(config: Path, overrides: list[str], *, output: Path | None, dry_run: bool) -> None:
    """Train, judge and compare, with a bar for each running job and one for the whole."""
    console = Console()
    settings = load(StudyConfig, find_resource(config), overrides)
    folder = output or Path("runs") / settings.name
    console.print(_plan_table(settings, folder))
    if dry_run:
        return
    console.print(bar.LEGEND, style="dim")
    with bar.progress_bar(console) as progress:
        whole = progress.add_task("[bold]whole study", total=len(plan(settings)), errors="runs")
        lines: dict[str, TaskID] = {}
        runs = {str(cell.folder(folder)) for cell in plan(settings)}

        def observer(report: Report | Left) -> None:
            if isinstance(report, Left):
                return
            if report.folder not in lines:
                lines[report.folder] = progress.add_task(report.label, total=report.total, errors="")
            progress.update(lines[report.folder], completed=report.step, visible=report.step < report.total)
            if report.point is not None:
                progress.update(lines[report.folder], errors=bar.describe(report.point))
            if report.step == report.total and report.folder in runs:
                progress.advance(whole)

        records = run_study(settings, folder, observer)
        progress.update(whole, completed=len(plan(settings)))
    leaderboard(records, folder / "leaderboard", f"What Hessians buy: {settings.name}")
    console.print(f"study: {folder / 'study.html'}", markup=False, highlight=False, soft_wrap=True)


def _plan_table(settings: StudyConfig, folder: Path) -> Table:
    table = Table(title=f"study {settings.name} into {folder}", show_header=False)
    table.add_row("architectures", ", ".join(settings.architectures))
    table.add_row("labels", ", ".join(settings.regimes))
    table.add_row("data", ", ".join(f"{100 * fraction:g} %" for fraction in settings.fractions))
    table.add_row("seeds", ", ".join(map(str, settings.seeds)))
    budget = f"{settings.steps} steps" + (", and the device-seconds of E-F-H" if settings.equal_seconds else "")
    table.add_row("each for", budget)
    table.add_row("judged by", ", ".join(settings.tasks))
    table.add_row("in all", f"{len(plan(settings))} trainings")
    table.add_row("workers", f"{settings.workers} processes")
    return table
