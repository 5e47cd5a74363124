"""Whether verdicts survive another output scale and twice the steps, from ``benchmarks/controls.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pages.speed import table
from pages.wording import ARCHITECTURES, joined

DECIDED = ("better", "worse", "no difference larger than 10 %")
COLUMNS = {"scale": {"own": "tuned", "quarter": "scale × ¼", "four": "scale × 4"}}
COLUMNS["steps"] = {"own": "as in the sweep", "double": "twice the steps"}
"""Control -> column of a line -> its heading."""


def text(found: Mapping[str, Any]) -> str:
    """What the controls say of the verdicts on energies, forces and Hessians."""
    parts = [_said(found, "scale", "changes from better to worse or back")]
    if found["steps"] is None:
        parts.append("The control of twice the steps is not finished.")
    else:
        run = found["runs"]["steps"]["double"]
        ended = (
            f"{run['reused']} of {run['runs']} trainings had ended before their steps were used up, under a schedule "
            "that does not depend on their number, and stay as they are."
        )
        parts.append(f"{_said(found, 'steps', 'that is better or worse changes its sign')} {ended}")
    return "\n".join(f"- {part}" for part in parts)


def tables(found: Mapping[str, Any]) -> str:
    """Lines that any column decides, control by control."""
    parts = []
    for control, columns in COLUMNS.items():
        lines = [line for line in _lines(found, control) if any(line[name] in DECIDED for name in columns)]
        if lines:
            rows = [[*_named(line), *(_cell(line, name) for name in columns)] for line in lines]
            head = table(["error", "comparison", "architecture", *columns.values()], rows)
            parts.append(head.replace("---:", "---"))
    return "\n\n".join(parts)


def _said(found: Mapping[str, Any], control: str, change: str) -> str:
    counts, changed = found["counts"][control], found["changed"][control]
    titles = {"scale": "Another output scale", "steps": "Twice the steps"}
    names = joined(
        sorted({ARCHITECTURES.get(line["architecture"], line["architecture"]) for line in _all(found, control)})
    )
    said = f"**{titles[control]}** ({names}): of {counts['lines']} verdicts {changed or 'none'} {change}."
    if not counts["decided"]:
        return f"{said} None is decided under every setting, so that shows nothing."
    return f"{said} Decided under every setting: {counts['decided']}; under some only: {counts['undecided']}."


def _all(found: Mapping[str, Any], control: str) -> Sequence[Mapping[str, Any]]:
    if control == "scale":
        return [line for lines in found["scale"].values() for line in lines]
    return found["steps"] or []


def _lines(found: Mapping[str, Any], control: str) -> Sequence[Mapping[str, Any]]:
    """Those that changed first."""
    return sorted(_all(found, control), key=lambda line: not line["changed"])


def _named(line: Mapping[str, Any]) -> list[str]:
    error = f"{line['title']}, {line['split']}"
    return [
        error,
        f"{line['having']} / {line['without']}",
        ARCHITECTURES.get(line["architecture"], line["architecture"]),
    ]


def _cell(line: Mapping[str, Any], column: str) -> str:
    word, estimate = line[column], line.get(f"{column}_estimate")
    if word not in (*DECIDED, "undecided") or estimate is None:
        return str(word)
    low, high = line[f"{column}_low"], line[f"{column}_high"]
    shown = "no difference" if word.startswith("no difference") else word
    return f"{estimate:.2f} ({low:.2f} to {high:.2f}) {shown}"
