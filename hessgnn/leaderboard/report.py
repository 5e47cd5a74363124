"""Writing the leaderboard: one HTML page that needs no network, Markdown, CSV and JSON, all of the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plotly.offline
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hessgnn.benchmark.record import METRICS
from hessgnn.files import write_text
from hessgnn.leaderboard import tables
from hessgnn.leaderboard.board import Leaderboard
from hessgnn.leaderboard.collect import Loaded
from hessgnn.leaderboard.figures import cost_panels, curve_panels, gain_label, gain_panels
from hessgnn.leaderboard.parity import parity_plots, parity_split
from hessgnn.leaderboard.scores import score
from hessgnn.leaderboard.spectra import spectra_panels
from hessgnn.leaderboard.tables import MAIN_METRICS, Column, markdown_table, markdown_text

DEFINITIONS = {
    "MAE, RMSE": "mean absolute and root mean square error against the labels of a split that no potential was "
    "trained or tuned on; energies per atom, forces and Hessian per component.",
    "± and n": "mean and sample standard deviation over seeds. n=1 marks a single seed, which has no spread.",
    "Overall": "geometric mean, over splits and over energy, forces and Hessian, of the RMSE divided by the mean "
    "predictor's. 1 is as good as knowing the composition only; it is left out where a part is missing.",
    "Rank": "by the overall score. Entries whose interval mean ± std touches that of the best of a rank share it; "
    "the spread that failed seeds bring is no noise, and with one seed there is none.",
    "Failures": "a failed seed counts in the overall score with the worst overall score of any finished run. The other "
    "columns and the ratios show the finished seeds.",
    "Training": "device-seconds of training steps per seed, without validation and checkpoints.",
    "Products": "Hessian-vector products of whole batches in training, per seed.",
    "Sweep trials": "trials spent on tuning the loss weights before the run.",
    "Regime": "what the loss saw: energies (E), forces (F), Hessian products (H); mean is the predictor that knows the "
    "composition only.",
}
"""How each number is defined, for the page and for Markdown."""
CLAIMS_NOTE = (
    "Mean ± standard deviation over the seeds that both sides have. Two paired, two-sided tests: Student's t over "
    "seeds (three or more), and Wilcoxon's signed ranks over molecules, reactions or paths (six or more that differ), "
    "with seeds averaged. Confirmed: all tests that could be done are significant at 5 % in the claimed direction. "
    "Not confirmed: they are in the opposite one. Undecided: the rest. Each test stands for itself, so of twenty "
    "claims without any substance one may seem confirmed. What failed counts with the worst value of all records."
)


def write_report(loaded: Sequence[Loaded], folder: Path, title: str = "hessgnn leaderboard") -> Path:
    """Score records and write ``index.html``, ``leaderboard.md``, ``leaderboard.csv`` and ``leaderboard.json``.

    Parameters
    ----------
    loaded
        Records, from :func:`hessgnn.leaderboard.collect.collect`.
    folder
        Where to write; it is created. Files of the same names are replaced, each at once.
    title
        Heading of the report.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    DataError
        When the records cannot be compared; nothing is written then.
    """
    board = score(loaded, title)
    page = html_text(board, loaded)
    folder = Path(folder)
    write_text(folder / "leaderboard.json", board.model_dump_json(indent=1) + "\n")
    write_text(folder / "leaderboard.csv", tables.csv_text(board))
    write_text(folder / "leaderboard.md", markdown_report(board))
    write_text(folder / "index.html", page)
    return folder / "index.html"


def html_text(board: Leaderboard, loaded: Sequence[Loaded]) -> str:
    """Return the page as one self-contained HTML document.

    Parameters
    ----------
    board
        The scores of ``loaded``.
    loaded
        Records with curves and predictions, for the figures.

    Returns
    -------
    str
    """
    columns = tables.columns(board.splits)
    cells = [[column.cell(row) for column in columns] for row in board.rows]
    heats = [
        tables.heat([line[position] for line in cells]) if column.heat else [None] * len(cells)
        for position, column in enumerate(columns)
    ]
    return render(
        "index.html.j2",
        board=board,
        summary=summary(board),
        groups=_column_groups(columns),
        columns=columns,
        cells=cells,
        heats=heats,
        metrics={name: METRICS[name] for name in MAIN_METRICS},
        task_lines=tables.task_lines(board),
        claim_headings=tables.claim_headings(),
        claim_numeric=tables.CLAIM_NUMERIC,
        claim_lines=[tables.claim_line(result) for result in board.claims],
        claims_note=CLAIMS_NOTE,
        gain_cell=tables.gain_cell,
        gain_label=gain_label,
        number=tables.number,
        fairness=fairness(board),
        definitions=DEFINITIONS,
        gain_panels=gain_panels(board),
        cost_panels=cost_panels(board),
        curve_panels=curve_panels(board, loaded),
        spectra_panels=spectra_panels(board, loaded),
        parity=parity_plots(board, loaded),
        parity_split=parity_split(board),
    )


def render(template: str, **content: Any) -> str:
    """Fill one of the page templates, with plotly inside, so that the page needs no network.

    Parameters
    ----------
    template
        Its name.
    **content
        What it shows; text is escaped.

    Returns
    -------
    str
        A self-contained HTML document.
    """
    environment = Environment(
        loader=PackageLoader("hessgnn.leaderboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(plotlyjs=Markup(plotly.offline.get_plotlyjs()), **content)


def _column_groups(columns: Sequence[Column]) -> list[tuple[Column, int]]:
    """Return the first column of each split with the number of its columns; any other column by itself."""
    groups: list[tuple[Column, int]] = []
    for column in columns:
        if groups and column.split is not None and groups[-1][0].split == column.split:
            groups[-1] = (groups[-1][0], groups[-1][1] + 1)
        else:
            groups.append((column, 1))
    return groups


def summary(board: Leaderboard) -> str:
    """Say in a sentence what was compared."""
    architectures = {row.architecture for row in board.rows if row.regime != "mean"}
    regimes = sorted({row.regime for row in board.rows if row.regime != "mean"})
    seeds = {len(row.seeds) for row in board.rows if row.regime != "mean"}
    per_entry = f"{min(seeds)} to {max(seeds)} seeds" if len(seeds) > 1 else _count(max(seeds, default=0), "seed")
    judged = " and ".join(
        split if n is None else f"{split} ({_count(n, 'structure')})" for split, n in board.structures.items()
    )
    return (
        f"{_count(len(architectures), 'architecture')} trained on {' and '.join(regimes) or 'nothing'} labels with "
        f"{per_entry} per entry, on {board.data.name} ({board.data.level_of_theory}), judged on {judged or 'no split'}."
    )


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def fairness(board: Leaderboard) -> list[tuple[str, str]]:
    """List what was the same for all entries, and what was not."""
    trained = [row for row in board.rows if row.regime != "mean"]
    facts = [
        ("Data", board.data.name),
        ("Content hash", board.data.content_hash),
        ("Split hash", board.data.split_hash),
        ("Level of theory", board.data.level_of_theory),
        ("Steps", _each([(row.entry, f"{row.steps:,}") for row in trained])),
        ("Seeds", _each([(row.entry, ", ".join(map(str, row.seeds))) for row in trained])),
        ("Loss weights", _each([(row.entry, _weights(row.weights)) for row in trained])),
        ("Device", _each([(row.entry, row.device) for row in trained])),
        ("Hardware", "; ".join(board.hardware) or "not recorded"),
        ("Versions", ", ".join(f"{name} {' / '.join(found)}" for name, found in board.versions.items())),
    ]
    return [(name, text or "not recorded") for name, text in facts]


def _each(facts: Sequence[tuple[str, str]]) -> str:
    """Name entries only where they differ."""
    if len({fact for _, fact in facts}) <= 1:
        return "".join(fact for _, fact in facts[:1])
    return "; ".join(f"{entry}: {fact}" for entry, fact in facts)


def _weights(weights: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in weights.items())


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
    if lines := tables.task_lines(board):
        parts += [
            "## Tasks",
            markdown_table(
                ["Split", "Metric", *(row.entry for row in board.rows)],
                [[split, f"{info.title}, {info.unit}", *map(str, cells)] for split, info, cells in lines],
                [False, False] + [True] * len(board.rows),
            ),
        ]
    if board.gains:
        measured = [(split, name) for split in board.splits for name in MAIN_METRICS]
        parts += [
            "## What Hessian labels buy",
            "Error with Hessian labels (E-F-H) over error without (E-F); failed seeds (\\*) are left out.",
            markdown_table(
                ["Architecture", *(f"{split} {METRICS[name][0]}" for split, name in measured), "Training cost"],
                [
                    [
                        gain_label(gain, board.gains),
                        *(str(tables.gain_cell(gain, split, name)) for split, name in measured),
                        tables.number(gain.device_seconds),
                    ]
                    for gain in board.gains
                ],
                [False] + [True] * (len(measured) + 1),
            ),
        ]
    if board.claims:
        parts += [
            "## The study's claims",
            CLAIMS_NOTE,
            markdown_table(
                tables.claim_headings(),
                [tables.claim_line(result) for result in board.claims],
                tables.CLAIM_NUMERIC,
            ),
        ]
    parts += ["## Fairness", "\n".join(f"- {name}: {markdown_text(text)}" for name, text in fairness(board))]
    parts += ["## Definitions", "\n".join(f"- {name}: {markdown_text(text)}" for name, text in DEFINITIONS.items())]
    parts.append(f"Written by hessgnn {board.hessgnn}.")
    return "\n\n".join(parts) + "\n"
