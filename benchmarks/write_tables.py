"""Write docs/results/speed.md from the JSON files in benchmarks/results: no figure in it is typed by hand.

Usage: python benchmarks/write_tables.py
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hessgnn_bench.conditions import Conditions
from hessgnn_bench.report import Report

from hessgnn.runtime.files import write_text

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "results" / "speed.md"

Lines = Iterator[str]

HEAD = """# Measured speed

Written by `python benchmarks/write_tables.py` from the files in `benchmarks/results`; each holds every repeat. Ratios
are medians, with quartiles, of repeats taken one after the other in one run. What they mean:
[performance](../performance.md)."""


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Lines:
    """A Markdown table whose first column is text."""
    yield ""
    yield f"| {' | '.join(titles)} |"
    yield "|---" + "|---:" * (len(titles) - 1) + "|"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def comparisons(path: Path) -> Lines:
    """What ``hessgnn bench`` wrote."""
    report = Report.read(path)
    yield f"{machine(report.conditions)}, {report.date[:10]}."
    for one in report.comparisons:
        facts = ", ".join(f"{number:,} {what}" for what, number in {"molecules": one.molecules, **one.facts}.items())
        yield f"\n### {one.title}\n\n{facts}; ratio to: {one.baseline}."
        memory = any(row.peak_memory is not None for row in one.rows)
        rows = []
        for row in one.rows:
            low, middle, high = row.over_baseline
            cells = [row.name, f"{1e3 * row.median:.1f}", f"{middle:.2f}", f"{low:.2f}-{high:.2f}"]
            cells.append(f"{row.molecules_per_second:.0f}")
            rows.append([*cells, f"{row.peak_memory:.0f}"] if row.peak_memory is not None else cells)
        yield from table(["work", "ms", "ratio", "quartiles", "molecules/s", *["peak / MiB"] * memory], rows)


def peers(path: Path) -> Lines:
    """What ``benchmarks/peers.py`` wrote."""
    record = json.loads(path.read_text(encoding="utf-8"))
    yield f"{record['machine']['threads']} threads, float32; ours over the other package's, below 1 is faster."
    works = ("E-F", "E-F-H")
    rows = []
    for architecture, batches in record["results"].items():
        for batch in batches.values():
            own = batch["models"]["hessgnn"]
            for name, model in batch["models"].items():
                if name == "hessgnn":
                    continue
                cells = [f"{architecture}: {name} {model['version']}", str(batch["atoms"]), f"{own['parameters']:,}"]
                cells.append(f"{model['parameters']:,}")
                for work in works:
                    known = model["ours_over_it"].get(work)
                    cells.append("" if known is None else "{1:.2f} ({0:.2f}-{2:.2f})".format(*known))
                rows.append(cells)
    titles = ["package", "atoms", "our parameters", "its", "E-F step", "E-F-H step, 1 row"]
    yield from table(titles, rows)


def time_to_error(path: Path) -> Lines:
    """What ``benchmarks/time_to_error.py`` wrote."""
    record = json.loads(path.read_text(encoding="utf-8"))
    settings = record["settings"]
    yield f"Seeds {', '.join(map(str, settings['seeds']))}; at most {settings['steps']} steps, validated every "
    yield f"{settings['every']}; the last columns: device-seconds over those of another recipe, seed by seed. "
    yield "Compiling is not in the seconds of compiled steps."
    rows = []
    for name in settings["architectures"]:
        if name not in record:
            continue
        if (compiling := record[name]["compiling_seconds"]) is not None:
            yield f"Compiling for {name}: {compiling:.0f} s (less where its cache is warm)."
        for recipe, row in record[name]["recipes"].items():
            forms = {"steps": ".0f", "seconds": ".2f", "over 2 rows": ".2f", "over full": ".3f"}
            each = [several(row[key], form) if key in row else "" for key, form in forms.items()]
            step = f"{1e3 * statistics.median(row['seconds_per_step']):.1f}"
            rows.append([f"{name}: {recipe}", f"{record[name]['target']:.2f}", step, *each])
    yield from table(
        ["recipe", "target / eV/Å²", "ms/step", "steps", "device-seconds", "over 2 rows", "over full"], rows
    )


def several(values: Sequence[float | None], form: str) -> str:
    """Mean and each seed."""
    each = ", ".join("never" if value is None else format(value, form) for value in values)
    known = [value for value in values if value is not None]
    return f"{np.mean(known):{form}} ({each})" if len(known) == len(values) else each


def probes(path: Path) -> Lines:
    """What ``hessgnn bench probes`` wrote."""
    record = json.loads(path.read_text(encoding="utf-8"))
    settings = record["settings"]
    yield f"{machine(Conditions.model_validate(record['conditions']))}. {settings['structures']} structures, "
    yield f"{settings['directions']} directions, {settings['draws']} draws, {settings['steps']} steps to half trained. "
    yield "Variance of the gradient of the Hessian term over its square, for a batch of "
    yield f"{settings['batch_size']}; the last but one column adds the noise of the batch's choice, times the cost "
    yield "of a step over an E-F step: noise at equal device-seconds. Geometric means over architectures, states "
    yield "and both sets of structures."
    kept: dict[tuple[str, int, float], list[Mapping[str, Any]]] = {}
    for situation in record["situations"]:
        for row in situation["rows"]:
            kept.setdefault((row["estimator"], row["number"], row["fraction"]), []).append(row)
    rows = []
    for (name, number, fraction), found in kept.items():
        gradient, cost, merit, combined = (
            float(np.exp(np.mean([np.log(max(row[key], 1e-12)) for row in found])))
            for key in ("gradient", "cost", "merit", "combined")
        )
        label = name if fraction == 1 else f"{name}, {fraction:.0%} of the batch"
        bias = max(abs(row["bias"]) for row in found)
        figures = [f"{gradient:.3f}", f"{cost:.2f}", f"{merit:.3f}", f"{combined:.3f}", f"{bias:.1f}"]
        if name == "full":
            figures[0] = figures[2] = "0"
        rows.append((combined, [label, str(number), *figures]))
    titles = ["estimator", "K", "gradient's variance", "cost", "variance × cost", "with the batch", "largest bias/σ"]
    yield from table(titles, [cells for _, cells in sorted(rows, key=lambda row: row[0])])
    yield "\n### By architecture, state and structures\n\nVariance of the gradient, K = 1 unless said."
    columns = [("rows", 1), ("gaussian", 1), ("rademacher", 1), ("rademacher", 2), ("modes", 1), ("modes", 2)]
    lines = []
    for one in record["situations"]:
        found_rows = {(row["estimator"], row["number"]): row for row in one["rows"] if row["fraction"] == 1}
        values = [f"{found_rows[c]['gradient']:.2f}" if c in found_rows else "" for c in columns]
        names = f"{one['architecture']}, {one['state']}, {one['data']}"
        lines.append([names, f"{one['batch_gradient']:.2f}", *values])
    headings = [name if number == 1 else f"{name}, K={number}" for name, number in columns]
    yield from table(["situation", "choice of the batch", *headings], lines)


def sparse(path: Path) -> Lines:
    """What ``benchmarks/sparse_hessian.py`` wrote."""
    record = json.loads(path.read_text(encoding="utf-8"))
    yield f"{record['threads']} threads, float64. Row by row is extrapolated from a few products (~)."
    rows = []
    for row in record["rows"]:
        way = "row by row" if row["products"] == row["row_by_row"] else row["way"]
        cells = [f"{row['potential']}: {row['structure']}", str(row["atoms"]), f"{row['full']:.2f}", way]
        cells += ["" if row[key] is None else str(row[key]) for key in ("products", "row_by_row")]
        cells.append("" if row["seconds"] is None else f"{row['seconds']:.1f}")
        cells.append("" if row["seconds_row_by_row"] is None else f"~{row['seconds_row_by_row']:.0f}")
        rows.append(cells)
    titles = ["potential: structure", "atoms", "share of blocks in range", "way", "products", "row by row", "s"]
    yield from table([*titles, "s row by row"], rows)


def kept_memory(path: Path) -> Lines:
    """What ``benchmarks/kept_memory.py`` wrote."""
    record = json.loads(path.read_text(encoding="utf-8"))
    settings = record["settings"]
    yield f"{machine(Conditions.model_validate(record['conditions']))}. {settings['workers']} runs side by side, "
    yield f"{settings['steps']} steps with Hessians each, then judged; medians, and ratios of rounds that took turns."
    rows = []
    for architecture, found in record["results"].items():
        for what in ("training", "judging", "peak"):
            back, kept = ([one[what] for one in found[kind]] for kind in ("given back", "kept"))
            ratios = np.divide(kept, back)
            low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
            unit = "MiB" if what == "peak" else "s"
            medians = [f"{statistics.median(values):.{0 if what == 'peak' else 1}f}" for values in (back, kept)]
            rows.append([f"{architecture}: {what}, {unit}", *medians, f"{middle:.2f}", f"{low:.2f}-{high:.2f}"])
    yield from table(["", "given back", "kept", "ratio", "quartiles"], rows)


def waiting_threads(path: Path) -> Lines:
    """What ``benchmarks/waiting_threads.py`` wrote."""
    record = json.loads(path.read_text(encoding="utf-8"))
    settings = record["settings"]
    yield f"{machine(Conditions.model_validate(record['conditions']))}. E-F-H steps of one probe on "
    yield f"{settings['batch_size']} molecules, ms: medians of {settings['repeats']} processes, smallest and largest."
    rows = [
        [f"{architecture}: {state}", *(_range([1e3 * second for second in seconds]) for seconds in ways.values())]
        for architecture, states in record["results"].items()
        for state, ways in states.items()
    ]
    ways = next(iter(next(iter(record["results"].values())).values()))
    yield from table(["machine", *ways], rows)


def _range(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f}-{max(values):.0f})"


def machine(conditions: Conditions) -> str:
    """On what."""
    return f"{conditions.hardware}, {conditions.threads} threads, torch {conditions.versions['torch']}"


SECTIONS: tuple[tuple[str, str, str, Callable[[Path], Lines]], ...] = (
    ("Training steps", "steps-cpu", "hessgnn bench steps --repeats {repeats} --memory -o FILE", comparisons),
    ("Full Hessians", "hessians-cpu", "hessgnn bench hessian --repeats {repeats} -o FILE", comparisons),
    (
        "Compiled steps, and batches in parts",
        "recorded-cpu",
        "python benchmarks/recorded_step.py FILE --repeats {repeats}",
        comparisons,
    ),
    ("Other packages", "peers-cpu", "python benchmarks/peers.py --envs DIR -o FILE", peers),
    (
        "Device-seconds to a given Hessian error",
        "time-to-error-cpu",
        "python benchmarks/time_to_error.py FILE --steps {steps} --every {every}",
        time_to_error,
    ),
    (
        "Which probe, how many",
        "probes-cpu",
        "hessgnn bench probes --draws {draws} --directions {directions} --steps {steps} -o FILE",
        probes,
    ),
    (
        "Loading",
        "loader-cpu",
        "hessgnn bench loader --structures {structures} --sizes {sizes} --repeats {repeats} -o FILE",
        comparisons,
    ),
    ("Large structures", "sparse-hessian-cpu", "python benchmarks/sparse_hessian.py FILE", sparse),
    (
        "Freed memory, given back or kept",
        "kept-memory-cpu",
        "python benchmarks/kept_memory.py FILE --steps {steps} --workers {workers}",
        kept_memory,
    ),
    (
        "Threads that wait",
        "waiting-threads-cpu",
        "python benchmarks/waiting_threads.py FILE --steps {steps} --repeats {repeats}",
        waiting_threads,
    ),
)
"""Heading, file, the command that makes it, and what renders it."""


def page(folder: Path = RESULTS) -> str:
    """The whole page, from the files that are there."""
    lines = [HEAD]
    for title, name, command, render in SECTIONS:
        path = folder / f"{name}.json"
        if path.exists():
            called = command.format(**json.loads(path.read_text(encoding="utf-8")).get("settings", {}))
            lines += [f"\n## {title}\n", f"`{called}` → `benchmarks/results/{path.name}`.", *render(path)]
    return "\n".join(line.rstrip(" ") for line in lines) + "\n"


if __name__ == "__main__":
    write_text(PAGE, page())
