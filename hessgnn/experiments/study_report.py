"""What a study found: every run as data, curves against data and labelling cost, and what was claimed of them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import plotly.graph_objects as go
from pydantic import Field, NonNegativeFloat, NonNegativeInt

from hessgnn.evaluation.record import Budget
from hessgnn.evaluation.tasks.accuracy import METRICS, AccuracyTask
from hessgnn.evaluation.tasks.base import Claim
from hessgnn.experiments.label_advice import advise
from hessgnn.experiments.label_pages import label_sections
from hessgnn.experiments.label_value import (
    ERRORS,
    FULL,
    METRIC,
    SPLIT,
    WITHOUT,
    LabelValue,
    curve_points,
    kept_by,
    load_errors,
    mean_gradients,
    products_of_all,
    reached_by,
)
from hessgnn.leaderboard import tables
from hessgnn.leaderboard.claims import OWN, ClaimTest, claim_tests, decide_claims
from hessgnn.leaderboard.collect import collect
from hessgnn.leaderboard.comparisons import BUDGETS, Comparison
from hessgnn.leaderboard.plotting import COLOURS, DASHES, SYMBOLS, Panel, error_bars, figure_json, filter_meta, literal
from hessgnn.leaderboard.report import plain_page
from hessgnn.leaderboard.scores import join
from hessgnn.leaderboard.sections.base import PlainSection
from hessgnn.leaderboard.sections.claims import CLAIMS_NOTE, claim_table
from hessgnn.leaderboard.tables import TextTable, markdown_text, score_cell
from hessgnn.runtime.config import Settings, read_json
from hessgnn.runtime.files import write_text
from hessgnn.training.regimes import StudyRegime, any_frames, label_set

CURVES = ("energy_mae", "forces_mae", "hessian_mae")
"""Errors that curves are drawn of."""
_OPEN = "Open symbols: not all runs of the point are converged."


class StudyRun(Settings):
    """One run of a study."""

    run: str = Field(description="its folder, relative to that of the study")
    architecture: str
    regime: StudyRegime
    fraction: float
    budget: Budget
    seed: int
    structures: NonNegativeInt = Field(description="of the training split, without displaced frames")
    label_gradients: NonNegativeInt = Field(description="what its training labels cost, in gradients of the engine")
    validation_gradients: NonNegativeInt | None = Field(
        default=None, description="what its validation labels cost; null: not counted, in older studies"
    )
    steps: NonNegativeInt
    device_seconds: NonNegativeFloat
    converged: bool | None = Field(
        default=None, description="whether it stopped because its validation was flat; null: not known"
    )
    status: Literal["ok", "failed"]
    reason: str | None
    errors: dict[str, dict[str, float | None]] = Field(description="split -> metric -> value")

    @property
    def total_gradients(self) -> int:
        """What all its labels cost, in gradients of the engine."""
        return self.label_gradients + (self.validation_gradients or 0)


class StudyRuns(Settings):
    """All runs of a study: what ``points.json`` holds and every other output is made from."""

    name: str
    data: str
    level_of_theory: str
    hessian_gradients: float = Field(description="gradients that a Hessian costs, for each atom")
    mean_atoms: float = Field(description="of the training structures")
    demonstration: bool = Field(default=False, description="whether the runs show the tool: nothing is tested then")
    planned: NonNegativeInt = Field(default=0, description="trainings of the whole study; 0: not known, in older ones")
    points: list[StudyRun]


def write_study(points: StudyRuns, folder: Path) -> None:
    """Write ``points.json``, ``study.md`` and ``study.html``, and ``labels.json`` where products were compared."""
    found, curves = comparisons(points, folder), sections(points)
    if (value := label_value(points, folder)) is not None:
        write_text(folder / "labels.json", value.model_dump_json(indent=1) + "\n")
        curves = [*label_sections(value), *curves]
    write_text(folder / "points.json", points.model_dump_json(indent=1) + "\n")
    write_text(folder / "study.md", markdown(points, found))
    footer = "Written by hessgnn. The same numbers in full precision: points.json."
    notice = tables.DEMONSTRATION if points.demonstration else ""
    page = plain_page(f"Study {points.name}", summary(points), [*curves, *found], footer, notice)
    write_text(folder / "study.html", page)


def label_value(points: StudyRuns, folder: Path) -> LabelValue | None:
    """What labels buy; None where a study has no products to compare with Hessians and with neither."""
    labels = {point.regime for point in points.points if point.status == "ok"}
    if not products_of_all(labels) or not {WITHOUT, FULL} <= labels:
        return None
    most = max(point.fraction for point in points.points)
    whole = [point for point in points.points if point.status == "ok" and point.fraction == most]
    loaded = dict(zip((point.run for point in whole), collect([folder / point.run for point in whole]), strict=True))
    curves, kept, reached, advice = [], [], [], []
    for architecture in dict.fromkeys(point.architecture for point in whole):
        mine = [point for point in whole if point.architecture == architecture]
        for budget in BUDGETS:
            if any(point.budget == budget for point in mine):
                runs = [loaded[point.run] for point in of_budget(mine, budget)]
                curves += curve_points(runs, mean_gradients(runs), architecture, budget)
        runs = [loaded[point.run] for point in mine if point.budget == "steps"]
        gradients = mean_gradients(runs)
        errors = {metric: load_errors(runs, SPLIT, metric) for metric in ERRORS}
        kept += kept_by(errors[METRIC], architecture)
        reached += reached_by(errors[METRIC], gradients, architecture)
        advice.append(advise(errors, gradients, architecture))
    tested = next(iter(loaded.values())).record.metrics
    path = folder / "data" / "step-costs.json"
    return LabelValue(
        name=points.name,
        data=points.data,
        level_of_theory=points.level_of_theory,
        steps=max(point.steps for point in whole if point.budget == "steps"),
        structures=max(point.structures for point in whole),
        hessian_gradients=points.hessian_gradients * points.mean_atoms,
        finished=sum(point.status == "ok" for point in points.points),
        planned=points.planned,
        tested={split: found[METRIC].n for split, found in tested.items() if METRIC in found},
        step_costs=json.loads(path.read_text(encoding="utf-8"))["costs"] if path.is_file() else {},
        points=curves,
        kept=kept,
        reached=reached,
        advice=advice,
    )


def read_points(folder: Path) -> StudyRuns:
    """Read what :func:`write_study` wrote.

    Raises
    ------
    DataError
        When ``points.json`` is missing or damaged.
    """
    return read_json(StudyRuns, folder / "points.json", hint="run `hessgnn study` to its end first")


def summary(points: StudyRuns) -> str:
    """Say in a sentence what was trained on what."""
    failed = sum(point.status == "failed" for point in points.points)
    unconverged = sum(_unconverged(point) for point in points.points)
    validation = max((point.validation_gradients or 0 for point in points.points), default=0)
    return (
        f"{len(points.points)} trainings on {points.data} ({points.level_of_theory}), {failed} failed, {unconverged} "
        f"not known to be converged. A Hessian counts as {points.hessian_gradients:g} gradients an atom, "
        f"{points.hessian_gradients * points.mean_atoms:.0f} for the mean training structure; an energy with or "
        f"without its gradient counts as one. The validation labels cost {validation} gradients in every run."
    )


def _unconverged(point: StudyRun) -> bool:
    """Whether a run stopped, as far as is known, before its validation was flat."""
    return point.status == "ok" and point.converged is not True


def sections(points: StudyRuns) -> list[PlainSection]:
    """Curves against the number of training structures, for equal steps and equal time, and against labelling cost."""
    fractions = {point.fraction for point in points.points}
    found: list[PlainSection] = []
    if len(fractions) > 1:
        text = f"Mean and standard deviation over seeds, against the number of training structures. {_OPEN}"
        for budget, title in BUDGETS.items():
            chosen = of_budget(points.points, budget)
            if any(point.budget == budget for point in chosen):
                panels = _panels(chosen, lambda point: point.structures, "training structures")
                found.append(_curves(f"Data efficiency, {title}", text, panels, len(found)))
    if any_frames(tuple(point.regime for point in points.points)):
        text = (
            "The same, against what all labels cost, those of validation included. E-F+ has spent on energies and "
            "forces of displaced frames what E-F-H has spent on Hessians, E-F+H on half of each: the lowest of their "
            f"curves is the best buy. {_OPEN}"
        )
        for budget, title in BUDGETS.items():
            chosen = of_budget(points.points, budget)
            if any(point.budget == budget for point in chosen):
                panels = _panels(chosen, lambda point: point.total_gradients, "labelling cost / gradients")
                found.append(_curves(f"Hessians or more forces, {title}", text, panels, len(found)))
    return found


def _curves(heading: str, text: str, panels: list[Panel], position: int) -> PlainSection:
    """On the leaderboard, curves of a study stand below the learning curves."""
    return PlainSection(f"study-{position + 1}", heading, text, panels, order=70)


def of_budget(points: Sequence[StudyRun], budget: Budget) -> list[StudyRun]:
    """Runs of a budget; those for equal steps whose steps are E-F-H's are also those for its seconds."""
    again = {(point.regime, point.architecture) for point in points if point.budget == budget}
    return [
        point
        for point in points
        if point.budget == budget
        or (again and label_set(point.regime).steps_like_hessians and (point.regime, point.architecture) not in again)
    ]


def _panels(points: Sequence[StudyRun], along: Callable[[StudyRun], float], axis: str) -> list[Panel]:
    """A panel for each split and error."""
    architectures = list(dict.fromkeys(point.architecture for point in points))
    regimes = list(dict.fromkeys(point.regime for point in points))
    splits = list(dict.fromkeys(split for point in points for split in point.errors))
    panels = []
    for split in splits:
        for name in CURVES:
            traces = [
                trace
                for position, architecture in enumerate(architectures)
                for regime in regimes
                if (trace := _trace(points, architecture, regime, split, name, along, position)) is not None
            ]
            if not traces:
                continue
            title, unit = METRICS[name]
            figure = figure_json(
                traces,
                height=400,
                xaxis={"title": {"text": axis}, "type": "log", "automargin": True},
                yaxis={"title": {"text": f"{title} / {unit}"}, "type": "log", "automargin": True},
                showlegend=True,
            )
            panels.append(Panel(f"{split}: {title}", f"{title} on {split} against {axis}, a line per regime", figure))
    return panels


def _trace(
    points: Sequence[StudyRun],
    architecture: str,
    regime: StudyRegime,
    split: str,
    name: str,
    along: Callable[[StudyRun], float],
    position: int,
) -> go.Scatter | None:
    # Seeds draw different parts, which differ a little in size and cost: a point is their mean.
    runs: dict[float, list[tuple[float, float, bool]]] = {}
    for point in points:
        value = point.errors.get(split, {}).get(name)
        if (point.architecture, point.regime) == (architecture, regime) and value:
            runs.setdefault(point.fraction, []).append((along(point), value, _unconverged(point)))
    if not runs:
        return None
    columns = [tuple(zip(*runs[fraction], strict=True)) for fraction in sorted(runs)]
    stds = [statistics.stdev(values) if len(values) > 1 else None for _, values, _ in columns]
    symbol = SYMBOLS[position % len(SYMBOLS)]
    colour = COLOURS[position % len(COLOURS)]
    return go.Scatter(
        name=literal(f"{architecture} {regime}"),
        mode="lines+markers",
        x=[statistics.fmean(places) for places, _, _ in columns],
        y=[statistics.fmean(values) for _, values, _ in columns],
        error_y=error_bars(stds),
        line={"color": colour, "dash": DASHES.get(regime, "dashdot")},
        marker={"symbol": [f"{symbol}-open" if any(unsure) else symbol for _, _, unsure in columns], "size": 8},
        hovertemplate="%{x:.4g}: %{y:.3g}",
        meta=filter_meta(f"{architecture} {regime}", regime),
    )


def comparisons(points: StudyRuns, folder: Path) -> list[PlainSection]:
    """Hold what the study is for against the records: data efficiency, equal time, and Hessians against more forces."""
    fractions = sorted({point.fraction for point in points.points})
    least, most = fractions[0], fractions[-1]
    found = []
    if least < most:
        found.append(
            _compare(
                points,
                folder,
                f"T4: Hessians on {100 * least:g} % against none on {100 * most:g} % of the data",
                ("E-F", most, "steps"),
                ("E-F-H", least, "steps"),
            )
        )
    hessians: Side = ("E-F-H", most, "steps")  # those for equal steps are also those for their own seconds
    for budget, title in BUDGETS.items():
        frames: Side = ("E-F+", most, budget)
        for question, without, having in (
            ("Hessians or displaced frames", frames, hessians),
            ("Half of each or displaced frames", frames, ("E-F+H", most, budget)),
            ("Hessians or none, the control", ("E-F", most, budget), hessians),
        ):
            found.append(_compare(points, folder, f"{question}, {title}", without, having))
    results = iter(decide_claims([test for _, tests, _ in found for test in tests]))  # corrected for all of them
    tables = [(title, claim_table([next(results) for _ in tests], *headings)) for title, tests, headings in found]
    return [
        PlainSection(f"claims-{position}", title, table=table)
        for position, (title, table) in enumerate(((title, table) for title, table in tables if table.lines), 1)
    ]


Side = tuple[StudyRegime, float, Budget]


def _compare(
    points: StudyRuns, folder: Path, title: str, without: Side, having: Side
) -> tuple[str, list[ClaimTest], tuple[str, str]]:
    paths = [
        folder / point.run
        for point in points.points
        if (point.regime, point.fraction, point.budget) in (without, having)
    ]
    runs = collect(paths) if paths else []
    comparison = Comparison(without[0], having[0], control=without[0] == "E-F")
    a, b = (side[0] if without[1] == having[1] else f"{side[0]}, {100 * side[1]:g} %" for side in (without, having))
    claims: Sequence[Claim] = AccuracyTask.claims
    if without[1] != having[1]:  # those of the study are about equal data
        claims = [replace(claim, source=OWN) for claim in claims]
    return title, claim_tests(runs, claims, [comparison]), (a, b)


def markdown(points: StudyRuns, found: Sequence[PlainSection]) -> str:
    """Return the study as Markdown without figures: a table of all errors, and one for each comparison."""
    notice = [f"**{tables.DEMONSTRATION}**"] if points.demonstration else []
    parts = [f"# Study {markdown_text(points.name)}", *notice, markdown_text(summary(points)), _errors_table(points)]
    reasons = [f"- {point.run}: {markdown_text(point.reason)}" for point in points.points if point.reason]
    if reasons:
        parts += ["## Failed runs", "\n".join(reasons)]
    for comparison in found:
        parts += comparison.markdown()
    if found:
        parts.append(CLAIMS_NOTE)
    return "\n\n".join(parts) + "\n"


def _errors_table(points: StudyRuns) -> str:
    """Errors of each kind of run, joined over seeds and their draws."""
    kinds: dict[tuple[str, float, str, str], list[StudyRun]] = {}
    for point in points.points:
        kinds.setdefault((point.architecture, point.fraction, point.budget, point.regime), []).append(point)
    splits = list(dict.fromkeys(split for point in points.points for split in point.errors))
    columns = [(split, name) for split in splits for name in CURVES]
    lines = []
    for (architecture, fraction, budget, regime), runs in kinds.items():
        values = [
            [value for run in runs if (value := run.errors.get(split, {}).get(name)) is not None]
            for split, name in columns
        ]
        lines.append(
            [
                architecture,
                regime,
                f"{100 * fraction:g} %",
                *(
                    tables.integer(round(statistics.fmean(numbers)))
                    for numbers in (
                        [run.structures for run in runs],
                        [run.label_gradients for run in runs],
                        [run.validation_gradients or 0 for run in runs],
                        [run.total_gradients for run in runs],
                    )
                ),
                budget,
                tables.number(statistics.fmean(run.device_seconds for run in runs)),
                f"{sum(run.converged is True for run in runs)} of {len(runs)}",
                *(str(score_cell(join(found))) for found in values),
            ]
        )
    headings = ["Architecture", "Labels", "Data", "Structures", "Training labels / gradients"]
    headings += ["Validation labels / gradients", "All labels / gradients", "Equal", "Training / s", "Converged"]
    headings += [f"{split} {METRICS[name][0]} / {METRICS[name][1]}" for split, name in columns]
    numeric = [False, False, True, True, True, True, True, False, True, False] + [True] * len(columns)
    return TextTable(headings, lines, numeric).markdown()
