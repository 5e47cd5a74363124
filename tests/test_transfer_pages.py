"""The pages of the transfer studies are made of what the studies found, finished or not."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from hessgnn.experiments.label_value import Estimate
from hessgnn.experiments.transfer_config import TransferConfig
from hessgnn.experiments.transfer_value import Answer, ArmValue, Equivalent, TransferValue
from hessgnn.runtime.config import load

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

render_pages = importlib.import_module("render_pages")
taking = importlib.import_module("pages.taking")


def estimate(value: float) -> Estimate:
    return Estimate(value=value, low=0.9 * value, high=1.1 * value, trainings=3, families=9)


def found(name: str, finished: int) -> TransferValue:
    """What a study of the package may have found, with other numbers for each arm."""
    config = load(TransferConfig, ROOT / "sweeps" / f"{name}.yaml")
    arms = config.arms()
    measured = {"test": ("hessian_rmse", "vibrations_reference_mae"), "original others": ("forces_rmse",)}
    values = [
        ArmValue(
            **vars(arm),
            key=arm.key,
            trainings=1,
            structures=round(100 * arm.fraction),
            label_gradients=100.0,
            steps=80.0,
            seconds_per_step=0.25,
            errors={split: {metric: estimate(1.0 + place) for metric in of} for split, of in measured.items()},
        )
        for place, arm in enumerate(arms)
    ]
    answers = [
        Answer(
            question=question.question,
            architecture=a.architecture,
            without=a.key,
            having=b.key,
            split="test",
            metric="vibrations_reference_mae",
            scale="ratio",
            estimate=0.87654321,
            low=0.8,
            high=0.9,
            rmse_ratio=0.9,
            trainings=3,
            families=9,
            verdict="better",
        )
        for question in config.compare
        for a, b in question.pairs(arms)
    ]
    equivalents = [
        Equivalent(
            architecture=arm.architecture,
            start=arm.start,
            labels=arm.labels,
            structures=round(100 * arm.fraction),
            as_good_as=estimate(77.0),
            at_most=False,
            of_most=estimate(0.654321),
        )
        for arm in arms
        if arm.start == "E-F-H"
    ]
    return TransferValue(
        name=config.name,
        data="data",
        level_of_theory="a level",
        split="test",
        finished=finished,
        planned=9,
        tested={"test hessian_rmse": 40, "test vibrations_reference_mae": 12},
        steps={one: config.steps_of(one) for one in config.architectures},
        rates={one: {"weights": {"factor": 1.0, "scores": {"0.3": 9.0, "1": 8.0}}} for one in config.architectures},
        learning_rates={one: {"weights": 3e-4} for one in config.architectures},
        old_surface={one: {"others": {"forces_rmse": 100.0}} for one in config.architectures},
        arms=values,
        answers=answers,
        equivalents=equivalents,
    )


@pytest.mark.parametrize(("name", "shown"), [("finetune", "0.88 (0.80 to 0.90), better"), ("transfer", "0.65")])
@pytest.mark.parametrize("finished", [4, 9])
def test_a_page_shows_what_a_study_found(tmp_path: Path, name: str, shown: str, finished: int) -> None:
    shutil.copytree(ROOT / "docs" / "templates", tmp_path / "docs" / "templates")
    shutil.copytree(ROOT / "benchmarks" / "results", tmp_path / "results")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "transfer.json").write_text(found(name, finished).model_dump_json(), encoding="utf-8")
    taken: list[Path] = taking.take(tmp_path / "run", tmp_path, tmp_path / "results")
    stored: dict[str, Any] = json.loads(taken[0].read_text(encoding="utf-8"))
    assert stored["answers"][0]["estimate"] == 0.87654
    text = render_pages.Pages(tmp_path / "docs", tmp_path / "results").render(f"results/{name}")
    assert ("**Not finished:** 4 of 9" in text) == (finished == 4)
    assert shown in text


@pytest.mark.parametrize("name", ["finetune", "transfer"])
def test_a_page_without_results_says_so(tmp_path: Path, name: str) -> None:
    shutil.copytree(ROOT / "docs" / "templates", tmp_path / "docs" / "templates")
    (tmp_path / "results").mkdir()
    assert "no results yet" in render_pages.Pages(tmp_path / "docs", tmp_path / "results").render(f"results/{name}")
