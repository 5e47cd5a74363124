"""Writing the leaderboard: one offline HTML page, Markdown, CSV, JSON and LaTeX, all of the same numbers."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import plotly.offline
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from rich.console import Console

from hessgnn.leaderboard import tables
from hessgnn.leaderboard.board import Leaderboard
from hessgnn.leaderboard.collect import RunFiles, collect
from hessgnn.leaderboard.latex import latex_table
from hessgnn.leaderboard.scores import NO_REFERENCE, score
from hessgnn.leaderboard.sections.base import PageData, PlainSection, Section, all_sections
from hessgnn.leaderboard.tables import markdown_text, terminal_table
from hessgnn.leaderboard.trials import read_trials
from hessgnn.runtime.files import write_text
from hessgnn.runtime.terminal import say
from hessgnn.training.regimes import UNTRAINED, OriginKind


def compare(
    runs: Sequence[Path],
    folder: Path,
    title: str,
    console: Console,
    *,
    trials: Path | None = None,
    sections: Sequence[Section | str] = (),
    weights: Mapping[str, float] | None = None,
) -> None:
    """Rank finished runs (folders with a record, or record files), write the leaderboard, and print its table.

    See :func:`write_board` for ``trials`` and ``sections``, and :func:`~hessgnn.leaderboard.scores.score` for
    ``weights``.
    """
    loaded = collect(runs)
    board = score(loaded, title, weights)
    page = write_board(board, loaded, folder, trials=trials, sections=sections)
    if board.demonstration:
        say(console, tables.DEMONSTRATION)
    console.print(terminal_table(board, console.width))
    if NO_REFERENCE in board.notes:
        say(console, NO_REFERENCE)
    say(console, f"leaderboard: {page}")


def write_report(
    runs: Sequence[RunFiles],
    folder: Path,
    title: str = "hessgnn leaderboard",
    *,
    trials: Path | None = None,
    sections: Sequence[Section | str] = (),
) -> Path:
    """Score runs and write their leaderboard; see :func:`write_board`."""
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
        Where to write; it is created. Files of the same names are replaced, each at once.
    trials
        A sweep's ``trials.csv``, for the landscape of what was tuned.
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
    notice = [f"**{tables.DEMONSTRATION}**"] if board.demonstration else []
    parts = [f"# {markdown_text(board.title)}", *notice, markdown_text(summary(board))]
    for section in sorted(sections, key=lambda section: section.markdown_order):
        parts += section.markdown(data)
    return "\n\n".join([*parts, f"Written by hessgnn {board.hessgnn}."]) + "\n"


@dataclass(frozen=True)
class Part:
    """A section as it stands on the page."""

    key: str
    heading: str
    link: str
    body: Markup


def html_text(data: PageData, sections: Iterable[Section]) -> str:
    """Return the leaderboard as one self-contained HTML document; sections that have nothing to show are left out."""
    parts = [(section, section.context(data)) for section in sections]
    regimes = sorted({row.regime for row in data.board.rows} - set(UNTRAINED))
    return _render(
        "index.html.j2",
        title=data.board.title,
        summary=summary(data.board),
        notice=tables.DEMONSTRATION if data.board.demonstration else "",
        parts=[_part(section, context) for section, context in parts if context is not None],
        board=data.board,
        regimes=regimes,
    )


OTHERS: Mapping[OriginKind, str] = {
    "fine-tuned": "fine-tuned",
    "trained elsewhere": "trained on data of another level of theory",
    "published": "as published",
}
"""What the summary says of entries that were not trained from nothing."""


def summary(board: Leaderboard) -> str:
    """Say in a sentence what was compared."""
    others = {origin: sum(row.origin == origin for row in board.rows) for origin in board.origins}
    trained = [row for row in board.rows if row.origin in ("trained here", "external")]
    architectures = {row.architecture for row in trained}
    regimes = sorted({row.regime for row in trained})
    seeds = {len(row.seeds) for row in trained}
    per_entry = f"{min(seeds)} to {max(seeds)} seeds" if len(seeds) > 1 else _count(max(seeds, default=0), "seed")
    judged = [split if n is None else f"{split} ({_count(n, 'structure')})" for split, n in board.structures.items()]
    counted = [f"{_count(others[name], 'entry')} {text}" for name, text in OTHERS.items() if others.get(name)]
    if trained or not counted:
        labels = ", ".join(regimes) or "no"
        first = f"{_count(len(architectures), 'architecture')} trained on {labels} labels with {per_entry} per entry"
        counted = [first, *counted]
    return (
        f"{', '.join(counted)}, on {board.data.name} ({board.data.level_of_theory}), "
        f"judged on {', '.join(judged) or 'no split'}."
    )


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun.removesuffix('y') + 'ie' if noun.endswith('y') else noun}s"


def plain_page(title: str, summary: str, sections: Iterable[PlainSection], footer: str, notice: str = "") -> str:
    """Return a self-contained HTML page of plain sections, such as that of a sweep; ``summary`` is above them."""
    parts = [_part(section, section.context()) for section in sections]
    return _render("page.html.j2", title=title, notice=notice, summary=summary, parts=parts, footer=footer)


def _part(section: Section, context: Mapping[str, Any]) -> Part:
    body = _environment().from_string(section.source()).render(context)
    return Part(section.key, section.heading, section.link or section.heading, Markup(body))


def _render(template: str, **content: Any) -> str:
    return _environment().get_template(template).render(plotlyjs=_packed_plotly(), **content)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    """Templates escape every text, and know the macros without importing them."""
    environment = Environment(
        loader=PackageLoader("hessgnn.leaderboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    macros = environment.get_template("macros.html.j2").module
    environment.globals |= {name: macro for name, macro in vars(macros).items() if not name.startswith("_")}
    return environment


@lru_cache(maxsize=1)
def _packed_plotly() -> str:
    """plotly.js, packed: 2 MB in place of 5. Browsers unpack it themselves (``DecompressionStream``)."""
    packed = gzip.compress(plotly.offline.get_plotlyjs().encode(), mtime=0)
    return base64.b64encode(packed).decode()
