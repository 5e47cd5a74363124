"""The command line: one function per verb, which only reads its arguments.

What a verb does is imported when it is called, so that ``hessgnn --help`` need not wait for torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

import hessgnn
from hessgnn.cli import authors, bench, data
from hessgnn.runtime import terminal
from hessgnn.sweep.__main__ import sweep

app = typer.Typer(
    name="hessgnn",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")
app.command()(authors.check)
app.command()(authors.models)
app.command()(authors.schema)
app.command()(sweep)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"hessgnn {hessgnn.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Measure what Hessian labels buy, for which interatomic potential, at what cost."""


Overrides = Annotated[list[str] | None, typer.Argument(help="Overrides such as loss.hessian=0.1 training.seed=3.")]


@app.command()
def train(
    config: Annotated[Path | None, typer.Argument(help="YAML file; not needed with --resume.")] = None,
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Run folder.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Run folder whose training is resumed; training.steps=N gives it more steps.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done.")] = False,
) -> None:
    """Train one potential."""
    from hessgnn.cli.train import train as run

    run(config, overrides or [], output=output, resume=resume, dry_run=dry_run)


@app.command()
def evaluate(
    run: Annotated[Path | None, typer.Argument(help="Run folder; not needed with --potential or --calculator.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Settings of tasks such as sample=1000 subjects=12 md.preset=full; with --potential also weights=FILE."
        ),
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            "--tasks",
            help="Such as accuracy (default), vibrations or md; all; package.module:Name; commas between several.",
        ),
    ] = None,
    splits: Annotated[
        list[str] | None, typer.Option("--splits", help="Splits to evaluate on; commas between several.")
    ] = None,
    potential: Annotated[
        str | None, typer.Option(help="Evaluate a potential of another package as published: sevennet, so3lr, …")
    ] = None,
    calculator: Annotated[
        str | None, typer.Option(help="Evaluate an ASE calculator instead: module:factory, e.g. tblite.ase:TBLite.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Data to evaluate on: those of the run by default, else rtp-mini."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="With --potential or --calculator: folder for its record."),
    ] = None,
    device: Annotated[str, typer.Option(help="Device to compute on.")] = "cpu",
    processes: Annotated[
        int, typer.Option(min=1, help="Processes that molecules and reactions are divided between.")
    ] = 1,
) -> None:
    """Evaluate a trained or published model, or a calculator: errors, spectra, relaxation, TS search, NEB, MD, cost.

    Exit status 3 when a task could not be run. Saved results are not computed again.
    """
    from hessgnn.cli.train import evaluate as run_tasks

    every_task_ran = run_tasks(
        run,
        overrides or [],
        potential=potential,
        calculator=calculator,
        data=data,
        output=output,
        tasks=tasks,
        splits=splits,
        device=device,
        processes=processes,
    )
    if not every_task_ran:
        raise typer.Exit(terminal.INCOMPLETE)


@app.command()
def study(
    config: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="Study file such as sweeps/paper.yaml.")],
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder; rerunning with the same one resumes.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan.")] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Write the report of what is finished, also while the study runs.")
    ] = False,
) -> None:
    """Compare labels (E-F, E-F+, E-F-P2, E-F-H, …) under fixed settings, on parts of the data, and test the claims."""
    from hessgnn.cli.study import study as run

    run(config, overrides or [], output=output, dry_run=dry_run, report=report)


@app.command()
def leaderboard(
    runs: Annotated[list[Path], typer.Argument(help="Run folders with a record.json, or record files.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the page and the tables.")],
    title: Annotated[str, typer.Option(help="Heading of the report.")] = "hessgnn leaderboard",
    trials: Annotated[
        Path | None, typer.Option(help="A sweep's trials.csv: adds the landscape of what was tuned.")
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option("--tasks", help="Your own tasks in the records: package.module:Name."),
    ] = None,
    study: Annotated[Path | None, typer.Option(help="A study's folder: adds its data-efficiency curves.")] = None,
    section: Annotated[
        list[str] | None, typer.Option(help="A section of your own, as package.module:Section; may be repeated.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Of the overall score, such as energy=1,forces=1,hessian=1.")
    ] = None,
) -> None:
    """Rank finished runs and write index.html, leaderboard.md, .csv, .json and .tex."""
    from rich.console import Console

    from hessgnn.cli.train import mean_predictor_of
    from hessgnn.evaluation.run import chosen_tasks
    from hessgnn.experiments.study_report import read_points, sections
    from hessgnn.leaderboard.report import compare
    from hessgnn.leaderboard.scores import read_weights

    chosen_tasks(tasks or [])  # imports them, so that their results are known
    curves = [] if study is None else sections(read_points(study))
    shown = [*curves, *(section or ())]
    with TemporaryDirectory() as folder:
        compared = [*mean_predictor_of(runs, Path(folder)), *runs]
        compare(compared, output, title, Console(), trials=trials, sections=shown, weights=read_weights(weights))


def main(application: typer.Typer = app, arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit; see :func:`hessgnn.runtime.terminal.main`."""
    terminal.main(application, arguments)
