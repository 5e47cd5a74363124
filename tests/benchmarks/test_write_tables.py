"""The page of measured speed is what the stored measurements say."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def write_tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("write_tables")


def test_nobody_edited_the_page(write_tables: ModuleType) -> None:
    page = write_tables.page()
    assert page == write_tables.PAGE.read_text(encoding="utf-8"), "run python benchmarks/write_tables.py"
    for _, name, _, _ in write_tables.SECTIONS:
        assert f"{name}.json" in page, "a measurement is missing"


def test_another_measurement_gives_another_page(write_tables: ModuleType, tmp_path: Path) -> None:
    path = BENCHMARKS / "results" / "hessians-cpu.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    row = record["comparisons"][0]["rows"][0]
    row["over_baseline"] = [0.1111, 0.2222, 0.3333]
    (tmp_path / path.name).write_text(json.dumps(record), encoding="utf-8")
    page = write_tables.page(tmp_path)
    assert f"| {row['name']} | {1e3 * row['median']:.1f} | 0.22 | 0.11-0.33 |" in page
    assert "steps-cpu.json" not in page
