"""The report of a transfer study: ``transfer.json``, ``study.md`` and ``study.html``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hessgnn.evaluation.tasks.base import task_of
from hessgnn.experiments.label_pages import estimate_text
from hessgnn.experiments.transfer_value import ORIGINAL, Answer, TransferValue
from hessgnn.leaderboard.report import plain_page
from hessgnn.leaderboard.sections.base import PlainSection
from hessgnn.leaderboard.tables import MISSING, TextTable, markdown_text
from hessgnn.runtime.files import write_text


def write_transfer(value: TransferValue, folder: Path) -> None:
    """Write all files of the report."""
    write_text(folder / "transfer.json", value.model_dump_json(indent=1) + "\n")
    found, about = sections(value), summary(value)
    parts = [f"# Study {markdown_text(value.name)}", markdown_text(about)]
    for section in found:
        parts += section.markdown()
    write_text(folder / "study.md", "\n\n".join(parts) + "\n")
    footer = "Written by hessgnn. The same numbers in full precision: transfer.json."
    write_text(folder / "study.html", plain_page(f"Study {value.name}", about, found, footer, ""))


def summary(value: TransferValue) -> str:
    """Say in a sentence what was trained on what."""
    return (
        f"{value.finished} of {value.planned} trainings on {value.data} ({value.level_of_theory}) have finished. "
        "Intervals are those of a bootstrap over families and trainings."
    )


def sections(value: TransferValue) -> list[PlainSection]:
    """Errors of each architecture on the data and on its old surface, and the answers."""
    found = []
    for number, name in enumerate(dict.fromkeys(arm.architecture for arm in value.arms)):
        for old, text in ((False, "errors"), (True, "differences from its own old predictions")):
            table = arms_table(value, name, columns_of(value, name, old=old))
            if len(table.headings) > len(FACTS):
                found.append(PlainSection(f"arms-{number}-{int(old)}", f"{name}: {text}", table=table))
    if value.answers:
        found.append(PlainSection("answers", "Questions", table=answers_table(value.answers)))
    return found


FACTS = ("Start", "Labels", "Structures", "Gradients", "Replay", "Trainings")
"""Columns about an arm itself."""


def columns_of(value: TransferValue, architecture: str, *, old: bool) -> list[tuple[str, str]]:
    """Splits and metrics that arms of an architecture have."""
    pairs = [
        (split, metric)
        for arm in value.arms
        if arm.architecture == architecture
        for split, metrics in arm.errors.items()
        for metric in metrics
        if split.startswith(f"{ORIGINAL} ") == old
    ]
    return list(dict.fromkeys(pairs))


def arms_table(value: TransferValue, architecture: str, columns: Sequence[tuple[str, str]]) -> TextTable:
    """Errors of all arms of an architecture, with intervals."""
    lines = [
        [
            arm.start,
            arm.labels,
            f"{arm.structures:.0f}",
            f"{arm.label_gradients:,.0f}",
            str(arm.replay) if arm.replay else "no",
            str(arm.trainings),
            *(estimate_text(arm.errors.get(split, {}).get(metric), digits(metric)) for split, metric in columns),
        ]
        for arm in value.arms
        if arm.architecture == architecture
    ]
    headings = [*FACTS, *(heading(split, metric) for split, metric in columns)]
    return TextTable(headings, lines, [False, False, *[True] * (len(headings) - 2)])


def heading(split: str, metric: str) -> str:
    """Of a column."""
    task = task_of(metric)
    assert task is not None
    defined = task.definitions[metric]
    return f"{split.removeprefix(f'{ORIGINAL} ')}: {defined.title} / {defined.unit}"


def digits(metric: str) -> int:
    """After the point."""
    return 2 if metric in ("hessian_rmse", "saddle_cosine") else 0


def answers_table(answers: Sequence[Answer]) -> TextTable:
    """Questions with their verdicts."""
    headings = ["Question", "Architecture", "Without", "With", "Measured", "Ratio or difference", "Over all", "Verdict"]
    lines = [
        [
            one.question,
            one.architecture,
            one.without,
            one.having,
            f"{one.split}: {_title(one.metric)}",
            answer_text(one),
            MISSING if one.rmse_ratio is None else f"{one.rmse_ratio:.2f}",
            one.verdict or "too few families",
        ]
        for one in answers
    ]
    return TextTable(headings, lines, [False] * 5 + [True, True, False])


def _title(metric: str) -> str:
    task = task_of(metric)
    assert task is not None
    return task.definitions[metric].title


def answer_text(one: Answer) -> str:
    """A ratio or difference with its interval."""
    if one.estimate is None:
        return MISSING
    if one.low is None or one.high is None:
        return f"{one.estimate:.2f}"
    return f"{one.estimate:.2f} ({one.low:.2f} to {one.high:.2f})"
