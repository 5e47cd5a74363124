"""Fixtures of the sweep tests: two architectures so small that a trial takes less than a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_store import write_tiny_store

from hessgnn.config import merge, parse
from hessgnn.sweep.config import SweepConfig

EXAMPLE = "examples.my_potential:MyPotential"


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_store(tmp_path_factory.mktemp("data") / "tiny.h5")


@pytest.fixture
def content(tiny_store: Path) -> dict[str, Any]:
    """What a user would write."""
    return {
        "name": "tiny",
        "architectures": {
            "schnet": {"potential": {"width": 8, "n_interactions": 1, "n_basis": 8}},
            EXAMPLE: {"potential": {"width": 4, "n_basis": 4}},
        },
        "base": {
            "data": {"path": str(tiny_store)},
            "training": {"batch_size": 3, "schedule": {"warmup": 2}, "device": "cpu"},
            "validation": {"every": 4, "hessian": "probes", "n_probes": 2},
        },
        "budget": {"trials": 3, "steps": 8},
        "sampler": {"startup": 1},
        "transfer": False,
        "final_steps": 10,
        "workers": 2,
        "threads": 1,
        "heartbeat": 0.5,
    }


@pytest.fixture
def make_sweep(content: dict[str, Any]) -> Callable[..., SweepConfig]:
    def make(**changes: Any) -> SweepConfig:
        return parse(SweepConfig, merge(content, changes), where="sweep.yaml")

    return make
