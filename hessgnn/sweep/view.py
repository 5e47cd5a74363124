"""What a sweep shows: its plan, a live table on a terminal or a line for each finished unit of work, its results."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from hessgnn.experiments.config import ExperimentConfig
from hessgnn.experiments.job import Event, JobFinished, JobLog, JobProgress, Note
from hessgnn.leaderboard.report import compare
from hessgnn.leaderboard.trials import TrialResult, read_trials
from hessgnn.runtime.config import load
from hessgnn.runtime.files import find_resource
from hessgnn.runtime.terminal import ProgressLog, say
from hessgnn.sweep.config import SweepConfig
from hessgnn.sweep.measure import Estimate, LabellingEstimate, estimates, labelling
from hessgnn.sweep.storage import without_password
from hessgnn.sweep.sweep import TrialFinished, sweep
from hessgnn.training import bar
from hessgnn.training.regimes import label_set


def run(config: Path, overrides: list[str], *, output: Path | None, dry_run: bool) -> None:
    """Run a sweep in a folder (``runs/NAME`` if absent) and show its progress; or print plan and cost."""
    console = Console()
    settings = load(SweepConfig, find_resource(config), overrides)
    folder = output or Path("runs") / settings.name
    console.print(_plan_table(settings, folder))
    if dry_run:
        with console.status("measuring a few steps of each architecture"):
            measured, frames = estimates(settings), labelling(settings)
        console.print(estimate_table(settings, measured, frames))
        return
    console.print(bar.legend(hessian=settings.objective.weights.get("hessian", 0.0) > 0), style="dim")
    log = ProgressLog(console, folder / "sweep.log")
    view = _View(settings, console, log)
    live = Live(get_renderable=view.render, console=console, refresh_per_second=4)
    with live if console.is_terminal else nullcontext():
        records = sweep(settings, folder, view.observe)
        view.finish(read_trials(folder / "trials.csv"))
    if not console.is_terminal:
        console.print(view.render())
    log.line("report", f"{folder / 'trials.csv'} and {folder / 'sweep.html'} written")
    say(console, f"trials: {folder / 'trials.csv'}   best settings: {folder / 'best'}")
    say(console, f"tuning report: {folder / 'sweep.html'}")
    title = f"What Hessians buy: {settings.name}"
    compare(records, folder / "leaderboard", title, console, trials=folder / "trials.csv")
    log.line("report", f"leaderboard of {len(records)} runs written to {folder / 'leaderboard'}")


class _View:
    """The live table: for each architecture what runs, what is best, and the time left of the whole."""

    def __init__(self, settings: SweepConfig, console: Console, log: ProgressLog) -> None:
        self._settings, self._steps = settings, settings.count_runs().steps
        self._console, self._log = console, log
        self._jobs = JobLog(log)
        self._running: dict[str, JobProgress] = {}
        self._errors: dict[str, str] = {}
        self._rows: dict[str, dict[int, TrialResult]] = {str(subject): {} for subject in settings.subjects}
        self._done: dict[str, int] = {}
        self._bar = Progress(
            TextColumn("[bold]whole sweep"),
            BarColumn(bar_width=30),
            TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
        )
        self._whole = self._bar.add_task("whole sweep", total=self._steps)

    def observe(self, event: Event) -> None:
        """Take in an event of the sweep."""
        if isinstance(event, TrialFinished):
            self._rows[event.row.subject][event.row.trial] = event.row
            self._log.line(event.title, _outcome(event.row))
            return
        if isinstance(event, Note) and self._console.is_terminal:
            say(self._console, f"{event.about}: {event.text}")
        closed = isinstance(event, JobFinished) and event.title.stage == "trial" and event.result is not None
        if not closed:  # the line of its TrialFinished, which follows, says more
            self._jobs.observe(event)
        if isinstance(event, JobFinished):
            self._running.pop(event.title.folder, None)
        elif isinstance(event, JobProgress):
            folder = event.title.folder
            self._running[folder] = event
            if event.title.stage == "labels" and event.step == event.total:
                self._running.pop(folder)  # labelling is no job, which would say that it has finished
            if event.point is not None:
                self._errors[folder] = bar.describe(event.point)
            if event.task is None:
                self._bar.advance(self._whole, event.step - self._done.get(folder, 0))
                self._done[folder] = event.step

    def finish(self, trials: Sequence[TrialResult]) -> None:
        """Everything is done, including the trials that were finished before this start, or elsewhere."""
        for row in trials:
            self._rows[row.subject][row.trial] = row
        self._running.clear()
        self._bar.update(self._whole, completed=self._steps)

    def render(self) -> Group:
        """The table as it is now."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("architecture, labels", "trials", "best score", "running"):
            table.add_column(heading)
        for name, rows in self._rows.items():  # threads of the workers change these while they are drawn
            ended, running = list(rows.values()), list(self._running.values())
            scored = [row for row in ended if row.score is not None]
            best = min(scored, key=lambda row: row.score or 0.0, default=None)
            failed = sum(row.state == "failed" for row in ended)
            lines = [
                f"{_progress(report)}  {self._errors.get(report.title.folder, '')}"
                for report in running
                if report.title.architecture == name
            ]
            table.add_row(
                name,
                f"{len(ended)}/{self._settings.budget.trials}" + (f"\n{failed} failed" if failed else ""),
                "" if best is None else f"{best.score:.4g} (trial {best.trial})\n{_values(best)}",
                Text("\n".join(lines) or ("waiting" if len(ended) < self._settings.budget.trials else "")),
            )
        if labelling := [
            _progress(report) for report in self._running.copy().values() if not report.title.architecture
        ]:
            table.add_row("labels", "", "", Text("\n".join(labelling)))
        return Group(table, self._bar)


def _progress(report: JobProgress) -> str:
    name = f"{report.title.stage} {report.title.label}".strip()
    task = "" if report.task is None else f"{report.task} "
    return f"{name}: {task}{report.step}/{report.total}"


def _values(row: TrialResult) -> str:
    shown = {key: f"{value:.3g}" if isinstance(value, float) else str(value) for key, value in row.values.items()}
    return ", ".join(f"{key.removeprefix('loss.').rpartition('.')[2]} {value}" for key, value in shown.items())


def _outcome(row: TrialResult) -> str:
    """How a trial ended, for a log."""
    outcome = row.reason if row.score is None else f"score {row.score:.4g} ({_values(row)})"
    return f"{row.kind} {row.state}: {outcome}, {row.device_seconds:.1f} device-seconds"


def _plan_table(settings: SweepConfig, folder: Path) -> Table:
    counted, budget = settings.count_runs(), settings.budget
    table = Table(title=f"sweep {settings.name} into {folder}", show_header=False)
    table.add_row("architectures", ", ".join(settings.architectures))
    if budget.trials == 1:
        table.add_row("tuned", "nothing: the only trial of each has the paper's weights")
    for regime in settings.regimes if budget.trials > 1 else ():
        table.add_row(f"tuned for {regime}", ", ".join(settings.space_of(regime)))
    cost = f"; and {settings.objective.cost}" if settings.objective.cost else ""
    table.add_row("objective", settings.objective.describe() + cost)
    limits = [
        f"{value:g} {unit}"
        for value, unit in (
            (budget.hours, "hours"),
            (budget.device_seconds, "device-seconds"),
            (budget.trial_hours, "hours each"),
        )
        if value is not None
    ]
    most = f" (at most {', '.join(limits)})" if limits else ""
    table.add_row(
        "trials",
        f"{counted.trials}: {budget.trials} for each of {len(settings.architectures)} architectures and "
        f"{len(settings.regimes)} kinds of labels, {budget.steps} steps each{most}",
    )
    table.add_row("sampler, pruner", f"{settings.sampler.kind}, {settings.pruner.kind}")
    if counted.transfers:
        table.add_row("transfer", f"{counted.transfers} trials with the weights of another architecture")
    if counted.checks:
        number = settings.check_ranking.trials
        text = f"the {'best' if number == 1 else f'{number} best'} and the worst trial of each"
        table.add_row("ranking check", f"{counted.checks} runs of {settings.final_steps} steps: {text}")
    table.add_row(
        "retraining",
        f"{counted.finals}: the best of each with seeds {', '.join(map(str, settings.seeds))} on "
        f"{100 * settings.fraction:g} % of the training molecules and reactions, "
        f"at most {settings.final_steps} steps each" + (", and for equal time" if settings.equal_seconds else ""),
    )
    table.add_row("evaluated by", ", ".join(settings.tasks))
    table.add_row("in all", f"{counted.runs} runs, {counted.steps:,} steps, {len(settings.subjects)} studies")
    kept_in = without_password(settings.storage) or "a journal file"
    table.add_row("workers", f"{settings.workers} processes; trials are kept in {kept_in}")
    return table


def estimate_table(
    settings: ExperimentConfig, measured: Sequence[Estimate], frames: LabellingEstimate | None = None
) -> Table:
    """What the plan will cost, from a few steps of each architecture."""
    table = Table(title="measured on this machine, one run at a time", show_header=True)
    costs = ("step E-F / ms", "step E-F-H / ms", "validation / s", "memory / MiB", "training / min")
    for heading in ("architecture", *costs):
        table.add_column(heading, justify="left" if heading == "architecture" else "right")
    for item in measured:
        if item.reason is not None:
            table.add_row(item.architecture, item.reason)
            continue
        table.add_row(
            item.architecture,
            f"{1e3 * item.plain_step:.1f}",
            f"{1e3 * item.hessian_step:.1f}",
            f"{item.validation:.2f}",
            f"{item.memory / 2**20:.0f}",
            f"{item.seconds(settings) / 60:.1f}",
        )
    workers = max(1, settings.workers)
    total = sum(item.seconds(settings) for item in measured if item.reason is None) / workers
    memory = workers * max((item.memory for item in measured if item.reason is None), default=0) / 2**30
    made = frames is None and any(label_set(regime).needs_engine for regime in settings.regimes)
    table.caption = (
        f"{_minutes(total)} of training and validation with {settings.workers} workers that do not slow each "
        f"other down, and {memory:.1f} GiB at once, if no run stops early; "
        f"evaluation ({', '.join(settings.tasks)}) comes on top{', and so does labelling' * made}"
    )
    if frames is not None:
        table.caption += (
            f"; labelling {frames.gradients:,} displaced frames takes {_minutes(frames.seconds / workers)} before it"
        )
    if (load := os.getloadavg()[0]) > (cores := os.cpu_count() or 1):
        table.caption += (
            f". The machine is busy (load {load:.1f} on {cores} cores): times would be shorter on an idle one"
        )
    return table


def _minutes(seconds: float) -> str:
    return f"about {seconds / 60:.0f} min" if seconds >= 60 else "less than a minute"
