"""Scaling over threads and processes: what is timed inside a step, and the table of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import scaling
from pages import speed


def test_a_step_is_that_of_a_run_and_its_parts_are_timed() -> None:
    threads = torch.get_num_threads()
    try:
        trained = scaling.Trained(scaling.Piece("ani", 4, "E-F-H"), scaling.Layout(1, 1), "rtp-mini")
        before = {name: p.clone() for name, p in trained.setup.potential.named_parameters()}
        seconds = trained(2)
    finally:
        torch.set_num_threads(threads)
    assert trained.step == 2
    assert set(seconds) == {"step", *scaling.PARTS}
    assert min(seconds.values()) > 0
    assert sum(seconds[part] for part in scaling.PARTS) < seconds["step"]
    assert any(not torch.equal(p, before[name]) for name, p in trained.setup.potential.named_parameters())


class Pipe:
    """A process that says at once how long it took."""

    def __init__(self, answer: dict[str, float] | str) -> None:
        self.answer, self.asked = answer, []

    def send(self, asked: object) -> None:
        self.asked.append(asked)

    def recv(self) -> dict[str, float] | str:
        return self.answer


def seconds(step: float, loader: float, exchange: float) -> dict[str, float]:
    return {"step": step, "loader": loader, "targets": 0.01, "exchange": exchange}


def test_layouts_take_turns_and_the_slowest_process_counts() -> None:
    one, two = Pipe(seconds(0.4, 0.02, 0.0)), [Pipe(seconds(0.25, 0.01, 0.05)), Pipe(seconds(0.24, 0.02, 0.02))]
    piece, layouts = scaling.Piece("ani", 32, "E-F"), (scaling.Layout(1, 1), scaling.Layout(2, 1))
    layouts += (scaling.Layout(1, 1, workers=1),)
    groups = [scaling.Group([one]), scaling.Group(two), scaling.Group([Pipe(seconds(0.4, 0.004, 0.0))])]
    found = scaling.measure(piece, layouts, groups, 3, 1.0)
    assert one.asked == [(piece, 2), (piece, 2), *[(piece, 3)] * 3]
    assert two[1].asked == [(piece, 2), *[(piece, 3)] * 3]
    assert found["2 processes × 1"][0] == {
        "step": 0.25,
        "loader": 0.02,
        "targets": 0.01,
        "exchange": 0.02,
        "waiting": pytest.approx(0.03),
    }
    table = speed.scaling({"results": [{**piece._asdict(), "layouts": found}]})
    assert table.splitlines()[2] == "| ani, 32, E-F | 400.0 | 1.60 | 5.0% | 2.5% | 8.0% | 12.0% | 1.0% |"
    with pytest.raises(SystemExit, match="it broke"):
        scaling.Group([Pipe("it broke")])(piece, 1)
