"""``hessgnn leaderboard``: compare finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def leaderboard(
    runs: Annotated[list[Path], typer.Argument(help="Run folders with a record.json, or record files.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the page and the tables.")],
    title: Annotated[str, typer.Option(help="Heading of the report.")] = "hessgnn leaderboard",
    trials: Annotated[
        Path | None, typer.Option(help="A sweep's trials.csv: adds the landscape of the loss weights.")
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option("--tasks", help="Your own tasks in the records: package.module:Name."),
    ] = None,
    study: Annotated[Path | None, typer.Option(help="A study's folder: adds its data-efficiency curves.")] = None,
    section: Annotated[
        list[str] | None, typer.Option(help="A section of your own, as package.module:Section; may be repeated.")
    ] = None,
) -> None:
    """Rank finished runs and write index.html, leaderboard.md, .csv, .json and .tex."""
    from hessgnn.evaluation.settings import chosen_tasks
    from hessgnn.experiments.study_report import read_points, sections
    from hessgnn.leaderboard.collect import collect
    from hessgnn.leaderboard.report import write_board
    from hessgnn.leaderboard.scores import score
    from hessgnn.leaderboard.tables import terminal_table

    chosen_tasks(tasks or [])  # imports them, so that their results are known
    files = collect(runs)
    curves = [] if study is None else sections(read_points(study))
    board = score(files, title)
    page = write_board(board, files, output, trials=trials, sections=[*curves, *(section or ())])
    console = Console()
    console.print(terminal_table(board.rows))
    console.print(f"leaderboard: {page}", markup=False, highlight=False, soft_wrap=True)
