"""What rules of selection brought, from ``benchmarks/selection.py``."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pages.speed import spread, table
from pages.wording import ARCHITECTURES, joined

Row = Mapping[str, Any]


def architectures(record: Row) -> list[str]:
    """Those that were trained, in the order of the pages."""
    found = {row["architecture"] for row in record["rows"]}
    return [name for name in ARCHITECTURES if name in found]


def seeds(record: Row) -> int:
    """The most that a rule has been compared with; an unfinished study has fewer of some."""
    return max(len(row["seeds"]) for row in record["rows"])


def rows(record: Row, architecture: str) -> str:
    """Errors of one architecture: a line for each rule and share, and random choice first among each share."""
    found: dict[tuple[float, str], dict[str, Row]] = {}
    for row in record["rows"]:
        if row["architecture"] == architecture:
            found.setdefault((row["share"], row["rule"]), {})[row["split"]] = row
    lines = []
    for (share, rule), splits in sorted(found.items(), key=lambda item: (item[0][0], item[0][1] != "random")):
        one = next(iter(splits.values()))
        about = [
            "" if one[key] is None else f"{one[key]:.{digits}f}" for key, digits in (("families", 0), ("atoms", 1))
        ]
        cells = [cell for split in ("test", "nms") for cell in _errors(splits[split])]
        few = f", {len(one['seeds'])} of {seeds(record)} seeds" if len(one["seeds"]) < seeds(record) else ""
        lines.append([f"{100 * share:.0f} %: {rule}{few}", *about, *cells])
    titles = ["products: rule", "families", "atoms", "H test", "over random", "H nms", "over random"]
    return table(titles, lines)


def _errors(row: Row) -> list[str]:
    contrast = row["contrast"]
    if contrast is None:
        return [f"{statistics.fmean(row['hessian_rmse']):.2f}", ""]
    ratio = spread([contrast[key] for key in ("estimate", "low", "high")])
    decided = row["verdict"] in ("better", "worse")
    return [f"{statistics.fmean(row['hessian_rmse']):.2f}", f"**{ratio}**" if decided else ratio]


def findings(record: Row) -> list[str]:
    """A sentence for each rule: where it was better or worse than random choice, and where that is not decided.

    Ratios are those of a typical family; the RMSE over all structures is decided by the largest errors.
    """
    by_rule: dict[str, list[Row]] = {}
    for row in record["rows"]:
        if row["contrast"] is not None:
            by_rule.setdefault(row["rule"], []).append(row)
    return [_finding(rule, found) for rule, found in by_rule.items()]


def _finding(rule: str, found: Sequence[Row]) -> str:
    parts = []
    for verdict in ("better", "worse", "no difference larger than 10 %", "undecided"):
        ratios = [row["contrast"]["estimate"] for row in found if row["verdict"] == verdict]
        if ratios:
            words = "not decided" if verdict == "undecided" else verdict
            parts.append(f"{words} in {len(ratios)} of {len(found)} comparisons ({_range(ratios)} times)")
    pooled = [statistics.geometric_mean(row["rmse_over_random"]) for row in found]
    return (
        f"**{rule}** against random choice, Hessian error of a typical family: {joined(parts)}; Hessian RMSE over all "
        f"structures: {_range(pooled)} times."
    )


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"
