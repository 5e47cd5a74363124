"""The page of what labels buy, from ``labels.json`` of the study ``sweeps/labels.yaml``."""

from __future__ import annotations

from typing import Any

from hessgnn.experiments.label_pages import estimate_text, goals_table
from hessgnn.experiments.label_value import DIRECTIONS, FULL, GOALS, ONE, CurvePoint, Estimate, LabelValue, in_words
from hessgnn.leaderboard.tables import MISSING, TextTable
from pages.wording import ARCHITECTURES, joined

COLUMNS = (
    ("H, nms", "nms", "hessian_rmse", 2),
    ("H, test", "test", "hessian_rmse", 2),
    ("H, irc", "irc", "hessian_rmse", 2),
    ("E, nms", "nms", "energy_rmse", 0),
    ("F, nms", "nms", "forces_rmse", 0),
)
"""Heading, split, error and digits of the tables of curves; units as in the text."""


def value(stored: Any) -> LabelValue:
    """What the study found out."""
    return LabelValue.model_validate(stored)


def in_sentence(label: str) -> str:
    """An architecture as sentences have it."""
    return ARCHITECTURES.get(label, label)


def architectures(found: LabelValue) -> list[str]:
    """Those that have results, in the order of the study."""
    return list(dict.fromkeys(point.architecture for point in found.points))


def goals(found: LabelValue) -> str:
    """The share that one product keeps and the gradients to reach full Hessians, beside their goals."""
    return goals_table(found).markdown()


def curve(found: LabelValue, architecture: str, budget: str) -> str:
    """Errors of each set of labels, the cheapest first."""
    points = sorted(
        (point for point in found.points if (point.architecture, point.budget) == (architecture, budget)),
        key=lambda point: (point.label_gradients, point.labels),
    )
    headings = ["Labels", "Beyond energies and forces", "Gradients", *(heading for heading, *_ in COLUMNS), "Trainings"]
    lines = [
        [
            point.labels,
            in_words(point.labels),
            f"{point.label_gradients:,.0f}",
            *(estimate_text(_error(point, split, metric), digits) for _, split, metric, digits in COLUMNS),
            str(point.trainings),
        ]
        for point in points
    ]
    return TextTable(headings, lines, [False, False] + [True] * (len(headings) - 2)).markdown()


def shares(found: LabelValue) -> str:
    """Shares of the improvement that each set of labels with curvature keeps."""
    names = list(dict.fromkeys(one.labels for one in found.kept))
    known = {(one.labels, one.architecture): one.share for one in found.kept}
    gradients = {point.labels: point.label_gradients for point in found.points if point.budget == "steps"}
    lines = [
        [
            name,
            f"{gradients[name] / gradients[FULL]:.3f}",
            *(estimate_text(known.get((name, architecture))) for architecture in architectures(found)),
        ]
        for name in sorted(names, key=lambda name: gradients[name])
    ]
    return TextTable(["Labels", "Gradients over E-F-H's", *map(in_sentence, architectures(found))], lines).markdown()


def rivals(found: LabelValue) -> str:
    """What else the next gradients would buy, over the best: ratios of errors with their verdicts."""
    lines = [
        [
            in_sentence(advice.architecture),
            advice.best or MISSING,
            other.labels,
            *(
                f"{ratio:.2f} ({other.verdicts[metric] or 'too few families'})" if ratio is not None else MISSING
                for metric, ratio in other.ratios.items()
            ),
        ]
        for advice in found.advice
        for other in advice.others
    ]
    if not lines:
        return ""
    return TextTable(["Architecture", "Best", "Instead", "H", "E", "F"], lines, [False] * 6).markdown()


def met(found: LabelValue) -> tuple[int, int, dict[str, int], int]:
    """How many architectures keep the share, of how many; and for how many the gradients suffice, of how many.

    The gradients are by what the products were along. Only architectures for which it is known are counted.
    """
    kept = [one.share.value for one in found.kept if one.labels == ONE and one.share.value is not None]
    exact = [one for one in found.reached if one.within == 1]
    fast = {
        what: sum(
            one.ratio.value is not None and one.ratio.value <= GOALS["ratio"] for one in exact if one.directions == kind
        )
        for kind, what in DIRECTIONS.items()
        if any(one.directions == kind for one in exact)
    }
    known = len({one.architecture for one in exact})
    return sum(value >= GOALS["share"] for value in kept), len(kept), fast, known


def summary(stored: Any) -> str:
    """One sentence of what one product of every structure keeps; empty while nothing is known."""
    found = value(stored)
    kept = {
        one.architecture: one.share.value for one in found.kept if one.labels == ONE and one.share.value is not None
    }
    gradients = {point.labels: point.label_gradients for point in found.points if point.budget == "steps"}
    if not kept:
        return ""
    shares_of = joined([f"{100 * share:.0f} % ({in_sentence(name)})" for name, share in kept.items()])
    return (
        f"On the bundled data, with {gradients[ONE] / gradients[FULL]:.0%} of the gradients of full Hessians, one "
        f"product of every structure keeps {shares_of} of what these take off the Hessian error of displaced frames."
    )


def _error(point: CurvePoint, split: str, metric: str) -> Estimate | None:
    return point.errors.get(split, {}).get(metric)
