"""Tables of what was timed, from the records of ``hessgnn bench`` and of the scripts beside this package."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from hessgnn_bench.conditions import Conditions
from hessgnn_bench.report import Comparison, Report, Starts


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first column is text."""
    head = [f"| {' | '.join(titles)} |", "|---" + "|---:" * (len(titles) - 1) + "|"]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)])


def machine(record: Mapping[str, Any]) -> str:
    """What a record was measured on."""
    conditions = Conditions.model_validate(record["conditions"])
    return f"{conditions.hardware}, {conditions.threads} threads, torch {conditions.versions['torch']}"


def compared(record: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Title, facts and table of everything that ``hessgnn bench`` compared in one report."""
    for one in Report.model_validate(record).comparisons:
        facts = ", ".join(f"{number:,} {what}" for what, number in {"molecules": one.molecules, **one.facts}.items())
        yield one.title, f"{facts}; ratio to: {one.baseline}.", _comparison(one)


def _comparison(one: Comparison) -> str:
    memory = any(row.peak_memory is not None for row in one.rows)
    rows = []
    for row in one.rows:
        low, middle, high = row.over_baseline
        cells = [row.name, f"{1e3 * row.median:.1f}", f"{middle:.2f}", f"{low:.2f}-{high:.2f}"]
        cells.append(f"{row.molecules_per_second:.0f}")
        rows.append([*cells, f"{row.peak_memory:.0f}"] if row.peak_memory is not None else cells)
    return table(["work", "ms", "ratio", "quartiles", "molecules/s", *["peak / MiB"] * memory], rows)


def starts(record: Mapping[str, Any]) -> str:
    """The first steps of trainings, from ``benchmarks/recorded_step.py``; nothing where they were not measured."""
    found = Report.model_validate(record).starts
    return table(Starts.TITLES, [row for one in found for row in one.cells()]) if found else ""


def stored_products(record: Mapping[str, Any]) -> str:
    """Steps with stored products over steps with Rademacher probes, from ``benchmarks/stored_step.py``."""
    rows = []
    for row in sorted(record["rows"], key=lambda row: row["work"] != "step"):
        what = f"{row['architecture']} step" if row["work"] == "step" else "probes and products"
        low, middle, high = row["ratio"]
        times = [
            f"{1e3 * row['processor_seconds'][kind]:.{1 if row['work'] == 'step' else 2}f}"
            for kind in ("rademacher", "stored")
        ]
        rows.append([what, str(row["products"]), *times, f"{middle:.3f}", f"{low:.3f}-{high:.3f}"])
    return table(["work", "products", "rademacher / ms", "stored / ms", "ratio", "quartiles"], rows)


def ratio(record: Mapping[str, Any], title: str, work: str) -> float:
    """Median time of one piece of work over that of its baseline."""
    [one] = [one for one in Report.model_validate(record).comparisons if one.title == title]
    [row] = [row for row in one.rows if row.name == work]
    return row.over_baseline[1]


def peers(record: Mapping[str, Any]) -> str:
    """Steps of other packages, from ``benchmarks/peers.py``: ours over each, eager and, where measured, compiled."""
    models = [
        (match, batch, name, model)
        for match, batches in record["results"].items()
        for batch in batches.values()
        for name, model in batch["models"].items()
        if not name.startswith("hessgnn")
    ]
    titles = {"E-F": "E-F step", "E-F-H": "E-F-H step, 1 row", "E-F-H, 2 rows": "2 rows"}
    columns = [
        (label, work, f"{titles[work]}{', compiled' * (label == 'compiled_over_it')}")
        for label in ("ours_over_it", "compiled_over_it")
        for work in titles
        if any(work in model.get(label, {}) for *_, model in models)
    ]
    rows = []
    for match, batch, name, model in models:
        own = batch["models"]["hessgnn"]
        cells = [f"{match}: {name} {model['version']}", str(batch["atoms"]), f"{own['parameters']:,}"]
        cells.append(f"{model['parameters']:,}")
        for label, work, _ in columns:
            known = model.get(label, {}).get(work)
            cells.append("" if known is None else "{1:.2f} ({0:.2f}-{2:.2f})".format(*known))
        rows.append(cells)
    return table(["package", "atoms", "our parameters", "its", *(title for *_, title in columns)], rows)


def peers_left_out(record: Mapping[str, Any]) -> list[str]:
    """What could not be measured, with the reason: one sentence each."""
    found = [f"{name}: {reason}." for name, reason in record["left_out"].items()]
    for match, batches in record["results"].items():
        for batch in batches.values():
            found += [f"{match}: {reason}." for reason in batch["failed"].values()]
            for name, model in batch["models"].items():
                found += [f"{match}: {name}, {work}: {why}." for work, why in model.get("refused", {}).items()]
    return list(dict.fromkeys(found))


def time_to_error(record: Mapping[str, Any]) -> str:
    """Training until an error is reached, from ``benchmarks/time_to_error.py``."""
    forms = {"steps": ".0f", "seconds": ".2f", "over 2 rows": ".2f", "over full": ".3f"}
    rows = []
    for name in (name for name in record["settings"]["architectures"] if name in record):
        for recipe, row in record[name]["recipes"].items():
            each = [_several(row[key], form) if key in row else "" for key, form in forms.items()]
            step = f"{1e3 * statistics.median(row['seconds_per_step']):.1f}"
            rows.append([f"{name}: {recipe}", f"{record[name]['target']:.2f}", step, *each])
    titles = ["recipe", "target / eV/Å²", "ms/step", "steps", "device-seconds", "over 2 rows", "over full"]
    return table(titles, rows)


def _several(values: Sequence[float | None], form: str) -> str:
    """Mean and each seed."""
    each = ", ".join("never" if value is None else format(value, form) for value in values)
    known = [value for value in values if value is not None]
    return f"{np.mean(known):{form}} ({each})" if len(known) == len(values) else each


def lazy_studies(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Architectures and sizes that were trained."""
    return list(dict.fromkeys((row["architecture"], row["size"]) for row in record["rows"]))


def lazy(record: Mapping[str, Any], architecture: str, size: str) -> str:
    """Whole trainings with fewer Hessian products, from ``benchmarks/lazy.py``."""
    rows = []
    for row in record["rows"]:
        if (row["architecture"], row["size"]) != (architecture, size):
            continue
        costs = ["" if row[key] is None else f"{row[key]:.2f}" for key in ("step_cost", "seconds_over_base")]
        ratios = [row[key]["ratio"] for key in ("hessian test", "hessian nms", "forces test", "forces nms")]
        cells = [spread(ratio, 3) for ratio in ratios]
        rows.append([row["variant"], str(row["steps"]), *costs, *cells, f"{100 * row['clipped']:.0f} %"])
    titles = ["variant", "steps", "step / E-F", "device-s", "H test", "H nms", "F test", "F nms", "clipped"]
    return table(titles, rows)


def spread(ratio: Sequence[float | None], digits: int = 2) -> str:
    """A ratio with its interval, where there is one."""
    mean, *bounds = (None if value is None else f"{value:.{digits}f}" for value in ratio)
    return str(mean) if None in bounds else f"{mean} ({bounds[0]} to {bounds[1]})"


def lazy_row(record: Mapping[str, Any], architecture: str, variant: str, size: str = "real") -> Mapping[str, Any]:
    """One variant of one architecture."""
    [row] = [
        row
        for row in record["rows"]
        if (row["architecture"], row["size"], row["variant"]) == (architecture, size, variant)
    ]
    return row


class Probe(NamedTuple):
    """Geometric means over architectures, states and structures of one estimator with K products."""

    name: str
    number: int
    gradient: float
    cost: float
    merit: float
    combined: float
    bias: float


def probes(record: Mapping[str, Any]) -> list[Probe]:
    """Estimators of ``hessgnn bench probes``, the least noise at equal device-seconds first."""
    kept: dict[tuple[str, int, float], list[Mapping[str, Any]]] = {}
    for situation in record["situations"]:
        for row in situation["rows"]:
            kept.setdefault((row["estimator"], row["number"], row["fraction"]), []).append(row)
    means = []
    for (name, number, fraction), found in kept.items():
        gradient, cost, merit, combined = (
            float(np.exp(np.mean([np.log(max(row[key], 1e-12)) for row in found])))
            for key in ("gradient", "cost", "merit", "combined")
        )
        if name == "full":
            gradient = merit = 0.0
        label = name if fraction == 1 else f"{name}, {fraction:.0%} of the batch"
        means.append(Probe(label, number, gradient, cost, merit, combined, max(abs(row["bias"]) for row in found)))
    return sorted(means, key=lambda one: one.combined)


def probe_table(record: Mapping[str, Any]) -> str:
    """All estimators."""
    rows = []
    for one in probes(record):
        gradient, merit = ("0" if value == 0 else f"{value:.3f}" for value in (one.gradient, one.merit))
        rows.append([one.name, str(one.number), gradient, f"{one.cost:.2f}", merit, f"{one.combined:.3f}"])
        rows[-1].append(f"{one.bias:.1f}")
    titles = ["estimator", "K", "gradient's variance", "cost", "variance × cost", "with the batch", "largest bias/σ"]
    return table(titles, rows)


def estimators(record: Mapping[str, Any]) -> set[str]:
    """Names of those that are estimates: all but the full Hessian."""
    return {row["estimator"] for one in record["situations"] for row in one["rows"]} - {"full"}


def noise(record: Mapping[str, Any], name: str, number: int) -> float:
    """Variance at equal device-seconds, the choice of the batch included."""
    [found] = [one.combined for one in probes(record) if (one.name, one.number) == (name, number)]
    return found


def situation_table(record: Mapping[str, Any]) -> str:
    """Variance of the gradient by architecture, state and structures."""
    columns = [("rows", 1), ("gaussian", 1), ("rademacher", 1), ("rademacher", 2), ("modes", 1), ("modes", 2)]
    lines = []
    for one in record["situations"]:
        found = {(row["estimator"], row["number"]): row for row in one["rows"] if row["fraction"] == 1}
        values = [f"{found[column]['gradient']:.2f}" if column in found else "" for column in columns]
        names = f"{one['architecture']}, {one['state']}, {one['data']}"
        lines.append([names, f"{one['batch_gradient']:.2f}", *values])
    headings = [name if number == 1 else f"{name}, K={number}" for name, number in columns]
    return table(["situation", "choice of the batch", *headings], lines)


def sparse(record: Mapping[str, Any]) -> str:
    """Hessians of large structures, from ``benchmarks/sparse_hessian.py``."""
    rows = []
    for row in record["rows"]:
        way = "row by row" if row["products"] == row["row_by_row"] else row["way"]
        cells = [f"{row['potential']}: {row['structure']}", str(row["atoms"]), f"{row['full']:.2f}", way]
        cells += ["" if row[key] is None else str(row[key]) for key in ("products", "row_by_row")]
        cells.append("" if row["seconds"] is None else f"{row['seconds']:.1f}")
        cells.append("" if row["seconds_row_by_row"] is None else f"~{row['seconds_row_by_row']:.0f}")
        rows.append(cells)
    titles = ["potential: structure", "atoms", "share of blocks in range", "way", "products", "row by row", "s"]
    return table([*titles, "s row by row"], rows)


def kept_over_returned(record: Mapping[str, Any], architecture: str, what: str) -> tuple[float, float, float]:
    """Quartiles of what it took while freed memory was kept, over what it took while it was returned."""
    found = record["results"][architecture]
    kept, returned = ([one[what] for one in found[kind]] for kind in ("kept", "given back"))
    low, middle, high = np.quantile(np.divide(kept, returned), (0.25, 0.5, 0.75)).tolist()
    return low, middle, high


def kept_memory(record: Mapping[str, Any]) -> str:
    """Freed memory kept or returned, from ``benchmarks/kept_memory.py``."""
    rows = []
    for architecture, found in record["results"].items():
        for what, label in (("training", "training"), ("judging", "evaluation"), ("peak", "peak")):
            low, middle, high = kept_over_returned(record, architecture, what)
            unit, digits = ("MiB", 0) if what == "peak" else ("s", 1)
            medians = [f"{statistics.median(one[what] for one in found[kind]):.{digits}f}" for kind in found]
            rows.append([f"{architecture}: {label}, {unit}", *medians, f"{middle:.2f}", f"{low:.2f}-{high:.2f}"])
    return table(["", "returned", "kept", "ratio", "quartiles"], rows)


def waiting_threads(record: Mapping[str, Any]) -> str:
    """Steps on quiet and busy machines, from ``benchmarks/waiting_threads.py``."""
    rows = [
        [f"{architecture}: {state}", *(_range([1e3 * second for second in seconds]) for seconds in ways.values())]
        for architecture, states in record["results"].items()
        for state, ways in states.items()
    ]
    ways = next(iter(next(iter(record["results"].values())).values()))
    return table(["machine", *ways], rows)


def _range(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f}-{max(values):.0f})"


def scaling(record: Mapping[str, Any]) -> str:
    """Steps of one and several threads and processes, from ``benchmarks/scaling.py``."""
    rows = []
    for piece in record["results"]:
        layouts = piece["layouts"]
        base, *others = (name for name in layouts if "worker" not in name)
        cells = [
            f"{piece['architecture']}, {piece['batch_size']}, {piece['kind']}",
            f"{1e3 * _middle(layouts, base):.1f}",
        ]
        for name in others:
            speedup = [one["step"] / other["step"] for one, other in zip(layouts[base], layouts[name], strict=True)]
            cells.append(f"{statistics.median(speedup):.2f}")
        shares = [(base, "loader"), (base, "targets"), (others[-1], "exchange"), (others[-1], "waiting")]
        shares += [(name, "loader") for name in layouts if "worker" in name]
        rows.append([*cells, *(f"{_middle(layouts, *share, over='step'):.1%}" for share in shares)])
    first, *others = (name for name in record["results"][0]["layouts"] if "worker" not in name)
    titles = ["potential, batch, labels", f"{first}, ms", *(f"{name}, speed-up" for name in others)]
    return table([*titles, "loader", "targets", "exchange", "waiting", "loader, 1 worker"], rows)


def _middle(layouts: Mapping[str, Any], name: str, what: str = "step", over: str | None = None) -> float:
    return statistics.median(one[what] / (1.0 if over is None else one[over]) for one in layouts[name])
