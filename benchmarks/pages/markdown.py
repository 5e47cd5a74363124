"""Lines of prose are broken anew, since a figure may take more room or less than the one before."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

WIDTH = 100
ITEM = re.compile(r"( *)([-*]|\d+\.) +")
UNBROKEN = "\N{NO-BREAK SPACE}"
STARTS = re.compile(r" (?=(?:[-*+>#|]|\d+\.)(?: |$))")
"""Where a break would begin a list, a heading, a quotation or a table."""
CODE = re.compile(r"`[^`]{1,60}`")
"""Inline code, which stays on one line unless it is long."""


def wrapped(text: str) -> str:
    """Break paragraphs and list items of a Markdown text at 100 characters; all else stays as it is.

    Parameters
    ----------
    text
        With a newline at its end.

    Returns
    -------
    str
        The same text, with one newline at its end.
    """
    return "\n".join(_blocks(text.rstrip("\n").split("\n"))) + "\n"


def _blocks(lines: list[str]) -> Iterator[str]:
    paragraph: list[str] = []
    fenced, content, after_blank = False, 0, True
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if not fenced and after_blank and line.strip() and indent < content:
            content = 0
        verbatim = fenced or line.lstrip().startswith(("```", "|", "#", "<", "![")) or not line.strip()
        code = after_blank and indent >= content + 4
        item = ITEM.match(line)
        if item and item[2][0].isdigit() and paragraph and not ITEM.match(paragraph[0]):
            item = None  # a sentence that goes on with a number
        if verbatim or code or item:
            yield from _filled(paragraph)
            paragraph = []
        if verbatim or code:
            yield line
        else:
            paragraph.append(line)
            content = item.end() if item else content
        fenced ^= line.lstrip().startswith("```")
        after_blank = not line.strip() or code
    yield from _filled(paragraph)


def _filled(lines: list[str]) -> list[str]:
    if not lines:
        return []
    item = ITEM.match(lines[0])
    first = item[0] if item else " " * (len(lines[0]) - len(lines[0].lstrip()))
    text = " ".join(" ".join(lines)[len(first) :].split())
    text = CODE.sub(lambda found: found[0].replace(" ", UNBROKEN), STARTS.sub(UNBROKEN, text))
    filled = textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(UNBROKEN, " ") for line in filled]
