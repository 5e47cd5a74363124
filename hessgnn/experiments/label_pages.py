"""What labels buy, as sections of the page of a study."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import plotly.graph_objects as go

from hessgnn.evaluation.tasks.accuracy import METRICS
from hessgnn.experiments.label_value import (
    DIRECTIONS,
    ERRORS,
    GOALS,
    METRIC,
    ONE,
    SPLIT,
    CurvePoint,
    Estimate,
    LabelValue,
)
from hessgnn.leaderboard.comparisons import BUDGETS
from hessgnn.leaderboard.plotting import COLOURS, SYMBOLS, Panel, figure_json, literal, log_axis
from hessgnn.leaderboard.sections.base import PlainSection
from hessgnn.leaderboard.tables import MISSING, TextTable
from hessgnn.training.regimes import label_set

SERIES = {
    "random products": "products with random directions of every structure",
    "divided modes": "products with random signs along the modes of a cheap Hessian, divided among them",
    "soft modes": "products with the softest modes of every structure",
    "frames": "energies and forces of displaced frames",
    "few structures": "random products of some structures",
    "Hessians": "full Hessians, of some structures or of all",
    "neither": "energies and forces alone",
}
"""Lines of a figure: short name -> what they are."""


def series_of(labels: str) -> str:
    """The line of :data:`SERIES` that a set of labels is on."""
    found = label_set(labels)
    if found.directions == "rademacher":
        return "random products" if found.every == 1 else "few structures"
    if found.directions:
        return "divided modes" if found.directions == "modes" else "soft modes"
    if found.has_frames:
        return "frames"
    return "Hessians" if found.hessians else "neither"


def label_sections(value: LabelValue) -> list[PlainSection]:
    """The advice, what the study must show, and errors against gradients for equal steps and equal time."""
    found = [
        PlainSection(
            "labels-advice",
            "What to buy with the next gradients",
            " ".join(f"{one.architecture}: {one.sentence}" for one in value.advice),
        ),
        PlainSection(
            "labels-goals",
            "Products beside full Hessians",
            f"Root mean square error of Hessians on {SPLIT}, with 95 % intervals. A share above 1 is better than full "
            f"Hessians. {intervals(value)}",
            table=goals_table(value),
        ),
    ]
    for budget, title in BUDGETS.items():
        points = [point for point in value.points if point.budget == budget]
        if points:
            text = (
                "Errors against the gradients that the labels of the training set cost, with 95 % intervals. "
                f"{intervals(value)} {value.finished} of {value.planned} trainings have finished."
            )
            section = PlainSection(f"labels-{budget}", f"Error for a gradient, {title}", text, panels(points))
            found.append(section)
    return found


def intervals(value: LabelValue) -> str:
    """Say what the intervals are over, for the trainings that there are."""
    few, many = (found([point.trainings for point in value.points], default=0) for found in (min, max))
    if many < 2:
        return (
            "Intervals are those of a bootstrap over families, the same for all labels. There is one training of each, "
            "so they do not tell how much another would differ."
        )
    text = "Intervals are those of a bootstrap over families and trainings, the same for all labels. "
    if few < 2:
        text += "Those of one training are over families alone and do not tell how much another would differ. "
    return f"{text}With few trainings they are somewhat narrow."


def goals_table(value: LabelValue) -> TextTable:
    """Share that one product keeps, and gradients to reach full Hessians, beside their goals."""
    lines = []
    for architecture in dict.fromkeys(point.architecture for point in value.points):
        shares = [one.share for one in value.kept if (one.architecture, one.labels) == (architecture, ONE)]
        cells = [architecture, estimate_text(shares[0] if shares else None)]
        for within, directions in product((1.0, 1.1), DIRECTIONS):
            key = architecture, directions, within
            found = [one for one in value.reached if (one.architecture, one.directions, one.within) == key]
            cells.append(reached_text(found[0].ratio, at_most=found[0].at_most) if found else MISSING)
        lines.append(cells)
    headings = [
        "Architecture",
        f"Share kept by one product (goal: at least {GOALS['share']:g})",
        *(
            f"Gradients to reach full Hessians, {what} (goal: at most {GOALS['ratio']:g})"
            for what in DIRECTIONS.values()
        ),
        *(f"To come within 10 %, {what}" for what in DIRECTIONS.values()),
    ]
    return TextTable(headings, lines)


def estimate_text(estimate: Estimate | None, digits: int = 2) -> str:
    """A number with its interval."""
    if estimate is None or estimate.value is None:
        return MISSING
    ends = ("∞" if end is None else f"{end:.{digits}f}" for end in (estimate.low, estimate.high))
    return f"{estimate.value:.{digits}f} ({' to '.join(ends)})"


def reached_text(ratio: Estimate, *, at_most: bool) -> str:
    """A ratio of gradients; products may never be as good, or the fewest of the study be enough."""
    if ratio.value is None:
        return f"not reached ({100 * ratio.reached:.0f} % of draws reach it)"
    return f"{'at most ' if at_most else ''}{estimate_text(ratio, 3)}"


def panels(points: Sequence[CurvePoint]) -> list[Panel]:
    """Hessian errors on every split, and the other errors off the minima, for each architecture."""
    splits = list(dict.fromkeys(split for point in points for split in point.errors))
    wanted = [(split, METRIC) for split in sorted(splits, key=lambda split: split != SPLIT)]
    wanted += [(SPLIT, metric) for metric in ERRORS if metric != METRIC and SPLIT in splits]
    return [
        _panel([point for point in points if point.architecture == architecture], architecture, split, metric)
        for split, metric in wanted
        for architecture in dict.fromkeys(point.architecture for point in points)
    ]


def _panel(points: Sequence[CurvePoint], architecture: str, split: str, metric: str) -> Panel:
    title, unit = METRICS[metric]
    traces, shown = [], []
    for place, (series, meaning) in enumerate(SERIES.items()):
        mine = sorted(
            (point for point in points if series_of(point.labels) == series and metric in point.errors.get(split, {})),
            key=lambda point: point.label_gradients,
        )
        if not mine:
            continue
        errors = [point.errors[split][metric] for point in mine]
        values = [error.value for error in errors]
        shown += values
        traces.append(
            go.Scatter(
                name=literal(meaning),
                mode="lines+markers",
                x=[point.label_gradients for point in mine],
                y=values,
                error_y={
                    "type": "data",
                    "array": [(error.high or 0.0) - (error.value or 0.0) for error in errors],
                    "arrayminus": [(error.value or 0.0) - (error.low or 0.0) for error in errors],
                    "thickness": 1,
                    "width": 4,
                },
                text=[literal(point.labels) for point in mine],
                line={"color": COLOURS[place % len(COLOURS)]},
                marker={"symbol": SYMBOLS[place % len(SYMBOLS)], "size": 8},
                hovertemplate="%{text}: %{y:.3g} for %{x:.4g} gradients",
            )
        )
    figure = figure_json(
        traces,
        height=400,
        xaxis={"title": {"text": "gradients spent on labels"}, "type": "log", "automargin": True},
        yaxis=log_axis(f"{title} / {unit}", shown),
        showlegend=True,
    )
    description = f"{title} of {architecture} on {split} against gradients spent on labels, a line for each kind"
    return Panel(f"{architecture}, {split}: {title}", description, figure)
