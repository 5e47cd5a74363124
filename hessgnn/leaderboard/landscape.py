"""The landscape of the loss weights: what a sweep's trials say of each architecture."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from scipy.interpolate import RBFInterpolator

from hessgnn.errors import DataError
from hessgnn.leaderboard.figures import GUIDE
from hessgnn.leaderboard.plotting import Panel, figure_json, literal
from hessgnn.leaderboard.tables import number

NEEDED = ("architecture", "trial", "score", "state")
FIRST = ("loss.forces", "loss.hessian")
"""They span the map, where they were tuned."""
FEWEST = 8
"""Finished trials that a surface is drawn through."""
GRID = 32
SMOOTHING = 0.05
"""Of the surface: trials are noisy, so it need not pass through each."""
MARKS = {"complete": "circle", "pruned": "x-thin", "failed": "cross-thin"}


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep."""

    architecture: str
    trial: str
    kind: str
    state: str
    score: float | None
    """Validation error over that of the architecture's E-F baseline."""
    values: dict[str, float]
    reason: str


@dataclass(frozen=True)
class Landscape:
    """What was tried for one architecture."""

    architecture: str
    summary: str
    panels: list[Panel]


def read_trials(path: Path) -> list[Trial]:
    """Read a sweep's ``trials.csv``.

    Parameters
    ----------
    path
        The file. Columns with a dot in their name are what was tuned.

    Returns
    -------
    list of Trial
        In the order of the file.

    Raises
    ------
    DataError
        When the file is missing, is no table of trials, or holds something that is no number.
    """
    remedy = "name the trials.csv of a sweep's folder"
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            missing = [name for name in NEEDED if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(f"lacks the column {missing[0]!r}", where=path, remedy=remedy)
            tuned = [name for name in reader.fieldnames or () if "." in name]
            return [_trial(line, tuned, f"{path}, line {reader.line_num}") for line in reader]
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=path, remedy=remedy) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"is no table ({error})", where=path, remedy=remedy) from error


def _trial(line: dict[str, str | None], tuned: Sequence[str], where: str) -> Trial:
    def value(key: str) -> float | None:
        text = (line.get(key) or "").strip()
        if not text:
            return None
        try:
            return float(text)
        except ValueError as error:
            raise DataError(f"{key} is {text!r}, which is no number", where=where, remedy="mend the line") from error

    score = value("score")
    return Trial(
        architecture=line["architecture"] or "",
        trial=line["trial"] or "",
        kind=line.get("kind") or line.get("regime") or "",
        state=line["state"] or "",
        score=score if score is not None and math.isfinite(score) else None,
        values={key: found for key in tuned if (found := _number_or_none(line.get(key))) is not None},
        reason=line.get("reason") or "",
    )


def _number_or_none(text: str | None) -> float | None:
    """A tuned value; ``None`` for one that is a word, such as a kind of probes, or was not tuned in this trial."""
    try:
        return float(text or "")
    except ValueError:
        return None


def landscapes(trials: Sequence[Trial]) -> list[Landscape]:
    """Draw what was tried, architecture by architecture.

    With two or more tuned weights, the first two span a map that is coloured by the score; every weight has a panel of
    its own, score against weight. A weight of zero, as the E-F baseline has it, stands left of the axis' others.

    Parameters
    ----------
    trials
        Of a sweep.

    Returns
    -------
    list of Landscape
        By architecture; those without any finished trial are left out.
    """
    found = []
    for architecture in dict.fromkeys(trial.architecture for trial in trials):
        mine = [trial for trial in trials if trial.architecture == architecture]
        done = [(trial, trial.score) for trial in mine if trial.score is not None and trial.state == "complete"]
        if not done:
            continue
        keys = [key for key in dict.fromkeys(key for trial in mine for key in trial.values) if _varies(mine, key)]
        keys.sort(key=lambda key: (*FIRST, key).index(key))
        best, lowest = min(done, key=lambda pair: pair[1])
        values = ", ".join(
            f"{_name(key)} {number(best.values[key])} {_unit(key)}".strip() for key in keys if key in best.values
        )
        states = {state: sum(trial.state == state for trial in mine) for state in MARKS}
        summary = (
            f"{states['complete']} finished, {states['pruned']} pruned, {states['failed']} failed. Best: "
            f"{number(lowest)} times the error of E-F, with {values or 'nothing tuned'} (trial {best.trial})."
        )
        panels = [_map(mine, done, keys[:2], architecture)] if len(keys) > 1 else []
        panels += [_slice(mine, key, architecture) for key in keys]
        found.append(Landscape(architecture, summary, panels))
    return found


def _varies(trials: Sequence[Trial], key: str) -> bool:
    return len({trial.values.get(key) for trial in trials}) > 1


def _name(key: str) -> str:
    return {"loss.forces": "w_F", "loss.hessian": "w_H"}.get(key, key)


def _unit(key: str) -> str:
    return {"loss.forces": "Å²", "loss.hessian": "Å⁴"}.get(key, "")


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


def _hover(trial: Trial) -> str:
    score = trial.state if trial.score is None else f"{number(trial.score)} × E-F"
    reason = f"<br>{literal(trial.reason[:120])}" if trial.reason else ""
    return f"trial {literal(trial.trial)}, {literal(trial.kind)}: {score}{reason}"


def _map(trials: Sequence[Trial], done: Sequence[tuple[Trial, float]], keys: Sequence[str], architecture: str) -> Panel:
    shown = [trial for trial in trials if all(key in trial.values for key in keys)]
    axes = [_axis(key, [trial.values[key] for trial in shown]) for key in keys]
    places = {
        id(trial): [_at(trial.values[key], zero) for key, (_, zero) in zip(keys, axes, strict=True)] for trial in shown
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
            bar = {"title": {"text": "error over E-F"}, "thickness": 12, **_score_ticks(scores)}
            marker |= {**colours, "color": [math.log10(score) for score in known], "showscale": True, "colorbar": bar}
        traces.append(
            go.Scatter(
                name=state,
                mode="markers",
                x=[places[id(trial)][0] for trial in group],
                y=[places[id(trial)][1] for trial in group],
                marker=marker,
                text=[_hover(trial) for trial in group],
                hovertemplate="%{text}<extra></extra>",
            )
        )
    figure = figure_json(traces, height=430, xaxis=axes[0][0], yaxis=axes[1][0], showlegend=True)
    names = " and ".join(map(_name, keys))
    return Panel(
        f"{architecture}: {names}", f"Validation error over that of E-F against {names}, {architecture}", figure
    )


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


def _slice(trials: Sequence[Trial], key: str, architecture: str) -> Panel:
    shown = [trial for trial in trials if key in trial.values and trial.score is not None]
    axis, zero = _axis(key, [trial.values[key] for trial in shown])
    traces = []
    for state, symbol in MARKS.items():
        group = [trial for trial in shown if trial.state == state]
        if group:
            traces.append(
                go.Scatter(
                    name=state,
                    mode="markers",
                    x=[_at(trial.values[key], zero) for trial in group],
                    y=[trial.score for trial in group],
                    marker={
                        "symbol": symbol,
                        "size": 9,
                        "color": "#0072b2",
                        "line": {"width": 1.5, "color": "#0072b2"},
                    },
                    text=[_hover(trial) for trial in group],
                    hovertemplate="%{text}<extra></extra>",
                )
            )
    figure = figure_json(
        traces,
        height=430,
        xaxis=axis,
        yaxis={"title": {"text": "validation error over E-F"}, "type": "log", "automargin": True},
        shapes=[{"type": "line", "y0": 1, "y1": 1, "x0": 0, "x1": 1, "xref": "paper", "line": GUIDE}],
        showlegend=True,
    )
    return Panel(
        f"{architecture}: {_name(key)} alone",
        f"Validation error over that of E-F against {_name(key)}, {architecture}",
        figure,
    )
