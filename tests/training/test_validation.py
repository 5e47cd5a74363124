from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from springs import TINY, mixed_structures, random_products, spring_structure, with_products

import hessgnn
from hessgnn.data.batch import Batch
from hessgnn.data.store.store import write_store
from hessgnn.training import validation
from hessgnn.training.build import build
from hessgnn.training.config import RunConfig, ValidationConfig
from hessgnn.training.validation import Errors, validate

EQUAL = {"energy": 1.0, "forces": 1.0, "hessian": 1.0}


def test_the_score_is_a_weighted_geometric_mean_in_fixed_units() -> None:
    errors = Errors(energy=2e-3, forces=4e-2, hessian=0.1)
    assert errors.score(EQUAL) == pytest.approx(2.0)
    assert errors.score({"energy": 0.0, "forces": 1.0, "hessian": 0.0}) == pytest.approx(4.0)
    assert Errors(energy=2e-3, forces=None, hessian=None).score(EQUAL) == pytest.approx(2.0)


def test_an_error_that_is_not_finite_is_the_worst_score() -> None:
    assert Errors(energy=math.nan, forces=0.1, hessian=0.1).score(EQUAL) == math.inf


def test_errors_of_a_split_do_not_depend_on_the_batches_and_probes_are_fixed() -> None:
    torch.manual_seed(0)
    potential = hessgnn.create("schnet", width=8, n_interactions=1).double()
    structures = [spring_structure(name, "train") for name in ("H2O", "CH4", "CO2")]
    whole = [Batch.from_structures(structures, 5.0)]
    parts = [Batch.from_structures([structure], 5.0) for structure in structures]
    config = ValidationConfig(weights=EQUAL)
    full = validate(potential, whole, config)
    assert validate(potential, parts, config).hessian == pytest.approx(full.hessian)
    pairs = zip(potential.hessian(whole[0]), structures, strict=True)
    expected = torch.stack([(h - torch.as_tensor(s.hessian)).square().mean() for h, s in pairs])
    assert full.hessian == pytest.approx(float(expected.mean().sqrt()))
    probed = ValidationConfig(hessian="probes", n_probes=16, weights=EQUAL)
    once = validate(potential, whole, probed)
    assert once == validate(potential, whole, probed)
    assert once.hessian == pytest.approx(full.hessian, rel=0.2)


@pytest.mark.parametrize("kind", ["full", "probes", "modes"])
def test_hessians_without_a_weight_are_not_computed(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    potential = hessgnn.create("schnet", width=8, n_interactions=1).double()
    batch = Batch.from_structures([spring_structure("H2O", "train")], 5.0)
    for name in ("padded_hessians", "draw"):
        monkeypatch.setattr(validation, name, lambda *_: pytest.fail("computed"))
    monkeypatch.setattr(type(potential), "hvp", lambda *_: pytest.fail("computed"))
    config = ValidationConfig(hessian=kind)
    assert config.weights == {"energy": 1.0, "forces": 1.0, "hessian": 0.0}
    assert config.preparation() is None
    errors = validate(potential, [batch], config)
    assert errors.hessian is None
    assert errors.score(config.weights) == pytest.approx(math.sqrt(errors.energy * errors.forces / 1e-5))


def test_the_energy_error_per_molecule_is_pooled() -> None:
    torch.manual_seed(0)
    potential = hessgnn.create("schnet", width=8, n_interactions=1).double()
    structures = [spring_structure(name, "train") for name in ("H2O", "CH4", "CO2")]
    batch = Batch.from_structures(structures, 5.0)
    difference = potential.energy(batch).detach().numpy() - [s.energy for s in structures]
    errors = validate(potential, [batch], ValidationConfig())
    assert errors.energy_molecule == pytest.approx(math.sqrt((difference**2).mean()))
    assert errors.energy == pytest.approx(math.sqrt(((difference / [3, 5, 3]) ** 2).mean()))
    config = ValidationConfig(weights={"energy_molecule": 1.0})
    assert errors.score({str(k): v for k, v in config.weights.items()}) == pytest.approx(errors.energy_molecule / 1e-2)


def test_validation_on_stationary_points_only_is_warned_of(tmp_path: Path) -> None:
    train = [spring_structure(name, "train") for name in ("H2O", "CH4", "NH3", "CO2", "HCN")]
    held_out = spring_structure("H2CO", "validation")
    still = dataclasses.replace(held_out, forces=np.zeros_like(held_out.forces), hessian=None)
    write_store(tmp_path / "still.h5", [*train, still], level_of_theory="springs")
    content: dict = {"potential": TINY, "data": {"path": str(tmp_path / "still.h5")}, "training": {"device": "cpu"}}
    with pytest.warns(UserWarning, match="split 'validation' holds stationary points only.*displaced frames") as caught:
        build(RunConfig.model_validate(content))
    assert len(caught) == 1
    build(RunConfig.model_validate(content | {"validation": {"weights": {"energy": 1}}}))


def test_a_split_without_a_label_has_no_error_of_it() -> None:
    potential = hessgnn.create("schnet", width=8, n_interactions=1).double()
    batch = Batch.from_structures([spring_structure("H2O", "train", hessian=None)], 5.0)
    assert validate(potential, [batch], ValidationConfig(weights=EQUAL)).hessian is None


def test_structures_with_products_only_are_compared_on_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    potential = hessgnn.create("schnet", width=8, n_interactions=1).double()
    whole = [spring_structure(name, "train") for name in ("H2O", "CH4", "CO2")]
    rows = [with_products(one, np.eye(3 * len(one)).reshape(-1, len(one), 3), "rows") for one in whole[1:]]
    config = ValidationConfig(weights=EQUAL)
    full = validate(potential, [Batch.from_structures(whole, 5.0)], config).hessian
    mixed = [Batch.from_structures([whole[0], *rows, spring_structure("HCN", "train", hessian=None)], 5.0)]
    # All rows are the whole Hessian.
    assert validate(potential, mixed, config).hessian == pytest.approx(full, rel=1e-12)
    parts = [Batch.from_structures([one], 5.0) for one in [whole[0], *rows]]
    assert validate(potential, parts, config).hessian == pytest.approx(full, rel=1e-12)
    monkeypatch.setattr(validation, "_TOGETHER", 4)
    assert validate(potential, mixed, config).hessian == pytest.approx(full, rel=1e-12)


@pytest.mark.parametrize("kind", ["probes", "stored"])
def test_each_structure_is_validated_by_what_it_has(kind: str) -> None:
    torch.manual_seed(0)
    potential = hessgnn.create("schnet", width=8, n_interactions=1).double()
    batch = Batch.from_structures(mixed_structures(), 5.0)
    config = ValidationConfig(hessian=kind, n_probes=400, weights=EQUAL)
    found = validate(potential, [batch], config)
    assert found == validate(potential, [batch], config)
    whole = [spring_structure(name, "train") for name in ("H2O", "CH4", "CO2", "HCN")]
    full = [validate(potential, [Batch.from_structures([one], 5.0)], ValidationConfig(weights=EQUAL)) for one in whole]
    known = [random_products(whole[0], 3), None, random_products(whole[2], 2), random_products(whole[3], 1)]
    squares = []
    for k, one in enumerate(known):
        # Beside a Hessian, its products are read where they are asked for.
        read = one is not None and (kind == "stored" or k != 2)
        by_products = [Batch.from_structures([one], 5.0)] if one is not None else []
        errors = validate(potential, by_products, ValidationConfig(weights=EQUAL)) if read else full[k]
        assert errors.hessian is not None
        squares.append(errors.hessian**2)
    assert found.hessian == pytest.approx(math.sqrt(np.mean(squares)), rel=0.05)  # 400 random signs
