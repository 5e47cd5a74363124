"""``hessgnn data …``: build, label, import, export, check, describe, split, select from and merge data sets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from hessgnn.cli import data_directions, data_label, data_select
from hessgnn.data.store.splits import DISJOINT, Relation
from hessgnn.data.store.store import Store
from hessgnn.errors import ConfigError, DataError
from hessgnn.runtime.config import load
from hessgnn.runtime.files import find_resource
from hessgnn.runtime.terminal import say

if TYPE_CHECKING:  # they need torch, for which `hessgnn --help` does not wait
    from hessgnn.data.checks import Report
    from hessgnn.data.checks.labels import Noise
    from hessgnn.data.store.summary import SplitSummary

TRAIN = DISJOINT[0]

_WRAPPED = ("kinds", "elements")  # columns of words, which may take several lines

app = typer.Typer(
    help="Build, label, import, export, check, describe, split, select from and merge data sets.", no_args_is_help=True
)

DataSet = Annotated[str, typer.Argument(metavar="FILE_OR_NAME", help="a store, or the name of a bundled set: rtp-mini")]


@app.command()
def build(
    recipe: Annotated[Path, typer.Argument(help="YAML file, e.g. configs/data/rtp-mini.yaml")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="HDF5 file; NAME.h5 here by default")] = None,
    processes: Annotated[int, typer.Option(min=1, help="worker processes")] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="list molecules and reactions, print what directions cost, and stop")
    ] = False,
) -> None:
    """Build a labelled data set from a recipe. Rerunning the same command resumes an interrupted build."""
    # The label engine is loaded by this verb alone.
    from hessgnn.factory.build import build as run_recipe
    from hessgnn.factory.build import jobs_of, part_path, price_of_directions
    from hessgnn.factory.recipe import Recipe, require_same

    console = Console()
    settings = load(Recipe, find_resource(recipe))
    target = output or Path(f"{settings.name}.h5")
    if dry_run:
        jobs, skipped = jobs_of(settings)
        require_same(settings, [job.name for job in jobs], target)
        _print_reasons(console, "left out", skipped)
        todo = [job for job in jobs if not part_path(target, settings, job).exists()]
        done = len(jobs) - len(todo)
        say(console, f"{len(jobs)} molecules and reactions, {done} of them finished in an earlier run:")
        console.print(", ".join(job.name for job in jobs), highlight=False, markup=False)
        structures, gradients = price_of_directions(settings, todo)
        if gradients:
            say(console, f"products of at most {structures:,} structures cost at most {gradients:,} gradient calls")
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
    if directed := int((Store.open(output).n_directions > 0).sum()):
        found += f", {directed} of them with directions"
    say(console, f"{found}; check them: hessgnn data check {output}")


@app.command()
def export(
    data: DataSet,
    name: Annotated[str, typer.Argument(metavar="FORMAT", help="extxyz, hip, deepmd, ase-db, phonopy")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="file, or folder (deepmd, phonopy); must not exist")],
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
    from hessgnn.data.store.families import familiar

    store = Store.open(data)
    store.verify()
    report = examine(store, sample=sample)
    known = familiar(store)
    console = Console()
    if as_json:
        _print_json(console, store, report.to_dict() | {"familiar": known})
    else:
        _print_check(console, report, known)
    if report.errors:
        raise DataError(f"{len(report.errors)} errors among {len(store)} structures", where=store.path)


@app.command()
def info(
    data: DataSet,
    as_json: Annotated[bool, typer.Option("--json", help="print everything as JSON")] = False,
) -> None:
    """Describe each split of a data set: counts, kinds, elements, label ranges and noise, origin."""
    from hessgnn.data.store.summary import recorded_gradients, summarise

    store = Store.open(data)
    summaries, gradients = summarise(store), recorded_gradients(store.attributes.provenance)
    if as_json:
        splits = {split: found.to_dict() for split, found in summaries.items()}
        _print_json(Console(), store, {"gradients": gradients, "splits": splits})
    else:
        _print_info(Console(), store, summaries, gradients)


@app.command()
def split(
    data: DataSet,
    output: Annotated[Path, typer.Option("-o", "--output", help="HDF5 file to write; must not exist")],
    by: Annotated[
        Relation,
        typer.Option(
            help="what stays together, besides groups, duplicates, and frames with their parents; structure: nothing"
        ),
    ] = "molecule",
    fractions: Annotated[
        str, typer.Option(help="shares of the stationary points in train, validation and test")
    ] = "0.8,0.1,0.1",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    frames: Annotated[
        Literal["apart", "together"], typer.Option(help="frames in splits of their kinds, or together with the rest")
    ] = "apart",
) -> None:
    """Make new splits, by whole molecules with their complexes, compositions or reactions, or over structures.

    Frames of test families go to irc, nms or thermal, those of training families to irc-known and so on, and those of
    validation families are the split validation; with --frames together they stay with their families. Splits of other
    names stay as they are.
    """
    from hessgnn.data.store.families import resplit

    shares = _fractions(fractions)
    if output.exists():
        raise DataError("exists already", where=output, hint="give another name, or remove it first")
    made = resplit(Store.open(data), output, by=by, fractions=shares, seed=seed, together=frames == "together")
    counts = ", ".join(f"{name} {count}" for name, count in made.splits.items())
    say(Console(), f"{output}: {counts}; splits {made.attributes.split_hash[:16]}")


app.command("directions")(data_directions.directions)
app.command("label")(data_label.label)


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


app.command("select")(data_select.select)


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


# Tables: splits below each other, so that many fit 80 columns


def _print_check(console: Console, report: Report, known: Mapping[str, tuple[int, int]]) -> None:
    """Print counts, label noise, molecules that are known from training, findings and a verdict."""
    rows = []
    directed = ("H·v",) if any(counts.directions for counts in report.counts.values()) else ()
    for split, counts in report.counts.items():
        own, trained = report.compositions.get(split, (0, 0))
        shared = "–" if split == TRAIN or TRAIN not in report.counts else f"{trained} of {own}"
        labels = [counts.structures, counts.groups, counts.energy, counts.forces, counts.hessian]
        labels += [counts.directions] if directed else []
        rows.append((split, *map(str, labels), shared))
    headings = ("split", "number", "groups", "energy", "forces", "Hessian", *directed, f"formulas in {TRAIN}")
    console.print(_table("counts and labels", headings, rows))
    if TRAIN in report.counts:
        say(console, f"formulas in {TRAIN}: isomers share a formula, so a molecule may still be new")
    if report.noise:
        console.print(_noise_table(report.noise))
    if known and TRAIN in report.counts:
        shares = ", ".join(f"{split} {number} of {total}" for split, (total, number) in known.items())
        say(console, f"known molecules*: {shares}")
        say(console, "* structures whose molecule, or a part of whose complex, train or validation has")
    for finding in report.findings:
        say(console, f"{finding.level} [{finding.code}]: {finding.message}")
    if report.read < report.structures:
        say(console, f"read: {report.read} of {report.structures} structures, drawn at random")
    warnings = sum(finding.level == "warning" for finding in report.findings)
    if not report.errors:
        say(console, f"{report.structures} structures, no error, {warnings} warnings")


def _print_info(console: Console, store: Store, summaries: Mapping[str, SplitSummary], gradients: int | None) -> None:
    """Print what each split holds."""
    attributes = store.attributes
    say(console, f"{store.path.stem}: {len(store)} structures at {attributes.level_of_theory}")

    def show(title: str, headings: Iterable[str], cells: Callable[[SplitSummary], Iterable[str]]) -> None:
        rows = [(split, *cells(found)) for split, found in summaries.items()]
        console.print(_table(title, ("split", *headings), rows))

    def sizes(of: SplitSummary) -> Iterable[str]:
        heights = of.heights or (None,) * 3
        return map(_number, (*heights, of.rms_forces, of.max_force, of.rms_hessian, of.max_hessian))

    directed = ("H·v",) if any(of.directed for of in summaries.values()) else ()

    def labels(of: SplitSummary) -> Iterable[str]:
        counts = [of.structures, of.groups, _range(of.atoms), of.energy, of.forces, of.hessian, of.directed]
        return map(str, counts if directed else counts[:-1])

    show("structures", ("number", "groups", "atoms", "energy", "forces", "Hessian", *directed), labels)
    show(
        "composition: structures of each kind and with each element",
        ("kinds", "elements"),
        lambda of: (_counted(of.kinds), _counted(of.elements)),
    )
    if directed:
        show(
            "directions: products H·v",
            ("structures", "products", "kinds", "RMS H·v*"),
            lambda of: (
                str(of.directed), str(sum(of.directions.values())), _counted(of.directions), _number(of.rms_product)
            ),
        )  # fmt: skip
        say(console, "* component along vectors whose RMS component is 1, eV/Å²")
    show("labels", ("height* 5 %", "50 %", "95 %", "RMS F", "max F", "RMS H", "max H"), sizes)
    say(console, "* energy above the structure that a frame was displaced from, else above the")
    say(console, "  lowest of its group, eV; F in eV/Å, H in eV/Å²")
    if any(not noise.of_products for found in summaries.values() for noise in found.noise):
        console.print(_noise_of_splits(summaries, of_products=False))
    if directed:
        console.print(_noise_of_splits(summaries, of_products=True))
    if gradients is not None:
        say(console, f"gradient calls, as recorded in the provenance: {gradients}")
    versions = ", ".join(f"{name} {number}" for name, number in attributes.versions.items())
    say(console, f"content {attributes.content_hash[:16]}  splits {attributes.split_hash[:16]}  {versions}")


def _noise_table(measured: Iterable[Noise]) -> Table:
    headings = ("what must be zero", "number", "median", "95 %", "largest", "unit")
    rows = [
        (noise.quantity, str(noise.count), *map(_number, (noise.median, noise.high, noise.largest)), noise.unit)
        for noise in measured
    ]
    return _table("label noise", headings, rows)


def _noise_of_splits(summaries: Mapping[str, SplitSummary], *, of_products: bool) -> Table:
    of_split = {
        split: {noise.quantity: noise for noise in found.noise if noise.of_products == of_products}
        for split, found in summaries.items()
    }
    quantities = list(dict.fromkeys(key for measured in of_split.values() for key in measured))
    units = {key: noise.unit for measured in of_split.values() for key, noise in measured.items()}
    headings = ("split", *(f"{key.partition(' (')[0].removeprefix('max ')}\n{units[key]}" for key in quantities))
    rows = [
        (split, *(_number(measured[key].high if key in measured else None) for key in quantities))
        for split, measured in of_split.items()
    ]
    what = "noise of a component of products" if of_products else "label noise"
    return _table(f"{what}: 95 % of structures are below", headings, rows)


def _table(title: str, headings: Iterable[str], rows: Iterable[tuple[str, ...]]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, title_style="bold")
    for place, heading in enumerate(headings):
        wrapped = heading in _WRAPPED
        left = place == 0 or wrapped or heading == "unit"
        table.add_column(heading, justify="left" if left else "right", no_wrap=place == 0)
    for first, *others in rows:
        table.add_row(first.replace("validation-", "validation-\n"), *others)  # so that 80 columns hold the numbers
    return table


def _range(ends: tuple[int, int]) -> str:
    return f"{ends[0]}…{ends[1]}" if ends[0] != ends[1] else str(ends[0])


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
