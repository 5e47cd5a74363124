from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_store import write_tiny_store

from hessgnn.experiments.config import StudyConfig
from hessgnn.runtime.config import merge, parse


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_store(tmp_path_factory.mktemp("data") / "tiny.h5")


@pytest.fixture
def make_study(tiny_store: Path) -> Callable[..., StudyConfig]:
    content = {
        "name": "tiny",
        "architectures": {"schnet": {"potential": {"width": 8, "n_interactions": 1, "n_basis": 8}}},
        "base": {
            "data": {"path": str(tiny_store)},
            "training": {"batch_size": 3, "schedule": {"warmup": 2}, "device": "cpu", "threads": 1},
            "validation": {"every": 4, "hessian": "probes", "n_probes": 2},
        },
        "steps": 6,
        "seeds": [1, 2],
        "workers": 0,  # no processes, so that what a job uses can be replaced
    }

    def make(**changes: Any) -> StudyConfig:
        return parse(StudyConfig, merge(content, changes), where="study.yaml")

    return make
