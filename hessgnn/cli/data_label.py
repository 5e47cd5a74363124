"""``hessgnn data label``: add directions, energies, forces or Hessians to the structures of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from hessgnn.errors import ConfigError
from hessgnn.runtime.terminal import say


def label(
    data: Annotated[str, typer.Argument(metavar="FILE_OR_NAME", help="a store, or the name of a bundled set")],
    output: Annotated[Path, typer.Option("-o", "--output", help="HDF5 file to write")],
    directions: Annotated[
        str | None, typer.Option(help="kind of directions: rademacher, gaussian, rows, modes, softest")
    ] = None,
    number: Annotated[int | None, typer.Option(min=1, help="directions of each structure; 1 by default")] = None,
    scheme: Annotated[
        Literal["central", "one-sided"] | None, typer.Option(help="2 gradients per direction (default), or 1")
    ] = None,
    step: Annotated[str | None, typer.Option(help="Å, of the atom that moves most; auto by default")] = None,
    source: Annotated[
        str | None,
        typer.Option(help="modes, softest: engine or run folder whose Hessian gives the modes; tblite by default"),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="label engine with its default settings, run folder, or potential that comes with weights (sevennet); "
            "by default the engine of the set's provenance"
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with engine, seed and labels, as in a recipe")] = None,
    structures: Annotated[Path | None, typer.Option(help="only these: text file, one name a line")] = None,
    split: Annotated[str | None, typer.Option(help="only this one")] = None,
    energy_forces: Annotated[
        bool, typer.Option("--energy-forces", help="compute energies and forces where they are missing")
    ] = False,
    hessian: Annotated[bool, typer.Option("--hessian", help="compute full Hessians where they are missing")] = False,
    relabel: Annotated[
        bool,
        typer.Option("--relabel", help="drop all labels: the new file is at the engine's level of theory"),
    ] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="of the directions; 0 by default")] = None,
    processes: Annotated[int, typer.Option(min=1, help="worker processes")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what it would cost and stop")] = False,
) -> None:
    """Add labels to a data set: Hessian-vector products along directions, at the price of one or two gradients each.

    Everything that the set holds is kept. Rerunning the same command resumes an interrupted run. Structures that fail
    are listed and stay as they are; the exit status is 0 if there are others, as for a build.
    """
    # The label engine is loaded by this verb alone.
    from hessgnn.data.store.store import Store
    from hessgnn.factory.label_parts import LabellingSettings
    from hessgnn.factory.labelling import Labelling, choose, engine_of
    from hessgnn.runtime.config import merge, parse, read_yaml
    from hessgnn.runtime.files import find_resource
    from hessgnn.surface.engines.potential import engine_settings

    store = Store.open(data)
    told = {} if config is None else _of_recipe(read_yaml(find_resource(config)), config)
    of_directions = {"kind": directions, "number": number, "scheme": scheme, "step": _step(step)}
    asked: dict[str, Any] = {key: value for key, value in of_directions.items() if value is not None}
    if source is not None:
        asked["source"] = {"potential": source} if Path(source).is_dir() else {"engine": {"name": source}}
    content = merge(
        told,
        {"directions": asked} if asked else {},
        {"engine": engine_settings(engine)} if engine is not None else {},
        {"seed": seed} if seed is not None else {},
        {"energy_forces": True} if energy_forces else {},
        {"hessian": True} if hessian else {},
        {"relabel": True} if relabel else {},
    )
    if "engine" not in content:
        known = engine_of(store)
        if known is None:
            raise ConfigError(
                "does not say which engine computed its labels, or names one that runs code of its settings",
                where=store.path,
                hint="give --engine or --config",
            )
        content["engine"] = known
    settings = parse(LabellingSettings, content, where=config or "hessgnn data label")
    labelling = Labelling(store, settings, output, choose(store, structures, split))
    console = Console()
    if labelling.earlier is not None:
        say(console, f"{output} is finished: an earlier run of the same command wrote it")
    elif dry_run:
        _print_price(console, labelling.price(), len(labelling.todo), labelling.finished())
        return
    report = labelling.run(processes)
    for name, reason in report.failed.items():
        say(console, f"failed: {name}: {reason}")
    calls = ", ".join(f"{count:,} {_CALLS[key]}" for key, count in report.cost.items() if count)
    say(console, f"{report.labelled} structures labelled, {len(report.failed)} failed, in {output}: {calls}")


_CALLS = {
    "gradients": "gradient calls",
    "hessians": "Hessians",
    "gradients_for_modes": "gradient calls of the engine that gives the modes",
}


def _print_price(console: Console, price: dict[str, int], number: int, finished: int) -> None:
    """Print what labels would cost, and what full Hessians would."""
    full, lines = price.pop("full"), price.pop("lines", 0)
    say(console, f"{number} structures, {finished} of them finished in an earlier run; to be computed:")
    for key, count in price.items():
        if count or key == "gradients":
            say(console, f"{count:>12,} {_CALLS[key]}")
        if lines and key == "gradients":
            say(console, f"{lines:>12,} of them for the step and the error estimates")
    say(console, f"{full:>12,} gradient calls for full Hessians of the same structures, for comparison")
    if lines and not price["hessians"] and price["gradients"] > full:
        say(console, "Full Hessians (--hessian) would cost less.")
    say(
        console,
        "One gradient more for each structure, if the forces of the set differ from those of the engine.",
    )


def _step(text: str | None) -> str | float | None:
    if text is None or text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise ConfigError("is neither auto nor a number", where=f"--step {text}", hint="write it in Å: 0.001") from None


def _of_recipe(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Sections of a recipe that say how to label; what it says of geometries does not matter here."""
    found: dict[str, Any] = {key: content[key] for key in ("engine", "seed") if key in content}
    labels = content.get("labels", {})
    if not isinstance(labels, dict):
        raise ConfigError("is not a section of settings", where=f"{path}, key 'labels'", hint="write `labels: {...}`")
    return found | labels
