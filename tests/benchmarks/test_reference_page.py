"""The page on the reference and a bad surface is what the stored records say."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("reference")


def test_nobody_edited_the_page(reference: ModuleType) -> None:
    page = reference.page()
    assert page == reference.PAGE.read_text(encoding="utf-8"), "run python benchmarks/reference.py page"
    for task in reference.TASKS:
        assert f"## {task}" in page


def test_another_record_gives_another_page(reference: ModuleType, tmp_path: Path) -> None:
    for path in BENCHMARKS.joinpath("results").glob("reference-*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        if path.stem == "reference-gfn2":
            record["metrics"]["test"]["energy_mae"]["value"] = 12.345678
        if path.stem == "reference-interpolated":
            record["barriers"] = dict.fromkeys(record["barriers"], 77.7)
        (tmp_path / path.name).write_text(json.dumps(record), encoding="utf-8")
    page = reference.page(tmp_path)
    assert "| `energy_mae` | E MAE | meV/atom | 12.3 |" in page
    assert "a median of 77.7 and a mean of 77.7 meV" in page
    assert "| GFN2-xTB | 14 |" not in page
