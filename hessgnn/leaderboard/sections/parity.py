"""Parity plots from saved predictions: predicted against reference energy, forces and Hessian."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from hessgnn.evaluation.predictions import Predictions
from hessgnn.leaderboard.board import Leaderboard
from hessgnn.leaderboard.collect import RunFiles
from hessgnn.leaderboard.plotting import Panel, PanelGroup, architecture_styles, figure_json, literal
from hessgnn.leaderboard.sections.base import FigureSection, PageData, section

POINTS_PER_TRACE = 1500
POINTS = 40_000
"""In all parity plots together, so that the page stays small."""
SEED = 20240229
"""Of the choice of the points that are drawn."""

QUANTITIES = {"energy": ("E", "eV/atom"), "forces": ("F", "eV/Å"), "hessian": ("H", "eV/Å²")}


@section("parity", order=130)
class ParityPlots(FigureSection):
    """The plots of one architecture at a time."""

    heading = "Parity"
    choice = "Architecture"

    def about(self, data: PageData) -> str:
        """See :meth:`FigureSection.about`."""
        return (
            f"Predicted against reference values on {parity_split(data.board)}, the first finished seed of each entry, "
            "a random choice of points that is the same for all. Energies are relative to the mean predictor's where "
            "it saved its predictions, else to the mean reference energy per atom."
        )

    def figures(self, data: PageData) -> list[PanelGroup]:
        """Draw the first finished seed of every entry that saved its predictions, the regimes side by side.

        Energies are per atom and relative to the mean predictor's, which knows the composition; without its predictions
        for the same structures, relative to the mean of the reference energies per atom.
        """
        split = parity_split(data.board)
        if split is None:
            return []
        chosen: dict[str, dict[str, RunFiles]] = {}
        baseline = None
        for item in sorted(
            data.runs, key=lambda item: (item.record.architecture, item.record.regime, item.record.seed or 0)
        ):
            record = item.record
            if record.status == "failed" or split not in item.files:
                continue
            if record.regime == "mean":
                baseline = baseline or item.predictions(split)
            else:
                chosen.setdefault(record.architecture, {}).setdefault(record.entry, item)
        traces = len(QUANTITIES) * sum(map(len, chosen.values()))
        n_points = min(POINTS_PER_TRACE, POINTS // max(1, traces))
        styles = architecture_styles(data.board.rows)
        return [
            _parity(architecture, entries, split, baseline, n_points, styles[architecture][0])
            for architecture, entries in chosen.items()
        ]


def parity_split(board: Leaderboard) -> str | None:
    """Return the split that is drawn: the distorted geometries (``nms``) if they are there, else the last one."""
    return "nms" if "nms" in board.splits else board.splits[-1] if board.splits else None


def _parity(
    architecture: str,
    entries: dict[str, RunFiles],
    split: str,
    baseline: Predictions | None,
    n_points: int,
    colour: str,
) -> PanelGroup:
    pairs: dict[str, list[tuple[NDArray[np.float32], NDArray[np.float32]]]] = {name: [] for name in QUANTITIES}
    for item in entries.values():
        predictions = item.predictions(split)
        assert predictions is not None  # chosen because it has them
        for name, (reference, predicted) in _values(predictions, baseline).items():
            pairs[name].append(_sample(reference, predicted, n_points))
    seeds = {entry: item.record.seed for entry, item in entries.items()}
    panels = []
    for name, (letter, unit) in QUANTITIES.items():
        everything = np.concatenate([values for pair in pairs[name] for values in pair])
        margin = 0.04 * float(np.ptp(everything)) or 1.0
        limits = [float(everything.min()) - margin, float(everything.max()) + margin]
        panels += [
            replace(
                _panel(f"{letter}, {entry}", f"{entry}, seed {seeds[entry]}", split, pair, limits, unit, colour),
                entry=entry,
                regime=item.record.regime,
            )
            for (entry, item), pair in zip(entries.items(), pairs[name], strict=True)
        ]
    return PanelGroup(architecture, panels, layout="parity-panels", rows=len(entries))


def _values(
    predictions: Predictions, baseline: Predictions | None
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    n_atoms = predictions.n_atoms
    if baseline is not None and np.array_equal(baseline.name, predictions.name):
        zero = baseline.energy_predicted / n_atoms
    else:
        zero = np.full(n_atoms.shape, np.mean(predictions.energy_reference / n_atoms))
    return {
        "energy": (predictions.energy_reference / n_atoms - zero, predictions.energy_predicted / n_atoms - zero),
        "forces": (predictions.forces_reference.ravel(), predictions.forces_predicted.ravel()),
        "hessian": (predictions.hessian_reference, predictions.hessian_predicted),
    }


def _sample(
    reference: NDArray[np.float64], predicted: NDArray[np.float64], n_points: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Choose at most ``n_points`` pairs; the seed is fixed, so entries show the same ones."""
    if reference.size > n_points:
        chosen = np.sort(np.random.default_rng(SEED).choice(reference.size, n_points, replace=False))
        reference, predicted = reference[chosen], predicted[chosen]
    return reference.astype(np.float32), predicted.astype(np.float32)


def _panel(
    title: str,
    run: str,
    split: str,
    pair: tuple[NDArray[np.float32], NDArray[np.float32]],
    limits: list[float],
    unit: str,
    colour: str,
) -> Panel:
    reference, predicted = pair
    diagonal = go.Scatter(
        x=limits, y=limits, mode="lines", line={"color": "#808080", "width": 1}, hoverinfo="skip", showlegend=False
    )
    points = go.Scatter(
        x=reference,
        y=predicted,
        mode="markers",
        name=literal(run),
        marker={"color": colour, "size": 4, "opacity": 0.45},
        hovertemplate="%{x:.4g} → %{y:.4g}<extra></extra>",
        showlegend=False,
    )
    axis = {"range": limits, "nticks": 6, "automargin": True}
    figure = figure_json(
        [diagonal, points],
        height=290,
        margin={"l": 48, "r": 8, "t": 8, "b": 44},
        xaxis={**axis, "title": {"text": f"reference / {unit}"}},
        yaxis={**axis, "title": {"text": f"predicted / {unit}"}},
    )
    return Panel(title, f"Predicted against reference values of {run} on {split}, in {unit}", figure)
