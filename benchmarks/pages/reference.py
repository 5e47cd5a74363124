"""Tables of every task on the reference and on a bad surface, and of descents from saddle points."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from hessgnn.evaluation.record import Metric
from hessgnn.evaluation.tasks import base
from hessgnn.evaluation.tasks.accuracy import METRICS
from pages.speed import table

ANOTHER_PATH = 50
"""meV: what the spacing of the images and their convergence cannot make."""


def tasks() -> list[str]:
    """Tasks of this package, in the order in which they are run."""
    return [task.name for task in base.all_tasks() if task.__module__.startswith("hessgnn.")]


def task_of(metric: str) -> str:
    """The task that defines a metric."""
    task = base.task_of(metric)
    assert task is not None, metric
    return task.name


def task_tables(reference: Mapping[str, Any], other: Mapping[str, Any], task: str) -> dict[str, str]:
    """Split -> table of a task's metrics on both surfaces."""
    tables = {}
    for split, metrics in reference["metrics"].items():
        own = {key: Metric(**value) for key, value in metrics.items() if task_of(key) == task}
        theirs = {key: Metric(**value) for key, value in other["metrics"].get(split, {}).items()}
        if own:
            tables[split] = _metrics(own, theirs)
    return tables


def _metrics(own: Mapping[str, Metric], theirs: Mapping[str, Metric]) -> str:
    rows = []
    for key, metric in own.items():
        title, unit = METRICS.get(key, (metric.title, metric.unit))
        beside = theirs.get(key)
        cells = [figures(metric.value), str(metric.n)]
        cells += ["", ""] if beside is None else [figures(beside.value), str(beside.n)]
        rows.append([f"`{key}`", title.replace("|", "\\|"), unit, *cells])
    return table(["metric", "title", "unit", "reference", "n", "bad", "n"], rows)


def figures(value: float | None) -> str:
    """Three significant figures."""
    return "null" if value is None else f"{value:.3g}"


def barrier_errors(record: Mapping[str, Any]) -> dict[str, float]:
    """Reaction -> absolute error of its barrier, meV; bands that did not converge have none."""
    return {name: abs(error) for name, error in record["barriers"].items() if error is not None}


def descent_table(records: Iterable[Mapping[str, Any]]) -> str:
    """Descents beside intrinsic reaction coordinates, from ``benchmarks/descents.py``."""
    rows = []
    for record in records:
        both = [row for row in record["rows"] if row["found"]]
        right = [row for row in both if row["right"]]
        agree = [row for row in both if row["descents"]["joins"] == row["irc"]["joins"]]
        counted = [row for row in both if all("gradients" in row[way] for way in ("descents", "irc"))]
        cells = [record["surface"], str(len(record["rows"])), str(len(both)), str(len(right))]
        cells += [str(len(agree)), str(sum(row in right for row in agree))]
        for key, digits in (("gradients", 0), ("seconds", 1)):
            medians = (statistics.median(row[way][key] for row in counted) for way in ("descents", "irc"))
            cells += [f"{median:.{digits}f}" for median in medians]
        ratios = [row["irc"]["gradients"] / row["descents"]["gradients"] for row in counted]
        rows.append([*cells, f"{min(ratios):.0f}-{max(ratios):.0f}"])
    titles = ["surface", "reactions", "saddle points found", "right ones", "same verdict", "of the right ones"]
    titles += ["gradients, descents", "IRC", "s, descents", "IRC", "ratio of gradients"]
    return table(titles, rows)
