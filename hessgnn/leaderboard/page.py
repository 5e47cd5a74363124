"""Self-contained HTML pages: sections with figures, which need no network."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import plotly.offline
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hessgnn.leaderboard.board import Leaderboard
from hessgnn.leaderboard.sections.base import PageData, PlainSection, Section


@dataclass(frozen=True)
class Part:
    """A section as it stands on the page."""

    key: str
    heading: str
    link: str
    body: Markup


def html_text(data: PageData, sections: Iterable[Section]) -> str:
    """Return the leaderboard as one self-contained HTML document.

    Parameters
    ----------
    data
        What was loaded.
    sections
        In their order; those that have nothing to show are left out.

    Returns
    -------
    str
    """
    parts = [(section, section.context(data)) for section in sections]
    regimes = sorted({row.regime for row in data.board.rows} - {"mean", "external"})
    return _render(
        "index.html.j2",
        title=data.board.title,
        summary=summary(data.board),
        parts=[_part(section, context) for section, context in parts if context is not None],
        board=data.board,
        regimes=regimes,
    )


def summary(board: Leaderboard) -> str:
    """Say in a sentence what was compared."""
    architectures = {row.architecture for row in board.rows if row.regime != "mean"}
    regimes = sorted({row.regime for row in board.rows if row.regime != "mean"})
    seeds = {len(row.seeds) for row in board.rows if row.regime != "mean"}
    per_entry = f"{min(seeds)} to {max(seeds)} seeds" if len(seeds) > 1 else _count(max(seeds, default=0), "seed")
    judged = " and ".join(
        split if n is None else f"{split} ({_count(n, 'structure')})" for split, n in board.structures.items()
    )
    return (
        f"{_count(len(architectures), 'architecture')} trained on {' and '.join(regimes) or 'nothing'} labels with "
        f"{per_entry} per entry, on {board.data.name} ({board.data.level_of_theory}), judged on {judged or 'no split'}."
    )


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def plain_page(title: str, summary: str, sections: Iterable[PlainSection], footer: str) -> str:
    """Return a page of plain sections, such as that of a sweep.

    Parameters
    ----------
    title, summary
        Heading and first paragraph.
    sections
        In their order.
    footer
        Last line.

    Returns
    -------
    str
        A self-contained HTML document.
    """
    parts = [_part(section, section.context()) for section in sections]
    return _render("page.html.j2", title=title, summary=summary, parts=parts, footer=footer)


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
