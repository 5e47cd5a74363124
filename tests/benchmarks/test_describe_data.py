"""Stored descriptions of data sets are what the sets contain."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from hessgnn.data.store.store import Store

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def describe_data(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("describe_data")


def test_the_description_is_of_the_bundled_file(describe_data: ModuleType) -> None:
    stored = json.loads((describe_data.RESULTS / "data-rtp-mini.json").read_text(encoding="utf-8"))
    attributes = Store.open("rtp-mini").attributes
    assert (stored["content_hash"], stored["split_hash"]) == (attributes.content_hash, attributes.split_hash)


@pytest.mark.slow
def test_describing_again_gives_the_same(describe_data: ModuleType) -> None:
    stored = json.loads((describe_data.RESULTS / "data-rtp-mini.json").read_text(encoding="utf-8"))
    found = json.loads(json.dumps(describe_data.describe(Store.open("rtp-mini"))))
    assert found == stored
