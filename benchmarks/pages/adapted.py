"""Tables of adapted potentials, from the record of ``benchmarks/adapted.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hessgnn.potentials.adapters.base import AdaptedConfig
from hessgnn.potentials.base import resolve
from pages.speed import table
from pages.stored import ROOT

STEP_GOAL, HESSIAN_GOAL, ERROR_GOAL = 2.5, 0.5, 1e-5
"""Of an E-F-H step over an E-F step, of a Hessian over 6N force calls, and of a Hessian's relative error."""
ONE_PROBE, OURS, OWN = "E-F-H, one probe", "hessgnn", "its own"

Record = Mapping[str, Any]


def _words(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of texts."""
    head = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)])


def facts(record: Record) -> str:
    """What each is, and where its weights come from."""
    titles = ["`potential.name`", "package", "`weights`", "elements", "level of theory", "licence", "citation"]
    rows = []
    for name, row in record["results"].items():
        known = row["facts"]
        package = f"{known['package']} {row['version']}"
        rest = [known[key] for key in ("weights", "elements", "level", "licence", "citation")]
        rows.append([f"`{name}`", package, *rest])
    return _words(titles, rows)


def install(record: Record) -> str:
    """The line of each, as code."""
    lines = {name: row["facts"]["install"] for name, row in record["results"].items()}
    width = max(map(len, lines.values())) + 2
    return "\n".join(f"    {line:<{width}}# {name}" for name, line in lines.items() if line.startswith("pip"))


def settings(record: Record) -> str:
    """Settings that not all of them have."""
    rows = []
    for name in record["results"]:
        for key, field in resolve(name).Config.model_fields.items():
            if key in AdaptedConfig.model_fields:
                continue
            default = field.get_default(call_default_factory=True)
            rows.append([f"`{name}`", f"`{key}`", f"`{default}`", field.description or ""])
    return _words(["potential", "setting", "default", "meaning"], rows)


def measured(record: Record) -> str:
    """The contract, errors and times of each."""
    titles = [
        *("potential", "items passed", "Hessian error", "largest jump", "E-F step / ms", "E-F-H over E-F"),
        *("Hessian / ms", "over 6N force calls", "over its own"),
    ]
    return table(titles, [[f"`{name}`", *_cells(row)] for name, row in record["results"].items()])


def _cells(row: Mapping[str, Any]) -> list[str]:
    contract, accuracy, cost = _part(row, "contract"), _part(row, "accuracy"), _part(row, "cost")
    items = "" if not contract else f"{contract['passed']} of {len(contract['items'])}"
    error = "" if not accuracy else f"{accuracy['hessian_error']:.0e}"
    jump = (contract or {}).get("jump")
    where = "" if not contract else "none" if jump is None else f"{jump['height']:.0e} at {jump['distance']:.2f} Å"
    if not cost:
        return [items, error, where, "", "", "", "", ""]
    steps, hessian = cost["steps"], cost["hessian"]
    own = f"{hessian['ms'][OURS] / hessian['ms'][OWN]:.2f}" if OWN in hessian["ms"] else ""
    return [
        *(items, error, where, f"{steps['ms']['E-F']:.0f}", f"{steps['ratio'][ONE_PROBE][1]:.2f}"),
        *(f"{hessian['ms'][OURS]:.0f}", f"{hessian['ratio'][OURS][1]:.2f}", own),
    ]


def not_kept(record: Record) -> list[str]:
    """One sentence for each reason that a potential gives for items that it does not keep."""
    sentences = []
    for name, row in record["results"].items():
        reasons: dict[str, list[str]] = {}
        for item in (_part(row, "contract") or {"items": []})["items"]:
            if item["outcome"] != "passed":
                reasons.setdefault(item["reason"] or item["message"], []).append(f"`{item['name']}`")
        sentences += [f"`{name}`, {', '.join(items)}: {reason}." for reason, items in reasons.items()]
    return sentences


def uses(record: Record) -> str:
    """What each is fit for."""
    found = {name: part for name, row in record["results"].items() if (part := _part(row, "contract"))}
    names = dict.fromkeys(use["name"] for part in found.values() for use in part["uses"])
    verdicts = {name: {use["name"]: use["verdict"] for use in part["uses"]} for name, part in found.items()}
    rows = [[use, *(verdicts[name].get(use, "") for name in found)] for use in names]
    return _words(["use", *(f"`{name}`" for name in found)], rows)


def goals(record: Record) -> str:
    """How many of those that were measured reach each goal."""
    rows = []
    parts = {name: {part: _part(row, part) for part in ("accuracy", "cost")} for name, row in record["results"].items()}
    values = {
        f"Hessian error, at most {ERROR_GOAL:.0e}": (
            ERROR_GOAL,
            {name: part["accuracy"]["hessian_error"] for name, part in parts.items() if part["accuracy"]},
        ),
        f"E-F-H step over E-F step, at most {STEP_GOAL}": (
            STEP_GOAL,
            {name: part["cost"]["steps"]["ratio"][ONE_PROBE][1] for name, part in parts.items() if part["cost"]},
        ),
        f"Hessian over 6N force calls, at most {HESSIAN_GOAL}": (
            HESSIAN_GOAL,
            {name: part["cost"]["hessian"]["ratio"][OURS][1] for name, part in parts.items() if part["cost"]},
        ),
    }
    for title, (goal, found) in values.items():
        missed = [f"`{name}` ({value:.2g})" for name, value in found.items() if not value <= goal]
        rows.append([title, f"{len(found) - len(missed)} of {len(found)}", ", ".join(missed) or "none"])
    return _words(["goal", "reached by", "missed by"], rows)


def _part(row: Mapping[str, Any], part: str) -> Any:
    found = row.get(part)
    # "failed" is also the number of items that are not kept.
    return None if found is None or isinstance(found.get("failed"), str) else found


def published(record: Record) -> list[str]:
    """Those whose weights are published ones."""
    return [f"`{name}`" for name, row in record["results"].items() if row["published"]]


def wrapper(name: str) -> str:
    """A file of the page on how to add things, which is tested there."""
    page = (ROOT / "docs" / "how-do-i-add.md").read_text(encoding="utf-8")
    return page.partition(f"```python\n# {name}\n")[2].partition("```")[0]


def wrapper_lines(name: str) -> int:
    """How many lines of code it has."""
    return sum(bool(line.strip()) for line in wrapper(name).splitlines())
