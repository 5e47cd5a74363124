"""Checkpoints that are not what they should be: one line, and nothing written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from springs import TINY

import hessgnn
from hessgnn.errors import UserError
from hessgnn.evaluation.evaluate import evaluate
from hessgnn.potentials.saved import load_checkpoint
from hessgnn.training.config import RunConfig
from hessgnn.training.run import Run
from hessgnn.training.trainer import train

MakeConfig = Callable[..., RunConfig]


@pytest.fixture
def run(make_config: MakeConfig, tmp_path: Path) -> Path:
    training = {"steps": 2, "schedule": {"warmup": 0}, "lora": {"rank": 2}}
    train(make_config(training=training, validation={"every": 2}), tmp_path / "run")
    return tmp_path / "run"


def refusal(what: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        what()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_best_checkpoint_without_weights(run: Path) -> None:
    for content in ([1], {"a": 1}, {"potential": [1]}, {"potential": {1: torch.ones(1)}}, {"potential": {}}):
        torch.save(content, run / "best.pt")
        assert "damaged, or not one of ours" in refusal(lambda: hessgnn.load(run))
        assert "damaged, or not one of ours" in refusal(lambda: evaluate(run, splits=["validation"]))


def test_a_best_checkpoint_in_place_of_the_last(run: Path, make_config: MakeConfig) -> None:
    shutil.copy(run / "best.pt", run / "last.pt")
    config = Run(run).config()
    assert "is not a checkpoint to resume from" in refusal(lambda: train(config, run, resume=True))
    assert "is not a checkpoint to resume from" in refusal(lambda: evaluate(run, splits=["validation"]))


@pytest.mark.parametrize("key", ["averaged", "optimizer", "progress", "schedule"])
def test_a_last_checkpoint_of_another_content(run: Path, key: str) -> None:
    content = load_checkpoint(run / "last.pt")
    for wrong in ([1], {"a": 1}, {}):
        torch.save({**content, key: wrong}, run / "last.pt")
        assert "last.pt" in refusal(lambda: train(Run(run).config(), run, resume=True))


def test_weights_of_a_start(run: Path, make_config: MakeConfig, tmp_path: Path) -> None:
    weights = load_checkpoint(run / "best.pt")["potential"]
    name = next(name for name, value in weights.items() if value.ndim == 2)

    def started(path: Path) -> str:
        config = make_config(training={"start": str(path)}).model_dump()
        return refusal(lambda: train({**config, "potential": TINY}))

    for changed, message in (
        ({"scale": torch.ones(3)}, "scale is a number here, 3 in the start"),
        ({name: weights[name].to_sparse()}, "holds no weights, which are dense tensors"),
        ({name: weights[name].to(torch.complex64)}, "holds no weights, which are dense tensors"),
        ({name: torch.full_like(weights[name], torch.nan)}, f"weights that are not finite: {name}"),
    ):
        torch.save({**weights, **changed}, tmp_path / "w.pt")
        assert message in started(tmp_path / "w.pt")
    shutil.copy(run / "last.pt", tmp_path / "copy.pt")
    assert "low-rank updates (LoRA), which need the config.yaml" in started(tmp_path / "copy.pt")
    last = load_checkpoint(run / "last.pt")
    for state in (last["potential"], last["averaged"]):
        del state[next(key for key in state if ".down." in key)]
    torch.save(last, run / "last.pt")
    assert "do not fit" in started(run / "last.pt")


def test_nothing_needs_to_be_trained_in_no_steps(make_config: MakeConfig, run: Path) -> None:
    train(make_config(training={"steps": 0, "freeze": ["*"]}))
    message = refusal(lambda: train(make_config(training={"steps": 1, "lora": {"match": []}})))
    assert "key 'training.lora.match': all parameters are frozen" in message
