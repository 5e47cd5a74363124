"""The page of what labels buy, from ``labels.json`` of the study ``sweeps/labels.yaml``."""

from __future__ import annotations

from typing import Any

from hessgnn.experiments.label_advice import in_words
from hessgnn.experiments.label_pages import estimate_text, goals_table, intervals
from hessgnn.experiments.label_value import DIRECTIONS, FULL, GOALS, ONE, CurvePoint, Estimate, LabelValue
from hessgnn.leaderboard.tables import MISSING, TextTable
from pages.wording import ARCHITECTURES, joined, word

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


def bootstrap(found: LabelValue) -> str:
    """What the intervals are over."""
    return intervals(found)


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
    """What else the next gradients would buy: errors over those of the first candidate, with verdicts, and RMSEs."""
    lines = [
        [
            in_sentence(advice.architecture),
            advice.best,
            other.labels,
            *(
                f"{ratio:.2f} ({other.verdicts[metric] or 'too few families'})" if ratio is not None else MISSING
                for metric, ratio in other.ratios.items()
            ),
            f"{advice.rmse[other.labels]:.2f} ({advice.rmse[advice.best]:.2f})",
        ]
        for advice in found.advice
        if advice.best is not None
        for other in advice.others
    ]
    if not lines:
        return ""
    headings = ["Architecture", "First candidate", "Other", "H", "E", "F", "H RMSE (that of the first)"]
    return TextTable(headings, lines, [False] * 6 + [True]).markdown()


def met(found: LabelValue) -> tuple[str, str]:
    """Of how many architectures the goals of the share and of the gradients are met, among those that are measured.

    Gradients are by what the products were along.
    """
    kept = [one.share.value for one in found.kept if one.labels == ONE and one.share.value is not None]
    exact = [one for one in found.reached if one.within == 1]
    fast = []
    for kind, what in DIRECTIONS.items():
        ratios = [one.ratio.value for one in exact if one.directions == kind]
        if ratios or not exact:
            fast.append(
                f"along {what} for {_of_measured([ratio is not None and ratio <= GOALS['ratio'] for ratio in ratios])}"
            )
    return _of_measured([value >= GOALS["share"] for value in kept]), joined(fast)


def _of_measured(goals_met: list[bool]) -> str:
    if not goals_met:
        return "no architecture yet, as none is measured"
    return f"{word(sum(goals_met))} of {word(len(goals_met))} measured architecture{'s' * (len(goals_met) > 1)}"


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
        f"product of every structure keeps {shares_of} of what these take off the Hessian RMSE of displaced frames."
    )


def _error(point: CurvePoint, split: str, metric: str) -> Estimate | None:
    return point.errors.get(split, {}).get(metric)
