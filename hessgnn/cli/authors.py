"""Commands for authors of architectures: list them, check one, print the schemas of files."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

Name = Annotated[str, typer.Argument(metavar="NAME|module:Class", help="A potential, as configs name it.")]
Assignments = Annotated[list[str] | None, typer.Argument(help="Settings of the potential, such as width=16.")]


def check(
    name: Name,
    settings: Assignments = None,
    device: Annotated[str, typer.Option(help="Device to compute on.")] = "cpu",
) -> None:
    """Check that a potential fulfils the contract for training on Hessians; exit status 1 if it does not."""
    from hessgnn.runtime.config import override
    from hessgnn.testing import check_potential  # late: torch and its company take seconds to import

    console = Console()
    with console.status(f"checking {escape(name)}"):
        outcomes = check_potential(name, override({}, settings or []), device=device)
    table = Table("item", "outcome", "what is required, or what was found", title=escape(name), title_justify="left")
    for outcome in outcomes:
        if outcome.passed:
            verdict, text = "[green]passed[/]", escape(outcome.item.requirement)
        elif outcome.failed:
            verdict, text = (
                "[red]failed[/]",
                f"{escape(outcome.message)}\n[bold]Hint:[/] {escape(outcome.item.hint)}",
            )
        else:
            verdict, text = "[yellow]skipped[/]", escape(f"declared: {outcome.skipped_reason} ({outcome.message})")
        table.add_row(outcome.item.name, verdict, text)
    console.print(table)
    failed, skipped = sum(o.failed for o in outcomes), sum(o.skipped_reason is not None for o in outcomes)
    passed = len(outcomes) - failed - skipped
    console.print(f"{passed} of {len(outcomes)} items passed, {failed} failed, {skipped} skipped")
    if failed:
        raise typer.Exit(1)


def schema(
    what: Annotated[
        str, typer.Argument(help="record (one entry of a leaderboard), leaderboard, train, sweep or study.")
    ] = "record",
) -> None:
    """Print the JSON schema of a file that hessgnn reads or writes."""
    import json

    from hessgnn.errors import ConfigError, did_you_mean
    from hessgnn.evaluation.record import Record
    from hessgnn.experiments.config import StudyConfig
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
    }
    if what not in published:
        raise ConfigError("has no schema", where=what, hint=did_you_mean(what, published))
    typer.echo(json.dumps(published[what].model_json_schema(), indent=1, ensure_ascii=False))


def models() -> None:
    """List the potentials with their settings."""
    from hessgnn.potentials.base import POTENTIALS, resolve

    console = Console()
    for name in POTENTIALS.names():
        cls = resolve(name)
        summary = (cls.__doc__ or "").strip().partition("\n")[0]
        console.print(f"[bold]{escape(name)}[/]  {escape(summary)}")
        table = Table("setting", "default", "description")
        for key, field in cls.Config.model_fields.items():
            default = "" if field.is_required() else repr(field.get_default(call_default_factory=True))
            table.add_row(key, escape(default), escape(field.description or ""))
        console.print(table)
