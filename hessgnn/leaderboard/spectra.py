"""Figures of vibrational spectra, from the results of the vibrations task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from hessgnn.evaluation.journal import Result, read_results
from hessgnn.evaluation.spectra import broadened
from hessgnn.leaderboard.board import Leaderboard
from hessgnn.leaderboard.collect import Loaded
from hessgnn.leaderboard.plotting import DASHES, Panel, architecture_styles, figure_json, literal, whose

WIDTH = 20.0
"""Standard deviation of a drawn line, cm⁻¹: wide enough to be seen."""
STEP = 8.0
"""Of the drawn grid, cm⁻¹."""
TASK, PLACE = "vibrations", "reference"


def spectra_panels(board: Leaderboard, loaded: Sequence[Loaded]) -> list[Panel]:
    """Draw the spectrum of one molecule, a panel per architecture, the reference in each.

    The molecule is the largest one of the first split that has any. Infrared spectra where intensities are known, else
    densities of states; at the reference minimum, of the first finished seed of each entry.
    """
    split = next((s for s in board.splits if any(f"{TASK} {s}" in item.results for item in loaded)), None)
    if split is None:
        return []
    styles = architecture_styles(board.rows)
    shown: dict[str, dict[str, tuple[Loaded, dict[str, Result]]]] = {}
    for item in loaded:
        path = item.results.get(f"{TASK} {split}")
        if path is not None and item.record.architecture in styles:
            entries = shown.setdefault(item.record.architecture, {})
            entries.setdefault(item.record.entry, (item, read_results(path)))
    tables = [results for entries in shown.values() for _, results in entries.values()]
    common = [name for name in tables[0] if all(PLACE in results.get(name, {}) for results in tables)] if tables else []
    if not common:
        return []
    molecule = max(common, key=lambda name: (len(tables[0][name]["numbers"]), name))
    return [
        _panel(architecture, entries, molecule, split, styles[architecture][0])
        for architecture, entries in shown.items()
    ]


def _panel(
    architecture: str, entries: dict[str, tuple[Loaded, dict[str, Result]]], molecule: str, split: str, colour: str
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
        meta = whose(entry, item.record.regime)
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
