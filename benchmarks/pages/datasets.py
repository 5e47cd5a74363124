"""Tables of what data sets hold, from ``benchmarks/describe_data.py``, and of finite-difference steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pages.speed import table


def contents(found: Mapping[str, Any]) -> str:
    """How many structures of what kind each split holds."""
    rows = []
    for split, one in found["splits"].items():
        kinds = ", ".join(f"{kind} {number}" for kind, number in one["kinds"].items())
        elements = ", ".join(f"{symbol} {number}" for symbol, number in one["elements"].items())
        sizes = "…".join(map(str, one["atoms"]))
        rows.append([split, str(one["structures"]), kinds, str(one["groups"]), sizes, elements])
    return table(["split", "structures", "kinds", "families", "atoms", "structures with"], rows)


def labels(found: Mapping[str, Any]) -> str:
    """How large the labels of each split are, and how noisy."""
    rows = []
    for split, one in found["splits"].items():
        heights = " / ".join(f"{height:.2f}" for height in one["heights"])
        noise = [f"{entry['high']:.1e}" for entry in one["noise"][:3]]
        forces = f"{one['rms_forces']:.2g} / {one['max_force']:.2g}"
        rows.append([split, heights, forces, f"{one['rms_hessian']:.2f}", *noise])
    titles = ["split", "energy\\* / eV", "force, RMS / largest / eV/Å", "Hessian, RMS / eV/Å²"]
    return table([*titles, "\\|H − Hᵀ\\|", "\\|Σ H\\|", "\\|H u + ω × F\\|"], rows)


def kinds(found: Mapping[str, Any]) -> dict[str, int]:
    """Kind -> structures of that kind in all splits."""
    total: dict[str, int] = {}
    for one in found["splits"].values():
        for kind, number in one["kinds"].items():
            total[kind] = total.get(kind, 0) + number
    return total


def product_table(record: Mapping[str, Any]) -> str:
    """Errors of products by step and kind, from ``benchmarks/direction_step.py``; the automatic step in bold."""
    kinds = list(dict.fromkeys(row["kind"] for row in record["rows"]))
    cells: dict[tuple[str, float], dict[str, str]] = {}
    for row in sorted(record["rows"], key=lambda row: (row["scheme"], row["step"], not row["auto"])):
        text = f"{row['error']:.0e} ({100 * row['coverage']:.0f} %)".replace("e-0", "e-")
        of_step = cells.setdefault((row["scheme"], row["step"]), {})
        of_step.setdefault(row["kind"], f"**{text}**" if row["auto"] else text)
    rows = [
        [f"{scheme}, {step:.6f}".rstrip("0"), *(found.get(kind, "") for kind in kinds)]
        for (scheme, step), found in cells.items()
    ]
    return table(["scheme, step / Å", *kinds], rows)


def grid_table(record: Mapping[str, Any]) -> str:
    """Errors of Hessians by grid, from ``benchmarks/dft_hessians.py``: worst of all structures, sum of times."""
    cells: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in record["rows"]:
        cells.setdefault((row["how"], row["grid_level"]), []).append(row)
    names = {
        "differences": "central differences",
        "response": "analytic, `grid_response`",
        "plain": "analytic, without",
    }
    rows = [
        [
            f"{names[how]}, grid {level}",
            *(f"{max(row[key] for row in found):.1e}" for key in ("relative", "largest", "sum_rule")),
            f"{sum(row['seconds'] for row in found):.0f}",
        ]
        for (how, level), found in cells.items()
    ]
    return table(["Hessian", "relative", "largest / eV/Å²", "sum rule / eV/Å²", "time / s"], rows)


def worst_grids(record: Mapping[str, Any]) -> dict[tuple[str, int], float]:
    """Largest relative error of any structure, for each way and grid of ``benchmarks/dft_hessians.py``."""
    worst: dict[tuple[str, int], float] = {}
    for row in record["rows"]:
        key = row["how"], row["grid_level"]
        worst[key] = max(row["relative"], worst.get(key, 0.0))
    return worst


def step_table(record: Mapping[str, Any], chosen: tuple[float, float]) -> str:
    """Errors of finite differences by step and accuracy, from ``benchmarks/hessian_step.py``."""
    accuracies = sorted({row["accuracy"] for row in record["rows"]}, reverse=True)
    cells: dict[float, list[str]] = {}
    for row in record["rows"]:
        text = " / ".join(f"{row[key]:.1e}" for key in ("error", "asymmetry", "sum_rule"))
        bold = (row["step"], row["accuracy"]) == chosen
        cells.setdefault(row["step"], []).append(f"**{text}**" if bold else text)
    head = ["step / Å", *(f"accuracy {accuracy:g}" for accuracy in accuracies)]
    return table(head, [[f"{step}", *found] for step, found in cells.items()]).replace("---:", "---")
