"""The command line: one verb per function, nothing but argument reading.

What a verb does is imported when it is called, so that ``hessgnn --help`` need not wait for torch.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from hessgnn.cli import authors, bench, data, leaderboard
from hessgnn.errors import UserError

app = typer.Typer(
    name="hessgnn",
    help="What do Hessian labels buy, for which interatomic potential, at what cost?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
sweep_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
"""``python -m hessgnn.sweep``, which needs no verb."""

app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")
app.command()(leaderboard.leaderboard)
app.command()(authors.check)
app.command()(authors.models)
app.command()(authors.schema)

# Newer versions of typer bring a click of their own, whose errors are not those of the package `click`.
_UsageError: Any = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "UsageError")

_INCOMPLETE = 3  # of `evaluate`: written, but with a task missing
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it

QUICKSTART = "sweeps/quickstart.yaml"
"""The main job."""

Overrides = Annotated[list[str] | None, typer.Argument(help="Overrides such as loss.hessian=0.1 training.seed=3.")]


@app.command()
def train(
    config: Annotated[Path | None, typer.Argument(help="YAML file; not needed with --resume.")] = None,
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Run folder.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Run folder to go on with.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done.")] = False,
) -> None:
    """Train one potential."""
    from hessgnn.cli.train import train as run

    run(config, overrides or [], output=output, resume=resume, dry_run=dry_run)


@app.command()
def evaluate(
    run: Annotated[Path | None, typer.Argument(help="Run folder; not needed with --calculator.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings of tasks such as md.preset=full vibrations.fmax=1e-5.")
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            "--tasks",
            help="Such as accuracy (default), vibrations or md; all; package.module:Name; commas between several.",
        ),
    ] = None,
    splits: Annotated[list[str] | None, typer.Option("--splits", help="Splits to evaluate on.")] = None,
    calculator: Annotated[
        str | None, typer.Option(help="Evaluate an ASE calculator instead: module:factory, e.g. tblite.ase:TBLite.")
    ] = None,
    data: Annotated[str, typer.Option(help="Data to evaluate the calculator on.")] = "rtp-mini",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for the calculator's record.")] = None,
    device: Annotated[str, typer.Option(help="Where to compute.")] = "cpu",
    processes: Annotated[
        int, typer.Option(min=1, help="Divide tasks on single molecules and reactions between so many.")
    ] = 1,
) -> None:
    """Evaluate the best potential of a run, or any ASE calculator, and write the record.

    Exit status 3 when a task could not be run; what is saved is not computed again.
    """
    from hessgnn.cli.train import evaluate as run_tasks

    every_task_ran = run_tasks(
        run,
        overrides or [],
        calculator=calculator,
        data=data,
        output=output,
        tasks=tasks,
        splits=splits,
        device=device,
        processes=processes,
    )
    if not every_task_ran:
        raise typer.Exit(_INCOMPLETE)


@app.command()
@sweep_app.command()
def sweep(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SWEEP.yaml] [key=value]...", help=f"Sweep file ({QUICKSTART}) and overrides."),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder; the same one resumes.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes, a run at a time each; 0: none, for debugging.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, with time and memory measured.")] = False,
) -> None:
    """Tune the loss weights of each architecture, retrain the best, judge it, and write the leaderboard."""
    from hessgnn.cli.sweep import sweep as run

    given = arguments or []
    config, overrides = (given[0], given[1:]) if given and "=" not in given[0] else (QUICKSTART, given)
    run(Path(config), overrides, output=output, dry_run=dry_run, workers=workers)


@app.command()
def study(
    config: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="Study file such as sweeps/paper.yaml.")],
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder; the same one resumes.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan.")] = False,
) -> None:
    """Compare labels (E, E-F, E-F+, E-F-H) under fixed settings, on parts of the data, and test what is claimed."""
    from hessgnn.cli.study import study as run

    run(config, overrides or [], output=output, dry_run=dry_run)


def main(application: typer.Typer = app, arguments: Sequence[str] | None = None) -> None:
    """Run a command. Exit status 2 for wrong input, told in one line; 1 for a bug, with its traceback in a file.

    A sweep or a study of which no run came to its end has status 1, too.

    Parameters
    ----------
    application
        The verbs.
    arguments
        Of the command line; ``sys.argv`` by default.
    """
    errors = Console(stderr=True, soft_wrap=True)
    try:
        status = application(args=arguments, standalone_mode=False)
    except UserError as error:
        errors.print(f"[red]error:[/red] {_plain(str(error))}", highlight=False)
        status = error.status
    except _UsageError as error:
        if message := error.format_message():  # without one, help was asked for and has been shown
            verb = error.ctx.command_path if error.ctx is not None else "hessgnn"
            errors.print(
                f"[red]error:[/red] {_plain(f'{message} To mend: see `{verb} --help`')}", highlight=False, markup=True
            )
        status = 2
    except (typer.Abort, KeyboardInterrupt):
        status = _INTERRUPTED
    except Exception as error:
        errors.print(
            f"[red]this is a bug:[/red] {_plain(f'{type(error).__name__}: {error}')} ({_log()})", highlight=False
        )
        status = 1
    # Some versions of typer give the status, others raise. Of torchrun's processes one says it for all.
    if status == _INTERRUPTED and os.environ.get("RANK", "0") == "0":
        errors.print("stopped; the same command goes on (`train`: with --resume and the run folder)", highlight=False)
    sys.exit(status)


def _log() -> str:
    """Keep the traceback of what is being handled; where no file can be written, the traceback itself."""
    path = Path("error.log").resolve()
    try:
        path.write_text(traceback.format_exc(), encoding="utf-8")
    except OSError:
        return traceback.format_exc().replace("[", "\\[")
    return f"traceback in {path}"


def _plain(text: str) -> str:
    """One line, and no markup of ours."""
    return " ".join(text.split()).replace("[", "\\[")
