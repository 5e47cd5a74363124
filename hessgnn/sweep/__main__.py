"""``python -m hessgnn.sweep`` and ``hessgnn sweep``: reading the command line, without waiting for torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hessgnn.runtime.terminal import main

QUICKSTART = "sweeps/quickstart.yaml"
"""What is run when no file is named."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
"""The command alone, which needs no verb."""


@app.command()
def sweep(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SWEEP.yaml] [key=value]...", help=f"Sweep file ({QUICKSTART}) and overrides."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder; rerunning with the same one resumes.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes, each with one run at a time.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, with measured time and memory.")] = False,
) -> None:
    """Tune each architecture on each kind of labels, retrain and evaluate the best, and write the leaderboard."""
    from hessgnn.sweep.view import run

    given = arguments or []
    config, overrides = (given[0], given[1:]) if given and "=" not in given[0] else (QUICKSTART, given)
    overrides = [*overrides, *([] if workers is None else [f"workers={workers}"])]
    run(Path(config), overrides, output=output, dry_run=dry_run)


if __name__ == "__main__":  # worker processes import this module again
    main(app)
