"""How to make each entry again: commands, the configuration, and checksums of what was saved."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from hessgnn.evaluation.record import Record
from hessgnn.evaluation.tasks.base import TASKS, all_tasks
from hessgnn.leaderboard.board import Leaderboard, Row
from hessgnn.leaderboard.collect import RunFiles
from hessgnn.leaderboard.comparisons import BUDGETS
from hessgnn.leaderboard.sections.base import PageData, Section, section
from hessgnn.leaderboard.tables import integer, number
from hessgnn.training.regimes import label_set
from hessgnn.training.sources import TrainedOn


@section("reproduce", order=170)
class Reproduce(Section):
    """A recipe for each entry."""

    heading = "How to reproduce each entry"
    link = "Reproduce"

    def context(self, data: PageData) -> dict[str, Any]:
        """See :meth:`Section.context`."""
        return {"recipes": recipes(data.board, data.runs)}


@dataclass(frozen=True)
class Recipe:
    """One entry, as the page tells how to reproduce it."""

    entry: str
    regime: str
    facts: list[tuple[str, str]]
    commands: str
    config: str
    """YAML; empty where the record holds no configuration."""
    files: list[tuple[str, str, str]]
    """Seed, file and SHA-256."""


def recipes(board: Leaderboard, files: Sequence[RunFiles]) -> list[Recipe]:
    """Say of each row how to make it again, in the order of the rows."""
    return [_recipe(row, [item for item in files if item.record.entry == row.entry]) for row in board.rows]


def _recipe(row: Row, runs: Sequence[RunFiles]) -> Recipe:
    records = [item.record for item in runs]
    first = records[0]
    versions = sorted({f"{name} {version}" for record in records for name, version in record.versions.items()})
    facts = [
        ("Labels", "none" if row.regime == "published" else f"{row.regime}, {BUDGETS[row.budget]}"),
        ("Started from", row.start),
        ("Weights of the start", ", ".join(sorted({r.start.sha256 for r in records if r.start and r.start.sha256}))),
        ("Reference energies moved by", _shift(first)),
        ("Seeds", ", ".join("none" if seed is None else str(seed) for seed in row.seeds)),
        ("Steps", f"{row.steps:,}"),
        ("Loss weights", ", ".join(f"{name} {value:.3g}" for name, value in row.weights.items())),
        ("Parameters", integer(row.parameters)),
        ("Trained on", "; ".join(map(_trained_on, first.sources))),
        ("Training", f"{number(row.device_seconds)} s per seed on {row.device}" if row.device_seconds else ""),
        (
            "Tuning",
            f"{integer(row.sweep_trials)} trials, {number(row.sweep_device_seconds)} s" if row.sweep_trials else "",
        ),
        ("Hardware", "; ".join(sorted({record.hardware for record in records if record.hardware}))),
        ("Versions", ", ".join(versions)),
    ]
    files = [
        (str(record.seed), saved.path, saved.sha256)
        for record in records
        for saved in [*record.predictions.values(), *record.results.values()]
    ]
    config = yaml.safe_dump(first.config, sort_keys=False, allow_unicode=True, width=100) if first.config else ""
    return Recipe(
        row.entry, row.regime, [(name, text) for name, text in facts if text], _commands(row, runs), config, files
    )


def _commands(row: Row, runs: Sequence[RunFiles]) -> str:
    """Shell commands; names are reduced to what no shell takes for more than a name."""
    evaluated = {key.split()[0] for item in runs for key in item.record.results}
    own = TASKS.own()
    tasks = ",".join(
        task.name if task.name in own else f"{task.__module__}:{task.__qualname__}"
        for task in all_tasks()
        if task.fails_record or task.name in evaluated
    )
    data = _word(runs[0].record.data.name)
    if row.regime == "mean":
        return "# written beside every sweep and study: fitted energies of the elements, no forces, no curvature"
    if row.regime == "external":
        return f"hessgnn evaluate --calculator MODULE:FACTORY --data {data} --tasks {tasks} -o runs/{_word(row.entry)}"
    name = _word(row.entry)
    lines = [f"# {name}.yaml is the configuration below"]
    if row.regime not in ("E-H", "published") and label_set(row.regime).needs_engine:
        what = "displaced frames" if label_set(row.regime).has_frames else "Hessian products"
        lines.append(f"# its training set has {what}, made by `hessgnn study` or `python -m hessgnn.sweep`")
    for seed in row.seeds:
        folder = f"runs/{name}-seed{seed}"
        lines += [
            f"hessgnn train {name}.yaml training.seed={seed} -o {folder}",
            f"hessgnn evaluate {folder} --tasks {tasks}",
        ]
    folders = " ".join(f"runs/{name}-seed{seed}" for seed in row.seeds)
    return "\n".join([*lines, f"hessgnn leaderboard {folders} -o board"])


def _trained_on(source: TrainedOn) -> str:
    labels = ", ".join(f"{count} {name}" for name, count in source.labels.items() if count)
    steps = "" if source.steps is None else f"{source.steps:,} steps ({100 * source.share:.3g} %) on "
    return f"{steps}{source.name} ({source.level_of_theory}; {source.structures} structures: {labels})"


def _shift(record: Record) -> str:
    shift = {} if record.start is None else record.start.reference_shift
    return ", ".join(f"{element} {value:+.3f} eV" for element, value in shift.items())


def _word(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", text, flags=re.ASCII).strip("-") or "entry"
