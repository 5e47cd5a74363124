"""Fixtures of the training tests; what they are made of is in ``springs``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from springs import TINY, write_springs

from hessgnn.training.config import RunConfig


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_springs(tmp_path / "springs.h5")


@pytest.fixture
def make_config(store: Path) -> Callable[..., RunConfig]:
    def make(**sections: dict) -> RunConfig:
        content: dict = {
            "potential": TINY,
            "data": {"path": str(store)},
            "training": {"steps": 12, "batch_size": 2, "schedule": {"warmup": 2}, "device": "cpu", "threads": 1},
            "validation": {"every": 4},
        }
        for section, values in sections.items():
            content[section] = {**content.get(section, {}), **values}
        return RunConfig.model_validate(content)

    return make
