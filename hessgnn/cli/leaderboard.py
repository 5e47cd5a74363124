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
) -> None:
    """Rank finished runs and write index.html, leaderboard.md, .csv and .json."""
    from hessgnn.leaderboard.collect import collect
    from hessgnn.leaderboard.report import write_report
    from hessgnn.leaderboard.scores import score
    from hessgnn.leaderboard.tables import terminal_table

    loaded = collect(runs)
    page = write_report(loaded, output, title=title)
    console = Console()
    console.print(terminal_table(score(loaded, title).rows))
    console.print(f"leaderboard: {page}", markup=False, highlight=False, soft_wrap=True)
