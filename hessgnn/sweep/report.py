"""What tuning found, drawn of the trials alone: ``sweep.html``, its tables in ``sweep.md``. No test split is in it.

Drawn without ``optuna.visualization``, which has one study in a figure: here all kinds of labels of an architecture
share one. Optuna computes the importances and Pareto fronts.
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
from hessgnn.leaderboard.trials import TrialResult, check_rankings
from hessgnn.runtime.files import write_text
from hessgnn.sweep.config import PAPER_WEIGHTS, SweepConfig

FEW = 4
"""Trials below which no importance is computed: it would be noise."""


@dataclass(frozen=True)
class Transferred:
    """An architecture with the loss weights that were tuned for another on the same labels."""

    subject: str
    weights_of: str
    values: dict[str, Any]
    score: float | None
    """``None`` where it failed."""


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
        f"{len(rows)} trials of {config.budget.steps} steps: {config.budget.trials} for each of "
        f"{len(config.architectures)} architectures on each of {len(config.regimes)} kinds of labels "
        f"({', '.join(config.regimes)}). {pruned} were stopped early, {failed} failed; {seconds:,.0f} device-seconds "
        f"of training. The best of each is retrained for at most {config.final_steps} steps. A score is the "
        f"{config.objective.describe()}. It is the same for all kinds of labels."
    )


def sections(
    config: SweepConfig, rows: Sequence[TrialResult], transferred: Sequence[Transferred], studies: Mapping[str, Study]
) -> list[PlainSection]:
    """Lay out the parts of the page that there is something to show in."""
    tuned = [key for key in config.space if key not in PAPER_WEIGHTS]
    found = [
        PlainSection(
            "weights",
            "Best settings",
            "The paper's weights with the other settings of the base, the balance of the losses (the Hessian term made "
            "as large as that of the forces, measured before training), the best of this sweep, and, where tried, the "
            f"weights tuned for the other architectures. Each is one training of {config.budget.steps} steps, so small "
            "differences are noise.",
            table=TextTable(
                ["Architecture, labels", "Settings", "Forces / Å²", "Hessian / Å⁴", *tuned, "Score"],
                compared(rows, transferred, tuned),
                [False, False, True, True, *(True for _ in tuned), True],
            ),
        ),
        PlainSection("ranking", "Ranking at the final length", *_ranking(config, rows)),
        PlainSection(
            "history",
            "History",
            "The score of each trial, and the best so far as a line. Trial 0 has the paper's weights.",
            _history(rows),
        ),
    ]
    if config.objective.cost is not None:
        text = "Error and cost of each trial; those that no other trial beats in both are joined."
        found.append(PlainSection("front", "Pareto front", text, _front(config, rows, studies)))
    found += [
        PlainSection(f"landscape-{position}", f"Landscape of {item.name}", item.text, item.panels)
        for position, item in enumerate(landscapes(rows), 1)
    ]
    shares = {str(subject): importances(studies[str(subject)]) for subject in config.subjects}
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
        table = TextTable(["Architecture, labels", *keys], lines)
        found.append(PlainSection("importance", "Importance", text, [_importance(shares)], table))
    found.append(PlainSection("cost", "Cost", "Device-seconds of training of each trial.", _cost(rows)))
    if failures := [row for row in rows if row.state == "failed"]:
        table = TextTable(
            ["Architecture, labels", "Trial", "Attempts", "Reason"],
            [[row.subject, str(row.trial), str(row.attempts), row.reason or ""] for row in failures],
            [False, True, True, False],
        )
        text = "Trials without a score. They count as part of the budget."
        found.append(PlainSection("failures", "Failures", text, table=table))
    return found


def compared(
    rows: Sequence[TrialResult], transferred: Sequence[Transferred], tuned: Sequence[str] = ()
) -> list[list[str]]:
    """Score what was tuned with known, own and foreign settings, as lines of a table; ``tuned``: further columns."""
    lines = []
    for subject in dict.fromkeys(row.subject for row in rows):
        own = [row for row in rows if row.subject == subject]
        known = [(kind, row) for kind in ("paper", "balance") for row in own if row.kind == kind]
        best = _best(own)
        labelled = [(f"{kind}", row.values, row.score) for kind, row in known]
        if best is not None:
            labelled.append(("its own best", best.values, best.score))
        labelled += [
            (f"weights of {item.weights_of}", item.values, item.score)
            for item in transferred
            if item.subject == subject
        ]
        for label, values, score in labelled:
            settings = [_number(values.get(key)) for key in (*PAPER_WEIGHTS, *tuned)]
            lines.append([subject, label, *settings, "failed" if score is None else f"{score:.4g}"])
    return lines


def _ranking(config: SweepConfig, rows: Sequence[TrialResult]) -> tuple[str, list[Panel], TextTable]:
    """Whether the chosen trials are the best after as many steps as the retraining has."""
    checks = check_rankings(rows)
    lengths = f"Trials have {config.budget.steps} steps, the retraining at most {config.final_steps}."
    known = [check for check in checks.values() if check is not None]
    text = (
        f"{lengths} The best {config.check_ranking.trials} trials and the worst one of each architecture and kind of "
        "labels were trained for both lengths with the same seed. The chosen trial is still the best for "
        f"{sum(check.holds for check in known)} of {len(known)}. Excess: final score of the chosen trial over that of "
        "the best one. Rank correlations of so few trials are rough."
        if known
        else f"{lengths} Whether trials are ranked alike after both is not known: check_ranking.trials trains some for "
        "both lengths."
    )
    lines = [
        [name, *([MISSING] * 5), "not known"]
        if check is None
        else [
            name,
            str(check.trials),
            _number(check.kendall),
            _number(check.spearman),
            f"{check.chosen} / {check.best}",
            f"{check.excess:.3f}",
            "yes" if check.holds else "no",
        ]
        for name, check in checks.items()
    ]
    head = ["Architecture, labels", "Trials", "Kendall τ", "Spearman ρ", "Chosen / best trial", "Excess", "Holds"]
    return text, [], TextTable(head, lines, [False, True, True, True, True, True, False])


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


def _styled(rows: Sequence[TrialResult]) -> dict[str, list[tuple[str, str, str, list[TrialResult]]]]:
    """Architecture -> for each of its kinds of labels the name of the study, colour, symbol, and scored trials."""
    regimes = list(dict.fromkeys(row.regime for row in rows))
    found: dict[str, list[tuple[str, str, str, list[TrialResult]]]] = {}
    for row in rows:
        place = regimes.index(row.regime)
        styled = found.setdefault(row.architecture, [])
        if row.subject not in [name for name, *_ in styled]:
            own = [other for other in rows if other.subject == row.subject and other.score is not None]
            styled.append((row.subject, COLOURS[place % len(COLOURS)], SYMBOLS[place % len(SYMBOLS)], own))
    return found


def _points_and_stairs(
    name: str,
    symbols: dict[str, Any],
    points: Sequence[tuple[Any, Any]],
    stairs: Sequence[tuple[Any, Any]],
    **style: Any,
) -> list[go.Scatter]:
    """Trials of a study as points, and what is best among them as a line."""
    line = {"color": symbols["color"], "shape": "hv"}
    return [
        go.Scatter(
            x=[x for x, _ in points], y=[y for _, y in points], mode="markers", marker=symbols, name=literal(name)
        ),
        go.Scatter(x=[x for x, _ in stairs], y=[y for _, y in stairs], line=line, showlegend=False, **style),
    ]


def _history(rows: Sequence[TrialResult]) -> list[Panel]:
    panels = []
    for architecture, styled in _styled(rows).items():
        traces: list[Any] = []
        for name, colour, symbol, own in styled:
            points = [(row.trial, row.score) for row in own]
            best = itertools.accumulate((row.score or 0.0 for row in own), min)
            stairs = [(row.trial, lowest) for row, lowest in zip(own, best, strict=True)]
            marker = {"color": colour, "symbol": symbol, "size": 8}
            traces += _points_and_stairs(name, marker, points, stairs, mode="lines", hoverinfo="skip")
        axes = {"xaxis": {"title": {"text": "trial"}}, "yaxis": {"title": {"text": "score"}, "type": "log"}}
        text = f"Score of every trial of {architecture} in order."
        panels.append(Panel(f"{architecture}: trial by trial", text, figure_json(traces, **axes)))
    return panels


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


def _cost(rows: Sequence[TrialResult]) -> list[Panel]:
    axes = {"xaxis": {"title": {"text": "trial"}}, "yaxis": {"title": {"text": "device-seconds"}}}
    panels = []
    for architecture, styled in _styled(rows).items():
        traces: list[Any] = []
        for name, colour, _, _ in styled:
            own = [row for row in rows if row.subject == name]
            x, y = [row.trial for row in own], [row.device_seconds for row in own]
            traces.append(go.Bar(x=x, y=y, name=literal(name), marker={"color": colour}))
        figure = figure_json(traces, barmode="group", **axes)
        panels.append(Panel(f"{architecture}: cost", f"Device-seconds of every trial of {architecture}.", figure))
    return panels


def _front(config: SweepConfig, rows: Sequence[TrialResult], studies: Mapping[str, Study]) -> list[Panel]:
    cost = config.objective.cost
    axes = {
        "xaxis": {"title": {"text": "device-seconds" if cost == "device_seconds" else "Hessian products"}},
        "yaxis": {"title": {"text": "score"}, "type": "log"},
    }
    panels = []
    for architecture, styled in _styled(rows).items():
        traces: list[Any] = []
        for name, colour, symbol, own in styled:
            marker = {"color": colour, "symbol": symbol, "size": 8}
            points = [(row.device_seconds if cost == "device_seconds" else row.products, row.score) for row in own]
            front = sorted((trial.values[1], trial.values[0]) for trial in studies[name].best_trials)
            pale, large = {**marker, "opacity": 0.5}, {**marker, "size": 9}
            traces += _points_and_stairs(name, pale, points, front, mode="lines+markers", marker=large)
        text = f"Score of every trial of {architecture} against its cost."
        panels.append(Panel(f"{architecture}: error against cost", text, figure_json(traces, **axes)))
    return panels


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else MISSING
