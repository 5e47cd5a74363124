"""The leaderboard as a LaTeX table for a paper: booktabs, no packages besides.

Written without pandas: its ``to_latex`` escapes neither units nor Greek letters, and the headings, the row of units
and the bold cells would have to be made here all the same.
"""

from __future__ import annotations

import re

from hessgnn.leaderboard.board import Leaderboard
from hessgnn.leaderboard.origins import RANKED
from hessgnn.leaderboard.tables import DEMONSTRATION, Cell, Column, column_groups, columns, weights_text

LEFT_OUT = (
    *("architecture", "regime", "origin", "products", "sweep_trials", "seconds_per_step", "status"),
    *("part-energy", "part-forces", "part-hessian"),
)
"""Columns that a page of paper has no room for; the entry's name tells the first ones."""

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "±": r"$\pm$",
    "Å": r"\AA{}",
    "²": r"$^{2}$",
    "⁴": r"$^{4}$",
    "⁻": r"\textsuperscript{$-$}",
    "¹": r"\textsuperscript{1}",
    "ν": r"$\nu$",
    "–": "--",
    "−": r"$-$",
}
"""What LaTeX would take for a command, and what a font may lack."""


def latex_text(text: str) -> str:
    """Escape text for LaTeX, on one line."""
    return "".join(_ESCAPES.get(letter, letter) for letter in " ".join(text.split()))


def latex_table(board: Leaderboard) -> str:
    r"""Return the main table, the best of each column in bold.

    It is a ``table*`` for ``\input`` and needs the packages ``booktabs`` and ``graphicx``.
    """
    shown = [column for column in columns(board) if column.key not in LEFT_OUT]
    lines = [[column.cell(row) for column in shown] for row in board.rows]
    ranked = [RANKED[row.origin] for row in board.rows]
    best = [
        [_best(column, [line[k] for line, one in zip(lines, ranked, strict=True) if one == group]) for group in (0, 1)]
        for k, column in enumerate(shown)
    ]
    body = [
        " & ".join(
            _cell(cell, bold=group < len(best[k]) and cell.competes and cell.value == best[k][group] is not None)
            for k, cell in enumerate(line)
        )
        for line, group in zip(lines, ranked, strict=True)
    ]
    caption = (
        f"{board.title}. Errors on {board.data.name} ({board.data.level_of_theory}), mean ± standard deviation over "
        f"seeds; overall: geometric mean of RMSE over the mean predictor's, {weights_text(board)}."
        + (f" {DEMONSTRATION}" if board.demonstration else "")
    )
    version = re.sub(r"[^0-9A-Za-z.+-]", "", board.hessgnn)
    return "\n".join(
        [
            f"% Written by hessgnn {version}; needs the packages booktabs and graphicx.",
            r"\begin{table*}",
            r"\centering",
            rf"\caption{{{latex_text(caption)}}}",
            r"\resizebox{\textwidth}{!}{%",
            rf"\begin{{tabular}}{{{''.join('r' if column.numeric else 'l' for column in shown)}}}",
            r"\toprule",
            *_split_headings(shown),
            " & ".join(latex_text(column.title) for column in shown) + r" \\",
            " & ".join(latex_text("" if column.key == "overall" else column.unit) for column in shown) + r" \\",
            r"\midrule",
            *(line + r" \\" for line in body),
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table*}",
            "",
        ]
    )


def _best(column: Column, cells: list[Cell]) -> float | None:
    values = [cell.value for cell in cells if isinstance(cell.value, float) and cell.competes]
    return min(values) if column.better == "lower" and len(set(values)) > 1 else None


def _cell(cell: Cell, *, bold: bool) -> str:
    text, detail = latex_text(cell.text), latex_text(cell.detail)
    if bold:
        text = rf"\textbf{{{text}}}"
    return f"{text} {detail}".strip()


def _split_headings(shown: list[Column]) -> list[str]:
    """A line that names the split above its columns, with a rule under each."""
    cells, rules, position = [], [], 1
    for first, width in column_groups(shown):
        cells.append("" if first.split is None else rf"\multicolumn{{{width}}}{{c}}{{{latex_text(first.split)}}}")
        if first.split is not None:
            rules.append(rf"\cmidrule(lr){{{position}-{position + width - 1}}}")
        position += width
    return [" & ".join(cells) + r" \\", " ".join(rules)] if rules else []
