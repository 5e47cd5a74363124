"""The columns of the leaderboard, and its tables as Markdown, CSV and in the terminal.

Written without pandas: ``to_markdown`` would replace the last line of :meth:`TextTable.markdown` but not its escaping,
and ``to_csv`` turns integer columns with missing values into floats.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import floor, log, log10

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hessgnn.evaluation.record import Better
from hessgnn.evaluation.tasks.accuracy import METRICS
from hessgnn.leaderboard.board import Leaderboard, MetricInfo, Ratio, Row, Score
from hessgnn.leaderboard.comparisons import STATIONARY

MAIN_METRICS = ("energy_mae", "forces_mae", "hessian_mae", "hessian_rmse")
"""The metrics that are printed; CSV and JSON hold all."""

MISSING = "–"
DEMONSTRATION = (
    "This is a demonstration of the tool, not evidence. Its runs are too few and too short to draw conclusions from, "
    "so no claims are tested."
)
PARTS = ("energy", "forces", "hessian")
"""Of the overall score."""
FEWEST_SURVIVORS = 5
"""A mean over fewer structures never counts as the best of a column."""


@dataclass(frozen=True)
class Cell:
    """What stands in one place of a table."""

    value: float | str | None
    """For sorting; full precision."""
    text: str
    detail: str = ""
    """Printed smaller, behind ``text``: the spread, or how few seeds there are."""
    competes: bool = True
    """Whether it may be the best of its column: a mean over a few survivors may not."""

    def __str__(self) -> str:
        return f"{self.text} {self.detail}".strip()


@dataclass(frozen=True)
class Column:
    """One column: its heading, and how a row fills it."""

    key: str
    title: str
    cell: Callable[[Row], Cell]
    unit: str = ""
    split: str | None = None
    numeric: bool = True
    better: Better | None = None
    """Which end is good, so that a colour makes sense."""

    @property
    def heading(self) -> str:
        """Title with split and unit, for tables without grouped headings."""
        name = self.title if self.split is None else f"{self.split} {self.title}"
        return f"{name} / {self.unit}" if self.unit else name


def columns(board: Leaderboard) -> list[Column]:
    """Return the columns of the main table, left to right; each split has a column per main metric."""
    return [
        Column("rank", "Rank", lambda row: Cell(row.rank, integer(row.rank))),
        Column("entry", "Entry", lambda row: Cell(row.entry, row.entry), numeric=False),
        Column("architecture", "Architecture", lambda row: Cell(row.architecture, row.architecture), numeric=False),
        Column("regime", "Regime", lambda row: Cell(row.regime, row.regime), numeric=False),
        *([Column("origin", "Origin", _origin_cell, numeric=False)] if board.origins else []),
        Column("overall", "Overall", _overall_cell, "mean predictor = 1", better="lower"),
        *(_part_column(name) for name in PARTS),
        *(_score_column(split, name) for split in board.splits for name in MAIN_METRICS),
        Column("parameters", "Parameters", lambda row: Cell(row.parameters, integer(row.parameters))),
        Column(
            "seconds_per_step",
            "Time per step",
            lambda row: Cell(row.seconds_per_step, number(row.seconds_per_step)),
            "s",
        ),
        Column("device_seconds", "Training", lambda row: Cell(row.device_seconds, number(row.device_seconds)), "s"),
        Column("products", "Products", lambda row: Cell(row.products, integer(row.products))),
        Column("sweep_trials", "Sweep trials", lambda row: Cell(row.sweep_trials, integer(row.sweep_trials))),
        Column("seeds", "Seeds", lambda row: Cell(len(row.seeds), _seeds(row))),
        Column("status", "Status", lambda row: Cell(status(row), status(row)), numeric=False),
    ]


def _origin_cell(row: Row) -> Cell:
    return Cell(
        row.origin, row.origin, row.start if row.origin == "published" or not row.start else f"from {row.start}"
    )


def weights_text(board: Leaderboard) -> str:
    """Name the weights of the overall score."""
    return "weights " + ", ".join(f"{name} {board.weights.get(name, 0.0):g}" for name in PARTS)


def _part_column(name: str) -> Column:
    def cell(row: Row) -> Cell:
        value = row.parts.get(name)
        return Cell(value, number(value))

    return Column(f"part-{name}", f"{name[0].upper()} part", cell, "mean predictor = 1", better="lower")


def _score_column(split: str, name: str) -> Column:
    title, unit = METRICS[name]
    return metric_column(split, name, MetricInfo(title=title, unit=unit))


def metric_column(split: str, name: str, info: MetricInfo) -> Column:
    """Return the column of a metric on a split."""

    def cell(row: Row) -> Cell:
        return score_cell(row.scores.get(split, {}).get(name))

    return Column(f"{split} {name}", info.title, cell, info.unit, split=split, better=info.better)


def _overall_cell(row: Row) -> Cell:
    if row.status == "failed" and row.overall is not None:
        return Cell(row.overall.mean, number(row.overall.mean), "worst")
    return score_cell(row.overall)


def score_cell(score: Score | None) -> Cell:
    """Print a mean with its spread, or with ``n=1`` where there is none, and how few structures are behind it."""
    if score is None:
        return Cell(None, MISSING)
    text, detail = (number(score.mean), f"n={score.n}") if score.std is None else _with_spread(score.mean, score.std)
    few = score.subjects is not None and score.subjects < FEWEST_SURVIVORS
    if few:
        detail = f"{detail}, of {score.subjects}"
    return Cell(score.mean, text, detail, competes=not few)


def column_groups(columns: Sequence[Column]) -> list[tuple[Column, int]]:
    """Group columns under the heading of their split: the first of each group, and how many there are."""
    runs = [list(run) for _, run in groupby(columns, key=lambda column: (column.split, column.split or column.key))]
    return [(run[0], len(run)) for run in runs]


MetricLine = tuple[str, MetricInfo, list[Cell]]
"""Split, metric and cells."""


def metric_lines(
    board: Leaderboard, left_out: Collection[str], cells: Callable[[str, str], list[Cell]]
) -> list[MetricLine]:
    """Return a line for each split and metric with a number in any of its ``cells``, but for the metrics left out."""
    lines = []
    for split in board.splits:
        for name, info in board.metrics.items():
            line = [] if name in left_out else cells(split, name)
            if any(cell.value is not None for cell in line):
                lines.append((split, info, line))
    return lines


def ratio_cell(ratio: Ratio | None) -> Cell:
    """Print the geometric mean of a ratio and the ratio of means, each with its interval, as far as they are known."""
    if ratio is None:
        return Cell(None, MISSING)
    if ratio.low is not None and ratio.high is not None:
        means = Cell(ratio.value, number(ratio.value), _interval(ratio.value, ratio.low, ratio.high))
    elif ratio.std is not None:
        means = Cell(ratio.value, *_with_spread(ratio.value, ratio.std))
    else:
        means = Cell(ratio.value, number(ratio.value))
    if ratio.geometric is None or ratio.geometric_low is None or ratio.geometric_high is None:
        return means
    own = _interval(ratio.geometric, ratio.geometric_low, ratio.geometric_high)
    return Cell(ratio.geometric, number(ratio.geometric), f"{own}; means {means}")


def _interval(value: float, low: float, high: float) -> str:
    decimals = min(6, _decimals(value, 3))
    return f"({low:,.{decimals}f} to {high:,.{decimals}f})"


def status(row: Row) -> str:
    """Say whether all seeds finished."""
    return f"{row.n_failed} of {len(row.seeds)} failed" if row.status == "partly failed" else row.status


def converged(row: Row) -> str:
    """Say how the training of each seed ended, or once for all where they agree."""
    ends = [
        f"yes, at step {steps:,}" if flat else "not known" if flat is None else "no, steps used up"
        for flat, steps in zip(row.converged, row.run_steps, strict=False)
    ]
    if row.converged and all(row.converged) and len(ends) > 1:
        return f"yes, at steps {', '.join(f'{steps:,}' for steps in row.run_steps)}"
    return "; ".join(dict.fromkeys(ends)) or MISSING


def _seeds(row: Row) -> str:
    return "n=1" if len(row.seeds) == 1 else str(len(row.seeds))


def _decimals(value: float, digits: int) -> int:
    return 0 if value == 0 else max(0, digits - 1 - floor(log10(abs(value))))


def _with_spread(mean: float, std: float) -> tuple[str, str]:
    if mean and abs(mean) < 1e-4:
        return number(mean), f"± {number(std, digits=2)}"
    decimals = min(6, max(_decimals(mean, 3), _decimals(std, 1)))
    return f"{mean:,.{decimals}f}", f"± {std:,.{decimals}f}"


def number(value: float | None, digits: int = 3) -> str:
    """Print a number with so many significant digits, or a dash for None."""
    if value is None:
        return MISSING
    if value and abs(value) < 1e-4:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{_decimals(value, digits)}f}"


def integer(value: float | None) -> str:
    """Print a count, or a mean of counts, or a dash for None."""
    if value is None:
        return MISSING
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def heat(cells: Sequence[Cell], better: Better = "lower") -> list[float | None]:
    """Place each number of a column between best (0) and worst (1).

    The scale is logarithmic where all numbers are positive, and linear else, as for percentages that reach zero.
    """
    values = [cell.value if isinstance(cell.value, float) and cell.competes else None for cell in cells]
    known = [value for value in values if value is not None]
    if len(set(known)) < 2:
        return [None] * len(values)
    scale: Callable[[float], float] = log if min(known) > 0 else float
    low, span = scale(min(known)), scale(max(known)) - scale(min(known))
    found = [None if value is None else (scale(value) - low) / span for value in values]
    turned = [None if place is None else 1 - place for place in found] if better == "higher" else found
    return [None if place is None else round(place, 3) for place in turned]


@dataclass(frozen=True)
class TextTable:
    """A table of text: printed as Markdown, and on the page by the macro ``text_table``.

    Attributes
    ----------
    headings
        Of the columns.
    lines
        Their cells.
    numeric
        Which columns are numbers, aligned to the right; all but the first if absent.
    caption
        Only on the page.
    """

    headings: Sequence[str]
    lines: Sequence[Sequence[str]]
    numeric: Sequence[bool] = ()
    caption: str = ""

    @property
    def right(self) -> Sequence[bool]:
        """Which columns are aligned to the right."""
        return self.numeric or [position > 0 for position in range(len(self.headings))]

    def markdown(self) -> str:
        """Return the table as Markdown, with escaped cells."""
        rule = ["---:" if right else "---" for right in self.right]
        head, *body = [[markdown_text(cell) for cell in line] for line in (self.headings, *self.lines)]
        return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *body))


def markdown_text(text: str) -> str:
    """Escape what Markdown, or HTML inside it, would take for markup."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", text)


def csv_text(board: Leaderboard) -> str:
    """Return the rows as CSV: full precision, every metric, an empty field for a missing number."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    measured = [(split, name) for split in board.splits for name in board.metrics]
    heading = ["rank", "entry", "architecture", "regime", "origin", "start", "overall", "overall std"]
    heading += [f"{name} part of overall" for name in PARTS]
    for split, name in measured:
        unit = board.metrics[name].unit
        heading += [f"{split} {name} [{unit}]", f"{split} {name} std [{unit}]", f"{split} {name} n"]
    heading += ["parameters", "steps", "seconds per step [s]", "device seconds [s]", "products", "sweep trials"]
    heading += ["sweep device seconds [s]", "label gradients", "validation gradients", "tuning gradients"]
    heading += ["gradients of the start"]
    heading += ["seeds", "failed", "status", "converged", "not a force field on", "demonstration"]
    writer.writerow(heading)
    for row in board.rows:
        fields: list[object] = [row.rank, row.entry, row.architecture, row.regime, row.origin, row.start]
        fields += _moments(row.overall)[:2]
        fields += [row.parts.get(name) for name in PARTS]
        for split, name in measured:
            fields += _moments(row.scores[split][name])
        fields += [row.parameters, row.steps, row.seconds_per_step, row.device_seconds, row.products, row.sweep_trials]
        fields += [row.sweep_device_seconds, row.label_gradients, row.validation_gradients]
        fields += [row.tuning_gradients, row.start_gradients]
        fields += [len(row.seeds), row.n_failed, row.status]
        fields += [converged(row), " ".join(row.not_force_field), "yes" if board.demonstration else "no"]
        writer.writerow(fields)
    return stream.getvalue()


def _moments(score: Score | None) -> list[float | int | None]:
    return [None, None, 0] if score is None else [score.mean, score.std, score.n]


def terminal_table(board: Leaderboard, width: int = 80) -> Table:
    """Return the rows as a table for the terminal: fewer columns than the page's, spreads below their means.

    Of each split the errors of energies, forces (but where no force is right) and Hessians are shown; without those of
    forces, the training time and the origin, where ``width`` characters do not hold them. Names are plain text, never
    markup.
    """
    kinds = ["energy_mae", "forces_mae", "hessian_rmse"]
    for left_out in (
        (),
        ("device_seconds",),
        ("device_seconds", "forces_mae"),
        ("device_seconds", "forces_mae", "origin"),
    ):
        table = _terminal_table(board, ["device_seconds", *kinds], left_out)
        if Console(width=10_000).measure(table).minimum <= width:
            break
    return table


def _terminal_table(board: Leaderboard, kinds: Sequence[str], left_out: Sequence[str]) -> Table:
    zero = {split for split, force in board.zero_force_mae.items() if force is not None and force < STATIONARY}
    keys = {"rank", "entry", "overall", "seeds", *kinds, *(f"{s} {kind}" for s in board.splits for kind in kinds)}
    keys -= {*left_out, *(f"{split} {kind}" for split in board.splits for kind in left_out)}
    keys -= {f"{split} forces_mae" for split in zero}
    keys |= {"origin"} - {*left_out} if board.origins else set()
    shown = [column for column in columns(board) if column.key in keys]
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
    for column in shown:
        unit = column.unit if column.key != "overall" else ""
        title = column.title.replace(" ", "\n") if column.split else column.title
        heading = Text("\n".join(part for part in (column.split, title, unit.replace("/atom", "\n/atom")) if part))
        if column.key == "entry":
            table.add_column(heading, overflow="fold", min_width=12)
        else:
            table.add_column(heading, justify="right", no_wrap=True)
    for row in board.rows:
        cells = [column.cell(row) for column in shown]
        # How many seeds there are is said once, in the last column.
        # What an entry started from is on the page.
        details = [
            "" if cell.detail == "n=1" or of.key == "origin" else cell.detail
            for of, cell in zip(shown, cells, strict=True)
        ]
        lines = [Text(f"{cell.text}\n{detail}".rstrip()) for cell, detail in zip(cells, details, strict=True)]
        if row.n_failed:
            lines[-1].append(f"\n{row.n_failed} failed")
        table.add_row(*lines)
    return table
