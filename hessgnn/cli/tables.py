"""What ``hessgnn data check`` and ``data info`` print: splits below each other, so that many fit 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from hessgnn.data.store.splits import DISJOINT
from hessgnn.data.store.store import Store
from hessgnn.runtime.terminal import say

if TYPE_CHECKING:  # they need torch, for which `hessgnn --help` does not wait
    from hessgnn.data.checks import Report
    from hessgnn.data.checks.labels import Noise
    from hessgnn.data.store.summary import SplitSummary

TRAIN = DISJOINT[0]

_WRAPPED = ("kinds", "elements")  # columns of words, which may take several lines


def print_check(console: Console, report: Report) -> None:
    """Print counts, label noise, findings and a verdict.

    Parameters
    ----------
    console
        Where to.
    report
        What was found.
    """
    rows = []
    for split, counts in report.counts.items():
        own, trained = report.compositions.get(split, (0, 0))
        shared = "–" if split == TRAIN or TRAIN not in report.counts else f"{trained} of {own}"
        labels = (counts.structures, counts.groups, counts.energy, counts.forces, counts.hessian)
        rows.append((split, *map(str, labels), shared))
    headings = ("split", "structures", "groups", "energy", "forces", "Hessian", f"formulas in {TRAIN}")
    console.print(_table("counts and labels", headings, rows))
    if report.noise:
        console.print(_noise_table(report.noise))
    for finding in report.findings:
        say(console, f"{finding.level} [{finding.code}]: {finding.message}")
    if report.read < report.structures:
        say(console, f"read: {report.read} of {report.structures} structures, drawn at random")
    warnings = len(report.findings) - len(report.errors)
    if not report.errors:
        say(console, f"{report.structures} structures, no error, {warnings} warnings")


def print_info(console: Console, store: Store, summaries: Mapping[str, SplitSummary]) -> None:
    """Print what each split holds.

    Parameters
    ----------
    console
        Where to.
    store
        What is described.
    summaries
        Of each split.
    """
    attributes = store.attributes
    say(console, f"{store.path.stem}: {len(store)} structures at {attributes.level_of_theory}")
    console.print(
        _table(
            "structures",
            ("split", "structures", "groups", "atoms", "energy", "forces", "Hessian"),
            [
                (split, *map(str, (found.structures, found.groups, _range(found.atoms), *_labels(found))))
                for split, found in summaries.items()
            ],
        )
    )
    console.print(
        _table(
            "composition: structures of each kind and with each element",
            ("split", "kinds", "elements"),
            [(split, _counted(found.kinds), _counted(found.elements)) for split, found in summaries.items()],
        )
    )
    console.print(
        _table(
            "labels",
            ("split", "height* 5 %", "50 %", "95 %", "RMS F", "max F", "RMS H", "max H"),
            [
                (split, *map(_number, (*(found.heights or (None,) * 3), *_sizes(found))))
                for split, found in summaries.items()
            ],
        )
    )
    say(console, "* energy above the structure that a frame was displaced from, else above the")
    say(console, "  lowest of its group, eV; F in eV/Å, H in eV/Å²")
    if any(found.noise for found in summaries.values()):
        console.print(_noise_of_splits(summaries))
    versions = ", ".join(f"{name} {number}" for name, number in attributes.versions.items())
    say(console, f"content {attributes.content_hash[:16]}  splits {attributes.split_hash[:16]}  {versions}")


def _noise_table(measured: Iterable[Noise]) -> Table:
    headings = ("what must be zero", "number", "median", "95 %", "largest", "unit")
    rows = [
        (noise.quantity, str(noise.count), *map(_number, (noise.median, noise.high, noise.largest)), noise.unit)
        for noise in measured
    ]
    return _table("label noise", headings, rows)


def _noise_of_splits(summaries: Mapping[str, SplitSummary]) -> Table:
    of_split = {split: {noise.quantity: noise for noise in found.noise} for split, found in summaries.items()}
    quantities = list(dict.fromkeys(key for measured in of_split.values() for key in measured))
    units = {key: noise.unit for measured in of_split.values() for key, noise in measured.items()}
    headings = ("split", *(f"{key.partition(' (')[0].removeprefix('max ')}\n{units[key]}" for key in quantities))
    rows = [
        (split, *(_number(measured[key].high if key in measured else None) for key in quantities))
        for split, measured in of_split.items()
    ]
    return _table("label noise: 95 % of structures are below", headings, rows)


def _table(title: str, headings: Iterable[str], rows: Iterable[tuple[str, ...]]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, title_style="bold")
    for place, heading in enumerate(headings):
        wrapped = heading in _WRAPPED
        table.add_column(
            heading,
            justify="left" if place == 0 or wrapped or heading == "unit" else "right",
            no_wrap=place == 0,
        )
    for row in rows:
        table.add_row(*row)
    return table


def _labels(found: SplitSummary) -> tuple[int, int, int]:
    return found.energy, found.forces, found.hessian


def _sizes(found: SplitSummary) -> tuple[float | None, ...]:
    return found.rms_forces, found.max_force, found.rms_hessian, found.max_hessian


def _range(ends: tuple[int, int]) -> str:
    return f"{ends[0]}…{ends[1]}" if ends[0] != ends[1] else str(ends[0])


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
