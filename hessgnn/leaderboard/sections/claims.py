"""What the records say of the claims about Hessian labels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hessgnn.leaderboard.board import ClaimResult
from hessgnn.leaderboard.claims import OWN
from hessgnn.leaderboard.comparisons import BUDGETS, COMPARISONS
from hessgnn.leaderboard.sections.base import PageData, Section, section
from hessgnn.leaderboard.tables import MISSING, TextTable, number, score_cell

CLAIMS_NOTE = (
    "Verdict, at 5 %: better, worse, no difference larger than 10 % (of the error, or ten of a hundred attempts), or "
    "undecided. Not converged: a run did not stop because its validation error was flat, or that is not known; numbers "
    "only. Not known: fewer than three trainings or six families, or families that no file tells. The claim of the "
    "source, in the comparison that the study made (equal steps, equal data), is supported, contradicted (the opposite "
    "is shown), or not decided. Source –: a question of this "
    "project, not a claim of others. Numbers: mean ± standard deviation over trainings; the geometric mean of the "
    "ratio of errors, or for shares the mean difference, with its 95 % interval over families of molecules or "
    "reactions and over trainings (a seed with its own draw of the training data). Frames of a family are averaged "
    "first. The p-values are two-sided and corrected for all tests of the page (Holm). Families needed: for a change "
    "of 10 % to be seen in four of five experiments. A subject that failed counts with the value that its metric fixes "
    "in advance, or is left out of the ratio; then the share with a result has a line of its own."
)

EXPLAINED = ("not known", "undecided")
"""Verdicts whose reason is printed; that of the others is their name."""


@section("claims", order=40)
class Claims(Section):
    """A table for each comparison, for equal steps, and for equal time where such runs are."""

    heading = "What is claimed of Hessian labels"
    link = "Claims"
    template = """
<p>{{ note }}</p>
{% for key, title, table in tables %}
<h3 id="claims-{{ key }}">{{ title }}</h3>
{{ text_table("Table of claims: " ~ title, table) }}
{% endfor %}
"""

    def context(self, data: PageData) -> dict[str, Any] | None:
        """See :meth:`Section.context`."""
        tables = _tables(data)
        return {"tables": tables, "note": CLAIMS_NOTE} if tables else None

    def markdown(self, data: PageData) -> list[str]:
        """See :meth:`Section.markdown`."""
        tables = _tables(data)
        parts = [part for _, title, table in tables for part in (f"### Claims: {title}", table.markdown())]
        return [f"## {self.heading}", CLAIMS_NOTE, *parts] if tables else []


def _tables(data: PageData) -> list[tuple[str, str, TextTable]]:
    found = []
    for comparison in COMPARISONS:
        for budget, name in BUDGETS.items():
            results = [
                result
                for result in data.board.claims
                if (result.budget, *result.regimes) == (budget, comparison.without, comparison.having)
            ]
            if results:
                key = f"{comparison.without}-{comparison.having}-{budget}".replace("+", "p")
                found.append(
                    (key, f"{comparison.title}, {name}", claim_table(results, *comparison[:2], comparison.title))
                )
    return found


def claim_table(
    results: Iterable[ClaimResult], without: str = "E-F", having: str = "E-F-H", caption: str = CLAIMS_NOTE
) -> TextTable:
    """Lay out what the records say of claims; the two sides may have other names."""
    headings = ["Claim", "Source", "Number", "Architecture", "Verdict", "The claim is", without, having]
    headings += ["Ratio or difference (95 %)", "Ratio of means", "p corrected", "Families", "Trainings"]
    return TextTable(
        headings=[*headings, "Families needed", "Failed"],
        lines=[_line(result) for result in results],
        numeric=[False] * 6 + [True] * 9,
        caption=caption,
    )


def _line(result: ClaimResult) -> list[str]:
    where = f"{result.split} {result.title}".strip()
    return [
        f"Hessian labels: {result.claim}",
        result.source if result.control and result.source != OWN else MISSING,
        f"{where}, {result.unit}",
        result.architecture,
        f"{result.verdict} ({result.reason})" if result.reason and result.verdict in EXPLAINED else result.verdict,
        result.support or MISSING,
        str(score_cell(result.without)),
        str(score_cell(result.having)),
        _estimate(result),
        number(result.ratio_of_means),
        number(result.p, 2),
        str(result.n_families),
        str(result.n_trainings),
        MISSING if result.families_needed is None else str(result.families_needed),
        " / ".join(map(str, result.failed)) if any(result.failed) else "0",
    ]


def _estimate(result: ClaimResult) -> str:
    if result.estimate is None:
        return MISSING
    values = [result.estimate, result.low, result.high]
    if result.scale == "ratio":
        middle, low, high = (number(value) for value in values)
    else:
        middle, low, high = (f"{100 * (value or 0.0):+.1f} %" for value in values)
    if result.low is None:
        return middle
    return f"{middle} ({low} to {high})"
