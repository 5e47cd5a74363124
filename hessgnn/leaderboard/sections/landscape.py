"""The landscape of what was tuned: a sweep's trials of each architecture on each kind of labels.

Drawn without ``optuna.visualization``: its contour passes through every noisy trial, even of five, and its figures show
neither failed and pruned trials nor the panels of several studies side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from scipy.interpolate import RBFInterpolator

from hessgnn.leaderboard.plotting import COLOURS, Panel, PanelGroup, figure_json, literal
from hessgnn.leaderboard.sections.base import FigureSection, PageData, section
from hessgnn.leaderboard.tables import number
from hessgnn.leaderboard.trials import RankingCheck, TrialResult, check_rankings

FIRST = ("loss.forces", "loss.hessian")
"""They span the map, where they were tuned."""
FEWEST = 8
"""Finished trials that a surface is drawn through."""
GRID = 32
SMOOTHING = 0.05
"""Of the surface: trials are noisy, so it need not pass through each."""
BASELINE = "baseline"
"""Kind of the trials that scores of version 0.1.0 are relative to."""
MARKS = {"complete": "circle", "pruned": "x-thin", "failed": "cross-thin"}


@section("landscapes", order=80)
class Landscapes(FigureSection):
    """What was tried for one architecture and kind of labels at a time."""

    heading = "Landscape of what was tuned"
    link = "Tuning"
    text = (
        "Every trial of the sweep. The score is a geometric mean of validation errors in fixed units, the same for all "
        "kinds of labels; lower is better. (In sweeps of version 0.1.0 it is relative to the architecture's E-F "
        "baseline.) The shading is a smooth surface through the finished trials."
    )
    choice = "Architecture and labels"

    def figures(self, data: PageData) -> list[PanelGroup]:
        """See :func:`landscapes`."""
        return landscapes(data.trials)


def landscapes(trials: Sequence[TrialResult]) -> list[PanelGroup]:
    """Draw what was tried, a group of panels for each architecture and kind of labels with a finished trial.

    With two or more tuned numbers, the first two span a map that is coloured by the score: the weights of forces and
    Hessian, where they were tuned. Every number has a panel of its own, score against value. A weight of zero stands
    left of the axis' others.
    """
    found = []
    checks = check_rankings(trials)
    for name, mine in _by_subject(trials).items():
        done = [(trial, trial.score) for trial in mine if trial.score is not None and trial.state == "complete"]
        if not done:
            continue
        relative = any(trial.kind == BASELINE for trial in mine)
        label = "validation error over E-F" if relative else "score"
        keys = [key for key in dict.fromkeys(key for trial in mine for key in trial.numbers) if _varies(mine, key)]
        keys.sort(key=lambda key: (*FIRST, key).index(key))
        best, lowest = min(done, key=lambda pair: pair[1])
        values = ", ".join(
            f"{_name(key)} {number(best.numbers[key])} {_unit(key)}".strip() for key in keys if key in best.numbers
        )
        states = {state: sum(trial.state == state for trial in mine) for state in MARKS}
        summary = (
            f"{states['complete']} finished, {states['pruned']} pruned, {states['failed']} failed. Best: "
            f"{number(lowest)} ({label}), with {values or 'nothing tuned'} (trial {best.trial})."
        )
        panels = [_map(mine, done, keys[:2], name, label)] if len(keys) > 1 else []
        panels += [_slice(mine, key, name, label) for key in keys]
        found.append(PanelGroup(name, panels, f"{summary} {_lasting(checks.get(best.subject))}"))
    return found


def _by_subject(trials: Sequence[TrialResult]) -> dict[str, list[TrialResult]]:
    """Trials of each study; a baseline of version 0.1.0 stands with the trials that are relative to it."""
    compared = {trial.architecture: trial.subject for trial in trials if trial.kind != BASELINE}
    found: dict[str, list[TrialResult]] = {}
    for trial in trials:
        name = compared.get(trial.architecture, trial.subject) if trial.kind == BASELINE else trial.subject
        found.setdefault(name, []).append(trial)
    return found


def _lasting(check: RankingCheck | None) -> str:
    """Whether the choice holds for a training as long as the retraining."""
    if check is None:
        return "Whether the ranking holds at the final length is not known."
    if check.holds:
        return f"At the final length it is still the best of {check.trials} trials."
    return f"At the final length trial {check.best} is better: the chosen one has {check.excess:.2f} times its score."


def _varies(trials: Sequence[TrialResult], key: str) -> bool:
    return len({trial.numbers.get(key) for trial in trials}) > 1


def _name(key: str) -> str:
    names = {"loss.forces": "w_F", "loss.hessian": "w_H", "training.schedule.lr": "learning rate"}
    return {**names, "data.energy_scale": "energy scale", "labels.displacement": "displacement"}.get(key, key)


def _unit(key: str) -> str:
    units = {"loss.forces": "Å²", "loss.hessian": "Å⁴", "data.energy_scale": "eV", "labels.displacement": "Å"}
    return units.get(key, "")


def _axis(key: str, values: Sequence[float]) -> tuple[dict[str, Any], float | None]:
    """A logarithmic axis, and where zero is drawn on it; a linear one where numbers are negative."""
    title = f"{_name(key)} / {_unit(key)}".rstrip("/ ")
    positive = [value for value in values if value > 0]
    if not positive or min(values) < 0:
        return {"title": {"text": title}, "automargin": True}, None
    axis: dict[str, Any] = {"title": {"text": title}, "type": "log", "automargin": True}
    if min(values) > 0:
        return axis, None
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    stride = max(1, (high - low) // 5)
    zero = 10.0 ** (low - 1)
    decades = [10.0**power for power in range(low, high + 1, stride)]
    return {**axis, "tickvals": [zero, *decades], "ticktext": ["0", *(f"{value:g}" for value in decades)]}, zero


def _at(value: float, zero: float | None) -> float:
    return zero if zero is not None and value == 0 else value


def _hover(trial: TrialResult) -> str:
    score = trial.state if trial.score is None else number(trial.score)
    reason = f"<br>{literal(trial.reason[:120])}" if trial.reason else ""
    return f"trial {trial.trial}, {literal(trial.kind)}: {score}{reason}"


def _marks(
    state: str, trials: Sequence[TrialResult], x: Sequence[float], y: Sequence[float | None], marker: dict[str, Any]
) -> go.Scatter:
    """Trials of one state."""
    text = [_hover(trial) for trial in trials]
    hover = "%{text}<extra></extra>"
    return go.Scatter(name=state, mode="markers", x=x, y=y, marker=marker, text=text, hovertemplate=hover)


def _map(
    trials: Sequence[TrialResult], done: Sequence[tuple[TrialResult, float]], keys: Sequence[str], name: str, label: str
) -> Panel:
    shown = [trial for trial in trials if all(key in trial.numbers for key in keys)]
    axes = [_axis(key, [trial.numbers[key] for trial in shown]) for key in keys]
    places = {
        id(trial): [_at(trial.numbers[key], zero) for key, (_, zero) in zip(keys, axes, strict=True)] for trial in shown
    }
    finished = [(trial, score) for trial, score in done if id(trial) in places]
    scores = [score for _, score in finished] or [1.0]
    colours = {
        "colorscale": "Viridis",
        "reversescale": True,
        "cmin": math.log10(min(scores)),
        "cmax": math.log10(max(scores)) or 1e-9,
    }
    traces: list[Any] = []
    if all(axis.get("type") == "log" for axis, _ in axes):
        traces += _surface([(places[id(trial)], score) for trial, score in finished], colours)
    for state, symbol in MARKS.items():
        group = [trial for trial in shown if trial.state == state]
        known = [trial.score for trial in group if trial.score is not None]
        if not group:
            continue
        marker: dict[str, Any] = {"symbol": symbol, "size": 10, "line": {"width": 1.5, "color": "#808080"}}
        if state == "complete" and len(known) == len(group):
            bar = {"title": {"text": label}, "thickness": 12, **_score_ticks(scores)}
            marker |= {**colours, "color": [math.log10(score) for score in known], "showscale": True, "colorbar": bar}
        at = [places[id(trial)] for trial in group]
        traces.append(_marks(state, group, [x for x, _ in at], [y for _, y in at], marker))
    figure = figure_json(traces, height=430, xaxis=axes[0][0], yaxis=axes[1][0], showlegend=True)
    names = " and ".join(map(_name, keys))
    return Panel(f"{name}: {names}", f"{label.capitalize()} against {names}, {name}", figure)


def _score_ticks(scores: Sequence[float]) -> dict[str, Any]:
    ticks = np.geomspace(min(scores), max(scores), 5)
    return {"tickvals": np.log10(ticks).tolist(), "ticktext": [number(float(tick), 2) for tick in ticks]}


def _surface(points: Sequence[tuple[list[float], float]], colours: dict[str, Any]) -> list[go.Contour]:
    """A smooth surface through the finished trials, in the logarithms of weights and score."""
    where = np.log10(np.array([place for place, _ in points]).reshape(-1, 2))
    if len(points) < FEWEST or np.linalg.matrix_rank(where - where.mean(axis=0)) < 2:
        return []
    low, span = where.min(axis=0), np.ptp(where, axis=0)
    scaled = (where - low) / span
    height = np.log10([score for _, score in points])
    try:
        model = RBFInterpolator(scaled, height, kernel="thin_plate_spline", smoothing=SMOOTHING)
    except np.linalg.LinAlgError:  # trials on top of each other
        return []
    unit = np.linspace(0, 1, GRID)
    mesh = np.stack(np.meshgrid(unit, unit), axis=-1).reshape(-1, 2)
    values = np.clip(model(mesh), height.min(), height.max()).reshape(GRID, GRID)
    return [
        go.Contour(
            x=(10 ** (low[0] + span[0] * unit)).astype(np.float32),
            y=(10 ** (low[1] + span[1] * unit)).astype(np.float32),
            z=values.astype(np.float32).round(3),
            colorscale=colours["colorscale"],
            reversescale=colours["reversescale"],
            zmin=colours["cmin"],
            zmax=colours["cmax"],
            opacity=0.45,
            contours={"coloring": "heatmap", "showlines": True},
            line={"width": 0.5, "color": "#808080"},
            showscale=False,
            hoverinfo="skip",
            name="surface",
        )
    ]


def _slice(trials: Sequence[TrialResult], key: str, name: str, label: str) -> Panel:
    shown = [trial for trial in trials if key in trial.numbers and trial.score is not None]
    axis, zero = _axis(key, [trial.numbers[key] for trial in shown])
    traces = []
    for state, symbol in MARKS.items():
        group = [trial for trial in shown if trial.state == state]
        marker = {"symbol": symbol, "size": 9, "color": COLOURS[0], "line": {"width": 1.5, "color": COLOURS[0]}}
        if group:
            x, y = [_at(trial.numbers[key], zero) for trial in group], [trial.score for trial in group]
            traces.append(_marks(state, group, x, y, marker))
    figure = figure_json(
        traces,
        height=430,
        xaxis=axis,
        yaxis={"title": {"text": label}, "type": "log", "automargin": True},
        showlegend=True,
    )
    return Panel(f"{name}: {_name(key)} alone", f"{label.capitalize()} against {_name(key)}, {name}", figure)
