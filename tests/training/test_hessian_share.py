"""Structures with a Hessian are repeated among many without one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from springs import TINY, spring_structure

from hessgnn.data.store.store import Store, write_store
from hessgnn.experiments.config import StudyConfig
from hessgnn.training.build import build
from hessgnn.training.config import RunConfig
from hessgnn.training.curvature_labels import repeated


@pytest.fixture
def mostly_frames(tmp_path: Path) -> Path:
    """Two of twelve training structures have a Hessian."""
    whole = [spring_structure(name, "train") for name in ("H2O", "CH4", "NH3", "CO2", "HCN", "C2H2")]
    twice = [dataclasses.replace(s, name=f"{s.name}-{k}", group=s.name) for s in whole for k in range(2)]
    mixed = [s if k in (0, 3) else dataclasses.replace(s, hessian=None) for k, s in enumerate(twice)]
    write_store(tmp_path / "mixed.h5", [*mixed, spring_structure("H2CO", "validation")], level_of_theory="springs")
    return tmp_path / "mixed.h5"


@pytest.mark.parametrize(("share", "expected"), [(None, 2 / 12), (0.1, 2 / 12), (0.5, 0.5), (0.8, 0.8)])
def test_the_share_of_hessians_is_reached_and_all_are_drawn_alike(
    mostly_frames: Path, share: float | None, expected: float
) -> None:
    store = Store.open(mostly_frames)
    train = store.indices("train")
    found = repeated(train, store.has_hessian[train], share)
    assert store.has_hessian[found].mean() == pytest.approx(expected)
    numbers = np.unique(found[store.has_hessian[found]], return_counts=True)[1]
    assert len(numbers) == 2
    assert len(set(numbers.tolist())) == 1
    assert set(train.tolist()) == set(found.tolist())


def test_batches_hold_the_repeated_structures(mostly_frames: Path) -> None:
    content = {
        "potential": TINY,
        "data": {"path": str(mostly_frames)},
        "training": {"device": "cpu", "batch_size": 5, "hessian_share": 0.5},
    }
    setup = build(RunConfig.model_validate(content))
    labelled = [batch.labels.has_hessian for batch in setup.loader if batch.labels is not None]
    assert sum(int(has.sum()) for has in labelled) == 10
    assert sum(len(has) for has in labelled) == 20
    assert np.isfinite(float(setup.step(0).total))


def test_half_of_the_steps_of_half_of_each_see_hessians() -> None:
    config = StudyConfig.model_validate({"name": "s", "architectures": {"schnet": {}}, "regimes": ["E-F+H", "E-F-H"]})
    shares = {
        regime: config.run_config("schnet", {}, steps=1, seed=0, regime=regime).training.hessian_share
        for regime in config.regimes
    }
    assert shares == {"E-F+H": 0.5, "E-F-H": None}


def test_a_composition_replaces_the_share() -> None:
    base = {"training": {"composition": {"curvature": 4, "other": 12}}}
    content = {"name": "s", "architectures": {"schnet": {}}, "regimes": ["E-F+H"], "base": base}
    config = StudyConfig.model_validate(content)
    training = config.run_config("schnet", {}, steps=1, seed=0, regime="E-F+H").training
    assert training.hessian_share is None
    assert training.composition is not None
