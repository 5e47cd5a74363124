"""From records to ranked rows: seeds are joined, failures are counted, unlike data are refused, ties share a rank."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from importlib import metadata

from hessgnn.errors import ConfigError, DataError
from hessgnn.evaluation.record import DataSource, Record
from hessgnn.evaluation.tasks.accuracy import METRICS
from hessgnn.leaderboard.board import Failure, Leaderboard, MetricInfo, Row, Score, TaskFailure
from hessgnn.leaderboard.claims import judge_claims
from hessgnn.leaderboard.collect import Families, RunFiles
from hessgnn.leaderboard.comparisons import (
    QUANTITIES,
    STATIONARY,
    is_force_field,
    lineage,
    ranked,
    regime_ranks,
    zero_force,
)
from hessgnn.leaderboard.gains import changes, gains, start_of
from hessgnn.leaderboard.origins import ELSEWHERE, PUBLISHED, RANKED, ranked_by_origin
from hessgnn.training.regimes import UNTRAINED, OriginKind

WEIGHTS: Mapping[str, float] = {"energy": 1.0, "forces": 1.0, "hessian": 0.0}
"""Of the parts of the overall score: what every kind of labels can lower, as where a checkpoint is chosen."""

SAME_DATA = ("content_hash", "split_hash", "level_of_theory")
"""What every record of a leaderboard must share."""

EXAMPLES = 3
"""Structures that are named for each reason why a task failed."""

NO_REFERENCE = (
    "There is no overall score and no rank: they need a record of the mean predictor with the RMSE of everything that "
    "counts in the score, on every split. hessgnn leaderboard makes one where the data set of the runs is at "
    "hand; hessgnn.evaluation.evaluate.record_mean_predictor writes one."
)

References = dict[str, dict[str, float]]
"""Quantity -> split -> the mean predictor's RMSE."""


def score(
    loaded: Sequence[RunFiles], title: str = "hessgnn leaderboard", weights: Mapping[str, float] | None = None
) -> Leaderboard:
    """Join seeds and rank entries.

    The parts of a run's overall score are, for energy, forces and Hessian, the geometric mean over splits of its RMSE
    divided by the mean predictor's, so 1 is a potential that knows the composition only. Forces of a split of
    stationary points are left out, since no force is the right answer there. The overall score is the weighted
    geometric mean of the parts. A failed seed counts with the worst overall score of any finished run. Entries are
    sorted by their mean over seeds, and ranked by :func:`~hessgnn.leaderboard.comparisons.ranked`.

    Parameters
    ----------
    loaded
        The runs.
    title
        Heading of the page.
    weights
        Of energy, forces and hessian in the overall score; :data:`WEIGHTS` by default.

    Raises
    ------
    ConfigError
        When a weight is negative, unknown, or all are zero.
    DataError
        When records differ in data, split or level of theory, when a seed occurs twice, or when one metric comes in
        two units.
    """
    weights = _checked(WEIGHTS if weights is None else weights)
    data = _common_data(loaded)
    records = [item.record for item in loaded]
    groups = _group(loaded)
    families = Families(loaded)
    splits = list(dict.fromkeys(split for record in records for split in record.metrics))
    metrics = _metrics(loaded)
    references = _references(records, splits, weights)
    no_force = {split: zero_force(loaded, split) for split in splits}
    overall = partial(_overall, references=references, weights=weights)
    worst: dict[int, float] = {}
    for record in records:
        if (value := overall(record)) is not None:
            place = RANKED[record.origin]
            worst[place] = max(value, worst.get(place, value))
    made = [
        _row(group, splits, metrics, references, weights, worst.get(RANKED[group[0].origin]), no_force)
        for group in groups.values()
    ]
    rank = partial(ranked, loaded=loaded, families=families, weights=weights, zero_force=no_force)
    rows = ranked_by_origin(made, rank)
    demonstration = any(record.demonstration for record in records)
    lower = [name for name, info in metrics.items() if info.better == "lower"]
    found = gains(rows, splits, lower, loaded, families, no_force)
    changed = changes(rows, splits, lower, loaded, families)
    claims = [] if demonstration else judge_claims(loaded, families=families)
    structures = {split: _structures(records, split) for split in splits}
    return Leaderboard(
        title=title,
        hessgnn=metadata.version("hessgnn"),
        data=data,
        demonstration=demonstration,
        weights=dict(weights),
        splits=splits,
        zero_force_mae=no_force,
        structures=structures,
        metrics=metrics,
        rows=rows,
        gains=found,
        changes=changed,
        ranks=regime_ranks(rows, rank),
        claims=claims,
        failures=[
            Failure(entry=record.entry, seed=record.seed, reason=record.reason)
            for record in records
            if record.reason is not None
        ],
        task_failures=task_failures(records),
        notes=[
            *_notes(rows, groups, structures, references, no_force),
            *families.notes(),
            *(note for item in loaded for note in item.notes),
        ],
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


def _kind(record: Record) -> tuple[str, ...]:
    return *lineage(record), record.regime, record.budget


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
                hint="name every run once, and give other configurations names of their own: train with name=…",
            )
        group = groups.setdefault(record.entry, [])
        if group and _kind(group[0]) != _kind(record):
            raise DataError(
                f"entry {record.entry!r} joins different architectures, starts, regimes or budgets",
                where=item.path,
                hint="give each configuration a name of its own: train with name=…",
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


def read_weights(text: str | None) -> dict[str, float] | None:
    """Read weights of the overall score, such as ``energy=1,forces=1,hessian=0.5``; :class:`ConfigError` if unclear."""
    if text is None:
        return None
    found = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            hint = "for example energy=1,forces=1,hessian=0"
            raise ConfigError("is no weight of the overall score", where=part, hint=hint) from None
    return found


def _checked(weights: Mapping[str, float]) -> dict[str, float]:
    if unknown := set(weights) - set(QUANTITIES):
        raise ConfigError("is no part of the overall score", where=min(unknown), hint=f"use {', '.join(QUANTITIES)}")
    found = {name: float(weights.get(name, 0.0)) for name in QUANTITIES}
    if min(found.values()) < 0 or not 0 < sum(found.values()) < math.inf:
        raise ConfigError("weights of the overall score must be positive or zero", hint="for example energy=1,forces=1")
    return found


def _references(records: Iterable[Record], splits: Sequence[str], weights: Mapping[str, float]) -> References | None:
    """Return the mean predictor's errors on every split, or None where it lacks one that counts."""
    baseline = next((r for r in records if r.regime == "mean" and r.status == "ok"), None)
    if baseline is None or not splits:
        return None
    references: References = {}
    for quantity in QUANTITIES:
        values = {split: _value(baseline, split, f"{quantity}_rmse") for split in splits}
        if quantity == "forces":  # where no force is the right answer, the mean predictor is no reference
            values = {split: value for split, value in values.items() if value is None or value >= STATIONARY}
        if all(values.values()):
            references[quantity] = {split: value for split, value in values.items() if value}
        elif weights[quantity]:
            return None
    return references


def _value(record: Record, split: str, name: str) -> float | None:
    metric = record.metrics.get(split, {}).get(name)
    return None if metric is None else metric.value


def _part(record: Record, quantity: str, references: References | None) -> float | None:
    """Geometric mean over splits of the RMSE over the mean predictor's."""
    scales = (references or {}).get(quantity, {})
    values = [(_value(record, split, f"{quantity}_rmse"), scale) for split, scale in scales.items()]
    known = [value / scale for value, scale in values if value is not None]
    if record.status == "failed" or not known or len(known) < len(values):
        return None
    return math.prod(part ** (1 / len(known)) for part in known)


def _overall(record: Record, references: References | None, weights: Mapping[str, float]) -> float | None:
    if references is None:
        return None
    counted = {name: weight for name, weight in weights.items() if weight and references.get(name)}
    parts = {name: _part(record, name, references) for name in counted}
    known = {name: part for name, part in parts.items() if part is not None}
    if not known or len(known) < len(parts):
        return None
    return math.prod(part ** (counted[name] / sum(counted.values())) for name, part in known.items())


def join(values: Sequence[float], subjects: Sequence[int] = ()) -> Score | None:
    """Take mean and sample standard deviation over seeds; None of no values.

    ``subjects`` is the number of structures behind each value, where it is known.
    """
    if not values:
        return None
    return Score(
        mean=statistics.fmean(values),
        std=statistics.stdev(values) if len(values) > 1 else None,
        n=len(values),
        subjects=min(subjects, default=None),
    )


def _row(
    group: list[Record],
    splits: list[str],
    metrics: Iterable[str],
    references: References | None,
    weights: Mapping[str, float],
    worst: float | None,
    no_force: Mapping[str, float | None],
) -> Row:
    finished = [record for record in group if record.status == "ok"]
    n_failed = len(group) - len(finished)
    overall = [worst if record.status == "failed" else _overall(record, references, weights) for record in group]
    scores = {split: {name: _score(finished, split, name) for name in metrics} for split in splits}
    first, costs = group[0], [record.cost for record in finished or group]
    trained = first.regime not in ("mean", "published")

    def mean(name: str) -> float | None:
        values = [value for cost in costs if (value := getattr(cost, name)) is not None]
        return statistics.fmean(values) if trained and values else None

    return Row(
        rank=None,
        entry=first.entry,
        architecture=first.architecture,
        regime=first.regime,
        origin=first.origin,
        start=lineage(first)[1],
        budget=first.budget,
        status="ok" if n_failed == 0 else "partly failed" if finished else "failed",
        seeds=[record.seed for record in group],
        n_failed=n_failed,
        # One seed without a score leaves the entry without: leaving it out would reward the omission.
        overall=None if None in overall else join([value for value in overall if value is not None]),
        parts={name: _over_seeds([_part(record, name, references) for record in finished]) for name in QUANTITIES},
        scores=scores,
        parameters=first.parameters,
        weights=first.weights,
        steps=max(record.cost.steps for record in group),
        converged=[record.converged for record in group] if trained else [],
        run_steps=[record.cost.steps for record in group] if trained else [],
        not_force_field=[
            split
            for split in splits
            if first.regime != "mean"
            and (forces := scores[split].get("forces_mae")) is not None
            and not is_force_field(forces.mean, no_force[split])
        ],
        device=first.cost.device,
        seconds_per_step=mean("seconds_per_step"),
        device_seconds=mean("device_seconds"),
        products=mean("products"),
        sweep_trials=mean("sweep_trials"),
        sweep_device_seconds=mean("sweep_device_seconds"),
        label_gradients=mean("label_gradients"),
        validation_gradients=mean("validation_gradients"),
        tuning_gradients=mean("tuning_gradients"),
        start_gradients=mean("start_gradients"),
    )


def _score(finished: Sequence[Record], split: str, name: str) -> Score | None:
    found = [metric for record in finished if (metric := record.metrics.get(split, {}).get(name)) is not None]
    known = [(metric.value, metric.n) for metric in found if metric.value is not None]
    return join([value for value, _ in known], [n for _, n in known])


def _over_seeds(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def _structures(records: Iterable[Record], split: str) -> int | None:
    found = (r.metrics.get(split, {}).get(name) for r in records for name in METRICS)
    counts = {metric.n for metric in found if metric is not None and metric.value is not None}
    return counts.pop() if len(counts) == 1 else None


def _notes(
    rows: Sequence[Row],
    groups: dict[str, list[Record]],
    structures: dict[str, int | None],
    references: References | None,
    no_force: Mapping[str, float | None],
) -> list[str]:
    """Tell the reader what makes the comparison less than fair."""
    notes = []
    if references is None:
        notes.append(NO_REFERENCE)
    notes += [
        f"{row.entry}: not a force field on {split}. Its force MAE, {score.mean:,.0f} meV/Å, is above that of "
        f"predicting no force at all, {no_force[split]:,.0f} meV/Å. Ratios and claims of its forces there are not "
        "printed."
        for row in rows
        for split in row.not_force_field
        if (score := row.scores[split]["forces_mae"]) is not None
    ]
    notes += [
        f"Forces on {split} are not part of the overall score, and have no ratios: its structures are stationary "
        "points, where predicting no force at all is right."
        for split, zero in no_force.items()
        if zero is not None and zero < STATIONARY
    ]
    origins: tuple[OriginKind, ...] = ("trained here", "fine-tuned")
    for origin in origins:
        equal = [row for row in rows if row.origin == origin and row.regime not in UNTRAINED and row.budget == "steps"]
        budgets = sorted({row.steps for row in equal if row.status != "failed"})
        if len(budgets) > 1:
            whose = " of fine-tuned entries" if origin == "fine-tuned" else ""
            notes.append(f"The training budgets{whose} differ: {', '.join(map(str, budgets))} steps.")
    if any(row.origin == "published" for row in rows):
        notes.append(PUBLISHED)
    if elsewhere := [row.entry for row in rows if row.origin == "trained elsewhere"]:
        notes.append(ELSEWHERE.format(entries=", ".join(elsewhere)))
    notes += [
        f"{row.entry}: what it started from, {row.start}, is not on this page, so it has no before and after."
        for row in rows
        if row.origin == "fine-tuned" and start_of(row, rows) is None
    ]
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
