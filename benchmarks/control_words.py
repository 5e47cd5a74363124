"""Words of several sets of runs side by side: what :mod:`controls` writes and prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console

from hessgnn.evaluation.tasks.accuracy import AccuracyTask
from hessgnn.leaderboard.board import ClaimResult
from hessgnn.leaderboard.claims import claim_tests, decide_claims
from hessgnn.leaderboard.collect import Families, RunFiles
from hessgnn.leaderboard.comparisons import Comparison
from hessgnn.runtime.terminal import say

DECIDED = ("better", "worse", "no difference larger than 10 %")
LEFT_OUT = "left out"
"""Word for forces that are worse than none in one variant only."""

Key = tuple[str, ...]
"""Architecture, labels that are compared with, labels that are compared, claim, split, metric."""


def judge(
    runs: Mapping[str, Sequence[RunFiles]], mean: RunFiles, comparisons: Sequence[Comparison]
) -> dict[Key, ClaimResult]:
    """Decide the accuracy claims for all architectures together; ``runs`` holds those of each label."""
    families = Families([mean, *(run for found in runs.values() for run in found)])
    tests = [
        (label, test)
        for label, found in runs.items()
        for test in claim_tests([mean, *found], AccuracyTask.claims, comparisons, families=families)
    ]
    results = decide_claims([test for _, test in tests])
    return {key_of(label, result): result for (label, _), result in zip(tests, results, strict=True)}


def key_of(label: str, result: ClaimResult) -> Key:
    return label, *result.regimes, result.claim, result.split, result.metric


def lines(
    judged: Mapping[str, Mapping[Key, ClaimResult]],
    page: Mapping[Key, str],
    *,
    by_sign: bool,
) -> list[dict[str, Any]]:
    """Lay the words of several sets of runs side by side.

    Parameters
    ----------
    judged
        Column -> results of :func:`judge`.
    page
        Words on the leaderboard.
    by_sign
        Whether a line changes with the sign of a printed claim; otherwise it changes where one column is better and
        another worse.
    """
    table = []
    for key in dict.fromkeys(key for found in judged.values() for key in found):
        results = {column: found.get(key) for column, found in judged.items()}
        any_of = next(result for result in results.values() if result is not None)
        words = [LEFT_OUT if result is None else result.verdict for result in results.values()]
        line: dict[str, Any] = {
            "architecture": key[0],
            **any_of.model_dump(include={"claim", "split", "metric", "title", "control", "better"}),
            "without": any_of.regimes[0],
            "having": any_of.regimes[1],
            "page": page.get(key),
        }
        for (column, result), word in zip(results.items(), words, strict=True):
            line[column] = word
            for name in ("estimate", "low", "high", "p"):
                value = None if result is None else getattr(result, name)
                line[f"{column}_{name}"] = None if value is None else float(f"{value:.6g}")
            line[f"{column}_families"] = None if result is None else result.n_families
            line[f"{column}_trainings"] = None if result is None else result.n_trainings
            line[f"{column}_reason"] = "forces are worse than none" if result is None else result.reason
        signs = {_sign(result) for result in results.values() if result is not None and result.estimate is not None}
        opposite = {"better", "worse"} <= set(words)
        printed = not {"better", "worse"}.isdisjoint([*words, line["page"]])
        line["changed"] = (printed and len(signs) > 1) if by_sign else opposite
        decided = [word in DECIDED for word in words]
        line["undecided"] = any(decided) and not all(decided)
        line["differs"] = len(set(words)) > 1
        table.append(line)
    return table


def _sign(result: ClaimResult) -> bool:
    """Whether the labels raise the number."""
    assert result.estimate is not None
    return result.estimate > (1.0 if result.scale == "ratio" else 0.0)


def count(table: Sequence[Mapping[str, Any]], names: Iterable[str]) -> dict[str, int]:
    """Count lines; ``names`` are the columns."""
    names = list(names)
    return {
        "lines": len(table),
        "decided": sum(all(line[name] in DECIDED for name in names) for line in table),
        **{fact: sum(bool(line[fact]) for line in table) for fact in ("changed", "undecided", "differs")},
    }


def show(table: Sequence[Mapping[str, Any]], names: Sequence[str], console: Console) -> None:
    """Print the words side by side."""
    say(console, f"| claim | page | {' | '.join(names)} | changed |")
    say(console, "|---" * (len(names) + 3) + "|")
    for line in table:
        cells = []
        for name in names:
            estimate, low, high = (line[f"{name}_{part}"] for part in ("estimate", "low", "high"))
            number = "" if estimate is None else f" {estimate:.3f} ({low:.3f} to {high:.3f})"
            cells.append(f"{line[name]}{number}")
        what = f"{line['architecture']} {line['without']} → {line['having']}, {line['split']} {line['metric']}"
        change = "**yes**" if line["changed"] else "no"
        say(console, f"| {what} | {line['page'] or '–'} | {' | '.join(cells)} | {change} |")
