"""Vibrational spectra of one molecule, from the results of the vibrations task."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from hessgnn.evaluation.record import Result
from hessgnn.evaluation.spectra import broadened
from hessgnn.leaderboard.collect import RunFiles
from hessgnn.leaderboard.plotting import DASHES, Panel, architecture_styles, figure_json, filter_meta, literal
from hessgnn.leaderboard.sections.base import FigureSection, PageData, section

WIDTH = 20.0
"""Standard deviation of a drawn line, cm⁻¹: wide enough to be seen."""
STEP = 8.0
"""Of the drawn grid, cm⁻¹."""
TASK, PLACE = "vibrations", "reference"


@section("spectra", order=110)
class Spectra(FigureSection):
    """A figure for each architecture."""

    heading = "Spectra"
    text = (
        ", the first seed of each entry. Intensities are those of the reference engine's dipole moment along each "
        "potential's own modes: potentials have no dipole."
    )

    def context(self, data: PageData) -> dict[str, Any] | None:
        """See :meth:`Section.context`: the text begins with the molecule that the figures show."""
        found = super().context(data)
        return None if found is None else {**found, "text": found["figures"][0].description.split(",")[0] + self.text}

    def figures(self, data: PageData) -> list[Panel]:
        """Draw the spectrum of one molecule, a panel per architecture, the reference in each.

        The molecule is the largest one of the first split that has any. Infrared spectra where intensities are known,
        else densities of states; at the reference minimum, of the first finished seed of each entry.
        """
        split = next((s for s in data.board.splits if any(f"{TASK} {s}" in item.results for item in data.runs)), None)
        if split is None:
            return []
        styles = architecture_styles(data.board.rows)
        shown: dict[str, dict[str, tuple[RunFiles, dict[str, Result]]]] = {}
        for item in data.runs:
            if item.record.entry in shown.get(item.record.architecture, {}) or item.record.architecture not in styles:
                continue
            results = item.task_results(TASK, split)
            if results is not None:
                shown.setdefault(item.record.architecture, {})[item.record.entry] = (item, results)
        tables = [results for entries in shown.values() for _, results in entries.values()]
        common = (
            [name for name in tables[0] if all(PLACE in results.get(name, {}) for results in tables)] if tables else []
        )
        if not common:
            return []
        molecule = max(common, key=lambda name: (len(tables[0][name]["numbers"]), name))
        return [
            _panel(architecture, entries, molecule, split, styles[architecture][0])
            for architecture, entries in shown.items()
        ]


def _panel(
    architecture: str, entries: dict[str, tuple[RunFiles, dict[str, Result]]], molecule: str, split: str, colour: str
) -> Panel:
    rows = {entry: results[molecule] for entry, (_, results) in entries.items()}
    reference = next(iter(rows.values()))
    infrared = all("intensities" in row for row in rows.values())
    highest = max(max(row["frequencies"] + row[PLACE]["frequencies"]) for row in rows.values())
    grid = np.arange(0.0, highest + 5 * WIDTH, STEP)

    def line(row: Result, name: str, meta: dict[str, str] | None = None, **style: object) -> go.Scatter:
        heights = row["intensities"] if infrared else [1.0] * len(row["frequencies"])
        spectrum = broadened(row["frequencies"], heights, WIDTH, grid)
        return go.Scatter(
            name=literal(name),
            mode="lines",
            x=grid.astype(np.float32),
            y=spectrum.astype(np.float32),
            line=style,
            hovertemplate="%{x:.0f} cm⁻¹",
            meta=meta,
        )

    traces = [line(reference, "reference", color="#808080", width=3)]
    for entry, (item, _) in entries.items():
        dash = DASHES.get(item.record.regime, "solid")
        meta = filter_meta(entry, item.record.regime)
        traces.append(line(rows[entry][PLACE], entry, meta, color=colour, dash=dash, width=1.6))
    kind = "km/mol per cm⁻¹" if infrared else "modes per cm⁻¹"
    figure = figure_json(
        traces,
        height=360,
        xaxis={"title": {"text": "wavenumber / cm⁻¹"}, "automargin": True},
        yaxis={"title": {"text": kind}, "automargin": True},
        showlegend=True,
    )
    what = "Infrared spectrum" if infrared else "Density of vibrational states"
    return Panel(
        architecture, f"{what} of {molecule} of {split} at the reference minimum, {architecture} and reference", figure
    )
