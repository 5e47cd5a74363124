from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

import hessgnn
from hessgnn.data.directions import Directions
from hessgnn.data.store.store import Store
from hessgnn.errors import DataError
from hessgnn.evaluation.evaluate import record_mean_predictor
from hessgnn.evaluation.predictions import Predictions
from hessgnn.evaluation.tasks.accuracy import METRICS, POOLED, AccuracyTask, error_metrics, predict_split
from hessgnn.surface.base import Answer
from hessgnn.surface.potential import PotentialSurface
from hessgnn.training.data_config import DataConfig

N_ATOMS = np.array([2, 3])


def make_predictions(**changes: np.ndarray) -> Predictions:
    """Two structures of two and three atoms; energies off by 1 eV, forces by 0.1 eV/Å, Hessians by 2 eV/Å²."""
    n_forces, n_hessian = (N_ATOMS.sum(), 3), (9 * N_ATOMS**2).sum()
    arrays = {
        "name": np.array(["a", "b"]),
        "kind": np.array(["minimum", "nms"]),
        "parent": np.array(["", "a"]),
        "n_atoms": N_ATOMS,
        "numbers": np.array([1, 8, 1, 8, 1]),
        "positions": np.array([[0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 1], [0, 1, 1.2]]),
        "energy_reference": np.zeros(2),
        "energy_predicted": np.ones(2),
        "forces_reference": np.zeros(n_forces),
        "forces_predicted": np.full(n_forces, 0.1),
        "hessian_reference": np.zeros(n_hessian),
        "hessian_predicted": np.full(n_hessian, 2.0),
    }
    return Predictions(**(arrays | changes))


def test_metrics_are_means_over_structures_in_the_units_of_the_field() -> None:
    found = {name: metric.value for name, metric in error_metrics(make_predictions()).items()}
    assert found["energy_mae"] == pytest.approx(1e3 * (1 / 2 + 1 / 3) / 2)
    assert found["energy_rmse"] == pytest.approx(1e3 * np.sqrt((1 / 4 + 1 / 9) / 2))
    assert found["forces_mae"] == pytest.approx(100.0)
    assert found["hessian_rmse"] == pytest.approx(2.0)


def test_pooled_errors_are_those_of_all_molecules_and_components_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    energy, forces, hessian = rng.normal(size=2), rng.normal(size=(5, 3)), rng.normal(size=117).astype(np.float32)
    predictions = make_predictions(energy_predicted=energy, forces_predicted=forces, hessian_predicted=hessian)
    metrics = error_metrics(predictions)
    expected = {
        "energy_rmse_molecule": 1e3 * np.sqrt((energy**2).mean()),
        "forces_rmse_pooled": 1e3 * np.sqrt((forces**2).mean()),
        "hessian_rmse_pooled": np.sqrt((hessian.astype(float) ** 2).mean()),
    }
    assert {name: metrics[name].value for name in POOLED} == pytest.approx(expected)
    assert metrics["energy_rmse_molecule"].unit == "meV"
    predictions.save(tmp_path / "p.npz")
    saved = AccuracyTask.saved_values(None, tmp_path / "p.npz")
    for name, value in expected.items():  # what intervals over molecules resample
        assert AccuracyTask.definitions[name].root_mean_square
        assert np.sqrt(np.mean(np.square(list(saved[name].values())))) == pytest.approx(value)


def test_products_estimate_the_error_of_the_hessian(tmp_path: Path) -> None:
    """All signs of the first structure give its Hessian's error exactly; the second one has no products."""
    rng = np.random.default_rng(0)
    hessian = rng.normal(size=117)
    reference, predicted = rng.normal(size=(6, 6)), hessian[:36].reshape(6, 6)
    signs = np.array(list(product([-1.0, 1.0], repeat=6)))
    known = {
        "hessian_reference": np.full(117, np.nan),
        "hessian_predicted": hessian,
        "n_directions": np.array([64, 0]),
        "direction_vectors": signs.reshape(-1, 3),
        "direction_products": (signs @ reference.T).reshape(-1, 3),
        "direction_weights": np.ones(64),
    }
    predictions = make_predictions(**known)
    metric = error_metrics(predictions)["hessian_rmse_products"]
    assert (metric.n, metric.unit) == (1, "eV/Å²")
    assert metric.value == pytest.approx(np.sqrt(np.square(predicted - reference).mean()))
    predictions.save(tmp_path / "p.npz")
    saved = AccuracyTask.saved_values(None, tmp_path / "p.npz")["hessian_rmse_products"]
    assert saved == {"a": pytest.approx(metric.value, rel=1e-6)}
    assert AccuracyTask.definitions["hessian_rmse_products"].root_mean_square
    assert "hessian_rmse_products" not in error_metrics(make_predictions())
    make_predictions().save(tmp_path / "none.npz")
    with np.load(tmp_path / "none.npz") as archive:
        assert not [name for name in archive if "direction" in name]
    with pytest.raises(DataError, match=r"'direction_weights' has shape \(63,\)"):
        make_predictions(**known | {"direction_weights": np.ones(63)})


def test_products_of_a_store_are_saved_with_the_predictions() -> None:
    structure = Store.open("rtp-mini")[0]
    vectors = np.random.default_rng(0).normal(size=(2, len(structure), 3))
    products = np.einsum("ij,kj->ki", structure.hessian, vectors.reshape(2, -1)).reshape(vectors.shape)
    known = replace(structure, hessian=None, directions=Directions.make(vectors, products, "gaussian"))
    n = 3 * len(structure)
    exact = Answer(0.0, np.zeros((len(structure), 3)), structure.hessian)
    zero = Answer(0.0, np.zeros((len(structure), 3)), np.zeros((n, n)))
    found = Predictions.of([structure, known], [exact, exact])
    assert found.n_directions.tolist() == [0, 2]
    assert error_metrics(found)["hessian_rmse_products"].value == pytest.approx(0.0, abs=1e-12)
    metric = error_metrics(Predictions.of([known], [zero]))["hessian_rmse_products"]
    assert metric.value == pytest.approx(np.sqrt(np.square(products).sum() / 2) / n)


def test_a_small_structure_weighs_as_much_as_a_large_one() -> None:
    hessian = np.concatenate([np.full(36, 4.0), np.zeros(81)])
    assert error_metrics(make_predictions(hessian_predicted=hessian))["hessian_mae"].value == pytest.approx(2.0)


def test_a_missing_label_is_left_out_and_none_at_all_is_null() -> None:
    reference = np.concatenate([np.full(36, np.nan), np.zeros(81)])
    metric = error_metrics(make_predictions(hessian_reference=reference))["hessian_mae"]
    assert (metric.value, metric.n) == (2.0, 1)
    metric = error_metrics(make_predictions(hessian_reference=np.full(117, np.nan)))["hessian_mae"]
    assert (metric.value, metric.n) == (None, 0)
    assert "hessian_rmse_pooled" not in error_metrics(make_predictions(hessian_reference=np.full(117, np.nan)))
    assert error_metrics(make_predictions(hessian_reference=reference))["hessian_rmse_pooled"].value == 2.0


def test_predictions_that_are_not_finite_are_named() -> None:
    forces = np.full((5, 3), 0.1)
    forces[4, 2] = np.nan
    assert make_predictions(forces_predicted=forces).not_finite() == ["b"]
    assert make_predictions(energy_predicted=np.array([np.inf, 0.0])).not_finite() == ["a"]
    assert make_predictions().not_finite() == []


def test_saved_predictions_come_back(tmp_path: Path) -> None:
    saved = make_predictions()
    saved.save(tmp_path / "p.npz")
    loaded = Predictions.load(tmp_path / "p.npz")
    assert error_metrics(loaded) == error_metrics(saved)
    assert loaded.name.tolist() == ["a", "b"]


def test_a_potential_predicts_a_split_as_it_does_one_structure() -> None:
    torch.manual_seed(0)
    store, potential = Store.open("rtp-mini"), hessgnn.create("schnet", width=8, n_interactions=1)
    predictions = predict_split(PotentialSurface(potential, batch_size=3), store, "test")
    last = store[int(store.indices("test")[-1])]
    batch = hessgnn.Batch.from_structures([last], potential.cutoff)
    size = 9 * len(last.numbers) ** 2
    np.testing.assert_allclose(predictions.hessian_predicted[-size:], potential.hessian(batch)[0].ravel(), atol=1e-12)
    np.testing.assert_allclose(predictions.hessian_reference[-size:], np.ravel(last.hessian))
    assert predictions.energy_predicted[-1] == pytest.approx(potential.energy(batch).item())
    assert predictions.name[-1] == last.name


def test_the_mean_predictor_knows_the_composition_only(tmp_path: Path) -> None:
    store = Store.open("rtp-mini")
    data = DataConfig(path="rtp-mini", reference_energies={1: 1.0, 6: 10.0, 7: 100.0, 8: 1000.0})
    record = record_mean_predictor(tmp_path, data, ["test"])
    assert record.metrics["test"].keys() == {*METRICS, *POOLED}
    predictions = Predictions.load(tmp_path / record.predictions["test"].path)
    assert error_metrics(predictions)["energy_mae"] == record.metrics["test"]["energy_mae"]
    first = store[int(store.indices("test")[0])]
    counts = {z: int((first.numbers == z).sum()) for z in (1, 6, 7, 8)}
    assert predictions.energy_predicted[0] == counts[1] + 10 * counts[6] + 100 * counts[7] + 1000 * counts[8]
    assert not predictions.hessian_predicted.any()


def test_a_wrong_shape_is_told_with_the_file(tmp_path: Path) -> None:
    arrays = vars(make_predictions()) | {"hessian_predicted": np.zeros(7)}
    np.savez(tmp_path / "p.npz", **arrays)
    with pytest.raises(DataError, match=r"p\.npz: array 'hessian_predicted' has shape \(7,\)"):
        Predictions.load(tmp_path / "p.npz")


def test_a_missing_array_is_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", name=np.array(["a"]))
    with pytest.raises(DataError, match="lacks an array"):
        Predictions.load(tmp_path / "few.npz")


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    arrays = vars(make_predictions()) | {"name": np.array([{"evil": 1}, {}], dtype=object)}
    np.savez(tmp_path / "p.npz", **arrays)
    with pytest.raises(DataError, match="no readable predictions"):
        Predictions.load(tmp_path / "p.npz")


def test_a_file_that_is_no_archive_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"not an archive")
    with pytest.raises(DataError, match=r"x\.npz: holds no readable predictions"):
        Predictions.load(tmp_path / "x.npz")
