"""From records to ranked rows: seeds are joined, failures are counted, unlike data are refused, ties share a rank."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from importlib import metadata

from hessgnn.errors import DataError
from hessgnn.evaluation.record import DataSource, Record
from hessgnn.evaluation.tasks.accuracy import METRICS
from hessgnn.leaderboard.board import Failure, Leaderboard, MetricInfo, RegimeRanks, Row, Score, TaskFailure
from hessgnn.leaderboard.claims import judge_claims
from hessgnn.leaderboard.collect import RunFiles
from hessgnn.leaderboard.gains import gains
from hessgnn.training.regimes import Regime

OVERALL_METRICS = ("energy_rmse", "forces_rmse", "hessian_rmse")
"""The parts of the overall score, each over the mean predictor's."""

SAME_DATA = ("content_hash", "split_hash", "level_of_theory")
"""What every record of a leaderboard must share."""

STATIONARY = 10.0
"""meV/Å: a split on which predicting no force at all does better than this holds stationary points."""

EXAMPLES = 3
"""Structures that are named for each reason why a task failed."""

COMPARED: tuple[Regime, ...] = ("E", "E-F", "E-F+", "E-F+H", "E-H", "E-F-H")
"""Regimes that ranks are given within."""

References = dict[str, dict[str, float]]


def score(loaded: Sequence[RunFiles], title: str = "hessgnn leaderboard") -> Leaderboard:
    """Join seeds and rank entries.

    The overall score of a run is the geometric mean, over splits and over energy, forces and Hessian, of its RMSE
    divided by the mean predictor's, so 1 is a potential that knows the composition only. Forces of a split of
    stationary points are left out, since no force is the right answer there. A failed seed counts with
    the worst overall score of any finished run. Entries are ranked by their mean over seeds; an entry whose interval
    mean ± std touches that of the best one of a rank shares this rank, unless seeds of it failed.

    Raises
    ------
    DataError
        When records differ in data, split or level of theory, when a seed occurs twice, or when one metric comes in
        two units.
    """
    data = _common_data(loaded)
    records = [item.record for item in loaded]
    groups = _group(loaded)
    splits = list(dict.fromkeys(split for record in records for split in record.metrics))
    metrics = _metrics(loaded)
    references = _references(records, splits)
    worst = max((value for record in records if (value := _overall(record, references)) is not None), default=None)
    rows = ranked([_row(group, splits, metrics, references, worst) for group in groups.values()])
    structures = {split: _structures(records, split) for split in splits}
    return Leaderboard(
        title=title,
        hessgnn=metadata.version("hessgnn"),
        data=data,
        splits=splits,
        structures=structures,
        metrics=metrics,
        rows=rows,
        gains=gains(rows, splits, [name for name, info in metrics.items() if info.better == "lower"], loaded),
        ranks=regime_ranks(rows),
        claims=judge_claims(loaded),
        failures=[
            Failure(entry=record.entry, seed=record.seed, reason=record.reason)
            for record in records
            if record.reason is not None
        ],
        task_failures=task_failures(records),
        notes=[*_notes(rows, groups, structures, references), *(note for item in loaded for note in item.notes)],
        hardware=sorted({record.hardware for record in records if record.hardware}),
        versions={
            package: sorted({record.versions[package] for record in records if package in record.versions})
            for package in sorted({package for record in records for package in record.versions})
        },
    )


def task_failures(records: Iterable[Record]) -> list[TaskFailure]:
    """Join the failures of tasks that share entry, task, split and reason, the most frequent reason first."""
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for record in records:
        for failure in record.failures:
            key = (record.entry, failure.task, failure.split, failure.reason)
            found.setdefault(key, []).append(failure.structure or "")
    lines = [
        TaskFailure(
            entry=entry,
            task=task,
            split=split,
            reason=reason,
            n=len(names),
            examples=list(dict.fromkeys(filter(None, names)))[:EXAMPLES],
        )
        for (entry, task, split, reason), names in found.items()
    ]
    return sorted(lines, key=lambda line: (line.entry, line.task, line.split, -line.n))


def _common_data(loaded: Sequence[RunFiles]) -> DataSource:
    first = loaded[0]
    for item in loaded[1:]:
        for key in SAME_DATA:
            here, there = getattr(item.record.data, key), getattr(first.record.data, key)
            if here != there:
                raise DataError(
                    f"{key} is {here!r}, but {there!r} in {first.path}; unlike data cannot be compared",
                    where=item.path,
                    hint="make a separate leaderboard for each",
                )
    return first.record.data


def _kind(record: Record) -> tuple[str, str, str]:
    return record.architecture, record.regime, record.budget


def _group(loaded: Sequence[RunFiles]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    seen: dict[tuple[str, int | None], RunFiles] = {}
    for item in loaded:
        record = item.record
        twin = seen.setdefault((record.entry, record.seed), item)
        if twin is not item:
            raise DataError(
                f"seed {record.seed} of {record.entry!r} is already there from {twin.path}",
                where=item.path,
                hint="name every run once, and give other configurations an entry of their own",
            )
        group = groups.setdefault(record.entry, [])
        if group and _kind(group[0]) != _kind(record):
            raise DataError(
                f"entry {record.entry!r} joins different architectures, regimes or budgets",
                where=item.path,
                hint="give each an entry of its own",
            )
        group.append(record)
    return groups


def _metrics(loaded: Sequence[RunFiles]) -> dict[str, MetricInfo]:
    units = {name: unit for name, (_, unit) in METRICS.items()}
    found: dict[str, MetricInfo] = {}
    for item in loaded:
        for metrics in item.record.metrics.values():
            for name, metric in metrics.items():
                if units.setdefault(name, metric.unit) != metric.unit:
                    raise DataError(
                        f"{name} is given in {metric.unit!r}, expected {units[name]!r}",
                        where=item.path,
                        hint="run `hessgnn evaluate` on the run again",
                    )
                title = METRICS[name][0] if name in METRICS else metric.title or name
                found.setdefault(name, MetricInfo(title=title, unit=metric.unit, better=metric.better))
    return {name: found[name] for name in units if name in found}


def _references(records: Iterable[Record], splits: Sequence[str]) -> References | None:
    """Return the mean predictor's errors on every split, or None when it is missing or lacks a part."""
    baseline = next((r for r in records if r.regime == "mean" and r.status == "ok"), None)
    if baseline is None or not splits:
        return None
    references: References = {}
    for split in splits:
        for name in OVERALL_METRICS:
            value = _value(baseline, split, name)
            if value is None:
                return None
            if name == "forces_rmse" and value < STATIONARY:
                continue  # no force is the right answer there, so the mean predictor is no reference
            if value == 0:
                return None
            references.setdefault(split, {})[name] = value
    return references


def _value(record: Record, split: str, name: str) -> float | None:
    metric = record.metrics.get(split, {}).get(name)
    return None if metric is None else metric.value


def _overall(record: Record, references: References | None) -> float | None:
    if references is None or record.status == "failed":
        return None
    parts = []
    for split, reference in references.items():
        for name, scale in reference.items():
            value = _value(record, split, name)
            if value is None:
                return None
            parts.append(value / scale)
    return math.prod(part ** (1 / len(parts)) for part in parts)


def join(values: Sequence[float]) -> Score | None:
    """Take mean and sample standard deviation over seeds; None of no values."""
    if not values:
        return None
    return Score(
        mean=statistics.fmean(values),
        std=statistics.stdev(values) if len(values) > 1 else None,
        n=len(values),
    )


def _row(
    group: list[Record],
    splits: list[str],
    metrics: Iterable[str],
    references: References | None,
    worst: float | None,
) -> Row:
    finished = [record for record in group if record.status == "ok"]
    n_failed = len(group) - len(finished)
    overall = [worst if record.status == "failed" else _overall(record, references) for record in group]
    first, costs = group[0], [record.cost for record in finished or group]
    trained = first.regime != "mean"

    def mean(name: str) -> float | None:
        values = [value for cost in costs if (value := getattr(cost, name)) is not None]
        return statistics.fmean(values) if trained and values else None

    return Row(
        rank=None,
        entry=first.entry,
        architecture=first.architecture,
        regime=first.regime,
        budget=first.budget,
        status="ok" if n_failed == 0 else "partly failed" if finished else "failed",
        seeds=[record.seed for record in group],
        n_failed=n_failed,
        # One seed without a score leaves the entry without: leaving it out would reward the omission.
        overall=None if None in overall else join([value for value in overall if value is not None]),
        scores={
            split: {
                name: join([value for record in finished if (value := _value(record, split, name)) is not None])
                for name in metrics
            }
            for split in splits
        },
        parameters=first.parameters,
        weights=first.weights,
        steps=max(record.cost.steps for record in group),
        device=first.cost.device,
        seconds_per_step=mean("seconds_per_step"),
        device_seconds=mean("device_seconds"),
        products=mean("products"),
        sweep_trials=mean("sweep_trials"),
        sweep_device_seconds=mean("sweep_device_seconds"),
    )


def _structures(records: Iterable[Record], split: str) -> int | None:
    found = (r.metrics.get(split, {}).get(name) for r in records for name in METRICS)
    counts = {metric.n for metric in found if metric is not None and metric.value is not None}
    return counts.pop() if len(counts) == 1 else None


def _notes(
    rows: Sequence[Row],
    groups: dict[str, list[Record]],
    structures: dict[str, int | None],
    references: References | None,
) -> list[str]:
    """Tell the reader what makes the comparison less than fair."""
    notes = []
    if references is None:
        notes.append(
            "There is no overall score and no rank: they need a record of the mean predictor with the RMSE of energy, "
            "forces and Hessian on every split."
        )
    notes += [
        f"Forces on {split} are not part of the overall score: its structures are stationary points, where predicting "
        "no force at all is right."
        for split, reference in (references or {}).items()
        if "forces_rmse" not in reference
    ]
    equal = [row for row in rows if row.regime not in ("mean", "external") and row.budget == "steps"]
    budgets = sorted({row.steps for row in equal if row.status != "failed"})
    if len(budgets) > 1:
        notes.append(f"The training budgets differ: {', '.join(map(str, budgets))} steps.")
    notes += [
        f"Entries were judged on different numbers of structures of {split}."
        for split, n in structures.items()
        if n is None
    ]
    for row in rows:
        if row.n_failed:
            notes.append(
                f"{row.entry}: {row.n_failed} of {len(row.seeds)} seeds failed. The overall score counts them with "
                "the worst score of all finished runs; the other columns and the ratios show the finished seeds."
            )
        first, *others = groups[row.entry]
        if any((other.parameters, other.weights) != (first.parameters, first.weights) for other in others):
            notes.append(f"{row.entry}: its runs differ in more than the seed (parameters or loss weights).")
    return notes


def ranked(rows: Iterable[Row]) -> list[Row]:
    """Sort rows by their overall score and number them; those within noise of the best of a rank share it.

    Rows without an overall score come last, without a rank.
    """
    ordered = sorted(rows, key=lambda row: (math.inf if row.overall is None else row.overall.mean, row.entry))
    found: list[Row] = []
    leader: Row | None = None
    for position, row in enumerate(ordered, start=1):
        if row.overall is None:
            found.append(row)
            continue
        if leader is None or not _touch(leader, row):
            leader = row.model_copy(update={"rank": position})
        found.append(row.model_copy(update={"rank": leader.rank}))
    return found


def _touch(better: Row, worse: Row) -> bool:
    (_, upper), (lower, _) = _interval(better), _interval(worse)
    return lower <= upper


def _interval(row: Row) -> tuple[float, float]:
    """Return mean ± std of the overall score; a spread that comes from failures is no noise and earns no tie."""
    if row.overall is None:
        return math.inf, math.inf
    spread = 0.0 if row.n_failed else row.overall.std or 0.0
    return row.overall.mean - spread, row.overall.mean + spread


def regime_ranks(rows: Sequence[Row]) -> list[RegimeRanks]:
    """Rank architectures among themselves, once for each kind of labels.

    Only entries for equal steps count; of several of an architecture and regime, the best one. The list is empty
    unless two architectures share two regimes, since nothing could change then.
    """
    found: dict[Regime, dict[str, Row]] = {}
    for regime in COMPARED:
        first: dict[str, Row] = {}
        for row in ranked(row for row in rows if row.regime == regime and row.budget == "steps"):
            if row.overall is not None:
                first.setdefault(row.architecture, row)
        found[regime] = {row.architecture: row for row in ranked(first.values())}
    kept = [regime for regime in COMPARED if len(found[regime]) > 1]
    if len(kept) < 2:
        return []
    return [
        RegimeRanks(
            architecture=architecture,
            ranks={regime: _rank(found[regime].get(architecture)) for regime in kept},
            overall={
                regime: None if (best := found[regime].get(architecture)) is None else best.overall for regime in kept
            },
            places_gained=_places(found, architecture),
        )
        for architecture in sorted({name for regime in kept for name in found[regime]})
    ]


def _rank(row: Row | None) -> int | None:
    return None if row is None else row.rank


def _places(found: dict[Regime, dict[str, Row]], architecture: str) -> int | None:
    before, after = (_rank(found[regime].get(architecture)) for regime in ("E-F", "E-F-H"))
    return None if before is None or after is None else before - after
