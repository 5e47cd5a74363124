"""Commands for authors of architectures: list them, check one, print the schemas of files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from hessgnn.potentials.base import Potential
    from hessgnn.testing import Examination

Name = Annotated[str, typer.Argument(metavar="NAME|module:Class", help="A potential, as configs name it.")]
Assignments = Annotated[list[str] | None, typer.Argument(help="Settings of the potential, such as width=16.")]


def check(
    name: Name,
    settings: Assignments = None,
    device: Annotated[str, typer.Option(help="Device to compute on.")] = "cpu",
    cost: Annotated[
        bool, typer.Option("--cost", help="Also time training steps and a Hessian, a minute or so.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check that a potential fulfils the contract for training on Hessians, and say what it is fit for.

    Exit status 1 if it breaks an item without a declared reason.
    """
    import json
    import time

    from hessgnn.runtime.config import override
    from hessgnn.runtime.terminal import PATIENCE, ProgressLog
    from hessgnn.testing import examine  # late: torch and its company take seconds to import

    console = Console(stderr=as_json)
    given = override({}, settings or [])
    log, began = ProgressLog(console), time.monotonic()
    with console.status(f"checking {escape(name)}") as status:

        def tell(item: str, done: int, total: int) -> None:
            status.update(f"checking {escape(name)}: item {done + 1} of {total}, {item}")
            if time.monotonic() - began > PATIENCE:
                log.progress(f"check {name}", "items", done, total, f"{done}/{total} items")

        found = examine(name, given, device=device, observer=tell)
    costs = None
    if cost:
        from hessgnn_bench.adapted import costs_of

        with console.status(f"timing {escape(name)}"):
            costs = costs_of(name, given, device)
    if as_json:
        typer.echo(json.dumps({"potential": name, "settings": given, **found.to_json(), "cost": costs}, indent=1))
    else:
        _show(console, name, found)
        for line in [] if costs is None else costs["lines"]:
            console.print(escape(line), highlight=False, soft_wrap=True)
    if found.counts()["failed"]:
        raise typer.Exit(1)


def _show(console: Console, name: str, found: Examination) -> None:
    table = Table("item", "outcome", "what is required, or what was found", title=escape(name), title_justify="left")
    shown: dict[str, str] = {}
    for outcome in found.outcomes:
        if outcome.passed:
            verdict, text = "[green]passed[/]", escape(outcome.item.requirement)
        elif outcome.failed:
            first = shown.setdefault(outcome.message, outcome.item.name)
            again = f"as in {first}" if first != outcome.item.name else escape(outcome.message)
            verdict, text = "[red]failed[/]", f"{again}\n[bold]Hint:[/] {escape(outcome.item.hint)}"
        else:
            measured = f" ({outcome.message})" if outcome.message else ""
            verdict, text = "[yellow]skipped[/]", escape(f"declared: {outcome.skipped_reason}{measured}")
        table.add_row(outcome.item.name, verdict, text)
    console.print(table)
    counts = found.counts()
    console.print(
        f"{counts['passed']} of {len(found.outcomes)} items passed, {counts['failed']} failed, "
        f"{counts['skipped']} skipped"
    )
    uses = Table("fit for", "", "")
    colours = {"yes": "green", "limited": "yellow", "no": "red"}
    for use in found.uses:
        uses.add_row(use.name, f"[{colours[use.verdict]}]{use.verdict}[/]", escape(use.reason))
    console.print(uses)
    error = "not computed" if found.hessian_error is None else f"{found.hessian_error:.0e} off"
    jump = "none found" if found.jump is None else f"{found.jump.quantity} by {found.jump.height:.0e} of its usual "
    jump += "" if found.jump is None else f"magnitude, at a distance of {found.jump.distance:.3f} Å"
    console.print(f"Hessian against differences of the forces: {error}. Jumps: {jump}", highlight=False, soft_wrap=True)


def schema(
    what: Annotated[
        str, typer.Argument(help="record (one entry of a leaderboard), leaderboard, train, sweep, study or transfer.")
    ] = "record",
) -> None:
    """Print the JSON schema of a file that hessgnn reads or writes."""
    import json

    from hessgnn.errors import ConfigError, did_you_mean
    from hessgnn.evaluation.record import Record
    from hessgnn.experiments.config import StudyConfig
    from hessgnn.experiments.transfer_config import TransferConfig
    from hessgnn.leaderboard.board import Leaderboard
    from hessgnn.runtime.config import Settings
    from hessgnn.sweep.config import SweepConfig
    from hessgnn.training.config import RunConfig

    published: dict[str, type[Settings]] = {
        "record": Record,
        "leaderboard": Leaderboard,
        "train": RunConfig,
        "sweep": SweepConfig,
        "study": StudyConfig,
        "transfer": TransferConfig,
    }
    if what not in published:
        raise ConfigError("has no schema", where=what, hint=did_you_mean(what, published))
    typer.echo(json.dumps(published[what].model_json_schema(), indent=1, ensure_ascii=False))


def models() -> None:
    """List the potentials: where their weights come from, what they need, and their settings."""
    from hessgnn.potentials.base import POTENTIALS, resolve

    console = Console()
    found = {name: resolve(name) for name in POTENTIALS.names()}
    overview = Table("potential", "weights", "package")
    for name, cls in found.items():
        overview.add_row(name, *map(escape, _needs(cls)))
    console.print(overview)
    for name, cls in found.items():
        summary = (cls.__doc__ or "").strip().partition("\n")[0]
        console.print(f"[bold]{escape(name)}[/]  {escape(summary)}")
        table = Table("setting", "default", "description")
        for key, field in cls.Config.model_fields.items():
            default = "" if field.is_required() else repr(field.get_default(call_default_factory=True))
            table.add_row(key, escape(default), escape(field.description or ""))
        console.print(table)


def _needs(potential: type[Potential]) -> tuple[str, str]:
    """Where the weights of a potential come from, and whether the package that it needs is installed."""
    from importlib import metadata

    from hessgnn.potentials.adapters.base import AdaptedPotential

    if not issubclass(potential, AdaptedPotential):
        return "new", "hessgnn"
    field = potential.Config.model_fields["weights"]
    weights = "a file" if field.is_required() else "new, or a file"
    if field.default and not field.is_required():
        weights = f"published ({field.default}), or a file"
    if not potential.package:
        return weights, ""
    try:
        return weights, f"{potential.package} {metadata.version(potential.package)}"
    except metadata.PackageNotFoundError:
        return weights, f"not installed: pip install {potential.package}"
