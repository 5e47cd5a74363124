"""First steps of a training in fresh processes: what is measured, and its table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from hessgnn_bench import starts
from hessgnn_bench.conditions import Conditions
from hessgnn_bench.report import Report, Starts
from hessgnn_bench.workload import Workload
from pages import speed

WORKLOAD = Workload("schnet", batch_size=4, settings={"width": 8, "n_interactions": 1})


def found(monkeypatch: pytest.MonkeyPatch) -> tuple[Starts, list[tuple[str, bool]]]:
    calls: list[tuple[str, bool]] = []

    def start(_config: object, how: str, cache: str) -> tuple[tuple[float, float], int]:
        marker = Path(cache) / "program"
        warm, seconds = marker.exists(), {"eager": 1.0, "compiled": 3.0}[how]
        if how == "compiled":
            marker.touch()
        calls.append((how, warm))
        return (seconds if warm else 60.0, 2 * seconds), 2 * (how == "compiled")

    monkeypatch.setattr(starts, "_start", start)
    return starts.measure_starts(WORKLOAD, 1, 2), calls


def test_only_the_first_start_finds_an_empty_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    one, calls = found(monkeypatch)
    assert calls == [("compiled", False), *[("eager", True), ("compiled", True)] * 2]
    assert one.shapes == 2
    assert one.first_start.seconds == (60.0,)
    assert one.second_start.seconds == (3.0, 3.0)
    assert one.eager_start.processor == (2.0, 2.0)


def test_starts_are_stored_and_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one, _ = found(monkeypatch)
    report = Report(verb="recorded_step", settings={}, conditions=Conditions.prepare("cpu"), starts=[one])
    report.write(tmp_path / "recorded.json")
    again = Report.read(tmp_path / "recorded.json")
    assert again.starts == [one]
    assert again.starts[0].table().row_count == 3
    rows = speed.starts(again.model_dump(mode="json")).splitlines()
    assert rows[2:] == [
        "| schnet, K=1: eager | 1.0 |  | 2.0 |  |",
        "| schnet, K=1: compiled, first | 60.0 | 59.0 | 6.0 | 4.0 |",
        "| schnet, K=1: second | 3.0 | 2.0 | 6.0 | 4.0 |",
    ]
    assert not speed.starts(report.model_copy(update={"starts": []}).model_dump(mode="json"))


def test_a_start_is_a_process_that_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (seconds, processor), shapes = starts._start(starts._config(WORKLOAD, 1), "eager", str(tmp_path))
    assert seconds > 0
    assert processor > 0
    assert shapes == 0
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="it broke")
    monkeypatch.setattr(subprocess, "run", lambda *_args, **_options: failed)
    with pytest.raises(RuntimeError, match="eager start of schnet: it broke"):
        starts._start(starts._config(WORKLOAD, 1), "eager", str(tmp_path))
