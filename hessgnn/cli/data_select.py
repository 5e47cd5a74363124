"""``hessgnn data select``: the structures that are worth a curvature label next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich import box
from rich.console import Console
from rich.table import Table

from hessgnn.data.store.store import Store
from hessgnn.errors import ConfigError, DataError
from hessgnn.runtime.files import write_text
from hessgnn.runtime.terminal import say

if TYPE_CHECKING:  # they need torch, for which `hessgnn --help` does not wait
    from hessgnn.factory.selection import Pool, Selection
    from hessgnn.potentials.base import Potential
    from hessgnn.surface.engines.base import Engine

SHOWN = 20
"""Rows of the table when the names are written to a file."""


def select(
    data: Annotated[str, typer.Argument(metavar="STORE", help="a store, or the name of a bundled set: rtp-mini")],
    by: Annotated[
        str, typer.Option(help="random, force, curvature, distance, disagreement, or module:Rule", metavar="RULE")
    ],
    number: Annotated[int | None, typer.Option(min=1, help="how many structures")] = None,
    budget: Annotated[
        int | None, typer.Option(min=2, metavar="GRADIENTS", help="as many as get one product each: 2 gradients")
    ] = None,
    split: Annotated[str, typer.Option(help="choose from this split")] = "train",
    models: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN", help="run folder, or a folder of run folders; give it once for each model"),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="computes curvature in place of a model: tblite, or {name: …} as in a recipe"),
    ] = None,
    directions: Annotated[int, typer.Option(min=1, help="random directions for predicted curvature")] = 4,
    diverse: Annotated[
        bool, typer.Option("--diverse", help="select three times as many, keep those farthest from each other")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="of all random numbers")] = 0,
    device: Annotated[str, typer.Option(help="of the models: auto, cpu, cuda")] = "cpu",
    labelled: Annotated[bool, typer.Option("--labelled", help="rank structures with curvature labels too")] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="write the names, one a line; must not exist")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the selection as JSON")] = False,
) -> None:
    """Select the structures that are worth a curvature label next.

    random: the baseline.
    force: largest RMS force; with --models, largest error of their forces.
    curvature: largest curvature predicted by --models or --engine.
    distance: environments far from those that have curvature labels.
    disagreement: largest spread of H·v among two or more --models.
    """
    from hessgnn.factory.labelling import engine_of
    from hessgnn.factory.selection import PRODUCT_GRADIENTS, SELECTORS, pool_of
    from hessgnn.factory.selection import select as select_by

    if (number is None) == (budget is None):
        raise ConfigError("give one of both", where="--number, --budget", hint="for example --number 20")
    if output is not None and output.exists():
        raise DataError("exists already", where=output, hint="give another name, or remove it first")
    SELECTORS[by]  # a wrong name is reported before anything is loaded
    store = Store.open(data)
    wanted = number if number is not None else (budget or 0) // PRODUCT_GRADIENTS
    pool = pool_of(
        store,
        split,
        labelled=labelled,
        number=wanted,
        seed=seed,
        models=_models(models or [], device),
        engine=None if engine is None else _engine(engine),
        directions=directions,
    )
    found = select_by(by, pool, diverse=diverse)
    if output is not None:
        names = [store.names[i] for i in found.indices]
        if broken := [name for name in names if "\n" in name or "\r" in name]:
            raise DataError(f"the name {broken[0]!r} takes several lines", where=data, hint="use --json")
        write_text(output, "".join(f"{name}\n" for name in names))
    console, notes = Console(), Console(stderr=True)
    if found.without_score:
        say(notes, f"warning: {found.without_score} structures have no score and cannot be selected")
    if quiet := int((found.scores < found.noise).sum()):
        level = f"{found.noise:g} {found.unit}"
        say(notes, f"warning: {quiet} of the selected structures have a score below {level}, which is numerical noise")
    if len(found.indices) < wanted:
        left = len(pool.candidates) - found.without_score
        say(notes, f"warning: {wanted} requested, {left} available in split {split!r}; all are listed")
    if as_json:
        asked = {"by": by, "diverse": diverse, "split": split, "models": [str(path) for path in models or []]}
        record = asked | _record(pool, found)
        say(console, json.dumps(record, ensure_ascii=False, indent=1))
        return
    _print(console, pool, found, by, len(found.indices) if output is None else SHOWN)
    cost = PRODUCT_GRADIENTS * len(found.indices)
    say(console, f"{len(found.indices)} of {len(pool.candidates)} structures; a product each costs {cost} gradients")
    if output is not None:
        verb = f"hessgnn data label {data} --structures {output} --directions rademacher -o NEW.h5"
        verb += "" if engine_of(store) else " --engine NAME"
        say(console, f"names in {output}; label them: {verb}")


def _record(pool: Pool, found: Selection) -> dict[str, Any]:
    """What ``--json`` prints."""
    from hessgnn.factory.selection import PRODUCT_GRADIENTS

    store, attributes = pool.store, pool.store.attributes
    return {
        "path": str(store.path),
        "content_hash": attributes.content_hash,
        "level_of_theory": attributes.level_of_theory,
        "seed": pool.seed,
        "unit": found.unit,
        "candidates": len(pool.candidates),
        "covered": len(pool.covered),
        "without_score": found.without_score,
        "gradients": PRODUCT_GRADIENTS * len(found.indices),
        "selected": [
            {
                "rank": rank,
                "name": store.names[i],
                "kind": store.kinds[i],
                "group": store.groups[i],
                "atoms": int(store.n_atoms[i]),
                "index": int(i),
                "score": float(score),
            }
            for rank, (i, score) in enumerate(zip(found.indices, found.scores, strict=True), 1)
        ],
    }


def _print(console: Console, pool: Pool, found: Selection, by: str, most: int) -> None:
    """Print the first rows of a selection."""
    store = pool.store
    table = Table(title=f"selected by {by}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    score = f"score, {found.unit}" if found.unit else "score"
    for heading in ("rank", "name", "kind", "split", "atoms", score):
        table.add_column(heading, justify="left" if heading in ("name", "kind", "split") else "right", overflow="fold")
    for rank, (i, value) in enumerate(zip(found.indices[:most], found.scores[:most], strict=True), 1):
        place = store.names[i], store.kinds[i], store.structure_splits[i]
        table.add_row(str(rank), *place, str(store.n_atoms[i]), f"{value:.4g}")
    console.print(table, highlight=False)
    if len(found.indices) > most:
        say(console, f"… and {len(found.indices) - most} more")


def _models(paths: list[Path], device: str) -> list[Potential]:
    """Load the potentials of run folders, in float64, in the order of their names within a folder of folders."""
    from hessgnn.potentials.saved import CONFIG, load
    from hessgnn.training.build import find_device

    folders = []
    for path in paths:
        inside = [] if (path / CONFIG).is_file() else sorted(one.parent for one in path.glob(f"*/{CONFIG}"))
        folders += inside or [path]
    if not folders:
        return []
    place = str(find_device(device, where="--device"))
    return [load(folder).double().to(place) for folder in folders]


def _engine(text: str) -> Engine:
    """Make the engine that a name or a mapping in YAML stands for."""
    from pydantic import TypeAdapter, ValidationError

    from hessgnn.surface.engines.base import EngineChoice, make_engine

    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        content = None
    if isinstance(content, str):
        content = {"name": content}
    if not isinstance(content, dict):
        raise ConfigError(
            "not an engine", where=f"--engine {text}", hint="write tblite, or '{name: tblite, step: 1e-3}'"
        )
    try:
        settings = TypeAdapter(EngineChoice).validate_python(content)
    except ValidationError as error:
        raise ConfigError(str(error.errors()[0]["msg"]), where="--engine") from error
    return make_engine(settings)
