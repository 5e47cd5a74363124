"""Saddle points and bands: about no error on the reference, a bad score for a bad potential, and failures counted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from surfaces import reference_surface, tight_gfn2, untrained

from hessgnn.data.store.store import Store, write_store
from hessgnn.evaluation.evaluate import evaluate_calculator
from hessgnn.evaluation.record import Metric
from hessgnn.evaluation.tasks.barriers import BarriersTask
from hessgnn.evaluation.tasks.neb import NEBSettings, NEBTask, path_rmsd
from hessgnn.evaluation.tasks.saddle import SaddleSettings, SaddleTask
from hessgnn.evaluation.tasks.subjects import SubjectTask, reactions
from hessgnn.surface.base import Surface
from hessgnn.surface.calculator import CalculatorSurface


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
    for key in ("success", "recognised", "converged", "first_order", "right", "intended"):
        assert good[f"saddle_{key}"].value == 100, key
    assert good["saddle_imaginary_mae"].value < 0.01
    assert good["saddle_cosine"].value > 0.9999
    assert good["saddle_rmsd"].value < 1e-3
    assert good["saddle_barrier_mae"].value < 1
    assert good["saddle_rmsd"].n == 2
    assert good["saddle_steps"].value < good["saddle_gradients"].value < 30


def test_a_bad_potential_finds_no_saddle_points(reaction_store: Path) -> None:
    bad = scores(SaddleTask(SaddleSettings(max_steps=40)), untrained(), reaction_store)
    assert bad["saddle_right"].value == bad["saddle_intended"].value == 0
    assert bad["saddle_imaginary_mae"].value > 100


def test_a_saddle_point_of_another_reaction_is_not_the_right_one(reaction_store: Path) -> None:
    task = SaddleTask(SaddleSettings())
    search = {"frequencies": [-500.0, 100.0], "rmsd": 0.3, "intended": True, "steps": 5, "gradients": 6, "hessians": 1}
    search["energy"] = 0.05
    row: dict[str, Any] = {
        "frequencies": [-500.0],
        "at_reference": None,
        "searches": [search, None],
        "barrier": {"over": "reactant", "reference": 1.0, "foot": -1.0},
    }
    found = {name: metric.value for name, metric in task.metrics({"a": row}).items()}
    assert found["saddle_converged"] == found["saddle_first_order"] == 50
    assert found["saddle_right"] == found["saddle_intended"] == found["saddle_success"] == 0
    assert found["saddle_recognised"] == 0
    unknown = {**row, "searches": [{**search, "rmsd": 0.01, "intended": None}]}
    assert task.metrics({"a": unknown})["saddle_intended"].value is None
    flat = {**search, "frequencies": [-5.0, 100.0]}
    assert task.metrics({"a": {**row, "searches": [flat]}})["saddle_first_order"].value == 0


def test_a_success_has_the_right_barrier_and_every_search_counts() -> None:
    task = SaddleTask(SaddleSettings())
    right = {"frequencies": [-500.0, 100.0], "rmsd": 0.01, "intended": None, "steps": 5, "gradients": 6, "hessians": 1}
    high, good = {**right, "energy": 0.2}, {**right, "energy": -0.05}
    row: dict[str, Any] = {
        "frequencies": [-500.0],
        "at_reference": {"frequencies": [-400.0, 5.0], "cosine": 1.0},
        "searches": [good, high, {**good, "rmsd": 0.2}, None],
        "barrier": {"over": "reactant", "reference": 1.0, "foot": -1.0},
    }
    found = task.metrics({"a": row})
    assert (found["saddle_success"].value, found["saddle_success"].n) == (25, 4)
    assert found["saddle_barrier_mae"].value == pytest.approx(1e3 * (0.05 + 0.2) / 2)
    assert found["saddle_barrier_mae"].n == 2
    ends = [{**good, "intended": intended} for intended in (True, False, None)]  # None: the data have one end only
    found = task.metrics({"a": {**row, "searches": ends}})
    assert found["saddle_success"].value == pytest.approx(200 / 3)
    assert (found["saddle_right"].value, found["saddle_intended"].value) == (100, 50)
    no_foot = {**row, "barrier": {**row["barrier"], "foot": None}}
    assert task.metrics({"a": no_foot})["saddle_success"].value == 0
    assert task.metrics({"a": {**row, "barrier": None}})["saddle_success"].n == 0  # nobody can tell


def test_a_reference_saddle_point_that_is_none_is_not_recognised_by_a_surface_without_one() -> None:
    task = SaddleTask(SaddleSettings())
    row = {"frequencies": [-4.0, 80.0], "at_reference": {"frequencies": [20.0, 80.0], "cosine": 1.0}}
    row |= {"searches": [None], "barrier": None}
    other = {**row, "frequencies": [-300.0, 80.0]}
    assert task.values({"a": row, "b": other})["saddle_recognised"] == {"b": 0.0}
    assert task.metrics({"a": row})["saddle_recognised"].n == 0


@pytest.mark.parametrize("begin", ["path", "interpolation"])
@pytest.mark.parametrize("split", ["test", "train"])
def test_bands_of_the_reference_have_its_barriers(
    reaction_store: Path, split: str, begin: Literal["path", "interpolation"]
) -> None:
    """Ammonia's two minima are mirror images, between which the pair potential knows no way."""
    good = scores(NEBTask(NEBSettings(begin=begin)), reference_surface(), reaction_store, split)
    assert good["neb_failed"].value == 0
    assert good["neb_success"].value == 100
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
    assert bad["neb_success"].value == 0


def test_bands_that_fail_and_bands_with_a_wrong_barrier_are_no_success(reaction_store: Path) -> None:
    """The mean over the survivors may be small while hardly any band has survived."""
    task = NEBTask(NEBSettings())
    results = dict(task.run(reference_surface(), task.subjects(Store.open(reaction_store), "test"), {}))
    (row,) = results.values()
    top = int(np.argmax(row["energies"]))
    wrong = {**row, "energies": [e + 0.2 * (k == top) for k, e in enumerate(row["energies"])]}
    failed = {key: row[key] for key in ("reference", "saddle", "path")} | {"failure": "did not converge"}
    found = task.metrics({"a": row, "b": wrong, "c": failed, "d": failed})
    assert (found["neb_success"].value, found["neb_success"].n) == (25, 4)
    assert (found["neb_barrier_mae"].value, found["neb_barrier_mae"].n) == (pytest.approx(100, abs=1), 2)
    assert found["neb_failed"].value == 50
    assert task.values({"a": row, "c": failed})["neb_success"] == {"a": 100.0, "c": 0.0}


@pytest.mark.parametrize(
    ("energies", "expected"),
    [
        ([0.0, -0.1, -0.2, -0.3], 0.0),  # downhill all the way, a tenth of the reference's barrier off
        ([0.0, 0.02, 0.05, 0.0], 100.0),
        ([0.0, 0.05, -0.1, -0.3], 0.0),  # the way back is wrong
        ([0.05, 0.02, 0.05, 0.0], 0.0),  # no higher than an end
        ([0.0, 0.02, 0.05, 0.06], 0.0),  # uphill all the way
        ([0.0, 0.02, 0.2, 0.15], 0.0),  # the way there is wrong
    ],
)
def test_a_band_that_finds_the_barrier_has_it_inside_and_from_both_ends(energies: list[float], expected: float) -> None:
    row = {"reference": [0.0, 0.08, 0.0], "energies": energies}
    assert NEBTask(NEBSettings()).values({"a": row})["neb_success"] == {"a": expected}


def test_the_ends_of_a_band_are_the_surfaces_own_minima(reaction_store: Path) -> None:
    """A surface whose distances are a tenth longer has the reference's band, only larger."""
    (reaction,) = reactions(Store.open(reaction_store), "test")

    class Larger(CalculatorSurface):
        def calculator(self):  # type: ignore[no-untyped-def]
            calculator = super().calculator()
            calculate = calculator.calculate

            def larger(atoms=None, *given):  # type: ignore[no-untyped-def]
                image = atoms.copy()
                image.positions /= 1.1
                calculate(image, *given)
                calculator.atoms = atoms.copy()
                calculator.results["forces"] = calculator.results["forces"] / 1.1

            calculator.calculate = larger
            return calculator

    surface = Larger(tight_gfn2, "larger")
    own, fixed = (
        dict(NEBTask(NEBSettings(ends=ends)).run(surface, [reaction], {}))[reaction.name]
        for ends in ("own", "reference")
    )
    expected = 1.1 * np.linalg.norm(np.diff(reaction.reactant.positions[:2], axis=0))  # type: ignore[union-attr]
    found = np.linalg.norm(np.diff(np.array(own["positions"][0])[:2], axis=0))
    assert found == pytest.approx(expected, rel=1e-3)
    np.testing.assert_allclose(fixed["path"][0], reaction.reactant.positions)  # type: ignore[union-attr]
    assert NEBTask(NEBSettings()).values({"a": own})["neb_success"] == {"a": 100.0}
    if "failure" not in fixed:
        np.testing.assert_allclose(fixed["positions"][0], reaction.reactant.positions)  # type: ignore[union-attr]


def test_barriers_are_those_of_the_transition_state_itself(reaction_store: Path) -> None:
    store = Store.open(reaction_store)
    task = BarriersTask()
    good = scores(task, reference_surface(), reaction_store)
    assert good["barriers_failed"].value == 0
    for kind in ("forward", "reverse", "reaction", "profile"):
        assert good[f"barriers_{kind}_mae"].value < 1e-2, kind
    results = dict(task.run(reference_surface(), task.subjects(store, "test"), {}))
    (row,) = results.values()
    assert [p for p in row["places"] if not p.startswith("frame")] == ["reactant", "saddle", "product"]
    assert len(row["places"]) == 11
    at = row["places"].index("saddle")
    raised = {**row, "energies": [e + 0.3 * (k == at) for k, e in enumerate(row["energies"])]}
    found = task.values({"a": raised})
    assert found["barriers_forward_mae"]["a"] == pytest.approx(300, abs=0.01)
    assert found["barriers_reverse_mae"]["a"] == pytest.approx(300, abs=0.01)
    assert found["barriers_reaction_mae"]["a"] == pytest.approx(0, abs=0.01)
    assert found["barriers_profile_mae"]["a"] == pytest.approx(300 * 2 * 10 / 11**2, abs=0.01)
    without = {**raised, "places": [p for p in row["places"] if p != "reactant"]}
    for key in ("energies", "reference"):
        without[key] = raised[key][1:]
    assert "a" not in task.values({"a": without})["barriers_forward_mae"]
    assert task.values({"a": without})["barriers_reverse_mae"]["a"] == pytest.approx(300, abs=0.01)
    bad = scores(task, untrained(), reaction_store)
    assert bad["barriers_forward_mae"].value > 100


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
    for task in (SaddleTask(SaddleSettings()), NEBTask(NEBSettings()), BarriersTask()):
        results = dict(task.run(surface, task.subjects(store, "test"), {}))
        assert "not finite" in results["hcn-ts"]["failure"]
        metrics = task.metrics(results)
        if task.name == "saddle":
            assert metrics["saddle_recognised"].value == metrics["saddle_converged"].value == 0
            assert task.values(results)["saddle_success"] == {"hcn-ts": 0.0}
        elif task.name == "barriers":
            assert metrics["barriers_failed"].value == 100
            assert task.values(results)["barriers_forward_mae"] == {"hcn-ts": None}
        else:
            assert metrics["neb_failed"].value == 100
            assert metrics["neb_success"].value == 0
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
