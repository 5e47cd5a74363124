"""The leaderboard as Markdown, without figures."""

from __future__ import annotations

from hessgnn.evaluation.tasks.accuracy import METRICS
from hessgnn.leaderboard import tables
from hessgnn.leaderboard.board import Leaderboard
from hessgnn.leaderboard.gains import BUDGETS, gain_label
from hessgnn.leaderboard.tables import MAIN_METRICS, markdown_table, markdown_text
from hessgnn.leaderboard.words import CLAIMS_NOTE, DEFINITIONS, TASK_RATIOS_NOTE, fairness, summary

RATIOS_NOTE = (
    "Error with Hessian labels (E-F-H) over error without (E-F), with the 95 % interval over molecules; failed seeds "
    "(\\*) are left out."
)


def markdown_report(board: Leaderboard) -> str:
    """Return the leaderboard as Markdown, without figures."""
    columns = tables.columns(board.splits)
    parts = [
        f"# {markdown_text(board.title)}",
        markdown_text(summary(board)),
        markdown_table(
            [column.heading for column in columns],
            [[str(column.cell(row)) for column in columns] for row in board.rows],
            [column.numeric for column in columns],
        ),
    ]
    if board.notes:
        parts += ["## Notes", "\n".join(f"- {markdown_text(note)}" for note in board.notes)]
    if board.failures:
        parts += [
            "## Failed runs",
            "\n".join(
                f"- {markdown_text(f'{item.entry}, seed {item.seed}: {item.reason}')}" for item in board.failures
            ),
        ]
    if board.task_failures:
        parts += [
            "## Structures without a result",
            markdown_table(
                ["Entry", "Task", "Split", "n", "Reason", "For example"],
                [
                    [item.entry, item.task, item.split, str(item.n), item.reason, ", ".join(item.examples)]
                    for item in board.task_failures
                ],
                [False, False, False, True, False, False],
            ),
        ]
    if lines := tables.task_lines(board):
        parts += [
            "## Tasks",
            markdown_table(
                ["Split", "Metric", *(row.entry for row in board.rows)],
                [[split, f"{info.title}, {info.unit}", *map(str, cells)] for split, info, cells in lines],
                [False, False] + [True] * len(board.rows),
            ),
        ]
    measured = [(split, name) for split in board.splits for name in MAIN_METRICS]
    for budget, title in BUDGETS.items():
        gains = [gain for gain in board.gains if gain.budget == budget]
        if not gains:
            continue
        parts += [
            f"## What Hessian labels buy: {title}",
            RATIOS_NOTE,
            markdown_table(
                ["Architecture", *(f"{split} {METRICS[name][0]}" for split, name in measured), "Training cost"],
                [
                    [
                        gain_label(gain, gains),
                        *(str(tables.gain_cell(gain, split, name)) for split, name in measured),
                        tables.number(gain.device_seconds),
                    ]
                    for gain in gains
                ],
                [False] + [True] * (len(measured) + 1),
            ),
        ]
        if lines := tables.gain_lines(board, gains):
            parts += [
                f"### Task by task: {title}",
                TASK_RATIOS_NOTE,
                markdown_table(
                    ["Split", "Metric", *(gain_label(gain, gains) for gain in gains)],
                    [[split, info.title, *map(str, cells)] for split, info, cells in lines],
                    [False, False] + [True] * len(gains),
                ),
            ]
    if board.ranks:
        headings, places = tables.rank_table(board.ranks)
        parts += [
            "## Ranks within each kind of labels",
            markdown_table(headings, places, [False] + [True] * (len(headings) - 1)),
        ]
    for budget, title in BUDGETS.items():
        claims = [result for result in board.claims if result.budget == budget]
        if claims:
            parts += [
                f"## The study's claims: {title}",
                CLAIMS_NOTE,
                markdown_table(
                    tables.claim_headings(),
                    [tables.claim_line(result) for result in claims],
                    tables.CLAIM_NUMERIC,
                ),
            ]
    parts += ["## Fairness", "\n".join(f"- {name}: {markdown_text(text)}" for name, text in fairness(board))]
    parts += ["## Definitions", "\n".join(f"- {name}: {markdown_text(text)}" for name, text in DEFINITIONS.items())]
    parts.append(f"Written by hessgnn {board.hessgnn}.")
    return "\n\n".join(parts) + "\n"
