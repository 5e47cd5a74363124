import pytest
import torch
from hessgnn_bench import timing
from hessgnn_bench.timing import Step, Times, TrainingStep, interleaved
from hessgnn_bench.workload import Workload

from hessgnn.training.loss_config import LossConfig


def test_quartiles_are_of_ratios_of_neighbours_and_stay_within_them():
    mine, theirs = Times((2.0, 6.0, 30.0, 4.0, 5.0)), Times((1.0, 2.0, 10.0, 4.0, 1.0))  # ratios 2 3 3 1 5
    assert mine.median == 5.0
    assert mine.quartiles_over(theirs) == (2.0, 3.0, 3.0)
    assert Times((3.0, 1.0)).quartiles_over(Times((1.0, 1.0))) == (1.5, 2.0, 2.5)


def test_one_repeat_is_its_own_quartiles():
    assert Times((3.0,)).quartiles_over(Times((2.0,))) == (1.5, 1.5, 1.5)


def test_rounds_hold_every_piece_once_and_warmup_is_not_counted(monkeypatch):
    calls, clock = [], [0.0]

    def work(name, seconds):
        def run():
            calls.append(name)
            clock[0] += seconds * (100 if len(calls) <= 2 else 1)  # the first round is slow

        return run

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    seen = []
    times = interleaved(
        {"a": work("a", 1.0), "b": work("b", 2.0)}, 3, warmup=1, observer=lambda *done: seen.append(done)
    )
    assert calls == ["a", "b"] * 4
    assert times == {"a": Times((1.0,) * 3), "b": Times((2.0,) * 3)}
    assert seen == [(k, 8) for k in range(1, 9)]


def test_a_step_descends_and_leaves_nothing_in_the_positions():
    workload = Workload("schnet", batch_size=2)
    potential, batch = workload.build(), workload.batch
    before = [p.detach().clone() for p in potential.parameters()]
    step = TrainingStep(potential, batch, LossConfig())
    first = float(step())
    assert any(not torch.equal(a, b) for a, b in zip(before, potential.parameters(), strict=True))
    step.update.set_lr(1e-4)
    losses = [float(step()) for _ in range(10)]
    assert min(losses) < first
    assert batch.positions.grad is None


def test_a_step_on_any_loss():
    potential = Workload("schnet", batch_size=2).build()
    step = Step(potential, lambda: sum(p.square().sum() for p in potential.parameters()))
    assert float(step()) > float(step())
    assert float(step()) == pytest.approx(float(step()), rel=1e-3)  # the learning rate is tiny
