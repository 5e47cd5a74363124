"""Take the pages and the leaderboard of a finished sweep into the repository."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from hessgnn.errors import DataError
from hessgnn.experiments.label_value import LabelValue
from hessgnn.experiments.transfer_value import TransferValue
from hessgnn.leaderboard.board import Leaderboard
from hessgnn.runtime.files import write_text
from pages.curves import draw_curve

PAGES = {
    "reference": {"leaderboard/leaderboard.md": "leaderboard.md", "sweep.md": "tuning.md"},
    "quickstart": {"leaderboard/leaderboard.md": "quickstart.md"},
}
"""Name of the sweep -> its files and what they are called in ``docs/results``."""


def take(run: Path, written: Path, results: Path) -> list[Path]:
    """Copy a sweep's pages to ``docs/results`` and the numbers that other pages need to ``benchmarks/results``.

    Parameters
    ----------
    run
        Folder of a finished sweep, such as ``runs/reference``; or of a study, finished or not.
    written
        ``docs/results``.
    results
        ``benchmarks/results``; ``NAME-leaderboard.json`` has all claims and entries, without the scores that
        ``leaderboard.md`` shows.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    DataError
        When the sweep is not finished, is none that pages are about, or ran on other data than they describe; nothing
        is written then.
    """
    if (run / "transfer.json").is_file():
        return [_take_transfer(run / "transfer.json", results)]
    if (run / "labels.json").is_file():
        return _take_labels(run / "labels.json", results / "labels-study.json", written / "labels.svg")
    try:
        name = str(yaml.safe_load((run / "sweep.yaml").read_text(encoding="utf-8"))["name"])
        board = Leaderboard.model_validate_json((run / "leaderboard" / "leaderboard.json").read_text(encoding="utf-8"))
        files = {target: (run / source).read_text(encoding="utf-8") for source, target in PAGES.get(name, {}).items()}
        minutes = _minutes((run / "sweep.log").read_text(encoding="utf-8"))
    except (OSError, KeyError, TypeError, ValueError, ValidationError) as error:
        raise DataError(
            f"no finished sweep: {str(error).splitlines()[0]}", where=str(run), hint="run the sweep to its end"
        ) from error
    if not files:
        raise DataError(f"no page is about the sweep {name!r}", where=str(run), hint=f"take {' or '.join(PAGES)}")
    if name == "reference" and board.demonstration:
        raise DataError("the reference run is a demonstration", where=str(run), hint="set demonstration: false")
    described = json.loads((results / "data-rtp-mini.json").read_text(encoding="utf-8"))
    if (board.data.content_hash, board.data.split_hash) != (described["content_hash"], described["split_hash"]):
        raise DataError("the sweep ran on other data or splits than the pages describe", where=str(run))
    rows = [row.model_copy(update={"scores": {}}) for row in board.rows]
    dropped = {"rows": rows, "gains": [], "ranks": [], "task_failures": [], "notes": [], "metrics": {}}
    slim = board.model_copy(update=dropped).model_dump(mode="json")
    for target, text in files.items():
        write_text(written / target, text)
    record = results / f"{name}-leaderboard.json"
    write_text(record, json.dumps({"minutes": minutes, "board": slim}, indent=1, ensure_ascii=False) + "\n")
    return [*(written / target for target in files), record]


def _minutes(log: str) -> float:
    """From the first to the last line, pauses included."""
    times = [datetime.fromisoformat(line[:19]) for line in (log.splitlines()[0], log.splitlines()[-1])]
    return round((times[1] - times[0]).total_seconds() / 60, 1)


def _take_labels(source: Path, target: Path, figure: Path) -> list[Path]:
    """What labels buy, of the study ``sweeps/labels.yaml``, finished or not; with five digits, on few lines."""
    found = LabelValue.model_validate_json(source.read_text(encoding="utf-8"))
    content = rounded(found.model_dump(mode="json"))
    points = [json.dumps(point, ensure_ascii=False) for point in content.pop("points")]
    text = json.dumps(content, indent=1, ensure_ascii=False).removesuffix("\n}")
    write_text(target, f'{text},\n "points": [\n  ' + ",\n  ".join(points) + "\n ]\n}\n")
    draw_curve(found, figure)
    return [target, figure]


def _take_transfer(source: Path, results: Path) -> Path:
    """What a transfer study found out, finished or not; with five digits, on few lines."""
    found = TransferValue.model_validate_json(source.read_text(encoding="utf-8"))
    content = rounded(found.model_dump(mode="json"))
    lists = {key: [json.dumps(one, ensure_ascii=False) for one in content.pop(key)] for key in _LISTS}
    text = json.dumps(content, indent=1, ensure_ascii=False).removesuffix("\n}")
    for key, lines in lists.items():
        text += f',\n "{key}": [' + ("\n  " + ",\n  ".join(lines) + "\n ]" if lines else "]")
    target = results / f"{found.name}-study.json"
    write_text(target, text + "\n}\n")
    return target


_LISTS = ("arms", "answers", "equivalents")


def rounded(content: Any) -> Any:
    """Numbers of nested lists and mappings with five digits."""
    if isinstance(content, dict):
        return {key: rounded(value) for key, value in content.items()}
    if isinstance(content, list):
        return [rounded(value) for value in content]
    return float(f"{content:.5g}") if isinstance(content, float) else content
