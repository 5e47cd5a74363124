"""``hessgnn sweep``, which is ``python -m hessgnn.sweep``: the main job."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import TaskID
from rich.table import Table

from hessgnn.cli.leaderboard import leaderboard
from hessgnn.config import load
from hessgnn.files import find_resource
from hessgnn.sweep.config import SweepConfig
from hessgnn.sweep.sweep import plan
from hessgnn.sweep.sweep import sweep as run_sweep
from hessgnn.sweep.worker import Report
from hessgnn.training import bar


def sweep(config: Path, overrides: list[str], *, output: Path | None, dry_run: bool) -> None:
    """Tune, retrain, judge, compare, with a bar for each architecture and one for the whole."""
    console = Console()
    settings = load(SweepConfig, find_resource(config), overrides)
    folder = output or Path("runs") / settings.name
    console.print(_plan_table(settings, folder))
    if dry_run:
        return
    console.print(bar.LEGEND, style="dim")
    with bar.progress_bar(console) as progress:
        whole = progress.add_task("[bold]whole sweep", total=plan(settings).steps, errors="steps")
        lines: dict[str, TaskID] = {
            name: progress.add_task(f"{name} waiting", total=None, errors="") for name in settings.architectures
        }
        done: dict[str, int] = {}

        def observer(report: Report) -> None:
            line = lines[report.architecture]
            progress.update(
                line, description=f"{report.architecture} {report.label}", completed=report.step, total=report.total
            )
            if report.point is not None:
                progress.update(line, errors=bar.describe(report.point))
            progress.advance(whole, report.step - done.get(report.folder, 0))
            done[report.folder] = report.step

        records = run_sweep(settings, folder, observer)
        progress.update(whole, completed=plan(settings).steps)
    console.print(f"trials: {folder / 'trials.csv'}   best settings: {folder / 'best'}", highlight=False)
    leaderboard(records, folder / "leaderboard", f"What Hessians buy: {settings.name}")


def _plan_table(settings: SweepConfig, folder: Path) -> Table:
    counted = plan(settings)
    table = Table(title=f"sweep {settings.name} into {folder}", show_header=False)
    n = len(settings.architectures)
    table.add_row("architectures", ", ".join(settings.architectures))
    table.add_row("tuned", ", ".join(settings.space))
    table.add_row("trials", f"{settings.trials} for each architecture, {settings.trial_steps} steps each")
    table.add_row(
        "retraining",
        f"{', '.join(settings.regimes)} with seeds {', '.join(map(str, settings.seeds))}, "
        f"{settings.final_steps} steps each",
    )
    table.add_row(
        "in all", f"{counted.trials} trials + {counted.finals} retrainings = {counted.steps} steps, {n} studies"
    )
    table.add_row("workers", f"{settings.workers} processes")
    return table
