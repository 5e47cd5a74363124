"""``hessgnn data …``: build, import, export, check, describe, split and merge data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from hessgnn.cli import tables
from hessgnn.data.store.splits import DISJOINT, Relation
from hessgnn.data.store.store import Store
from hessgnn.errors import ConfigError, DataError
from hessgnn.runtime.config import load
from hessgnn.runtime.files import find_resource
from hessgnn.runtime.terminal import say

app = typer.Typer(help="Build, import, export, check, describe, split and merge data sets.", no_args_is_help=True)

DataSet = Annotated[str, typer.Argument(metavar="FILE_OR_NAME", help="a store, or the name of a bundled set: rtp-mini")]


@app.command()
def build(
    recipe: Annotated[Path, typer.Argument(help="YAML file, e.g. configs/data/rtp-mini.yaml")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="HDF5 file; NAME.h5 here by default")] = None,
    processes: Annotated[int, typer.Option(min=1, help="worker processes")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list molecules and reactions and stop")] = False,
) -> None:
    """Build a labelled data set from a recipe. Rerunning the same command resumes an interrupted build."""
    # The label engine is loaded by this verb alone.
    from hessgnn.factory.build import build as run_recipe
    from hessgnn.factory.build import jobs_of, part_path
    from hessgnn.factory.recipe import Recipe

    console = Console()
    settings = load(Recipe, find_resource(recipe))
    target = output or Path(f"{settings.name}.h5")
    if dry_run:
        jobs, skipped = jobs_of(settings)
        _print_reasons(console, "left out", skipped)
        done = sum(part_path(target, settings, job).exists() for job in jobs)
        say(console, f"{len(jobs)} molecules and reactions, {done} of them finished in an earlier run:")
        console.print(", ".join(job.name for job in jobs), highlight=False, markup=False)
        return
    report = run_recipe(settings, target, processes=processes)
    _print_reasons(console, "left out", report.skipped)
    _print_reasons(console, "failed", report.failed)
    console.print(f"{report.jobs} molecules and reactions, {report.structures} structures in {report.path}")


@app.command("import")
def import_(
    name: Annotated[
        str, typer.Argument(metavar="FORMAT", help="e.g. horm, openreact, gaussian; a wrong name lists all")
    ],
    source: Annotated[Path, typer.Argument(metavar="SRC", help="file or folder")],
    output: Annotated[Path, typer.Option("-o", "--output", help="HDF5 file to write")],
    level: Annotated[str, typer.Option(help='level of theory, e.g. "wB97X/6-31G(d)"; by default what SRC says')] = "",
    split: Annotated[str, typer.Option(help="split of all structures; by default the source's own, else train")] = "",
    group: Annotated[
        Literal["source", "composition", "name"], typer.Option(help="what is never divided between splits")
    ] = "source",
    limit: Annotated[int | None, typer.Option(min=1, help="only the first entries")] = None,
    hessian_dtype: Annotated[Literal["float32", "float64"], typer.Option(help="precision of Hessians")] = "float32",
) -> None:
    """Import a data set of another format. Rerunning the same command resumes an interrupted import."""
    from hessgnn.data.formats.transfer import ImportOptions, import_data

    console = Console()
    options = ImportOptions(level=level, split=split, group=group, hessian_dtype=hessian_dtype)
    report = import_data(name, source, output, options, limit=limit)
    _print_reasons(console, "left out", report.unreadable)
    if report.renamed:
        say(console, f"{report.renamed} structures had a name that was taken and got a number")
    if len(report.states) > 1:
        mixed = ", ".join(f"{state} {count}" for state, count in report.states.items())
        say(
            console,
            f"warning: taken as one level: {mixed}; no potential of elements and positions tells these states apart",
        )
    found = f"{report.structures} of {report.entries} structures at {report.level} in {output}"
    say(console, f"{found}; check them: hessgnn data check {output}")


@app.command()
def export(
    data: DataSet,
    name: Annotated[str, typer.Argument(metavar="FORMAT", help="extxyz, hip, deepmd, ase-db")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="file, or folder for deepmd; must not exist")],
    split: Annotated[str | None, typer.Option(help="only this one")] = None,
) -> None:
    """Export a data set to another format."""
    from hessgnn.data.formats.transfer import export_data

    count = export_data(Store.open(data), name, target, split=split)
    say(Console(), f"{count} structures in {target}")


@app.command()
def check(
    data: DataSet,
    sample: Annotated[
        int | None, typer.Option(min=1, help="number of structures to read, drawn at random; all by default")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the whole report as JSON")] = False,
) -> None:
    """Check a data set: units, signs, leakage, broken labels, outliers. Exit status 2 if there are errors."""
    # The checks find neighbours, which needs torch.
    from hessgnn.data.checks import examine

    store = Store.open(data)
    store.verify()
    report = examine(store, sample=sample)
    console = Console()
    if as_json:
        _print_json(console, store, report.to_dict())
    else:
        tables.print_check(console, report)
    if report.errors:
        raise DataError(f"{len(report.errors)} errors among {len(store)} structures", where=store.path)


@app.command()
def info(
    data: DataSet,
    as_json: Annotated[bool, typer.Option("--json", help="print everything as JSON")] = False,
) -> None:
    """Describe each split of a data set: counts, kinds, elements, label ranges and noise, origin."""
    from hessgnn.data.store.summary import summarise

    store = Store.open(data)
    summaries = summarise(store)
    if as_json:
        _print_json(Console(), store, {"splits": {split: found.to_dict() for split, found in summaries.items()}})
    else:
        tables.print_info(Console(), store, summaries)


@app.command()
def split(
    data: DataSet,
    output: Annotated[Path, typer.Option("-o", "--output", help="HDF5 file to write")],
    by: Annotated[
        Relation,
        typer.Option(help="what stays together, besides groups, duplicates, and frames with their parents"),
    ] = "reaction",
    fractions: Annotated[str, typer.Option(help="shares of train, validation and test")] = "0.8,0.1,0.1",
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Make new splits, by whole reactions, molecules or compositions.

    Frames of kind irc, nms and thermal go to a split of that name, or with their group to validation. Splits of other
    names stay as they are.
    """
    from hessgnn.data.store.families import resplit

    made = resplit(Store.open(data), output, by=by, fractions=_fractions(fractions), seed=seed)
    counts = ", ".join(f"{name} {count}" for name, count in made.splits.items())
    say(Console(), f"{output}: {counts}; splits {made.attributes.split_hash[:16]}")


@app.command()
def merge(
    data: Annotated[list[str], typer.Argument(metavar="FILE_OR_NAME…", help="stores at one level of theory")],
    output: Annotated[Path, typer.Option("-o", "--output", help="HDF5 file to write; must not exist")],
) -> None:
    """Merge data sets into a new one."""
    if output.exists():
        raise DataError(
            "exists already", where=output, hint="give another name, or use `hessgnn data append` to add to it"
        )
    _merge(data, output)


@app.command()
def append(
    target: Annotated[Path, typer.Argument(metavar="FILE", help="the store that grows")],
    data: Annotated[list[str], typer.Argument(metavar="FILE_OR_NAME…", help="stores at its level of theory")],
) -> None:
    """Append data sets to another, which does not change until everything is written."""
    _merge([str(target), *data], target)


def _merge(data: list[str], output: Path) -> None:
    from hessgnn.data.store.growing import merge_stores

    store = merge_stores([Store.open(one).path for one in data], output)
    say(Console(), f"{len(store)} structures in {output}; check them: hessgnn data check {output}")


def _fractions(text: str) -> dict[str, float]:
    try:
        shares = [float(part) for part in text.split(",")]
        return dict(zip(DISJOINT, shares, strict=True))
    except ValueError:
        raise ConfigError("not three numbers", where=f"--fractions {text}", hint="write it as 0.8,0.1,0.1") from None


def _print_json(console: Console, store: Store, found: dict[str, Any]) -> None:
    attributes = store.attributes
    record = {
        "path": str(store.path),
        "structures": len(store),
        "level_of_theory": attributes.level_of_theory,
        "content_hash": attributes.content_hash,
        "split_hash": attributes.split_hash,
        "versions": attributes.versions,
    }
    say(console, json.dumps(record | found, ensure_ascii=False, indent=1))


def _print_reasons(console: Console, title: str, reasons: dict[str, str]) -> None:
    for name, reason in reasons.items():
        say(console, " ".join(f"{title}: {name}: {reason}".split()))
