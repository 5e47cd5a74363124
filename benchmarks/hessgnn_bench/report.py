"""What was measured, as one JSON file and as tables."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from rich.markup import escape
from rich.table import Table

from hessgnn.runtime.config import Settings, read_json
from hessgnn.runtime.files import write_text
from hessgnn_bench.conditions import Conditions


class Row(Settings):
    """One piece of work."""

    name: str
    seconds: tuple[PositiveFloat, ...] = Field(description="every repeat, in order")
    median: PositiveFloat = Field(description="s")
    over_baseline: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = Field(
        description="quartiles of the ratio to the baseline's repeat of the same round"
    )
    molecules_per_second: PositiveFloat
    peak_memory: NonNegativeFloat | None = Field(default=None, description="MiB beyond potential and batch")


class Comparison(Settings):
    """Pieces of work that were timed side by side."""

    title: str
    baseline: str = Field(description="name of the row that the others are divided by")
    molecules: PositiveInt = Field(description="served by one piece of work")
    facts: dict[str, int] = Field(default_factory=dict)
    rows: list[Row]

    def table(self) -> Table:
        """For the terminal."""
        facts = ", ".join(f"{number} {what}" for what, number in {"molecules": self.molecules, **self.facts}.items())
        caption = f"{facts}; ratio: time over that of {self.baseline}, of repeats taken one after the other"
        table = Table(title=escape(self.title), caption=escape(caption), title_justify="left", caption_justify="left")
        with_memory = any(row.peak_memory is not None for row in self.rows)
        table.add_column("work")
        for title in ("ms", "ratio", "quartiles", "molecules/s", *["peak / MiB"] * with_memory):
            table.add_column(title, justify="right")
        for row in self.rows:
            lower, median, upper = row.over_baseline
            values = [f"{1e3 * row.median:.1f}", f"{median:.2f}", f"{lower:.2f}-{upper:.2f}"]
            values.append(f"{row.molecules_per_second:.{0 if row.molecules_per_second > 10 else 2}f}")
            if with_memory:
                values.append("" if row.peak_memory is None else f"{row.peak_memory:.0f}")
            table.add_row(escape(row.name), *values)
        return table


class Start(Settings):
    """The same first steps, in one process after the other."""

    seconds: tuple[PositiveFloat, ...] = Field(description="from the begin of the first step, every process in order")
    processor: tuple[PositiveFloat, ...] = Field(
        description="user and system s of the whole process and those that it started, imports included"
    )


class Starts(Settings):
    """How long trainings of one potential take to begin, see :mod:`hessgnn_bench.starts`."""

    architecture: str
    products: PositiveInt = Field(description="Hessian products of a step")
    steps: PositiveInt = Field(description="until a training counts as begun")
    shapes: PositiveInt = Field(description="steps that were compiled, one for each shape of batch")
    facts: dict[str, int] = Field(default_factory=dict)
    first_start: Start = Field(description="with an empty cache")
    second_start: Start = Field(description="with the cache that the first one filled")
    eager_start: Start

    TITLES: ClassVar = ("first steps of a training", "s", "s beyond eager", "processor s", "beyond eager")

    def cells(self) -> list[list[str]]:
        """Rows of a table with :attr:`TITLES`: medians, and medians less those of the eager start."""
        rows = []
        eager = self.eager_start
        for name, start in (("eager", eager), ("compiled, first", self.first_start), ("second", self.second_start)):
            row = [f"{self.architecture}, K={self.products}: {name}"]
            for found, base in ((start.seconds, eager.seconds), (start.processor, eager.processor)):
                beyond = "" if start is eager else f"{median(found) - median(base):.1f}"
                row += [f"{median(found):.1f}", beyond]
            rows.append(row)
        return rows

    def table(self) -> Table:
        """For the terminal."""
        table = Table(title=f"{self.architecture}: {self.steps} steps in a fresh process, {self.shapes} shapes")
        for number, title in enumerate(self.TITLES):
            table.add_column(title, justify="right" if number else "left")
        for row in self.cells():
            table.add_row(*map(escape, row))
        return table


class Report(Settings):
    """All comparisons of one call of ``hessgnn bench``."""

    format: Literal[1] = 1
    verb: str
    date: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    settings: dict[str, Any] = Field(description="what the command was called with")
    conditions: Conditions
    comparisons: list[Comparison] = Field(default_factory=list)
    starts: list[Starts] = Field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write the file, atomically.

        Parameters
        ----------
        path
            The JSON file.
        """
        write_text(path, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Report:
        """Read what :meth:`write` wrote.

        Parameters
        ----------
        path
            The JSON file.

        Returns
        -------
        Report
            The report.

        Raises
        ------
        DataError
            When the file is missing or is no report.
        """
        return read_json(cls, path, hint="check the path")
