"""What is stored of the reference and of a bad surface."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from hessgnn.evaluation.record import Cost, DataSource, Failure, Metric, Record

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("reference")


def test_a_task_on_one_split_leaves_what_is_known_of_others(
    reference: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "RESULTS", tmp_path)
    data = DataSource(name="d", content_hash="c", split_hash="s", level_of_theory="GFN2-xTB")

    def record(split: str, name: str, task: str) -> Record:
        return Record(
            entry="gfn2",
            architecture="gfn2",
            regime="external",
            seed=None,
            status="ok",
            parameters=0,
            data=data,
            cost=Cost(),
            weights={},
            metrics={split: {name: Metric(value=1.0, unit="eV", n=1)}},
            failures=[Failure(task=task, split=split, structure="a", reason="why")],
        )

    def kept() -> tuple[dict[str, list[str]], list[list[str]]]:
        content = json.loads((tmp_path / "reference-gfn2.json").read_text(encoding="utf-8"))
        failures = [[failure["task"], failure["split"]] for failure in content["failures"]]
        return {split: list(metrics) for split, metrics in content["metrics"].items()}, failures

    reference.keep(record("test", "energy_mae", "accuracy"), "gfn2", [], None)
    reference.keep(record("nms", "energy_rmse", "accuracy"), "gfn2", [], None)
    reference.keep(record("test", "neb_failed", "neb"), "gfn2", [], None)
    reference.keep(record("test", "forces_mae", "accuracy"), "gfn2", [], None)  # anew, in place of the first
    metrics, failures = kept()
    assert metrics == {"test": ["neb_failed", "forces_mae"], "nms": ["energy_rmse"]}
    assert sorted(failures) == [["accuracy", "nms"], ["accuracy", "test"], ["neb", "test"]]
