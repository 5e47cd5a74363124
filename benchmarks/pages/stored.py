"""Results as commands wrote them: JSON files, tables of written pages, settings files, and what had to be typed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from hessgnn.errors import DataError

ROOT = Path(__file__).parents[2]

Row = dict[str, str]


class Stored:
    """Reads results, and remembers which it was asked for.

    Parameters
    ----------
    results
        Folder of JSON files and of ``typed.yaml``.
    written
        Folder of pages that commands wrote: ``quickstart.md``, ``leaderboard.md``, ``tuning.md``.
    """

    def __init__(self, results: Path, written: Path) -> None:
        self.results, self.written = results, written
        self.used: set[str] = set()
        self._read: dict[Path, Any] = {}

    def json(self, name: str) -> Any:
        """The content of ``NAME.json``."""
        self.used.add(f"{name}.json")
        return self._once(self.results / f"{name}.json", json.loads)

    def names(self, prefix: str) -> list[str]:
        """Names of stored results that begin so."""
        return sorted(path.stem for path in self.results.glob(f"{prefix}*.json"))

    def has(self, name: str) -> bool:
        """Whether there is a ``NAME.json``."""
        return (self.results / f"{name}.json").exists()

    def typed(self, name: str) -> Any:
        """A figure that no command stores, from ``typed.yaml``, where its command stands beside it."""
        self.used.add(f"typed {name}")
        return self._once(self.results / "typed.yaml", yaml.safe_load)[name]["value"]

    def settings(self, path: str) -> Any:
        """A settings file of the repository, such as ``sweeps/quickstart.yaml``."""
        return self._once(ROOT / path, yaml.safe_load)

    def rows(self, page: str, heading: str) -> list[Row]:
        """The table below a heading of a written page, each line as column -> cell.

        Raises
        ------
        DataError
            When there is no such table.
        """
        tables: dict[str, list[Row]] = self._once(self.written / f"{page}.md", _tables)
        if heading not in tables:
            raise DataError(f"{page}.md has no table below {heading!r}", where=str(self.written))
        return tables[heading]

    def _once(self, path: Path, read: Callable[[str], Any]) -> Any:
        if path not in self._read:
            self._read[path] = read(path.read_text(encoding="utf-8"))
        return self._read[path]


def _tables(text: str) -> dict[str, list[Row]]:
    tables: dict[str, list[Row]] = {}
    heading, titles = "", []
    for line in text.splitlines():
        if line.startswith("#"):
            heading, titles = line.lstrip("# "), []
        elif line.startswith("| ") and not line.startswith("| ---"):
            cells = [cell.strip().replace("\\", "") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if titles:
                tables[heading].append(dict(zip(titles, cells, strict=True)))
            else:
                titles, tables[heading] = cells, []
    return tables
