"""Run every task on the reference itself, and on a surface that is bad on purpose.

Errors of GFN2-xTB on data labelled by GFN2-xTB are the noise of the tasks. The records are stored in
``benchmarks/results/reference-*.json``; ``render_pages.py`` makes docs/results/reference.md from them.

    python benchmarks/reference.py gfn2 [md.rise=500 …] [--folder runs/reference] [--tasks all] [--splits test,irc]
    python benchmarks/reference.py bad [md.rise=500 …]
    python benchmarks/reference.py path neb.begin=path --tasks neb --splits test
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from ase.calculators.calculator import Calculator
from ase.calculators.morse import MorsePotential
from pages.reference import task_of
from rich.console import Console
from rich.progress import Progress, TaskID
from tblite.ase import TBLite

from hessgnn.evaluation.evaluate import evaluate_calculator
from hessgnn.evaluation.record import Record
from hessgnn.evaluation.run import TaskSettings
from hessgnn.evaluation.tasks.neb import NEBTask
from hessgnn.runtime.config import override, parse
from hessgnn.runtime.files import write_text

RESULTS = Path(__file__).parent / "results"
DATA = "rtp-mini"


def gfn2() -> Calculator:
    """GFN2-xTB, as tightly converged as the labels are."""
    return TBLite(method="GFN2-xTB", accuracy=1e-5, max_iterations=500, verbosity=0)


def bad() -> Calculator:
    """One Morse curve for every pair of atoms, whatever they are: fast, smooth, and no chemistry."""
    return MorsePotential(epsilon=4.0, r0=1.2, rho0=4.0, rcut1=4.0, rcut2=6.0)


path = gfn2
"""The reference once more, for bands that begin on its own paths."""

SURFACES = {"gfn2": gfn2, "bad": bad, "path": path}


def run(name: str, folder: Path, tasks: list[str], splits: list[str], overrides: list[str]) -> None:
    """Run tasks, and store what the record says."""
    settings = parse(TaskSettings, override({}, overrides), where="settings")
    started = time.perf_counter()
    with Progress(console=Console(stderr=True)) as progress:
        bars: dict[str, TaskID] = {}

        def advance(label: str, done: int, total: int) -> None:
            if label not in bars:
                bars[label] = progress.add_task(label, total=total)
            progress.update(bars[label], completed=done)

        record = evaluate_calculator(
            f"reference:{name}", DATA, folder / name, tasks=tasks, splits=splits, settings=settings, observer=advance
        )
    bands = folder / name / "neb-test.jsonl"
    there = "neb" in tasks and bands.exists()
    keep(record, name, overrides, NEBTask.saved_values(bands)["neb_barrier_mae"] if there else None)
    print(f"{name}: {time.perf_counter() - started:.0f} s")


def keep(record: Record, name: str, overrides: list[str], barriers: dict[str, float | None] | None) -> None:
    """Store the part of a record that the page shows; results of tasks that were run before are kept."""
    path = RESULTS / f"reference-{name}.json"
    new = record.model_dump(mode="json", include={"data", "metrics", "failures", "versions", "hardware"})
    before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if before.get("data") == new["data"]:
        ran = {(task_of(key), split) for split, metrics in new["metrics"].items() for key in metrics}
        kept = {
            split: {key: value for key, value in metrics.items() if (task_of(key), split) not in ran}
            for split, metrics in before["metrics"].items()
        }
        splits = dict.fromkeys([*kept, *new["metrics"]])
        new["metrics"] = {split: kept.get(split, {}) | new["metrics"].get(split, {}) for split in splits}
        new["failures"] += [f for f in before["failures"] if (f["task"], f["split"]) not in ran]
        overrides = sorted({*before["settings"], *overrides})
        barriers = before.get("barriers") if barriers is None else barriers
    content = new | {"settings": overrides, "barriers": barriers}
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def main(arguments: list[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=SURFACES)
    parser.add_argument("--folder", type=Path, default=Path("runs/reference"))
    parser.add_argument("--tasks", default="all")
    parser.add_argument("--splits", default="test,irc")
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args(arguments)
    run(given.name, given.folder, given.tasks.split(","), given.splits.split(","), given.overrides)


if __name__ == "__main__":
    main()
