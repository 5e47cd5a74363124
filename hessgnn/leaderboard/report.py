"""Writing the leaderboard: one offline HTML page, Markdown, CSV, JSON and LaTeX, all of the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hessgnn.leaderboard import tables
from hessgnn.leaderboard.board import Leaderboard
from hessgnn.leaderboard.collect import Loaded
from hessgnn.leaderboard.landscape import read_trials
from hessgnn.leaderboard.latex import latex_table
from hessgnn.leaderboard.markdown import markdown_report
from hessgnn.leaderboard.page import html_text
from hessgnn.leaderboard.plotting import Section
from hessgnn.leaderboard.scores import score
from hessgnn.runtime.files import write_text


def write_report(
    loaded: Sequence[Loaded],
    folder: Path,
    title: str = "hessgnn leaderboard",
    *,
    trials: Path | None = None,
    sections: Sequence[Section] = (),
) -> Path:
    """Score records and write their leaderboard.

    Parameters
    ----------
    loaded
        Records, from :func:`hessgnn.leaderboard.collect.collect`.
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
    return write_board(score(loaded, title), loaded, folder, trials=trials, sections=sections)


def write_board(
    board: Leaderboard,
    loaded: Sequence[Loaded],
    folder: Path,
    *,
    trials: Path | None = None,
    sections: Sequence[Section] = (),
) -> Path:
    """Write ``index.html`` and ``leaderboard.md``, ``.csv``, ``.json`` and ``.tex``.

    Parameters
    ----------
    board
        The scores of ``loaded``.
    loaded
        Records with what is saved beside them, for the figures.
    folder
        See :func:`write_report`.
    trials
        A sweep's ``trials.csv``, for the landscape of the loss weights.
    sections
        Further curves, such as the data efficiency that a study found.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    DataError
        When ``trials`` cannot be read; nothing is written then.
    """
    tried = [] if trials is None else read_trials(trials)
    page = html_text(board, loaded, trials=tried, sections=sections)
    folder = Path(folder)
    write_text(folder / "leaderboard.json", board.model_dump_json(indent=1) + "\n")
    write_text(folder / "leaderboard.csv", tables.csv_text(board))
    write_text(folder / "leaderboard.md", markdown_report(board))
    write_text(folder / "leaderboard.tex", latex_table(board))
    write_text(folder / "index.html", page)
    return folder / "index.html"
