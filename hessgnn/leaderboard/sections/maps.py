"""Maps of Hessian errors by atom pairs, for molecules that a reader may choose from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from ase.data import chemical_symbols
from numpy.typing import NDArray

from hessgnn.leaderboard.board import Leaderboard
from hessgnn.leaderboard.collect import RunFiles
from hessgnn.leaderboard.plotting import Panel, PanelGroup, figure_json, filter_meta
from hessgnn.leaderboard.sections.base import FigureSection, PageData, section

MOLECULES = 10
"""That can be chosen."""
CELLS = 60_000
"""Of all maps together, so that the page stays small."""
LARGEST = 40
"""Atoms; a map of more could not be read."""

Array = NDArray[np.float64]


@section("maps", order=120)
class HessianMaps(FigureSection):
    """The maps of one molecule at a time."""

    heading = "Hessian errors by atom pairs"
    link = "Hessian errors"
    choice = "Molecule"

    def about(self, data: PageData) -> str:
        """See :meth:`FigureSection.about`."""
        return (
            "Each cell is the root mean square error of the 3 × 3 block of two atoms, in eV/Å², of a molecule of "
            f"{map_split(data.board)}; the first finished seed of each entry, all on one scale. The first map is the "
            "reference itself."
        )

    def figures(self, data: PageData) -> list[PanelGroup]:
        """Draw ``|ΔH|`` of the first finished seed of every entry that saved its predictions, molecule by molecule.

        A cell is the root mean square of the 3 × 3 block of two atoms, eV/Å². Molecules are in the order of their size:
        as many as fit, spread evenly over the sizes.
        """
        split = map_split(data.board)
        if split is None:
            return []
        chosen: dict[str, RunFiles] = {}
        for item in data.runs:
            record = item.record
            if record.status == "ok" and record.regime != "mean" and split in item.files:
                chosen.setdefault(record.entry, item)
        found: dict[str, dict[str, tuple[NDArray[np.int64], Array, Array]]] = {}
        for entry, item in chosen.items():
            predictions = item.predictions(split)
            assert predictions is not None  # chosen because it has them
            for name, numbers, _, reference, predicted in predictions.hessians():
                if len(numbers) <= LARGEST and np.isfinite(reference).all():
                    found.setdefault(name, {})[entry] = (numbers, reference, predicted)
        whole = sorted(
            (name for name, entries in found.items() if len(entries) == len(chosen)),
            key=lambda name: (len(next(iter(found[name].values()))[0]), name),
        )
        order = [row.entry for row in data.board.rows if row.entry in chosen]
        return [
            _maps(name, {entry: (chosen[entry], *found[name][entry]) for entry in order}, split)
            for name in _fit(whole, found)
        ]


def map_split(board: Leaderboard) -> str | None:
    """Return the split that molecules are taken from: ``test`` if it is there, else the first."""
    return "test" if "test" in board.splits else board.splits[0] if board.splits else None


def _fit(names: Sequence[str], found: dict[str, dict[str, tuple[NDArray[np.int64], Array, Array]]]) -> list[str]:
    """Spread evenly over the sizes, as many as the page has room for."""
    for n in range(min(MOLECULES, len(names)), 0, -1):
        chosen = [names[k] for k in np.unique(np.linspace(0, len(names) - 1, n).round().astype(int))]
        cells = sum(len(numbers) ** 2 for name in chosen for numbers, _, _ in found[name].values())
        if cells <= CELLS:
            return chosen
    return []


def block_norms(hessian: Array) -> Array:
    """Root mean square of the 3 × 3 block of each pair of atoms: ``(3N, 3N)`` to ``(N, N)``."""
    n = len(hessian) // 3
    return np.sqrt((hessian.reshape(n, 3, n, 3) ** 2).mean(axis=(1, 3)))


def _maps(name: str, entries: dict[str, tuple[RunFiles, NDArray[np.int64], Array, Array]], split: str) -> PanelGroup:
    _, numbers, reference, _ = next(iter(entries.values()))
    atoms = [f"{chemical_symbols[number]}{position}" for position, number in enumerate(numbers, start=1)]
    errors = {entry: block_norms(predicted - true) for entry, (_, _, true, predicted) in entries.items()}
    highest = max(float(error.max()) for error in errors.values())
    panels = [_panel("Reference |H|", f"Reference Hessian of {name} of {split}", block_norms(reference), atoms, None)]
    for entry, (item, *_) in entries.items():
        error = errors[entry]
        i, j = np.unravel_index(int(error.argmax()), error.shape)
        description = (
            f"Error of the Hessian of {name} of {split} by {entry}, seed {item.record.seed}: root mean square "
            f"{np.sqrt((error**2).mean()):.3g} eV/Å², largest {error[i, j]:.3g} eV/Å² between {atoms[i]} and {atoms[j]}"
        )
        title = f"{entry}: RMS {np.sqrt((error**2).mean()):.3g} eV/Å²"
        panels.append(_panel(title, description, error, atoms, highest, entry, item.record.regime))
    return PanelGroup(f"{name} ({len(numbers)} atoms)", panels, layout="panels small")


def _panel(
    title: str,
    description: str,
    values: Array,
    atoms: list[str],
    highest: float | None,
    entry: str = "",
    regime: str = "",
) -> Panel:
    rounded = [[float(f"{value:.3g}") for value in row] for row in values]
    trace = go.Heatmap(
        z=rounded,
        x=atoms,
        y=atoms,
        zmin=0,
        zmax=highest,
        colorscale="Cividis" if highest is None else "Viridis",
        colorbar={"title": {"text": "eV/Å²"}, "thickness": 12},
        hovertemplate="%{y}, %{x}: %{z:.3g} eV/Å²<extra></extra>",
    )
    axis = {"type": "category", "automargin": True, "tickangle": 0, "tickfont": {"size": 10}, "constrain": "domain"}
    figure = figure_json(
        [trace],
        height=340,
        margin={"l": 36, "r": 8, "t": 8, "b": 32},
        xaxis=axis,
        yaxis={**axis, "autorange": "reversed", "scaleanchor": "x"},
    )
    return Panel(title, description, figure, **filter_meta(entry, regime))
