"""What a section of the leaderboard is, and how it is found.

A section is a subclass of :class:`Section` with the decorator :func:`section`. A file in this folder is found by
itself; other packages name theirs in the entry-point group ``hessgnn.sections``, or a user names it on the command
line: ``hessgnn leaderboard --section package.module:Section``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hessgnn.leaderboard.board import Leaderboard
from hessgnn.leaderboard.collect import RunFiles
from hessgnn.leaderboard.plotting import Panel, PanelGroup
from hessgnn.leaderboard.tables import TextTable, markdown_text
from hessgnn.leaderboard.trials import TrialResult
from hessgnn.runtime.registry import Registry, subclass_of

LAST = 1000.0


@dataclass(frozen=True)
class PageData:
    """What sections are made from.

    Attributes
    ----------
    board
        All scores.
    runs
        The runs that were scored: records with curves, predictions and results of tasks.
    trials
        Of a sweep; empty without one.
    """

    board: Leaderboard
    runs: Sequence[RunFiles] = ()
    trials: Sequence[TrialResult] = ()


class Section:
    """A section of ``index.html`` and of ``leaderboard.md``.

    A subclass sets ``heading`` and overrides :meth:`context`, :meth:`markdown` or both.

    Attributes
    ----------
    key
        Name in the registry, and anchor on the page. Set by the decorator.
    heading
        Above the section.
    link
        In the list of sections at the top of the page; the heading if empty.
    order, markdown_order
        Sections are shown in this order on the page and in Markdown. Set by the decorator.
    template
        Jinja source of what stands below the heading. If empty, it is read from the file beside the module, with the
        suffix ``.html.j2``. The macros of ``macros.html.j2`` can be used without importing them.
    """

    key: str = ""
    heading: str = ""
    link: str = ""
    order: float = LAST
    markdown_order: float = LAST
    template: str = ""

    def context(self, data: PageData) -> Mapping[str, Any] | None:  # noqa: ARG002
        """Compute what the template shows.

        Returns
        -------
        mapping or None
            Variables of the template. None leaves the section out of the page.
        """
        return None

    def markdown(self, data: PageData) -> list[str]:  # noqa: ARG002
        """Return the section as paragraphs of Markdown, headings included; empty if it has nothing to show there."""
        return []

    def source(self) -> str:
        """Return the Jinja source of the section."""
        return self.template or Path(inspect.getfile(type(self))).with_suffix(".html.j2").read_text(encoding="utf-8")


SECTIONS: Registry[type[Section]] = Registry(
    "section of the leaderboard", "hessgnn.leaderboard.sections", group="hessgnn.sections", check=subclass_of(Section)
)
S = TypeVar("S", bound=type[Section])


def section(key: str, *, order: float = LAST, markdown_order: float | None = None) -> Callable[[S], S]:
    """Register a section of the leaderboard, as a decorator of its class.

    Parameters
    ----------
    key
        Its name, which is also its anchor on the page.
    order
        Sections are shown in ascending order; those of hessgnn have 4 to 180.
    markdown_order
        The same for Markdown; ``order`` if absent.

    Returns
    -------
    Callable
        The decorator; it returns the class.
    """

    def decorate(cls: S) -> S:
        cls.key, cls.order = key, order
        cls.markdown_order = order if markdown_order is None else markdown_order
        return SECTIONS.register(key)(cls)

    return decorate


def all_sections(names: Iterable[str] = (), others: Iterable[Section] = ()) -> list[Section]:
    """Make every registered section, those of ``names`` (``package.module:Section``), and add ``others``, in order.

    Raises
    ------
    ConfigError
        When one of ``names`` cannot be imported or is no section.
    """
    classes = dict.fromkeys([*(SECTIONS[name] for name in names), *SECTIONS.values()])
    found = [*(cls() for cls in classes), *others]
    return sorted(found, key=lambda item: item.order)


class FigureSection(Section):
    """Figures below a paragraph. A subclass overrides :meth:`figures`.

    Attributes
    ----------
    text
        The paragraph; see :meth:`about`.
    choice
        Label of the menu that one group of figures is chosen from.
    """

    text: str = ""
    choice: str = ""
    template = """
<p>{{ text }}</p>
{% if choice %}{{ choices("choose-" ~ key, choice, figures) }}{% else %}{{ panels(figures) }}{% endif %}
"""

    def figures(self, data: PageData) -> Sequence[Panel] | Sequence[PanelGroup]:
        """Draw the figures: groups of them if there is a ``choice``. Without any, the section is left out."""
        raise NotImplementedError

    def about(self, data: PageData) -> str:  # noqa: ARG002
        """Return the paragraph above the figures."""
        return self.text

    def context(self, data: PageData) -> dict[str, Any] | None:
        """See :meth:`Section.context`."""
        figures = self.figures(data)
        if not figures:
            return None
        return {"key": self.key, "text": self.about(data), "choice": self.choice, "figures": figures}


class PlainSection(Section):
    """A paragraph, a table and figures, for pages that are made of little else.

    Parameters
    ----------
    key, heading, order
        See :class:`Section`.
    text
        Paragraph below the heading.
    panels
        Figures, below the table.
    table
        Also shown in Markdown.
    """

    template = """
{% if text %}<p>{{ text }}</p>{% endif %}
{% if table %}{{ text_table("Table: " ~ heading, table) }}{% endif %}
{% if figures %}{{ panels(figures) }}{% endif %}
"""

    def __init__(
        self,
        key: str,
        heading: str,
        text: str = "",
        panels: Sequence[Panel] = (),
        table: TextTable | None = None,
        *,
        order: float = LAST,
    ) -> None:
        self.key, self.heading, self.text, self.panels, self.table = key, heading, text, list(panels), table
        self.order = self.markdown_order = order

    def context(self, data: PageData | None = None) -> dict[str, Any]:  # noqa: ARG002
        """See :meth:`Section.context`."""
        return {"text": self.text, "heading": self.heading, "table": self.table, "figures": self.panels}

    def markdown(self, data: PageData | None = None) -> list[str]:  # noqa: ARG002
        """See :meth:`Section.markdown`: only the table, with its text."""
        if self.table is None:
            return []
        texts = [markdown_text(self.text)] if self.text else []
        return [f"## {markdown_text(self.heading)}", *texts, self.table.markdown()]
