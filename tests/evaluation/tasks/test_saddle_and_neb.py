"""Saddle points and bands: about no error on the reference, a bad score for a bad potential, and failures counted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from surfaces import reference_surface, untrained

from hessgnn.data.store.store import Store, write_store
from hessgnn.evaluation.evaluate import evaluate_calculator
from hessgnn.evaluation.record import Metric
from hessgnn.evaluation.tasks.neb import NEBSettings, NEBTask, path_rmsd
from hessgnn.evaluation.tasks.saddle import SaddleSettings, SaddleTask
from hessgnn.evaluation.tasks.subjects import SubjectTask, reactions
from hessgnn.surface.base import Surface


def scores(task: SubjectTask[Any, Any], surface: Surface, store: Path, split: str = "test") -> dict[str, Metric]:
    return task.metrics(dict(task.run(surface, task.subjects(Store.open(store), split), {})))


def test_reactions_are_put_together_from_what_names_their_saddle_point(reaction_store: Path) -> None:
    (reaction,) = reactions(Store.open(reaction_store), "test")
    assert [s.name for s in reaction.stations] == ["hcn-reactant", "hcn-ts", "hcn-product"]
    assert [frame.name for frame in reaction.path] == [f"hcn-ts/irc-{k:02d}" for k in range(8)]
    assert reactions(Store.open(reaction_store), "nms") == []


@pytest.mark.parametrize("split", ["test", "train"])
def test_saddle_points_of_the_reference_are_recognised_and_found(reaction_store: Path, split: str) -> None:
    good = scores(SaddleTask(SaddleSettings(guesses=2)), reference_surface(), reaction_store, split)
    for key in ("recognised", "converged", "first_order", "right", "intended"):
        assert good[f"saddle_{key}"].value == 100, key
    assert good["saddle_imaginary_mae"].value < 0.01
    assert good["saddle_cosine"].value > 0.9999
    assert good["saddle_rmsd"].value < 1e-3
    assert good["saddle_rmsd"].n == 2
    assert good["saddle_steps"].value < good["saddle_gradients"].value < 30


def test_a_bad_potential_finds_no_saddle_points(reaction_store: Path) -> None:
    bad = scores(SaddleTask(SaddleSettings(max_steps=40)), untrained(), reaction_store)
    assert bad["saddle_right"].value == bad["saddle_intended"].value == 0
    assert bad["saddle_imaginary_mae"].value > 100


def test_a_saddle_point_of_another_reaction_is_not_the_right_one(reaction_store: Path) -> None:
    task = SaddleTask(SaddleSettings())
    search = {"frequencies": [-500.0, 100.0], "rmsd": 0.3, "intended": True, "steps": 5, "gradients": 6, "hessians": 1}
    row = {"frequencies": [-500.0], "at_reference": None, "searches": [search, None]}
    found = {name: metric.value for name, metric in task.metrics({"a": row}).items()}
    assert found["saddle_converged"] == found["saddle_first_order"] == 50
    assert found["saddle_right"] == found["saddle_intended"] == 0
    assert found["saddle_recognised"] == 0
    unknown = {**row, "searches": [{**search, "rmsd": 0.01, "intended": None}]}
    assert task.metrics({"a": unknown})["saddle_intended"].value is None
    flat = {**search, "frequencies": [-5.0, 100.0]}
    assert task.metrics({"a": {**row, "searches": [flat]}})["saddle_first_order"].value == 0


@pytest.mark.parametrize("begin", ["path", "interpolation"])
@pytest.mark.parametrize("split", ["test", "train"])
def test_bands_of_the_reference_have_its_barriers(
    reaction_store: Path, split: str, begin: Literal["path", "interpolation"]
) -> None:
    """Ammonia's two minima are mirror images, between which the pair potential knows no way."""
    good = scores(NEBTask(NEBSettings(begin=begin)), reference_surface(), reaction_store, split)
    assert good["neb_failed"].value == 0
    assert good["neb_barrier_mae"].value < 1
    assert good["neb_reverse_barrier_mae"].value < 1
    assert good["neb_saddle_rmsd"].value < 0.01
    assert good["neb_path_rmsd"].value < 0.05


def test_a_band_begins_where_it_is_told_to(reaction_store: Path) -> None:
    """Judged before its first step: on the path with an image at the saddle point, or without knowledge of either."""
    at_once = {"rough": 1e3, "fmax": 1e3}
    known, unknown = (
        scores(NEBTask(NEBSettings(begin=begin, **at_once)), reference_surface(), reaction_store)
        for begin in ("path", "interpolation")
    )
    assert known["neb_steps"].value == unknown["neb_steps"].value == 0
    assert known["neb_saddle_rmsd"].value < 1e-6
    assert known["neb_path_rmsd"].value < 0.01  # the nearest of the points that the path is divided by
    assert unknown["neb_saddle_rmsd"].value > 0.01
    assert unknown["neb_path_rmsd"].value > 3 * known["neb_path_rmsd"].value


def test_bands_of_a_bad_potential_have_not(reaction_store: Path) -> None:
    bad = scores(NEBTask(NEBSettings(max_steps=60)), untrained(), reaction_store)
    assert bad["neb_failed"].value == 100 or bad["neb_barrier_mae"].value > 300


def test_a_path_is_near_itself_and_far_from_another() -> None:
    rng = np.random.default_rng(0)
    start = rng.normal(size=(4, 3))
    direction = start - start.mean(axis=0)  # swelling, which does not turn
    path = start + np.linspace(0, 1, 5)[:, None, None] * direction
    between = start + np.linspace(0, 1, 9)[:, None, None] * direction
    assert path_rmsd(between, path) < 1e-6
    quarter_turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    assert path_rmsd(between @ quarter_turn.T, path) < 1e-6
    moved = between.copy()
    moved[4, 0, 0] += 1.0
    assert path_rmsd(moved, path) > 0.05


def test_a_reaction_that_comes_back_to_its_reactant_has_no_band(reaction_store: Path, tmp_path: Path) -> None:
    store = Store.open(reaction_store)
    reactant = store[store.names.index("hcn-reactant")]
    same = {"name": "hcn-product", "kind": "product", "split": "test", "parent": "hcn-ts"}
    image = reactant.to_atoms()
    image.rotate(40, "x")
    product = type(reactant)(numbers=reactant.numbers, positions=image.positions, energy=reactant.energy, **same)
    saddle = store[store.names.index("hcn-ts")]
    path = tmp_path / "same.h5"
    write_store(path, [saddle, reactant, product], level_of_theory="GFN2-xTB")
    assert NEBTask(NEBSettings()).subjects(Store.open(path), "test") == []
    assert NEBTask(NEBSettings()).subjects(store, "test") != []


def test_a_surface_that_gives_nothing_is_counted_with_the_reason(reaction_store: Path) -> None:
    surface = untrained()
    surface.potential.scale.fill_(np.nan)
    store = Store.open(reaction_store)
    for task in (SaddleTask(SaddleSettings()), NEBTask(NEBSettings())):
        results = dict(task.run(surface, task.subjects(store, "test"), {}))
        assert "not finite" in results["hcn-ts"]["failure"]
        metrics = task.metrics(results)
        if task.name == "saddle":
            assert metrics["saddle_recognised"].value == metrics["saddle_converged"].value == 0
            assert task.values(results)["saddle_right"] == {"hcn-ts": 0.0}
        else:
            assert metrics["neb_failed"].value == 100
            assert task.values(results)["neb_barrier_mae"] == {"hcn-ts": None}


def test_without_sella_the_task_fails_alone_and_says_what_to_install(
    reaction_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sella", None)
    record = evaluate_calculator(
        "surfaces:tight_gfn2", reaction_store, tmp_path, tasks=["saddle", "neb"], splits=["test"]
    )
    (failure,) = record.failures
    assert (failure.task, failure.structure) == ("saddle", None)
    assert "pip install 'hessgnn[factory]'" in failure.reason
    assert record.metrics["test"]["neb_failed"].value == 0
