from __future__ import annotations

import pytest

from hessgnn.training.config import ScheduleConfig
from hessgnn.training.optimizer import Schedule


def test_warm_up_then_cosine_down_to_the_final_share() -> None:
    schedule = Schedule(ScheduleConfig(lr=1.0, warmup=4, final=0.1), 104)
    assert [schedule.lr(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert schedule.lr(4) == 1.0
    assert schedule.lr(54) == pytest.approx(0.55)
    assert schedule.lr(104) == pytest.approx(0.1)


def plateau(**settings: float) -> ScheduleConfig:
    return ScheduleConfig.model_validate({"lr": 1.0, "warmup": 0, "kind": "plateau", "patience": 2} | settings)


def observe(schedule: Schedule, *scores: float) -> list[tuple[float, bool]]:
    """Rate and whether the run is to end, after each of the scores of steps 10, 20, ..."""
    found = []
    for number, score in enumerate(scores, 1):
        schedule.observe(score, 10 * number)
        found.append((schedule.lr(10), schedule.flat))
    return found


def test_plateau_lowers_the_rate_after_its_patience_and_ends_below_the_lowest_rate() -> None:
    schedule = Schedule(plateau(final=0.3), 100)
    found = observe(schedule, 5.0, 4.0, 4.0, 4.0, 4.0, 4.0)
    assert found == [(1.0, False)] * 3 + [(0.5, False)] * 2 + [(0.25, True)]
    assert schedule.best_step == 20
    restored = Schedule(schedule.config, 100)
    restored.load_state_dict(schedule.state_dict())
    assert (restored.lr(10), restored.flat, restored.best_step) == (0.25, True, 20)


def test_plateau_ends_below_a_rate_of_its_own() -> None:
    assert observe(Schedule(plateau(stop_below=0.6), 100), 4.0, 4.0, 4.0)[-1] == (0.5, True)
    assert observe(Schedule(plateau(stop_below=0.5), 100), 4.0, 4.0, 4.0)[-1] == (0.5, False)
    for kind in ("cosine", "constant"):
        assert not observe(Schedule(plateau(stop_below=9.0, kind=kind), 100), 4.0, 4.0, 4.0)[-1][1]


def test_plateau_takes_no_small_decrease_for_an_improvement_and_does_not_count_the_warmup() -> None:
    falling = (4.0, 3.99, 3.98)
    assert observe(Schedule(plateau(), 100), *falling)[-1][0] == 1.0
    assert observe(Schedule(plateau(threshold=0.01), 100), *falling)[-1][0] == 0.5
    warming = Schedule(plateau(warmup=25), 100)
    assert [rate for rate, _ in observe(warming, 4.0, 5.0, 5.0, 5.0)] == [pytest.approx(11 / 25)] * 4
    assert (warming.best, warming.reduction) == (5.0, 1.0)


def test_constant_stays() -> None:
    schedule = Schedule(ScheduleConfig(lr=1.0, warmup=1, kind="constant"), 10)
    schedule.observe(1.0, 5)
    assert schedule.lr(0) == schedule.lr(9) == 1.0
