"""Curvature and energy profiles from saved predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from surfaces import reference_surface, untrained

from hessgnn.data.store.store import Store
from hessgnn.evaluation.predictions import Predictions, curvature_values, error_values, profile_values
from hessgnn.evaluation.record import Metric
from hessgnn.evaluation.tasks.accuracy import AccuracyTask, predict_split, read_curvature, save_curvature
from hessgnn.molecules.vibrations import masses_of, vibrations


def predictions_of(numbers: list[int], positions: np.ndarray, reference: np.ndarray, predicted: np.ndarray):
    n = len(numbers)
    return Predictions(
        name=np.array(["a"]),
        kind=np.array(["minimum"]),
        parent=np.array([""]),
        n_atoms=np.array([n]),
        numbers=np.array(numbers),
        positions=positions,
        energy_reference=np.zeros(1),
        energy_predicted=np.zeros(1),
        forces_reference=np.zeros((n, 3)),
        forces_predicted=np.zeros((n, 3)),
        hessian_reference=reference.ravel(),
        hessian_predicted=predicted.ravel(),
    )


def diagnostics(predictions: Predictions) -> dict[str, Metric]:
    found = AccuracyTask().metrics(predictions, curvature_values(predictions))
    return {name: metric for name, metric in found.items() if name.startswith(("curvature_", "profile_"))}


def hessian_with(numbers: list[int], positions: np.ndarray, eigenvalues: list[float]) -> np.ndarray:
    """A Hessian with given mass-weighted eigenvalues, on the modes of a random one."""
    random = np.random.default_rng(0).normal(size=(3 * len(numbers), 3 * len(numbers)))
    modes = vibrations(numbers, positions, random @ random.T).modes
    weighted = (np.repeat(masses_of(numbers), 3) * modes.reshape(len(modes), -1)).T
    return weighted @ np.diag(eigenvalues) @ weighted.T


WATER = ([8, 1, 1], np.array([[0, 0, 0.1], [0, 0.77, -0.48], [0, -0.77, -0.48]]))


def test_exchanged_modes_have_no_overlap_and_the_same_eigenvalues() -> None:
    reference, other = hessian_with(*WATER, [-1.0, 2.0, 5.0]), hessian_with(*WATER, [2.0, -1.0, 5.0])
    found = {name: rows["a"] for name, rows in curvature_values(predictions_of(*WATER, reference, other)).items()}
    assert found["curvature_mode1_cosine"] == pytest.approx(0, abs=1e-9)
    assert found["curvature_mode2_cosine"] == pytest.approx(0, abs=1e-9)
    assert found["curvature_negative_same"] == 100
    assert found["curvature_asymmetry"] < 1e-12
    higher = hessian_with(*WATER, [1.0, 2.0, 5.0])
    found = {name: rows["a"] for name, rows in curvature_values(predictions_of(*WATER, reference, higher)).items()}
    assert found["curvature_mode1_cosine"] == pytest.approx(1)
    assert found["curvature_negative_same"] == 0
    assert found["curvature_eigenvalue_mae"] == pytest.approx(
        np.abs(np.linalg.eigvalsh(higher) - np.linalg.eigvalsh(reference)).mean()
    )


def test_any_mode_of_a_degenerate_space_is_as_good() -> None:
    reference = hessian_with(*WATER, [2.0, 2.0, 5.0])
    found = curvature_values(predictions_of(*WATER, reference, hessian_with(*WATER, [2.1, 2.0, 5.0])))
    assert found["curvature_mode1_cosine"]["a"] == pytest.approx(1)
    assert found["curvature_mode2_cosine"]["a"] == pytest.approx(1)


def test_an_asymmetric_prediction_is_seen_and_one_that_is_not_finite_is_none() -> None:
    reference = hessian_with(*WATER, [1.0, 2.0, 5.0])
    skewed = reference.copy()
    skewed[0, 1] += 0.25
    assert curvature_values(predictions_of(*WATER, reference, skewed))["curvature_asymmetry"]["a"] == pytest.approx(
        0.25
    )
    predictions = predictions_of(*WATER, reference, np.full((9, 9), np.nan))
    assert curvature_values(predictions)["curvature_mode1_cosine"] == {"a": None}
    assert AccuracyTask().mean("curvature_mode1_cosine", [None]).n == 0
    unknown = curvature_values(predictions_of(*WATER, np.full((9, 9), np.nan), reference))
    assert unknown["curvature_mode1_cosine"] == {}


def test_profiles_ignore_a_constant_error_and_need_three_frames() -> None:
    def path(errors: list[float], parents: list[str]) -> Predictions:
        n = len(errors)
        reference = np.array([0.0, 1.0, 0.3, 0.1])[:n]
        order = [2, 0, 1, 3][:n] if n > 2 else [0, 1][:n]
        names = np.array([f"ts/irc-{k:02d}" for k in range(n)])
        one = {"numbers": np.ones(n, dtype=int), "positions": np.zeros((n, 3)), "n_atoms": np.ones(n, dtype=int)}
        zeros = {f"forces_{kind}": np.zeros((n, 3)) for kind in ("reference", "predicted")}
        zeros |= {f"hessian_{kind}": np.full(9 * n, np.nan) for kind in ("reference", "predicted")}
        return Predictions(
            name=names[order],
            kind=np.full(n, "irc"),
            parent=np.array(parents)[order],
            energy_reference=reference[order],
            energy_predicted=(reference + errors)[order],
            **one,
            **zeros,
        )

    found = profile_values(path([2.0, 2.0, 2.0, 2.0], ["ts"] * 4))
    assert found["profile_mae"]["ts"] == pytest.approx(0, abs=1e-9)
    found = profile_values(path([0.0, 0.1, 0.0, 0.0], ["ts"] * 4))
    assert found["profile_mae"] == {"ts": pytest.approx(37.5)}
    assert profile_values(path([0.0, 0.1], ["ts"] * 2))["profile_mae"] == {}
    assert profile_values(path([0.0, 0.1, 0.0, 0.0], [""] * 4))["profile_mae"] == {}
    assert profile_values(path([np.nan, 0.1, 0.0, 0.0], ["ts"] * 4))["profile_mae"] == {"ts": None}


def test_the_reference_has_no_error_and_a_bad_potential_has(reaction_store: Path, tmp_path: Path) -> None:
    store = Store.open(reaction_store)
    good = {
        name: metric.value for name, metric in diagnostics(predict_split(reference_surface(), store, "irc")).items()
    }
    assert good["curvature_eigenvalue_mae"] < 1e-4
    assert good["curvature_mode1_cosine"] > 0.999
    assert good["curvature_mode2_cosine"] > 0.999
    assert good["curvature_negative_same"] == 100
    assert good["profile_mae"] < 1e-3
    predictions = predict_split(untrained(), store, "irc")
    bad = diagnostics(predictions)
    assert bad["profile_mae"].value > 100
    assert bad["profile_mae"].n == 2
    assert bad["curvature_eigenvalue_mae"].value > 1
    predictions.save(tmp_path / "p.npz")
    again = diagnostics(Predictions.load(tmp_path / "p.npz"))
    assert again["curvature_eigenvalue_mae"].value == pytest.approx(bad["curvature_eigenvalue_mae"].value, rel=1e-5)
    found = curvature_values(predictions)
    save_curvature(found, tmp_path / "c.jsonl", "a key")
    assert read_curvature(tmp_path / "c.jsonl") == found
    assert len(error_values(predictions)["hessian_mae"]) == 16
    saved = AccuracyTask.saved_values(tmp_path / "c.jsonl", tmp_path / "p.npz")
    assert saved["profile_mae"].keys() == {"hcn-ts", "nh3-ts"}
    assert saved.keys() == AccuracyTask.definitions.keys()
