"""What the records say of the claims about Hessian labels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hessgnn.leaderboard.board import ClaimResult
from hessgnn.leaderboard.gains import BUDGETS
from hessgnn.leaderboard.sections.base import PageData, Section, section
from hessgnn.leaderboard.tables import MISSING, TextTable, number, score_cell

CLAIMS_NOTE = (
    "Mean ± standard deviation over the seeds that both sides have. Two paired, two-sided tests: Student's t over "
    "seeds (three or more, whose changes are not all the same), and Wilcoxon's signed ranks over molecules, reactions "
    "or paths (six or more that differ), "
    "with seeds averaged. Confirmed: all tests that could be done are significant at 5 % in the claimed direction. "
    "Not confirmed: they are in the opposite one. Undecided: the rest. The verdict takes each test by "
    "itself, so of twenty claims without any substance one may seem confirmed; the corrected p (Holm, over all "
    "claims of the table, of the larger of the two) is the one to hold a claim to. What failed counts with the worst "
    "value of all records."
)


@section("claims", order=40)
class Claims(Section):
    """A table for equal steps, and one for equal time where such runs are."""

    heading = "The study's claims"
    link = "Claims"
    template = """
{% for budget, title, table in tables %}
<h3 id="claims-{{ budget }}">For {{ title }}</h3>
{{ text_table("Table of claims for " ~ title, table) }}
{% endfor %}
"""

    def context(self, data: PageData) -> dict[str, Any] | None:
        """See :meth:`Section.context`."""
        tables = _tables(data)
        return {"tables": tables} if tables else None

    def markdown(self, data: PageData) -> list[str]:
        """See :meth:`Section.markdown`."""
        return [
            part
            for _, title, table in _tables(data)
            for part in (f"## The study's claims: {title}", CLAIMS_NOTE, table.markdown())
        ]


def _tables(data: PageData) -> list[tuple[str, str, TextTable]]:
    found = [
        (budget, title, claim_table(result for result in data.board.claims if result.budget == budget))
        for budget, title in BUDGETS.items()
    ]
    return [entry for entry in found if entry[2].lines]


def claim_table(results: Iterable[ClaimResult], without: str = "E-F", having: str = "E-F-H") -> TextTable:
    """Lay out what the records say of claims; the two sides may have other names."""
    tested = ["Claimed", "p over seeds", "p over subjects", "p corrected", "Verdict"]
    return TextTable(
        headings=["Claim", "Source", "Number", "Architecture", without, having, *tested],
        lines=[_line(result) for result in results],
        numeric=[False, False, False, False, True, True, False, True, True, True, False],
        caption=CLAIMS_NOTE,
    )


def _line(result: ClaimResult) -> list[str]:

    def tested(p: float | None, n: int) -> str:
        return f"{MISSING} (n={n})" if p is None else f"{number(p, 2)} (n={n})"

    where = f"{result.split} {result.title}".strip()
    return [
        f"Hessian labels: {result.claim}",
        result.source,
        f"{where}, {result.unit}",
        result.architecture,
        str(score_cell(result.without)),
        str(score_cell(result.having)),
        result.direction,
        tested(result.p_seeds, result.n_seeds),
        MISSING if not result.n_subjects else tested(result.p_subjects, result.n_subjects),
        number(result.p_holm, 2),
        result.verdict,
    ]
