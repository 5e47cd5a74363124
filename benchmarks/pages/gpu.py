"""What a GPU has shown, from a record of ``benchmarks/gpu.py``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hessgnn.errors import DataError
from pages.speed import table

Record = Mapping[str, Any]


def machine(record: Record) -> str:
    """What a record was measured on.

    Raises
    ------
    DataError
        When that is no GPU: the script is tried out on CPUs too.
    """
    [found] = record["results"].get("facts") or [{}]
    if found.get("device") != "cuda":
        raise DataError("was not measured on a GPU", where="a record of benchmarks/gpu.py", hint="remove it")
    return f"{found['name']}, driver {found['driver']}, torch {found['versions']['torch']}"


def tests(record: Record) -> str:
    """How the tests that need a GPU ended."""
    found = {**record["results"].get("tests", {}), **record["results"].get("tests of compiled steps", {})}
    counts = Counter(found.values())
    bad = sorted(f"`{name.rpartition('::')[2]}`" for name, outcome in found.items() if outcome in ("FAILED", "ERROR"))
    text = ", ".join(f"{number} {outcome.lower()}" for outcome, number in sorted(counts.items())) or "none run"
    return f"{text}; failed: {', '.join(bad)}" if bad else text


def steps(record: Record, *pieces: str) -> str:
    """Times and memory of steps or Hessians; ratios are to the first work of each group, or to its baseline."""
    rows = []
    for group in _groups(record, pieces):
        label = f"{group['architecture']}, {group['size']}, {group['batch']}"
        known = {row["name"]: row["median"] for row in group["rows"] if "median" in row}
        baseline = known.get(group.get("baseline") or "E-F", known.get("E-F"))
        for row in group["rows"]:
            if "median" not in row:
                rows.append([label, row["name"], row["reason"], "", ""])
                continue
            ratio = "" if baseline is None else f"{row['median'] / baseline:.2f}"
            peak = "" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}"
            rows.append([label, row["name"], f"{1e3 * row['median']:.2f}", ratio, peak])
    return table(["architecture, size, molecules", "work", "ms", "ratio", "peak / MiB"], rows)


def loading(record: Record) -> str:
    """Time of a batch on the host over that of its step."""
    rows = []
    for row in _groups(record, ["loader"]):
        host, step, fed = (row[key] for key in ("host", "step", "fed"))
        cells = [f"{row['architecture']}, {row['size']}, {row['batch']}", str(row["workers"]), f"{1e3 * host:.2f}"]
        known = [] if step is None else [f"{1e3 * step:.2f}", f"{host / step:.2f}", f"{fed / step:.2f}"]
        rows.append([*cells, *(known or ["", "", ""])])
    titles = ["architecture, size, molecules", "workers", "batch / ms", "step / ms", "batch over step", "fed over step"]
    return table(titles, rows)


def precision(record: Record) -> str:
    """Errors against float64 as shares of the root mean square."""
    rows = []
    for row in _groups(record, ["precision"]):
        for kind in ("float32", "TF32"):
            errors = [f"{row[kind][key]['relative']:.1e}" for key in ("energy", "forces", "hessian")]
            rows.append([f"{row['architecture']}: {kind}", *errors, f"{1e3 * row[kind]['step']:.2f}"])
    return table(["", "energy", "forces", "Hessian", "step / ms"], rows)


def training(record: Record) -> str:
    """Errors after some shares of the time of a training."""
    rows = []
    for run in _groups(record, ["training"]):
        curve = run["curve"]
        for k in sorted({len(curve) // 8, len(curve) // 4, len(curve) // 2, len(curve) - 1} if curve else ()):
            point = curve[k]
            errors = ["" if point[key] is None else f"{point[key]:.4g}" for key in ("energy", "forces", "hessian")]
            rows.append([run["architecture"], f"{point['seconds']:.1f}", str(point["step"]), *errors])
    return table(["architecture", "s", "step", "E RMSE / eV/atom", "F RMSE / eV/Å", "H RMSE / eV/Å²"], rows)


def left_out(record: Record) -> list[str]:
    """Pieces and parts of pieces that were not measured, with the reason."""
    found = [f"{name}: {one['reason']}" for name, one in record["pieces"].items() if one.get("reason")]
    for name, results in record["results"].items():
        if isinstance(results, list):
            found += [
                f"{name}, {one['title']}: {one['reason']}" for one in results if "reason" in one and "title" in one
            ]
    return found


def _groups(record: Record, pieces: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    for piece in pieces:
        yield from (one for one in record["results"].get(piece, []) if "architecture" in one)
