"""The page of what labels buy is made of what the study found, finished or not."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from hessgnn.experiments.label_value import Advice, Choice, CurvePoint, Estimate, Kept, LabelValue, Reached

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

render_pages = importlib.import_module("render_pages")
taking = importlib.import_module("pages.taking")


def estimate(value: float | None) -> Estimate:
    ends = (None, None) if value is None else (0.9 * value, 1.1 * value)
    return Estimate(value=value, low=ends[0], high=ends[1], trainings=3, families=40)


def found(finished: int, share: float, ratio: float | None) -> LabelValue:
    gradients = {"E-F": 340.0, "E-F-P1": 1020.0, "E-F+2": 1020.0, "E-F-H": 19090.0}
    points = [
        CurvePoint(
            architecture="ani",
            labels=labels,
            budget="steps",
            label_gradients=cost,
            steps=1200,
            trainings=3,
            errors={"nms": {"hessian_rmse": estimate(1.23456789 + place)}},
        )
        for place, (labels, cost) in enumerate(gradients.items())
    ]
    choice = Choice(
        labels="E-F+2",
        gradients=680,
        ratios={"hessian_rmse": 1.5, "energy_rmse": 0.8, "forces_rmse": 1.0},
        verdicts={"hessian_rmse": "worse", "energy_rmse": "undecided", "forces_rmse": None},
    )
    return LabelValue(
        name="labels",
        data="rtp-mini",
        level_of_theory="GFN2-xTB",
        steps=1200,
        structures=340,
        hessian_gradients=55.1,
        finished=finished,
        planned=162,
        tested={"nms": 120},
        step_costs={"ani": {"E-F": 1.0, "E-F-H": 1.68}},
        points=points,
        kept=[Kept(architecture="ani", labels="E-F-P1", share=estimate(share))],
        reached=[
            Reached(architecture="ani", within=1.0, ratio=estimate(ratio), at_most=False),
            Reached(architecture="ani", within=1.1, ratio=estimate(0.05), at_most=True),
        ],
        advice=[
            Advice(
                architecture="ani",
                best="E-F-P1",
                trainings=3,
                rmse={"E-F": 11.0, "E-F-P1": 5.0, "E-F+2": 7.0},
                others=[choice],
                sentence="Buy products.",
            )
        ],
    )


@pytest.fixture
def pages(tmp_path: Path) -> Any:
    shutil.copytree(render_pages.DOCS / "templates", tmp_path / "docs" / "templates")
    shutil.copytree(render_pages.RESULTS, tmp_path / "results")
    return render_pages.Pages(tmp_path / "docs", tmp_path / "results")


def render(pages: Any, value: LabelValue, folder: Path) -> str:
    (folder / "labels.json").write_text(value.model_dump_json(), encoding="utf-8")
    taking.take(folder, pages.docs / "results", pages.stored.results)
    return " ".join(pages.render("results/labels").split())


def test_a_finished_study(pages: Any, tmp_path: Path) -> None:
    text = render(pages, found(162, 0.95, 0.12), tmp_path)
    assert "Not finished" not in text
    assert "**ANI.** Buy products." in text
    assert "keeps at least 0.9 for one of one measured architecture." in text
    assert (
        "at most 0.15 of the gradients of full Hessians along random directions for one of one measured architecture."
        in text
    )
    assert "| ani | 0.95 (0.85 to 1.04) | 0.120 (0.108 to 0.132) | – | at most 0.050 (0.045 to 0.055) | – |" in text
    assert "| ANI | E-F-P1 | E-F+2 | 1.50 (worse) | 0.80 (undecided) | 1.00 (too few families) | 7.00 (5.00) |" in text
    assert "| E-F-P1 | one random product of every structure | 1,020 | 2.23 (2.01 to 2.46) | – |" in text
    assert "None is trained yet." in text  # for equal device-seconds
    assert b"<svg" in (pages.docs / "results" / "labels.svg").read_bytes()


def test_an_unfinished_one_says_so_and_missed_goals_are_not_met(pages: Any, tmp_path: Path) -> None:
    text = render(pages, found(40, 0.7, None), tmp_path)
    assert "**Not finished:** 40 of 162 trainings have finished." in text
    assert "keeps at least 0.9 for zero of one measured architecture." in text
    assert "at most 0.15 of the gradients of full Hessians along random directions for zero of one" in text
    assert "not reached" in text


def test_what_is_not_measured_is_not_missed(pages: Any, tmp_path: Path) -> None:
    value = found(40, 0.95, 0.12)
    others = [point.model_copy(update={"architecture": "schnet", "trainings": 1}) for point in value.points]
    text = render(pages, value.model_copy(update={"points": [*value.points, *others]}), tmp_path)
    assert "keeps at least 0.9 for one of one measured architecture." in text  # E-F-H of SchNet is not there
    assert "Those of one training are over families alone" in text


def test_one_training_of_each(pages: Any, tmp_path: Path) -> None:
    value = found(4, 0.95, 0.12)
    single = [point.model_copy(update={"trainings": 1}) for point in value.points]
    text = render(pages, value.model_copy(update={"points": single, "kept": [], "reached": []}), tmp_path)
    assert "keeps at least 0.9 for no architecture yet, as none is measured." in text
    assert "a bootstrap over families, the same for all labels. There is one training of each" in text
    assert "families and trainings, the same" not in text


def test_stored_numbers_have_five_digits(pages: Any, tmp_path: Path) -> None:
    render(pages, found(162, 0.95, 0.12), tmp_path)
    stored = json.loads((pages.stored.results / "labels-study.json").read_text(encoding="utf-8"))
    assert stored["points"][0]["errors"]["nms"]["hessian_rmse"]["value"] == 1.2346
    assert LabelValue.model_validate(stored).kept[0].share.value == 0.95


def test_another_study_is_not_taken_for_this_one(pages: Any, tmp_path: Path) -> None:
    other = found(162, 0.95, 0.12).model_copy(update={"steps": 50})
    with pytest.raises(Exception, match=r"the results are those of sweeps/labels\.yaml"):
        render(pages, other, tmp_path)
