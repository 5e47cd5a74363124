"""The result of a trial of a sweep, the table ``trials.csv`` of all of them, and whether their ranking lasts."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from scipy import stats

from hessgnn.errors import DataError
from hessgnn.runtime.files import write_text

NEEDED = ("architecture", "trial", "score", "state")
"""Columns that a table of trials must have."""


@dataclass(frozen=True)
class TrialResult:
    """A finished trial."""

    architecture: str
    trial: int
    kind: str
    """How its values were chosen, such as ``paper`` or ``sampled``; ``baseline`` in files of version 0.1.0."""
    regime: str
    """The labels that it was trained on."""
    values: dict[str, Any]
    """Dotted key -> tuned value."""
    score: float | None
    """Validation error in fixed units; in files of version 0.1.0, relative to the architecture's on E-F alone."""
    device_seconds: float
    products: int
    attempts: int
    state: str
    reason: str | None
    final_score: float | None = None
    """Where it was trained again for as long as the retraining, to check the ranking."""

    @property
    def subject(self) -> str:
        """What was tuned on its own."""
        return f"{self.architecture} {self.regime}".strip()

    @property
    def numbers(self) -> dict[str, float]:
        """The tuned values that are numbers; others are words, such as a kind of probes."""
        return {key: float(value) for key, value in self.values.items() if isinstance(value, int | float)}


def write_trials(trials: Iterable[TrialResult], tuned: Iterable[str], path: Path) -> None:
    """Write trials as CSV, with a column for each dotted key of ``tuned``."""
    text = io.StringIO()
    names, place = [field.name for field in fields(TrialResult)], 4
    plain = [name for name in names if name != "values"]
    columns = [*plain[:place], *tuned, *plain[place:]]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for trial in trials:
        writer.writerow({name: getattr(trial, name) for name in plain} | trial.values)
    write_text(path, text.getvalue())


def read_trials(path: Path) -> list[TrialResult]:
    """Read what :func:`write_trials` wrote; only the columns :data:`NEEDED` have to be there.

    Columns with a dot in their name are what was tuned.

    Raises
    ------
    DataError
        When the file is missing, is no table of trials, or holds something that is no number.
    """
    hint = "name the trials.csv of a sweep's folder"
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            missing = [name for name in NEEDED if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(f"lacks the column {missing[0]!r}", where=path, hint=hint)
            tuned = [name for name in reader.fieldnames or () if "." in name]
            return [_trial(line, tuned, f"{path}, line {reader.line_num}") for line in reader]
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=path, hint=hint) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"is no table ({error})", where=path, hint=hint) from error


def _trial(line: dict[str, str | None], tuned: Sequence[str], where: str) -> TrialResult:
    def number(key: str) -> float | None:
        text = (line.get(key) or "").strip()
        if not text:
            return None
        try:
            value = float(text)
        except ValueError as error:
            raise DataError(f"{key} is {text!r}, which is no number", where=where, hint="mend the line") from error
        return value if math.isfinite(value) else None

    return TrialResult(
        architecture=line["architecture"] or "",
        trial=int(number("trial") or 0),
        kind=line.get("kind") or line.get("regime") or "",
        regime=line.get("regime") or "",
        values={key: _value(text) for key in tuned if (text := line.get(key) or "")},
        score=number("score"),
        device_seconds=number("device_seconds") or 0.0,
        products=int(number("products") or 0),
        attempts=int(number("attempts") or 1),
        state=line["state"] or "",
        reason=line.get("reason") or None,
        final_score=number("final_score"),
    )


def _value(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


@dataclass(frozen=True)
class RankingCheck:
    """Scores of some trials after as many steps as a trial has, and after as many as the retraining has."""

    subject: str
    trials: int
    """That were trained for both lengths."""
    chosen: int
    """The trial with the lowest score of a trial's length, which is retrained."""
    best: int
    """The trial with the lowest score of the final length."""
    excess: float
    """Final score of the chosen one over that of the best one; 1 where they are the same."""
    kendall: float | None
    spearman: float | None
    """Rank correlations of both lengths; ``None`` where all scores of a length are equal."""

    @property
    def holds(self) -> bool:
        """Whether the chosen trial is still the best."""
        return self.excess == 1


def check_rankings(trials: Iterable[TrialResult]) -> dict[str, RankingCheck | None]:
    """Compare the ranking of trials at both lengths: subject -> check, ``None`` where too few had both."""
    by_subject: dict[str, list[tuple[int, float, float]]] = {}
    for trial in trials:
        pairs = by_subject.setdefault(trial.subject, [])
        if trial.state == "complete" and trial.score is not None and trial.final_score is not None:
            pairs.append((trial.trial, trial.score, trial.final_score))
    return {subject: _check(subject, pairs) if len(pairs) > 1 else None for subject, pairs in by_subject.items()}


def _check(subject: str, pairs: Sequence[tuple[int, float, float]]) -> RankingCheck:
    chosen = min(pairs, key=lambda pair: (pair[1], pair[0]))
    best = min(pairs, key=lambda pair: (pair[2], pair[0] != chosen[0], pair[0]))
    short, long = [pair[1] for pair in pairs], [pair[2] for pair in pairs]
    known = len(set(short)) > 1 and len(set(long)) > 1
    return RankingCheck(
        subject=subject,
        trials=len(pairs),
        chosen=chosen[0],
        best=best[0],
        excess=chosen[2] / best[2],
        kendall=float(stats.kendalltau(short, long).statistic) if known else None,
        spearman=float(stats.spearmanr(short, long).statistic) if known else None,
    )
