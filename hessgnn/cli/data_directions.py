"""``hessgnn data directions``: products from force frames that exist."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from hessgnn.errors import ConfigError
from hessgnn.runtime.terminal import say

if TYPE_CHECKING:
    from hessgnn.data.formats.from_frames import DirectionReport

_SHOWN = 3  # frames of each reason; --json lists all


def directions(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="a store or the name of a bundled set, or what `data import` reads")
    ],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="HDF5 file to write; must not exist")] = None,
    reference: Annotated[
        str,
        typer.Option(
            metavar="parent|nearest|NAME|FILE",
            help="what a frame is displaced from; by default its parent, in a set without parents the nearest"
            " stationary structure",
        ),
    ] = "",
    max_displacement: Annotated[
        float, typer.Option(min=0.0, help="Å, of the atom that moves most; frames beyond are left out")
    ] = 0.1,
    at: Annotated[
        Literal["reference", "midpoint"],
        typer.Option(help="where products belong: to the reference, or to new structures halfway between the two"),
    ] = "reference",
    keep_frames: Annotated[
        bool, typer.Option("--keep-frames/--drop-frames", help="keep frames that were used, as force labels")
    ] = True,
    format_: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="format of SRC; by default told from its name")
    ] = "",
    level: Annotated[str, typer.Option(help="level of theory, where SRC does not say it")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="report what would be made, and write nothing")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the whole report as JSON")] = False,
) -> None:
    """Turn force frames displaced around a reference into Hessian-vector products; computes nothing.

    Normal-mode samples, rattled frames, ± pairs and the beginning of MD trajectories will do. Frames R + Δ and R - Δ
    become a central difference with a measured error; others a one-sided difference, whose error is estimated.
    """
    from hessgnn.data.formats.from_frames import NEAREST, PARENT, DirectionOptions, make_directions, opened

    if output is None and not dry_run:
        raise ConfigError("no file to write to", where="data directions", hint="give it as -o OUT.h5, or --dry-run")
    options = DirectionOptions(reference, max_displacement, at, keep_frames)
    with ExitStack() as stack:
        store, unreadable = stack.enter_context(opened(source, format_, level))
        others = None
        if reference not in ("", PARENT, NEAREST) and Path(reference).is_file():
            others, _ = stack.enter_context(opened(reference, level=level))
        report = make_directions(store, None if dry_run else output, options, others, source=source)
    console = Console()
    report.left_out |= unreadable
    if as_json:
        say(console, json.dumps(asdict(report), ensure_ascii=False, indent=1))
        return
    _print(console, report, unreadable)
    if dry_run:
        say(console, "nothing was written")
    else:
        say(console, f"{report.structures} structures in {output}; check them: hessgnn data check {output}")


def _print(console: Console, report: DirectionReport, unreadable: dict[str, str]) -> None:
    for name, reason in list(unreadable.items())[:_SHOWN]:
        say(console, " ".join(f"cannot be read: {name}: {reason}".split()))
    if len(unreadable) > _SHOWN:
        say(console, f"cannot be read: {len(unreadable)} entries; --json lists them all")
    for reason, number in report.reasons.items():
        say(console, f"left out: {number} structures: {reason}")
    examples = [name for name in report.left_out if name not in unreadable][:_SHOWN]
    for name in examples:
        say(console, f"  {name}: {report.left_out[name]}")
    if len(report.left_out) - len(unreadable) > _SHOWN:
        say(console, "  …; --json lists them all")
    made = f"{report.directions} products at {report.references} references, from {report.used} frames"
    say(console, f"{made}; {report.central} of them central differences")
    say(console, f"ε {report.step:.3g} Å per component (median)")
    if report.relative_error is None:
        say(console, "errors are not known: there is no ± pair, and energies are missing or too few")
        return
    how = {
        "pairs": "measured on ± pairs; those of one-sided differences follow from these",
        "energies": "estimated from energies, because there is no ± pair",
    }[report.errors_from]
    say(console, f"relative error of a product {report.relative_error:.2g} (median), {how}")
