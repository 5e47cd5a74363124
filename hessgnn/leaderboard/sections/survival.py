"""Survival curves of the heated dynamics, entry by entry, and the log-rank test of Hessian labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from hessgnn.evaluation.tasks.md import MDTask, log_rank, survival_curve
from hessgnn.leaderboard.collect import RunFiles
from hessgnn.leaderboard.comparisons import lineage
from hessgnn.leaderboard.plotting import DASHES, Panel, architecture_styles, figure_json, filter_meta, literal
from hessgnn.leaderboard.sections.base import PageData, Section, section
from hessgnn.leaderboard.tables import TextTable, markdown_text

TASK = MDTask.name
WITHOUT = ("E-F", "E-F+")
"""What each kind of labels with Hessians is compared with."""
HAVING = ("E-F-H", "E-F+H")
TEXT = (
    "Share of the molecules that hold together up to a temperature in heated dynamics (Kaplan-Meier). A molecule "
    "that survives the last rung is censored there: it lasts at least as long. The log-rank test counts each molecule "
    "once, with the mean of its temperatures over the seeds; it is censored if it survives with every seed. The "
    "p-value is two-sided. It is no verdict: it counts molecules of one family as independent, and is not corrected "
    "for the number of tests; the claims are. There is none where a run is not known to be converged, or is a "
    "demonstration."
)

Survival = dict[str, tuple[float, bool]]
"""Molecule -> temperature, K, at which it failed or up to which it was watched, and whether it was whole then."""


@section("survival", order=115)
class SurvivalSection(Section):
    """A figure for each architecture, and a table of medians and tests."""

    heading = "Survival of heated molecules"
    link = "Survival"
    template = """
<p>{{ text }}</p>
{{ text_table("Table: " ~ heading, table) }}
{{ panels(figures) }}
"""

    def context(self, data: PageData) -> dict[str, Any] | None:
        """See :meth:`Section.context`."""
        found = survivals(data)
        if found is None:
            return None
        split, entries = found
        styles = architecture_styles(data.board.rows)
        architectures = dict.fromkeys(runs[0].record.architecture for runs, _ in entries.values())
        figures = [
            _panel(
                name, {e: v for e, v in entries.items() if v[0][0].record.architecture == name}, split, styles[name][0]
            )
            for name in architectures
            if name in styles
        ]
        return {"text": TEXT, "heading": self.heading, "table": _table(entries), "figures": figures}

    def markdown(self, data: PageData) -> list[str]:
        """See :meth:`Section.markdown`: the table."""
        found = survivals(data)
        if found is None:
            return []
        return [f"## {self.heading}", markdown_text(TEXT), _table(found[1]).markdown()]


Entries = dict[str, tuple[list[RunFiles], Survival]]


def survivals(data: PageData) -> tuple[str, Entries] | None:
    """The first split with results, and what became of each entry's molecules there; ``None`` without any."""
    split = next((s for s in data.board.splits if any(f"{TASK} {s}" in item.results for item in data.runs)), None)
    if split is None:
        return None
    runs: dict[str, list[RunFiles]] = {}
    for item in data.runs:
        if item.values(TASK, split):  # empty for results of an older version
            runs.setdefault(item.record.entry, []).append(item)
    entries = {entry: (some, _joined(some, split)) for entry, some in runs.items()}
    return (split, entries) if entries else None


def _joined(runs: Sequence[RunFiles], split: str) -> Survival:
    """Molecule by molecule over the seeds of an entry."""
    numbers = [item.values(TASK, split) for item in runs]
    found: Survival = {}
    for molecule in dict.fromkeys(name for values in numbers for name in values["md_survival_temperature"]):
        there = [v for v in numbers if v["md_survival_temperature"].get(molecule) is not None]
        temperatures = [float(v["md_survival_temperature"][molecule] or 0.0) for v in there]
        censored = all(v["md_survived"].get(molecule) == 100.0 for v in there)
        if temperatures:
            found[molecule] = (sum(temperatures) / len(temperatures), censored)
    return found


def _columns(survival: Survival) -> tuple[list[float], list[bool]]:
    return [value for value, _ in survival.values()], [censored for _, censored in survival.values()]


def _table(entries: Entries) -> TextTable:
    """Median, share of survivors, and the test against each entry without Hessians of the same architecture."""
    rows = []
    for entry, (runs, survival) in entries.items():
        values, censored = _columns(survival)
        median = survival_curve(values, censored).median
        record = runs[0].record
        tests = []
        if record.regime in HAVING:
            for other, (others, theirs) in entries.items():
                against = others[0].record
                same = (lineage(against), against.budget) == (lineage(record), record.budget)
                if same and against.regime in WITHOUT:
                    common = survival.keys() & theirs.keys()
                    pair = [_columns({name: side[name] for name in sorted(common)}) for side in (survival, theirs)]
                    if any(run.record.demonstration or run.record.converged is not True for run in (*runs, *others)):
                        tests.append(f"{other}: –")
                    elif common:
                        tests.append(f"{other}: p = {log_rank(pair[0], pair[1]).p:.2g}")
        shown = f"> {max(values):.0f}" if median is None else f"{median:.0f}"
        rows.append([entry, str(len(values)), shown, f"{100 * sum(censored) / len(values):.0f}", "; ".join(tests)])
    return TextTable(["entry", "molecules", "median, K", "survive the ramp, %", "log-rank against"], rows)


def _panel(architecture: str, entries: Entries, split: str, colour: str) -> Panel:
    traces = []
    for entry, (runs, survival) in entries.items():
        curve = survival_curve(*_columns(survival))
        regime = runs[0].record.regime
        traces.append(
            go.Scatter(
                name=literal(entry),
                mode="lines",
                x=[0.0, *curve.values.tolist()],
                y=[100.0, *(100 * curve.shares).tolist()],
                line={"shape": "hv", "color": colour, "dash": DASHES.get(regime, "solid"), "width": 1.6},
                hovertemplate="%{x:.0f} K: %{y:.0f} %",
                meta=filter_meta(entry, regime),
            )
        )
    figure = figure_json(
        traces,
        height=360,
        xaxis={"title": {"text": "temperature / K"}, "automargin": True},
        yaxis={"title": {"text": "whole molecules / %"}, "range": [0, 103], "automargin": True},
        showlegend=True,
    )
    return Panel(architecture, f"Survival curves of the molecules of {split} under heating, {architecture}", figure)
