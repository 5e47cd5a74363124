"""What the written tables say of architectures and kinds of labels, for sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hessgnn.errors import DataError
from pages.speed import table
from pages.stored import Row, Stored, number

ARCHITECTURES = {"ani": "ANI", "nequip": "NequIP", "schnet": "SchNet"}
"""Name in tables -> name in sentences."""
PARTS = ("2 %", "5 %", "10 %", "20 %", "40 %", "80 %")
"""Parts of the training split in the study on data efficiency."""


class Comparisons:
    """Ratios, verdicts and errors of the quickstart, the reference leaderboard and the study on data efficiency."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored

    def ratios(self, page: str, *columns: str, budget: str = "steps") -> list[float]:
        """Errors with Hessians over errors without, of all architectures."""
        rows = self._stored.rows(page, f"What Hessian labels buy: equal {budget}")
        self._complete(row["Architecture"] for row in rows)
        return [number(row[column]) for row in rows for column in columns]

    def claims(self, page: str, claim: str, table: str = "The study's claims: equal steps") -> dict[str, Row]:
        """Architecture -> line of the claim whose text ends so."""
        found = {row["Architecture"]: row for row in self._stored.rows(page, table) if row["Claim"].endswith(claim)}
        self._complete(found)
        return found

    def verdicts(
        self, page: str, claim: str, verdict: str = "confirmed", table: str = "The study's claims: equal steps"
    ) -> list[str]:
        """Architectures for which a claim has this verdict."""
        found = self.claims(page, claim, table)
        return [name for name in ARCHITECTURES if found[name]["Verdict"] == verdict]

    def decided(self, page: str, table: str) -> int:
        """How many claims of a table are decided, one way or the other."""
        return sum(row["Verdict"] != "undecided" for row in self._stored.rows(page, table))

    def errors(self, labels: str, column: str, part: str, budget: str = "steps") -> dict[str, float]:
        """Architecture -> mean of a column of the study on data efficiency."""
        wanted = (labels, part, budget)
        found = {
            row["Architecture"]: number(row[column])
            for row in self._stored.rows("efficiency", "Study efficiency")
            if (row["Labels"], row["Data"], row["Equal"]) == wanted
        }
        self._complete(found)
        return found

    def error_columns(self) -> list[str]:
        """Columns of that study that are errors."""
        return [name for name in self._stored.rows("efficiency", "Study efficiency")[0] if " MAE / " in name]

    def leads_from(self, labels: str, over: str, columns: Sequence[str]) -> dict[str, str | None]:
        """Architecture -> part of the data from which on all these errors are lower with some labels than with others.

        None where they are not on the largest part either.
        """
        first: dict[str, str | None] = dict.fromkeys(ARCHITECTURES)
        for part in reversed(PARTS):
            lower = [(self.errors(labels, name, part), self.errors(over, name, part)) for name in columns]
            for name in first:
                later = part == PARTS[-1] or first[name] == PARTS[PARTS.index(part) + 1]
                if later and all(ours[name] < theirs[name] for ours, theirs in lower):
                    first[name] = part
        return first

    def reaches(self, labels: str, column: str, other: str, part: str) -> dict[str, str]:
        """Architecture -> smallest part on which some labels have a lower error than others have on a given part."""
        goal = self.errors(other, column, part)
        found = {
            name: next((p for p in PARTS if self.errors(labels, column, p)[name] < goal[name]), "")
            for name in ARCHITECTURES
        }
        if not all(found.values()):
            raise DataError(f"{column} of {labels} is above that of {other} on {part} for some", where="efficiency.md")
        return found

    def structures(self) -> list[int]:
        """Numbers of training structures in the study on data efficiency, part by part."""
        return [int(row["Structures"]) for row in self._rows_of("ani", "E-F-H")]

    def label_costs(self) -> list[float]:
        """Gradients that these structures cost with their Hessians."""
        return [number(row["Label cost / gradients"]) for row in self._rows_of("ani", "E-F-H")]

    def _rows_of(self, architecture: str, labels: str) -> list[Row]:
        rows = self._stored.rows("efficiency", "Study efficiency")
        return [
            row for row in rows if (row["Architecture"], row["Labels"], row["Equal"]) == (architecture, labels, "steps")
        ]

    @staticmethod
    def _complete(names: Iterable[str]) -> None:
        if (found := set(names)) != set(ARCHITECTURES):
            raise DataError(f"a table has {sorted(found)} and no other architecture", where="docs/results")


def quotients(above: Mapping[str, float], below: Mapping[str, float]) -> list[float]:
    """Of two errors, architecture by architecture."""
    return [above[name] / below[name] for name in above]


def column(rows: Mapping[str, Row], title: str) -> dict[str, float]:
    """Architecture -> number in a column of its line of a claim."""
    return {name: number(row[title]) for name, row in rows.items()}


def latest(parts: Mapping[str, str | None]) -> str | None:
    """The part of the data from which on something holds for all architectures."""
    return None if None in parts.values() else max((part for part in parts.values() if part), key=PARTS.index)


def score_table(rows: Sequence[Sequence[Any]]) -> str:
    """Validation scores of settings that were compared, from ``typed.yaml``; the best of each group is bold."""
    best = {group: min(row[2] for row in rows if row[0] == group) for group, *_ in rows}
    lines = [
        [title, _bold(str(score), score == best[group]), *map(str, errors)] for group, title, score, *errors in rows
    ]
    return table(["", "validation score", "E / meV/atom", "F / meV/Å", "H / eV/Å²"], lines)


def transfer_table(transfer: Mapping[str, Any]) -> str:
    """Errors with loss weights tuned for another architecture, from ``typed.yaml``; the best of each column is bold."""
    best = [min(column) for column in zip(*(errors for *_, errors in transfer["rows"]), strict=True)]
    lines = []
    for _, title, weights, errors in transfer["rows"]:
        cells = [_bold(f"{error:.3f}", error == least) for error, least in zip(errors, best, strict=True)]
        lines.append([f"{title} ({', '.join(weights)})", *cells])
    return table(["loss weights (forces / Å², Hessian / Å⁴)", *transfer["architectures"]], lines)


def transfer_errors(transfer: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Key of the weights -> architecture -> error."""
    return {key: dict(zip(transfer["architectures"], errors, strict=True)) for key, _, _, errors in transfer["rows"]}


def transfer_weights(transfer: Mapping[str, Any]) -> dict[str, float]:
    """Key of the weights -> weight of the Hessian."""
    return {key: float(weights[1]) for key, _, weights, _ in transfer["rows"]}


def _bold(text: str, is_so: bool) -> str:
    return f"**{text}**" if is_so else text
