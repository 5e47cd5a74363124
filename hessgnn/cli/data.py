"""``hessgnn data …``: make, judge, describe, split and merge data sets."""

from __future__ import annotations

from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from hessgnn.config import load
from hessgnn.data.checks import check as find_faults
from hessgnn.data.splits import DISJOINT, NMS, require_no_leak, split_groups, split_of
from hessgnn.data.store import Store, write_store
from hessgnn.data.summary import SplitSummary, summarise
from hessgnn.errors import ConfigError, DataError
from hessgnn.files import find_resource

app = typer.Typer(help="Make, judge, describe, split and merge data sets.", no_args_is_help=True)

DataSet = Annotated[str, typer.Argument(metavar="FILE_OR_NAME", help="a store, or the name of a bundled set: rtp-mini")]


@app.command()
def build(
    recipe: Annotated[Path, typer.Argument(help="YAML file, e.g. configs/data/rtp-mini.yaml")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="HDF5 file; NAME.h5 here by default")] = None,
    processes: Annotated[int, typer.Option(min=1, help="molecules worked on at once")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list the molecules and stop")] = False,
) -> None:
    """Make a labelled data set from a recipe; a killed build goes on where it was."""
    # The label engine is loaded by this verb alone.
    from hessgnn.data.factory.build import build as run_recipe
    from hessgnn.data.factory.geometries import starting_geometries
    from hessgnn.data.factory.recipe import Recipe

    console = Console()
    settings = load(Recipe, find_resource(recipe))
    if dry_run:
        chosen, skipped = starting_geometries(settings.geometries)
        _print_reasons(console, "left out", skipped)
        console.print(f"{len(chosen)} molecules, {settings.displaced.frames} frames of each: {', '.join(chosen)}")
        return
    report = run_recipe(settings, output or Path(f"{settings.name}.h5"), processes=processes)
    _print_reasons(console, "left out", report.skipped)
    _print_reasons(console, "failed", report.failed)
    console.print(f"{report.molecules} molecules, {report.structures} structures in {report.path}")


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
        Literal["source", "composition", "name"], typer.Option(help="what must not be divided between splits")
    ] = "source",
    limit: Annotated[int | None, typer.Option(min=1, help="only the first entries")] = None,
    hessian_dtype: Annotated[Literal["float32", "float64"], typer.Option(help="precision of Hessians")] = "float32",
) -> None:
    """Bring data of another format; a killed import goes on where it was."""
    from hessgnn.data.formats.importing import ImportOptions, import_data

    console = Console()
    options = ImportOptions(level=level, split=split, group=group, hessian_dtype=hessian_dtype)
    report = import_data(name, source, output, options, limit=limit)
    _print_reasons(console, "left out", report.unreadable)
    if report.renamed:
        console.print(f"{report.renamed} structures had a name that was taken and got a number")
    console.print(
        f"{report.structures} of {report.entries} structures at {report.level} in {output};"
        f" judge them: hessgnn data check {output}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


@app.command()
def export(
    data: DataSet,
    name: Annotated[str, typer.Argument(metavar="FORMAT", help="extxyz, hip, deepmd, ase-db")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="file, or folder for deepmd; must not exist")],
    split: Annotated[str | None, typer.Option(help="only this one")] = None,
) -> None:
    """Write a data set in another format."""
    from hessgnn.data.formats.exporting import export_data

    count = export_data(Store.open(data), name, target, split=split)
    Console().print(f"{count} structures in {target}", highlight=False, soft_wrap=True, markup=False)


@app.command()
def check(data: DataSet) -> None:
    """Look for faults: units, signs, leaks, broken labels. Ends with exit status 2 when there are errors."""
    console = Console()
    store = Store.open(data)
    store.verify()
    findings = find_faults(store)
    for finding in findings:
        console.print(f"{finding.level} \\[{finding.code}]: {finding.message}", soft_wrap=True)
    errors = sum(finding.level == "error" for finding in findings)
    if errors:
        raise DataError(f"{errors} errors among {len(store)} structures", where=store.path)
    console.print(f"{len(store)} structures, no error, {len(findings)} warnings")


@app.command()
def info(data: DataSet) -> None:
    """Describe a data set: counts, elements, label ranges, origin."""
    console = Console()
    store = Store.open(data)
    attributes = store.attributes
    table = Table("", *store.splits, title=f"{store.path.stem}, {attributes.level_of_theory}, {len(store)} structures")
    columns = [_described(summarise(store, name)) for name in store.splits]
    for title in columns[0]:
        table.add_row(title, *(column[title] for column in columns))
    console.print(table)
    versions = ", ".join(f"{name} {number}" for name, number in attributes.versions.items())
    console.print(f"content {attributes.content_hash[:16]}  splits {attributes.split_hash[:16]}  {versions}")


@app.command()
def split(
    data: DataSet,
    output: Annotated[Path, typer.Option("-o", "--output", help="HDF5 file to write")],
    fractions: Annotated[str, typer.Option(help="shares of train, validation and test")] = "0.8,0.1,0.1",
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Split again, by whole groups. Displaced frames go to nms or with their molecule to validation; others stay."""
    store = Store.open(data)
    movable = [name in (*DISJOINT, NMS) for name in store.structure_splits]
    of_group = split_groups(compress(store.groups, movable), _fractions(fractions), seed)
    everything = zip(store.kinds, store.groups, store.structure_splits, movable, strict=True)
    splits = [split_of(kind, of_group[group]) if moves else old for kind, group, old, moves in everything]
    require_no_leak(store.groups, splits, where=store.path)
    attributes = store.attributes
    write_store(
        output,
        (replace(structure, split=new) for structure, new in zip(store, splits, strict=True)),
        level_of_theory=attributes.level_of_theory,
        provenance=attributes.provenance,
        versions=attributes.versions,
        hessian_dtype=attributes.hessian_dtype,
    )
    counts = ", ".join(f"{name} {count}" for name, count in Store.open(output).splits.items())
    Console().print(f"{output}: {counts}")


@app.command()
def merge(
    data: Annotated[list[str], typer.Argument(metavar="FILE_OR_NAME…", help="stores at one level of theory")],
    output: Annotated[Path, typer.Option("-o", "--output", help="HDF5 file to write; must not exist")],
) -> None:
    """Join data sets into a new one."""
    if output.exists():
        raise DataError(
            "exists already", where=output, remedy="give another name, or use `hessgnn data append` to add to it"
        )
    _merge(data, output)


@app.command()
def append(
    target: Annotated[Path, typer.Argument(metavar="FILE", help="the store that grows")],
    data: Annotated[list[str], typer.Argument(metavar="FILE_OR_NAME…", help="stores at its level of theory")],
) -> None:
    """Add data sets to another, which stays as it is until all is written."""
    _merge([str(target), *data], target)


def _merge(data: list[str], output: Path) -> None:
    from hessgnn.data.growing import merge_stores

    store = merge_stores([Store.open(one).path for one in data], output)
    Console().print(
        f"{len(store)} structures in {output}; judge them: hessgnn data check {output}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


def _fractions(text: str) -> dict[str, float]:
    try:
        shares = [float(part) for part in text.split(",")]
        return dict(zip(DISJOINT, shares, strict=True))
    except ValueError:
        raise ConfigError("not three numbers", where=f"--fractions {text}", remedy="write it as 0.8,0.1,0.1") from None


def _described(summary: SplitSummary) -> dict[str, str]:
    heights = summary.energies_above_lowest or (None, None, None)
    quantiles = {f"E − lowest, {q} % (eV)": height for q, height in zip((5, 50, 95), heights, strict=True)}
    numbers = quantiles | {
        "RMS F (eV/Å)": summary.rms_forces,
        "max |F| (eV/Å)": summary.max_force,
        "RMS H (eV/Å²)": summary.rms_hessian,
        "max |H − Hᵀ| (eV/Å²)": summary.max_asymmetry,
    }
    return {
        "structures": str(summary.structures),
        "groups": str(summary.groups),
        "atoms": "…".join(str(count) for count in summary.atoms),
        "elements": " ".join(summary.elements),
        "with E, F, H": ", ".join(str(count) for count in summary.labels),
        **{title: "–" if number is None else f"{number:.3g}" for title, number in numbers.items()},
    }


def _print_reasons(console: Console, title: str, reasons: dict[str, str]) -> None:
    for name, reason in reasons.items():
        console.print(f"{title}: {name}: {reason}", highlight=False, soft_wrap=True, markup=False)
