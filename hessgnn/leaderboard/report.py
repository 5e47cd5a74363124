"""Writing the leaderboard: one offline HTML page, Markdown, CSV, JSON and LaTeX, all of the same numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from hessgnn.leaderboard import tables
from hessgnn.leaderboard.board import Leaderboard
from hessgnn.leaderboard.collect import RunFiles
from hessgnn.leaderboard.latex import latex_table
from hessgnn.leaderboard.page import html_text, summary
from hessgnn.leaderboard.scores import score
from hessgnn.leaderboard.sections.base import PageData, Section, all_sections
from hessgnn.leaderboard.tables import markdown_text
from hessgnn.leaderboard.trials import read_trials
from hessgnn.runtime.files import write_text


def write_report(
    runs: Sequence[RunFiles],
    folder: Path,
    title: str = "hessgnn leaderboard",
    *,
    trials: Path | None = None,
    sections: Sequence[Section | str] = (),
) -> Path:
    """Score runs and write their leaderboard.

    Parameters
    ----------
    runs
        From :func:`hessgnn.leaderboard.collect.collect`.
    folder
        Where to write; it is created. Files of the same names are replaced, each at once.
    title
        Heading of the report.
    trials, sections
        See :func:`write_board`.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    DataError
        When the records cannot be compared, or ``trials`` cannot be read; nothing is written then.
    """
    return write_board(score(runs, title), runs, folder, trials=trials, sections=sections)


def write_board(
    board: Leaderboard,
    runs: Sequence[RunFiles],
    folder: Path,
    *,
    trials: Path | None = None,
    sections: Sequence[Section | str] = (),
) -> Path:
    """Write ``index.html`` and ``leaderboard.md``, ``.csv``, ``.json`` and ``.tex``.

    Parameters
    ----------
    board
        The scores of ``runs``.
    runs
        Records with what is saved beside them, for the figures.
    folder
        See :func:`write_report`.
    trials
        A sweep's ``trials.csv``, for the landscape of the loss weights.
    sections
        Sections besides those that are registered, such as the data efficiency that a study found; or import paths
        of their classes, ``package.module:Section``.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    DataError
        When ``trials`` cannot be read; nothing is written then.
    ConfigError
        When a section cannot be imported; nothing is written then.
    """
    shown = all_sections(
        [item for item in sections if isinstance(item, str)], [item for item in sections if isinstance(item, Section)]
    )
    data = PageData(board, runs, [] if trials is None else read_trials(trials))
    page, text = html_text(data, shown), markdown_report(data, shown)
    folder = Path(folder)
    write_text(folder / "leaderboard.json", board.model_dump_json(indent=1) + "\n")
    write_text(folder / "leaderboard.csv", tables.csv_text(board))
    write_text(folder / "leaderboard.md", text)
    write_text(folder / "leaderboard.tex", latex_table(board))
    write_text(folder / "index.html", page)
    return folder / "index.html"


def markdown_report(data: PageData, sections: Iterable[Section]) -> str:
    """Return the leaderboard as Markdown, without figures."""
    board = data.board
    parts = [f"# {markdown_text(board.title)}", markdown_text(summary(board))]
    for section in sorted(sections, key=lambda section: section.markdown_order):
        parts += section.markdown(data)
    return "\n\n".join([*parts, f"Written by hessgnn {board.hessgnn}."]) + "\n"
