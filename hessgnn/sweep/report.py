"""What tuning found, drawn of the trials alone: ``sweep.html``, its tables in ``sweep.md``. No test split is in it.

Drawn without ``optuna.visualization``, which has one study in a figure: here all architectures share one, in the
colours of the leaderboard. Optuna computes the importances and Pareto fronts.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import plotly.graph_objects as go
from optuna import Study
from optuna.exceptions import ExperimentalWarning
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import TrialState

from hessgnn.leaderboard.plotting import COLOURS, SYMBOLS, Panel, figure_json, literal
from hessgnn.leaderboard.report import plain_page
from hessgnn.leaderboard.sections.base import PlainSection
from hessgnn.leaderboard.sections.landscape import landscapes
from hessgnn.leaderboard.tables import MISSING, TextTable, markdown_text
from hessgnn.leaderboard.trials import TrialResult
from hessgnn.runtime.files import write_text
from hessgnn.sweep.config import PAPER_WEIGHTS, SweepConfig

FEW = 4
"""Trials below which no importance is computed: it would be noise."""


@dataclass(frozen=True)
class Transferred:
    """An architecture with the tuned loss weights of another."""

    architecture: str
    weights_of: str
    values: dict[str, Any]
    score: float | None
    """Relative to E-F alone; ``None`` where it failed."""


def write_report(
    config: SweepConfig,
    rows: Sequence[TrialResult],
    transferred: Sequence[Transferred],
    studies: Mapping[str, Study],
    folder: Path,
) -> Path:
    """Write ``sweep.html``, whose path is returned, and ``sweep.md``; Optuna's numbers are of ``studies``."""
    title, about, found = f"Sweep {config.name}", summary(config, rows), sections(config, rows, transferred, studies)
    tables = [part for section in found for part in section.markdown()]
    write_text(folder / "sweep.md", "\n\n".join([f"# {markdown_text(title)}", markdown_text(about), *tables]) + "\n")
    footer = (
        "Written by hessgnn. Every trial in full precision: trials.csv. Errors on the test splits: "
        "leaderboard/index.html."
    )
    write_text(folder / "sweep.html", plain_page(title, about, found, footer))
    return folder / "sweep.html"


def summary(config: SweepConfig, rows: Sequence[TrialResult]) -> str:
    """Say how much was tried, and what a score is."""
    failed = sum(row.state == "failed" for row in rows)
    pruned = sum(row.state == "pruned" for row in rows)
    seconds = sum(row.device_seconds for row in rows)
    return (
        f"{len(rows)} trials of {config.budget.steps} steps over {len(config.architectures)} architectures, "
        f"{pruned} stopped early, {failed} failed, {seconds:,.0f} device-seconds of training. A score is the geometric "
        "mean of the validation errors, relative to that of the same architecture on energies and forces alone: "
        "below 1, Hessian labels helped."
    )


def sections(
    config: SweepConfig, rows: Sequence[TrialResult], transferred: Sequence[Transferred], studies: Mapping[str, Study]
) -> list[PlainSection]:
    """Lay out the parts of the page that there is something to show in."""
    found = [
        PlainSection(
            "weights",
            "Weights compared",
            "The paper's weights, the balance of the losses (the Hessian term made as large as that of the forces, "
            "measured before training), the best of this sweep, and the best of the other architectures. "
            "Each is one training, so small differences are noise.",
            table=TextTable(
                ["Architecture", "Loss weights", "Forces / Å²", "Hessian / Å⁴", "Score over E-F"],
                compared(rows, transferred),
                [False, False, True, True, True],
            ),
        ),
        PlainSection(
            "history",
            "History",
            "The score of each trial, and the best so far as a line. Trial 0 is E-F alone, so it has 1.",
            [_history(rows)],
        ),
    ]
    if config.objective.cost is not None:
        text = "Error and cost of each trial; those that no other trial beats in both are joined."
        found.append(PlainSection("front", "Pareto front", text, [_front(config, rows, studies)]))
    found += [
        PlainSection(f"landscape-{position}", f"Landscape of {item.name}", item.text, item.panels)
        for position, item in enumerate(landscapes(rows), 1)
    ]
    shares = {name: importances(studies[name]) for name in config.architectures}
    if any(shares.values()):
        text = (
            "Share of the spread among the better trials that each tuned value accounts for (PED-ANOVA). "
            "With few trials it is a hint, no more."
        )
        keys = list(dict.fromkeys(key for of_one in shares.values() for key in of_one))
        lines = [
            [name, *(f"{of_one[key]:.2f}" if key in of_one else MISSING for key in keys)]
            for name, of_one in shares.items()
        ]
        table = TextTable(["Architecture", *keys], lines)
        found.append(PlainSection("importance", "Importance", text, [_importance(shares)], table))
    found.append(PlainSection("cost", "Cost", "Device-seconds of training of each trial.", [_cost(rows)]))
    if failures := [row for row in rows if row.state == "failed"]:
        table = TextTable(
            ["Architecture", "Trial", "Attempts", "Reason"],
            [[row.architecture, str(row.trial), str(row.attempts), row.reason or ""] for row in failures],
            [False, True, True, False],
        )
        text = "Trials without a score. They count as part of the budget."
        found.append(PlainSection("failures", "Failures", text, table=table))
    return found


def compared(rows: Sequence[TrialResult], transferred: Sequence[Transferred]) -> list[list[str]]:
    """Score each architecture with known, own and foreign loss weights, as lines of a table."""
    lines = []
    for architecture in dict.fromkeys(row.architecture for row in rows):
        own = [row for row in rows if row.architecture == architecture and row.kind != "baseline"]
        known = [(kind, row) for kind in ("paper", "balance") for row in own if row.kind == kind]
        best = _best(own)
        labelled = [(f"{kind}", row.values, row.score) for kind, row in known]
        if best is not None:
            labelled.append(("its own best", best.values, best.score))
        labelled += [
            (f"the best of {item.weights_of}", item.values, item.score)
            for item in transferred
            if item.architecture == architecture
        ]
        for label, values, score in labelled:
            weights = [_number(values.get(key)) for key in PAPER_WEIGHTS]
            lines.append([architecture, label, *weights, "failed" if score is None else f"{score:.3f}"])
    return lines


def importances(study: Study) -> dict[str, float]:
    """Compute the importance of each tuned value, dotted key -> share; empty where there are too few trials.

    S. Watanabe, A. Bansal, F. Hutter, IJCAI 2023 (PED-ANOVA), as Optuna implements it.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < FEW or len({trial.values[0] for trial in complete}) < 2:
        return {}
    target = None if len(study.directions) == 1 else (lambda trial: trial.values[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.simplefilter("ignore", UserWarning)  # few trials, which the page says itself
        evaluator = PedAnovaImportanceEvaluator(target_quantile=max(0.1, 2 / len(complete)))
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, target=target)
    return {key: value for key, value in found.items() if math.isfinite(value)}


def _best(rows: Sequence[TrialResult]) -> TrialResult | None:
    complete = [row for row in rows if row.state == "complete" and row.score is not None]
    return min(complete, key=lambda row: (row.score, row.trial), default=None)


def _styled(rows: Sequence[TrialResult]) -> list[tuple[str, str, str, list[TrialResult]]]:
    """Architecture, colour, symbol, and its scored trials."""
    names = sorted({row.architecture for row in rows})  # the leaderboard's order, for the same colours
    return [
        (
            name,
            COLOURS[place % len(COLOURS)],
            SYMBOLS[place % len(SYMBOLS)],
            [row for row in rows if row.architecture == name and row.score is not None],
        )
        for place, name in enumerate(names)
    ]


def _points_and_stairs(
    name: str,
    symbols: dict[str, Any],
    points: Sequence[tuple[Any, Any]],
    stairs: Sequence[tuple[Any, Any]],
    **style: Any,
) -> list[go.Scatter]:
    """Trials of an architecture as points, and what is best among them as a line."""
    line = {"color": symbols["color"], "shape": "hv"}
    return [
        go.Scatter(
            x=[x for x, _ in points], y=[y for _, y in points], mode="markers", marker=symbols, name=literal(name)
        ),
        go.Scatter(x=[x for x, _ in stairs], y=[y for _, y in stairs], line=line, showlegend=False, **style),
    ]


def _history(rows: Sequence[TrialResult]) -> Panel:
    traces: list[Any] = []
    for name, colour, symbol, own in _styled(rows):
        points = [(row.trial, row.score) for row in own]
        best = itertools.accumulate((row.score or 0.0 for row in own), min)
        stairs = [(row.trial, lowest) for row, lowest in zip(own, best, strict=True)]
        marker = {"color": colour, "symbol": symbol, "size": 8}
        traces += _points_and_stairs(name, marker, points, stairs, mode="lines", hoverinfo="skip")
    axes = {"xaxis": {"title": {"text": "trial"}}, "yaxis": {"title": {"text": "score over E-F"}, "type": "log"}}
    return Panel("Scores, trial by trial", "Score of every trial in order.", figure_json(traces, **axes))


def _importance(found: Mapping[str, dict[str, float]]) -> Panel:
    traces = [
        go.Bar(
            x=list(values.values()),
            y=[literal(key) for key in values],
            orientation="h",
            name=literal(name),
            marker={"color": COLOURS[place % len(COLOURS)]},
        )
        for place, (name, values) in enumerate(sorted(found.items()))
    ]
    axes = {"xaxis": {"title": {"text": "importance"}}, "yaxis": {"automargin": True}, "barmode": "group"}
    return Panel("Importance of what was tuned", "Importance of each tuned value.", figure_json(traces, **axes))


def _cost(rows: Sequence[TrialResult]) -> Panel:
    traces = [
        go.Bar(
            x=[row.trial for row in rows if row.architecture == name],
            y=[row.device_seconds for row in rows if row.architecture == name],
            name=literal(name),
            marker={"color": colour},
        )
        for name, colour, _, _ in _styled(rows)
    ]
    axes = {"xaxis": {"title": {"text": "trial"}}, "yaxis": {"title": {"text": "device-seconds"}}}
    return Panel("Cost of each trial", "Device-seconds of every trial.", figure_json(traces, barmode="group", **axes))


def _front(config: SweepConfig, rows: Sequence[TrialResult], studies: Mapping[str, Study]) -> Panel:
    cost = config.objective.cost
    traces: list[Any] = []
    for name, colour, symbol, own in _styled(rows):
        marker = {"color": colour, "symbol": symbol, "size": 8}
        points = [(row.device_seconds if cost == "device_seconds" else row.products, row.score) for row in own]
        front = sorted((trial.values[1], trial.values[0]) for trial in studies[name].best_trials)
        large = {**marker, "size": 9}
        traces += _points_and_stairs(
            name, {**marker, "opacity": 0.5}, points, front, mode="lines+markers", marker=large
        )
    axes = {
        "xaxis": {"title": {"text": "device-seconds" if cost == "device_seconds" else "Hessian products"}},
        "yaxis": {"title": {"text": "score over E-F"}, "type": "log"},
    }
    return Panel("Error against cost", "Score of every trial against its cost.", figure_json(traces, **axes))


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else MISSING
