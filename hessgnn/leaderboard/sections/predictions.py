"""Figures of saved predictions: parity plots, and maps of Hessian errors by atom pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
from ase.data import chemical_symbols
from numpy.typing import NDArray

from hessgnn.evaluation.predictions import Predictions
from hessgnn.leaderboard.board import Leaderboard
from hessgnn.leaderboard.collect import RunFiles
from hessgnn.leaderboard.plotting import Panel, PanelGroup, architecture_styles, figure_json, filter_meta, literal
from hessgnn.leaderboard.sections.base import FigureSection, PageData, section

POINTS_PER_TRACE = 1500
POINTS = 40_000
"""In all parity plots together, so that the page stays small."""
SEED = 20240229
"""Of the choice of the points that are drawn."""

QUANTITIES = {"energy": ("E", "eV/atom"), "forces": ("F", "eV/Å"), "hessian": ("H", "eV/Å²")}

MOLECULES = 10
"""That can be chosen."""
CELLS = 60_000
"""Of all maps together, so that the page stays small."""
LARGEST = 40
"""Atoms; a map of more could not be read."""

Array = NDArray[np.float64]


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
                _parity_panel(f"{letter}, {entry}", f"{entry}, seed {seeds[entry]}", split, pair, limits, unit, colour),
                entry=entry,
                regime=item.record.regime,
            )
            for (entry, item), pair in zip(entries.items(), pairs[name], strict=True)
        ]
    return PanelGroup(architecture, panels, layout="parity-panels", rows=len(entries))


def _values(predictions: Predictions, baseline: Predictions | None) -> dict[str, tuple[Array, Array]]:
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


def _sample(reference: Array, predicted: Array, n_points: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Choose at most ``n_points`` pairs; the seed is fixed, so entries show the same ones."""
    if reference.size > n_points:
        chosen = np.sort(np.random.default_rng(SEED).choice(reference.size, n_points, replace=False))
        reference, predicted = reference[chosen], predicted[chosen]
    return reference.astype(np.float32), predicted.astype(np.float32)


def _parity_panel(
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
    panels = [
        _map_panel("Reference |H|", f"Reference Hessian of {name} of {split}", block_norms(reference), atoms, None)
    ]
    for entry, (item, *_) in entries.items():
        error = errors[entry]
        i, j = np.unravel_index(int(error.argmax()), error.shape)
        description = (
            f"Error of the Hessian of {name} of {split} by {entry}, seed {item.record.seed}: root mean square "
            f"{np.sqrt((error**2).mean()):.3g} eV/Å², largest {error[i, j]:.3g} eV/Å² between {atoms[i]} and {atoms[j]}"
        )
        title = f"{entry}: RMS {np.sqrt((error**2).mean()):.3g} eV/Å²"
        panels.append(_map_panel(title, description, error, atoms, highest, entry, item.record.regime))
    return PanelGroup(f"{name} ({len(numbers)} atoms)", panels, layout="panels small")


def _map_panel(
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
