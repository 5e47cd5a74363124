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


def test_plateau_lowers_the_rate_after_its_patience_and_not_below_the_floor() -> None:
    schedule = Schedule(ScheduleConfig(lr=1.0, warmup=0, kind="plateau", patience=2, factor=0.5, final=0.3), 100)
    rates = []
    for score in (5.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0):
        schedule.observe(score)
        rates.append(schedule.lr(10))
    assert rates == [1.0, 1.0, 1.0, 0.5, 0.5, 0.3, 0.3, 0.3]
    restored = Schedule(schedule.config, 100)
    restored.load_state_dict(schedule.state_dict())
    assert restored.lr(10) == 0.3


def test_constant_stays() -> None:
    schedule = Schedule(ScheduleConfig(lr=1.0, warmup=1, kind="constant"), 10)
    schedule.observe(1.0)
    assert schedule.lr(0) == schedule.lr(9) == 1.0
