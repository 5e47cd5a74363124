"""The page: one HTML document that needs no network."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import plotly.offline
from jinja2 import Environment, PackageLoader, StrictUndefined

from hessgnn.evaluation.tasks.accuracy import METRICS
from hessgnn.evaluation.tasks.base import all_tasks
from hessgnn.leaderboard import tables
from hessgnn.leaderboard.board import Leaderboard
from hessgnn.leaderboard.collect import Loaded
from hessgnn.leaderboard.cost import cost_views
from hessgnn.leaderboard.figures import curve_panels, gain_panels, rank_panel
from hessgnn.leaderboard.gains import BUDGETS, gain_label
from hessgnn.leaderboard.landscape import Trial, landscapes
from hessgnn.leaderboard.maps import hessian_maps, map_split
from hessgnn.leaderboard.parity import parity_plots, parity_split
from hessgnn.leaderboard.plotting import Section
from hessgnn.leaderboard.reproduce import recipes
from hessgnn.leaderboard.spectra import spectra_panels
from hessgnn.leaderboard.tables import MAIN_METRICS
from hessgnn.leaderboard.task_tables import score_tables
from hessgnn.leaderboard.words import CLAIMS_NOTE, DEFINITIONS, TASK_RATIOS_NOTE, fairness, summary

FAILURE_LINES = 100
"""Of the table of structures without a result; leaderboard.json holds all."""


def html_text(
    board: Leaderboard, loaded: Sequence[Loaded], *, trials: Sequence[Trial] = (), sections: Sequence[Section] = ()
) -> str:
    """Return the page as one self-contained HTML document.

    Parameters
    ----------
    board
        The scores of ``loaded``.
    loaded
        Records with curves and predictions, for the figures.
    trials
        Of a sweep, for the landscape of the loss weights.
    sections
        Further curves.

    Returns
    -------
    str
    """
    budgets = [
        (budget, title, [gain for gain in board.gains if gain.budget == budget], gain_panels(board, budget))
        for budget, title in BUDGETS.items()
    ]
    claims = [
        (budget, title, [tables.claim_line(result) for result in board.claims if result.budget == budget])
        for budget, title in BUDGETS.items()
    ]
    return render(
        "index.html.j2",
        board=board,
        summary=summary(board),
        regimes=list(dict.fromkeys(row.regime for row in sorted(board.rows, key=lambda row: row.regime))),
        tables=score_tables(board),
        metrics={name: METRICS[name] for name in MAIN_METRICS},
        budgets=[entry for entry in budgets if entry[2]],
        gain_cell=tables.gain_cell,
        gain_lines=tables.gain_lines,
        task_ratios_note=TASK_RATIOS_NOTE,
        gain_label=gain_label,
        number=tables.number,
        rank_table=tables.rank_table(board.ranks),
        rank_panel=rank_panel(board),
        claims=[entry for entry in claims if entry[2]],
        claim_headings=tables.claim_headings(),
        claim_numeric=tables.CLAIM_NUMERIC,
        claims_note=CLAIMS_NOTE,
        cost_views=cost_views(board),
        curve_panels=curve_panels(board, loaded),
        sections=sections,
        landscapes=landscapes(trials),
        spectra_panels=spectra_panels(board, loaded),
        maps=hessian_maps(board, loaded),
        map_split=map_split(board),
        parity=parity_plots(board, loaded),
        parity_split=parity_split(board),
        task_failures=board.task_failures[:FAILURE_LINES],
        task_titles={task.name: task.title for task in all_tasks()},
        fairness=fairness(board),
        recipes=recipes(board, loaded),
        definitions=DEFINITIONS,
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
    return environment.get_template(template).render(plotlyjs=_packed_plotly(), **content)


@lru_cache(maxsize=1)
def _packed_plotly() -> str:
    """plotly.js, packed: 2 MB in place of 5. Browsers unpack it themselves (``DecompressionStream``)."""
    packed = gzip.compress(plotly.offline.get_plotlyjs().encode(), mtime=0)
    return base64.b64encode(packed).decode()
