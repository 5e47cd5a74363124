"""Judge the reference itself by every task, and beside it a surface that is bad on purpose.

What the tasks say of GFN2-xTB on data labelled by GFN2-xTB is their own noise. The records are kept in
``benchmarks/results/reference-*.json``; docs/results/reference.md is written from these files.

    python benchmarks/reference.py run gfn2 [md.rise=500 …] [--folder runs/reference] [--tasks all] [--splits test,irc]
    python benchmarks/reference.py run bad [md.rise=500 …]
    python benchmarks/reference.py run interpolated neb.begin=interpolation --tasks neb --splits test
    python benchmarks/reference.py page
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from ase.calculators.calculator import Calculator
from ase.calculators.morse import MorsePotential
from rich.console import Console
from rich.progress import Progress, TaskID
from tblite.ase import TBLite
from write_tables import Lines, table

from hessgnn.evaluation.evaluate import evaluate_calculator
from hessgnn.evaluation.record import Metric, Record
from hessgnn.evaluation.settings import TaskSettings
from hessgnn.evaluation.tasks.accuracy import METRICS
from hessgnn.evaluation.tasks.base import all_tasks, task_of
from hessgnn.evaluation.tasks.neb import NEBTask
from hessgnn.runtime.config import override, parse
from hessgnn.runtime.files import write_text

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "results" / "reference.md"
DATA = "rtp-mini"
ANOTHER_PATH = 50
"""meV: what the spacing of the images and their convergence cannot make."""

HEAD = """# The reference and a bad surface, judged by every task

Written by `python benchmarks/reference.py page` from the files in `benchmarks/results`. The bundled data are labelled
by GFN2-xTB. *Reference* is GFN2-xTB again, as tightly converged, through ASE and with Hessians by central differences:
what it is not perfect in is the noise of labels and tasks, below which no difference between potentials means
anything. *Bad* is one Morse curve for all pairs of atoms: what a task must tell from the reference.
[Definitions](../tasks.md)."""


DESCENTS = """
## Ends of saddle points: descents or intrinsic reaction coordinates

`python benchmarks/descents.py benchmarks/results/descents-NAME.json` on reactions of the test split: from each saddle
point that was found the surface is followed downhill twice, by the short quasi-Newton steps of the saddle task and by
the integrator that made the paths of the data. *Judged alike*: both say that it joins reactant and product, or both
say that it does not. Only where the saddle point is the right one does that enter a metric. Medians over saddle points,
one thread."""


def gfn2() -> Calculator:
    """GFN2-xTB, as tightly converged as the labels are."""
    return TBLite(method="GFN2-xTB", accuracy=1e-5, max_iterations=500, verbosity=0)


def bad() -> Calculator:
    """One Morse curve for every pair of atoms, whatever they are: fast, smooth, and no chemistry."""
    return MorsePotential(epsilon=4.0, r0=1.2, rho0=4.0, rcut1=4.0, rcut2=6.0)


interpolated = gfn2
"""The reference once more, for bands that begin without knowledge of its paths."""

SURFACES = {"gfn2": gfn2, "bad": bad, "interpolated": interpolated}


def judge(name: str, folder: Path, tasks: list[str], splits: list[str], overrides: list[str]) -> None:
    """Run tasks, and keep what the record says."""
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
    """Write down the part of a record that the page is made of; tasks that were run before stay."""
    path = RESULTS / f"reference-{name}.json"
    new = record.model_dump(mode="json", include={"data", "metrics", "failures", "versions", "hardware"})
    before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if before.get("data") == new["data"]:
        ran = {(_task_of(key), split) for split, metrics in new["metrics"].items() for key in metrics}
        kept = {
            split: {key: value for key, value in metrics.items() if (_task_of(key), split) not in ran}
            for split, metrics in before["metrics"].items()
        }
        splits = dict.fromkeys([*kept, *new["metrics"]])
        new["metrics"] = {split: kept.get(split, {}) | new["metrics"].get(split, {}) for split in splits}
        new["failures"] += [f for f in before["failures"] if (f["task"], f["split"]) not in ran]
        overrides = sorted({*before["settings"], *overrides})
        barriers = before.get("barriers") if barriers is None else barriers
    content = new | {"settings": overrides, "barriers": barriers}
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def page(folder: Path = RESULTS) -> str:
    """The whole page, from the files that are there."""
    found = {name: json.loads((folder / f"reference-{name}.json").read_text(encoding="utf-8")) for name in SURFACES}
    reference, other = found["gfn2"], found["bad"]
    assert all(one["data"] == reference["data"] for one in found.values()), "judged on other data: run all again"
    machine = f"{reference['hardware']}, torch {reference['versions']['torch']}"
    lines = [HEAD, f"\nData `{reference['data']['name']}`; {machine}."]
    for task in (task.name for task in all_tasks()):
        lines.append(f"\n## {task}")
        if not any(_task_of(key) == task for metrics in reference["metrics"].values() for key in metrics):
            lines.append("\nNot run yet.")
        for split, metrics in reference["metrics"].items():
            own = {key: Metric(**value) for key, value in metrics.items() if _task_of(key) == task}
            theirs = {key: Metric(**value) for key, value in other["metrics"].get(split, {}).items()}
            if own:
                lines += [f"\nSplit `{split}`.", *_rows(own, theirs)]
        for name, title in (("gfn2", "reference"), ("bad", "bad")):
            reasons = [f for f in found[name]["failures"] if f["task"] == task]
            if reasons:
                lines.append(f"\nFailures of {title}: {len(reasons)}, e.g. {reasons[0]['reason']}.")
        if task == "neb":
            lines += _barriers(reference, found["interpolated"])
    lines += _descents(folder)
    return "\n".join(line.rstrip(" ") for line in lines) + "\n"


def _barriers(on_path: dict[str, Any], interpolated: dict[str, Any]) -> Lines:
    """What the mean over bands hides, and what the reference's paths are good for."""
    on_it, errors = (
        {name: abs(error) for name, error in record["barriers"].items() if error is not None}
        for record in (on_path, interpolated)
    )
    yield f"\nErrors of the reference's barriers: median {_text(statistics.median(on_it.values()))} meV."
    far = ", ".join(f"`{name}` ({error:.0f} meV)" for name, error in errors.items() if error > ANOTHER_PATH)
    failed = len(interpolated["barriers"]) - len(errors)
    median, mean = (_text(statistic(errors.values())) for statistic in (statistics.median, statistics.fmean))
    yield (
        f"\nBegun without knowledge of the paths (`{', '.join(interpolated['settings'])}`), {failed} of "
        f"{len(interpolated['barriers'])} bands of the reference do not converge, and the errors of the others have a "
        f"median of {median} and a mean of {mean} meV. Off by more than {ANOTHER_PATH} meV: {far or 'none'}. The "
        "surface is the reference's own, so these have settled on another path than the one that was followed down "
        "from the saddle point; they say nothing about a surface."
    )


def _descents(folder: Path) -> Lines:
    """What ``benchmarks/descents.py`` wrote."""
    yield DESCENTS
    rows = []
    for path in sorted(folder.glob("descents-*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        both = [row for row in record["rows"] if row["found"]]
        right = [row for row in both if row["right"]]
        agree = [row for row in both if row["descents"]["joins"] == row["irc"]["joins"]]
        counted = [row for row in both if all("gradients" in row[way] for way in ("descents", "irc"))]
        cells = [record["surface"], str(len(record["rows"])), str(len(both)), str(len(right))]
        cells += [str(len(agree)), str(sum(row in right for row in agree))]
        for key, digits in (("gradients", 0), ("seconds", 1)):
            cells += [f"{_median(counted, way, key):.{digits}f}" for way in ("descents", "irc")]
        ratios = [row["irc"]["gradients"] / row["descents"]["gradients"] for row in counted]
        rows.append([*cells, f"{min(ratios):.0f}-{max(ratios):.0f}"])
    titles = ["surface", "reactions", "saddle points found", "right ones", "judged alike", "of the right ones"]
    titles += ["gradients, descents", "IRC", "s, descents", "IRC", "ratio of gradients"]
    yield from table(titles, rows)


def _median(rows: list[dict[str, Any]], way: str, key: str) -> float:
    return statistics.median(row[way][key] for row in rows)


def _rows(own: dict[str, Metric], theirs: dict[str, Metric]) -> Lines:
    rows = []
    for key, metric in own.items():
        title, unit = METRICS.get(key, (metric.title, metric.unit))
        beside = theirs.get(key)
        cells = [_text(metric.value), str(metric.n)]
        cells += ["", ""] if beside is None else [_text(beside.value), str(beside.n)]
        rows.append([f"`{key}`", title.replace("|", "\\|"), unit, *cells])
    yield from table(["metric", "title", "unit", "reference", "n", "bad", "n"], rows)


def _task_of(key: str) -> str:
    task = task_of(key)
    assert task is not None, key
    return task.name


def _text(value: float | None) -> str:
    return "null" if value is None else f"{value:.3g}"


def main(arguments: list[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run")
    run.add_argument("name", choices=SURFACES)
    run.add_argument("--folder", type=Path, default=Path("runs/reference"))
    run.add_argument("--tasks", default="all")
    run.add_argument("--splits", default="test,irc")
    run.add_argument("overrides", nargs="*")
    verbs.add_parser("page")
    given = parser.parse_args(arguments)
    if given.verb == "run":
        judge(given.name, given.folder, given.tasks.split(","), given.splits.split(","), given.overrides)
    else:
        write_text(PAGE, page())


if __name__ == "__main__":
    main()
