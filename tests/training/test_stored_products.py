"""Stored products as curvature labels: an unbiased loss, runs like any other, and what is said of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interrupted import train_until_killed
from springs import TINY, mixed_structures, random_products, spring_structure, with_products, write_mixed
from torch import Tensor

import hessgnn
from hessgnn.data.batch import Batch
from hessgnn.data.neighbors import pairs_of_edges
from hessgnn.data.padding import Buckets, Size
from hessgnn.data.store.store import Store, write_store
from hessgnn.data.structure import Structure
from hessgnn.errors import ConfigError, TrainingError
from hessgnn.potentials.base import Potential
from hessgnn.runtime.config import load, save
from hessgnn.runtime.files import find_resource
from hessgnn.training.build import build
from hessgnn.training.config import RunConfig
from hessgnn.training.curvature_labels import describe
from hessgnn.training.loss import Loss, LossValue, Weights
from hessgnn.training.loss_config import LossConfig
from hessgnn.training.recorded import RecordedStep
from hessgnn.training.run import Run
from hessgnn.training.step import EagerStep
from hessgnn.training.trainer import train

STORED = {"kind": "stored", "every": 1}
SMALL: dict[str, dict[str, Any]] = {
    "schnet": {"width": 8, "n_interactions": 1, "n_basis": 8},
    "nequip": {"channels": 2, "n_layers": 1},
    "ani": {"hidden": (8,)},
}
WEIGHTS = Weights(0.3, 0.09)


def make_potential(name: str = "schnet") -> Potential:
    torch.manual_seed(0)
    return hessgnn.create(name, **SMALL[name]).double()


def batch_of(structures: list[Structure], cutoff: float = 5.0) -> Batch:
    return Batch.from_structures(structures, cutoff, index=range(len(structures)))


def hessian_term(potential: Potential, structures: list[Structure], seed: int = 0, **probes: Any) -> float:
    loss = Loss(LossConfig.model_validate({"probes": {**STORED, **probes}}))
    value = loss(potential, batch_of(structures), WEIGHTS, torch.Generator().manual_seed(seed))
    return value.terms["hessian"]


def full_term(potential: Potential, *structures: Structure) -> float:
    loss = Loss(LossConfig.model_validate({"probes": {"kind": "full"}}))
    return loss(potential, batch_of(list(structures)), WEIGHTS).terms["hessian"]


def all_signs(size: int) -> np.ndarray:
    return np.array(list(product([-1.0, 1.0], repeat=size)))


def test_the_mean_over_all_rademacher_directions_of_a_diatomic_is_the_full_loss() -> None:
    potential, whole = make_potential(), spring_structure("N2", "train")
    signs = all_signs(6).reshape(64, 2, 3)
    full = full_term(potential, whole)
    together = with_products(whole, signs, "rademacher")
    assert hessian_term(potential, [together], number=64) == pytest.approx(full, rel=1e-10)
    each = [with_products(whole, one[None], "rademacher") for one in signs]
    assert hessian_term(potential, each) == pytest.approx(full, rel=1e-10)


def test_the_mean_over_a_gaussian_sample_with_unit_moment_is_the_full_loss() -> None:
    """Six directions whose mean ``v vᵀ`` is exactly 1, as that of all Gaussian ones."""
    potential, whole = make_potential(), spring_structure("N2", "train")
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    known = with_products(whole, np.sqrt(6) * axes.T.reshape(6, 2, 3), "gaussian")
    assert hessian_term(potential, [known], number=6) == pytest.approx(full_term(potential, whole), rel=1e-10)


@pytest.mark.parametrize("function", ["squared", "l1", "huber"])
def test_all_rows_are_the_full_loss(function: str) -> None:
    potential, whole = make_potential(), [spring_structure("N2", "train"), spring_structure("H2O", "train")]
    known = [with_products(one, np.eye(3 * len(one)).reshape(-1, len(one), 3), "rows") for one in whole]
    found = {}
    for kind, structures in (("full", whole), ("stored", known)):
        config = {"hessian_function": function, "probes": {"kind": kind, "number": 20, "every": 1}}
        value = Loss(LossConfig.model_validate(config))(potential, batch_of(structures), WEIGHTS)
        found[kind] = value.terms["hessian"]
    assert found["stored"] == pytest.approx(found["full"], rel=1e-10)


@pytest.mark.parametrize("number", [1, 2])
def test_the_mean_over_all_signs_along_divided_modes_is_the_full_loss(number: int) -> None:
    """Each structure has its own signs along the six modes, three in each of two directions; one or both are drawn."""
    potential, whole = make_potential(), spring_structure("N2", "train")
    assert whole.hessian is not None
    modes = np.linalg.eigh(whole.hessian)[1]
    divided = [[signs[:3] @ modes[:, :3].T, signs[3:] @ modes[:, 3:].T] for signs in all_signs(6)]
    known = [with_products(whole, np.array(pair).reshape(2, 2, 3), "modes") for pair in divided]
    full = full_term(potential, whole)
    if number == 2:
        assert hessian_term(potential, known, number=2) == pytest.approx(full, rel=1e-10)
        return
    halves = [replace(one, directions=one.directions.select([k])) for one in known if one.directions for k in range(2)]
    assert hessian_term(potential, halves) == pytest.approx(full, rel=1e-10)


@pytest.mark.parametrize("kind", ["gaussian", "softest"])
def test_the_mean_over_all_draws_of_two_of_four_is_that_of_all_four(kind: str) -> None:
    potential, whole = make_potential(), spring_structure("H2O", "train")
    known = with_products(whole, np.random.default_rng(0).normal(size=(4, 3, 3)), kind)
    every = hessian_term(potential, [known], number=4)
    draws = {
        round(found, 10): found for found in (hessian_term(potential, [known], seed, number=2) for seed in range(60))
    }
    assert len(draws) == 6
    assert sum(draws.values()) / 6 == pytest.approx(every, rel=1e-10)
    assert hessian_term(potential, [known], number=9) == pytest.approx(every, rel=1e-12)


def test_directions_without_a_distribution_stand_for_all_however_long_they_are() -> None:
    potential, whole = make_potential(), spring_structure("H2O", "train")
    assert whole.hessian is not None
    residual = potential.hessian(batch_of([whole]))[0].numpy() - whole.hessian
    vector = np.random.default_rng(0).normal(size=(1, 3, 3))
    unit = vector.reshape(9) / np.linalg.norm(vector)
    expected = 9 * np.square(residual @ unit).sum() / 81
    for length in (1.0, 7.0):
        known = with_products(whole, length * vector, "displacement")
        assert hessian_term(potential, [known]) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_structures_with_hessians_products_both_and_neither_in_one_batch(number: int) -> None:
    """Each counts once, by what it has; a structure without curvature counts in the other terms only."""
    potential, structures = make_potential(), mixed_structures()
    loss = Loss(LossConfig.model_validate({"probes": {**STORED, "number": number}}))
    batch = batch_of(structures)
    assert batch.labels is not None
    generator = torch.Generator().manual_seed(1)
    ((_, probes),) = [
        (part, part.vectors) for part in loss.parts(batch, WEIGHTS, generator) if part.vectors is not None
    ]
    value = loss(potential, batch, WEIGHTS, torch.Generator().manual_seed(1))
    assert value.n_products == number
    places, found = value.per_structure["hessian"]
    assert places.tolist() == [0, 1, 3, 4]
    originals = [spring_structure(name, "train") for name in ("H2O", "CH4", "CO2", "HCN")]
    start = 0
    for structure, error, available in zip(originals, found.tolist(), (3, number, 2, 1), strict=True):
        n, used = len(structure), min(number, available)
        vectors = probes[:, start : start + n].reshape(number, -1).numpy()
        start += n
        assert (np.abs(vectors).max(1) > 0).sum() == used
        assert structure.hessian is not None
        residual = potential.hessian(batch_of([structure]))[0].numpy() - structure.hessian
        assert error == pytest.approx(np.square(vectors @ residual).sum() / used / (9 * n * n), rel=1e-9)
    assert len(value.per_structure["energy"][0]) == 5


def dense_loss(potential: Potential, structure: Structure, batch: Batch, vectors: Tensor, products: Tensor) -> Tensor:
    """Of one structure, by rows of its Hessian and by autograd alone."""
    x = batch.positions.detach().requires_grad_()
    energy = potential.total_energy(batch.replace(positions=x)).sum()
    (gradient,) = torch.autograd.grad(energy, x, create_graph=True)
    rows = [torch.autograd.grad(g, x, create_graph=True)[0].flatten() for g in gradient.flatten()]
    n = len(structure)
    assert structure.energy is not None
    residual = torch.stack(rows) @ vectors.flatten(1).T - products.flatten(1).T
    squares = residual.square().sum() / len(vectors) / (9 * n * n)
    forces = (-gradient - torch.as_tensor(structure.forces)).square().mean()
    return (energy - structure.energy).square() / n**0.5 + 0.3 * forces + 0.09 * squares


@pytest.mark.parametrize("name", SMALL)
def test_the_gradient_is_that_of_an_explicit_dense_computation(name: str) -> None:
    potential = make_potential(name)
    structures = [random_products(spring_structure(one, "train"), 2) for one in ("H2O", "HCN", "CH4")]
    batch = batch_of(structures, potential.cutoff)
    loss = Loss(LossConfig.model_validate({"probes": {**STORED, "number": 2}}))
    loss(potential, batch, WEIGHTS).total.backward(inputs=list(potential.parameters()))
    found = [p.grad for p in potential.parameters()]
    total = torch.zeros((), dtype=torch.float64)
    for structure in structures:
        given = structure.directions
        assert given is not None
        pair = torch.from_numpy(given.vectors), torch.from_numpy(given.products)
        total = total + dense_loss(potential, structure, batch_of([structure], potential.cutoff), *pair) / 3
    expected = torch.autograd.grad(total, list(potential.parameters()), allow_unused=True)
    largest = max(float(g.norm()) for g in expected if g is not None)
    assert largest > 0
    for one, other in zip(expected, found, strict=True):
        if one is None or other is None:
            assert one is None or float(one.norm()) == 0
            assert other is None or float(other.norm()) == 0
            continue
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-10 * largest)


@pytest.mark.parametrize("name", SMALL)
def test_parts_and_the_traced_step_give_the_eager_gradient(name: str) -> None:
    potential = make_potential(name)
    batch = batch_of(mixed_structures(), potential.cutoff)
    if potential.triplet_cutoff is not None:
        near = (batch.edge_vectors().norm(dim=-1) < potential.triplet_cutoff).nonzero().squeeze(-1)
        batch = batch.replace(triplets=near[pairs_of_edges(batch.edge_index[0][near], len(batch.numbers))])
    loss = Loss(LossConfig.model_validate({"probes": {**STORED, "number": 2, "fraction": 0.8}}))
    buckets = Buckets(Size(4, 20, 120, 60, ((1, 12), (6, 4), (7, 3), (8, 3))))
    found = []
    for step, number in (
        (EagerStep(loss, potential), 1),
        (EagerStep(loss, potential), 3),
        (RecordedStep(loss, potential, buckets, "traced"), 1),
    ):
        potential.zero_grad(set_to_none=True)
        parts = loss.parts(batch, WEIGHTS, torch.Generator().manual_seed(2), number)
        value = LossValue.of(parts, [step(part) for part in parts])
        grads = [p.grad.flatten() for p in potential.parameters() if p.grad is not None]
        found.append((float(value.total), torch.cat(grads)))
    for total, gradient in found[1:]:
        assert total == pytest.approx(found[0][0], rel=1e-10)
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-9, atol=1e-10 * float(gradient.norm()))


def test_a_share_of_the_labelled_structures_is_unbiased() -> None:
    potential, structures = make_potential(), mixed_structures()
    del structures[1]  # its random signs would be drawn anew
    full = hessian_term(potential, structures, number=3)
    seen = {}
    for seed in range(30):
        found = hessian_term(potential, structures, seed, number=3, fraction=0.34)
        seen[round(found, 9)] = found
    assert len(seen) == 3
    assert sum(seen.values()) / 3 == pytest.approx(full, rel=1e-10)


def test_ranks_draw_the_same_directions_and_read_only_their_own_products() -> None:
    batch = batch_of(mixed_structures())
    labels = batch.labels
    assert labels is not None
    loss = Loss(LossConfig.model_validate({"probes": {**STORED, "number": 2}}))
    (whole,) = [p for p in loss.parts(batch, WEIGHTS, torch.Generator().manual_seed(1)) if p.vectors is not None]
    seen = torch.zeros(5, dtype=torch.int64)
    for rank in range(2):
        own = torch.arange(5) % 2 == rank
        products = labels.directions.products.copy()
        for first, n, m, mine in zip(
            labels.directions.first, labels.directions.n_atoms, labels.directions.number, own.tolist(), strict=True
        ):
            if not mine:
                products[first : first + n * m] = np.nan
        spoiled = batch.replace(labels=replace(labels, directions=replace(labels.directions, products=products)))
        for part in loss.divide(spoiled, WEIGHTS, torch.Generator().manual_seed(1), 1, own)[1]:
            assert part.place is not None
            seen[part.place] += 1
            if part.vectors is None:
                continue
            assert whole.batch.index is not None
            expected = whole.select(torch.isin(whole.batch.index, part.place))
            for name, tensor in part.tensors().items():
                torch.testing.assert_close(tensor, expected.tensors()[name], rtol=1e-12, atol=1e-12)
    assert (seen == 1).all()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_mixed(tmp_path / "mixed.h5")


MakeConfig = Callable[..., RunConfig]


@pytest.fixture
def make_config(store: Path) -> MakeConfig:
    def make(**sections: dict[str, Any]) -> RunConfig:
        content: dict[str, Any] = {
            "potential": TINY,
            "data": {"path": str(store)},
            "loss": {"probes": {**STORED, "number": 2}},
            "training": {"steps": 12, "schedule": {"warmup": 2}, "device": "cpu", "threads": 1},
            "validation": {"every": 4, "weights": {"energy": 1, "forces": 1, "hessian": 1}},
        }
        for section, values in sections.items():
            content[section] = {**content[section], **values}
        return RunConfig.model_validate(content)

    return make


SIZE = {"batch_size": 3}
COMPOSED = {"composition": {"curvature": 2, "other": 1}}


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12 on fork
@pytest.mark.parametrize("batches", [SIZE, COMPOSED])
def test_resumed_runs_and_workers_change_no_number(
    make_config: MakeConfig, tmp_path: Path, batches: dict[str, Any]
) -> None:
    whole = train(make_config(training=batches), tmp_path / "whole")
    helped = make_config(training={**batches, "workers": 1})
    train_until_killed(helped, tmp_path / "helped", 6)
    parts = train(helped, tmp_path / "helped", resume=True)
    assert [(p.loss, p.score, p.epoch) for p in parts.progress.curve] == [
        (p.loss, p.score, p.epoch) for p in whole.progress.curve
    ]
    for name, value in whole.potential.state_dict().items():
        assert torch.equal(value, parts.potential.state_dict()[name])
    assert whole.progress.products == 24


def test_lazy_products_and_a_ramp(make_config: MakeConfig) -> None:
    probes = {"probes": {"kind": "stored", "every": 3, "number": 2}, "ramp": {"start": 2, "stop": 9}}
    result = train(make_config(loss=probes, training=SIZE))
    ramped = make_config(loss=probes)
    probed = sum(Weights.at(step, ramped.loss).hessian > 0 for step in range(12))
    assert result.progress.products == 2 * probed > 0


def test_a_composed_run_holds_so_many_of_each_in_every_batch(make_config: MakeConfig) -> None:
    config = make_config(training=COMPOSED, validation={"every": "epoch"})
    setup = build(config)
    for step in range(9):
        labels = setup.loader.batch(step).labels
        assert labels is not None
        assert labels.has_curvature.tolist() == [True, True, False]
    # Four structures with curvature labels in twos are the longer epoch.
    assert [point.step for point in train(config).progress.curve] == [2, 4, 6, 8, 10, 12]
    # With Rademacher probes only those with a Hessian count.
    with pytest.warns(UserWarning, match="2 structures of split 'train' have products but no Hessian"):
        plain = build(make_config(training=COMPOSED, loss={"probes": {"kind": "rademacher", "every": 1}}))
    labels = plain.loader.batch(0).labels
    assert labels is not None
    assert labels.has_hessian.tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("training", "message"),
    [
        (
            {**COMPOSED, "batch_size": 4},
            r"batch_size 4 is not that of composition, 2 \+ 1: leave it out, or set it",
        ),
        ({**COMPOSED, "hessian_share": 0.5}, "leave hessian_share out"),
        ({**COMPOSED, "max_atoms": 50}, "leave max_atoms out; training.parts saves memory"),
        ({"composition": {"curvature": 4}}, "other"),
    ],
)
def test_batches_are_described_once(make_config: MakeConfig, training: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(training=training)


def test_the_resolved_configuration_of_a_composed_run_is_read_again(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(training=COMPOSED)
    run = Run(tmp_path / "run")
    run.begin(config)
    assert run.config() == config
    assert config.training.batch_size == 3
    assert make_config(training={**COMPOSED, "batch_size": 3}) == config
    assert "composition" not in make_config(training=SIZE).model_dump(mode="json")["training"]


def written(folder: Path, structures: list[Structure]) -> dict[str, Any]:
    write_store(folder / "own.h5", [*structures, spring_structure("H2CO", "validation")], level_of_theory="springs")
    return {"path": str(folder / "own.h5")}


NAMES = ("H2O", "CH4", "NH3", "CO2", "HCN")


def test_a_composition_without_one_of_its_groups_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    data = written(tmp_path, [random_products(spring_structure(name, "train"), 1) for name in NAMES])
    with pytest.raises(ConfigError, match=r"composition.other': no structure of split 'train' lacks a curvature label"):
        build(make_config(training=COMPOSED, data=data))
    config = make_config(training=COMPOSED, data=data, loss={"hessian": 0.0, "probes": {"kind": "rademacher"}})
    with pytest.raises(
        ConfigError, match=r"composition.curvature': no structure of split 'train' has a curvature label"
    ):
        build(config)


def test_products_that_the_kind_of_probes_does_not_read_are_told(make_config: MakeConfig, tmp_path: Path) -> None:
    data = written(tmp_path, [random_products(spring_structure(name, "train"), 1) for name in NAMES])
    rademacher = {"probes": {"kind": "rademacher", "every": 1}}
    with pytest.raises(TrainingError, match=r"has a Hessian: 5 have products .*set loss.probes.kind=stored"):
        build(make_config(data=data, loss=rademacher))
    build(make_config(data=data))


def test_structures_of_products_alone_are_trained_on(make_config: MakeConfig, tmp_path: Path) -> None:
    """They count in the Hessian term, and other terms are what they are without them."""
    bare = [replace(one, energy=None, forces=None) for one in mixed_structures() if one.directions is not None]
    others = [one for one in mixed_structures() if one.directions is None]
    both = Loss(LossConfig())(make_potential(), batch_of([*bare, *others]), Weights(0.3, 0.0))
    assert both.terms == pytest.approx(Loss(LossConfig())(make_potential(), batch_of(others), Weights(0.3, 0.0)).terms)
    energies = {z: -10.0 - z for z in (1, 6, 7, 8)}
    config = make_config(data=written(tmp_path, [*bare, *others]) | {"reference_energies": energies})
    result = train(config)
    assert result.progress.products == 24
    assert all(np.isfinite([point.loss, point.score]).all() for point in result.progress.curve)
    with pytest.raises(TrainingError, match=r"weighs energy but no structure .*merge the set .* --energy-forces"):
        build(make_config(data=written(tmp_path, bare)))


def test_stored_directions_that_are_not_there_are_told(make_config: MakeConfig, tmp_path: Path) -> None:
    whole = [spring_structure(name, "train") for name in NAMES]
    with pytest.warns(UserWarning, match=r"no structure of split 'train' has stored directions.*the 5 that have a Hes"):
        build(make_config(data=written(tmp_path, whole)))
    bare = [replace(one, hessian=None) for one in whole]
    with pytest.raises(TrainingError, match=r"weighs hessian but no structure .* has that label"):
        build(make_config(data=written(tmp_path, bare)))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"energy": 1, "forces": 1, "hessian": 1}, "weighs hessian but .*set validation.weights.hessian=0, or add"),
        ({"hessian": 1}, "weighs hessian but no structure of split 'validation' has that label.*Hint: add the"),
        ({"forces": 1}, "weighs forces but no structure of split 'validation' has that label"),
    ],
)
def test_a_score_that_lacks_its_labels_is_refused(
    make_config: MakeConfig, tmp_path: Path, weights: dict[str, float], message: str
) -> None:
    structures = [random_products(spring_structure(name, "train"), 1) for name in NAMES]
    validated = replace(spring_structure("H2CO", "validation"), hessian=None, forces=None)
    write_store(tmp_path / "own.h5", [*structures, validated], level_of_theory="springs")
    data = {"path": str(tmp_path / "own.h5")}
    verb = importlib.import_module("hessgnn.cli.train")
    config = make_config(data=data, validation={"weights": weights})
    with pytest.raises(TrainingError, match=message):
        build(config)
    save(config, tmp_path / "my.yaml")
    with pytest.raises(TrainingError, match=message):
        verb.train(tmp_path / "my.yaml", [], output=tmp_path / "run", resume=None, dry_run=True)
    build(make_config(data=data, validation={"weights": {"energy": 1, "forces": 1}}))  # known errors are enough


def test_a_function_of_single_entries_needs_rows(make_config: MakeConfig, tmp_path: Path) -> None:
    loss = {"hessian_function": "l1"}
    with pytest.raises(ConfigError, match=r"not all rows: 6 rademacher, random signs for 1 structures"):
        build(make_config(loss=loss))
    whole = [spring_structure(name, "train") for name in NAMES]
    rows = [with_products(one, np.eye(3 * len(one))[:2].reshape(2, -1, 3), "rows") for one in whole]
    setup = build(make_config(loss=loss, data=written(tmp_path, rows)))
    assert np.isfinite(float(setup.step(0).total))


def test_what_a_run_is_trained_on_is_said_in_words(make_config: MakeConfig, store: Path) -> None:
    config = make_config(training=COMPOSED)
    labels, batches, validated = describe(config, Store.open(store))
    assert labels == "train: 5 structures, 2 with a Hessian, 3 with products (1 to 3 each: 6 rademacher), 1 with both"
    assert batches.startswith(
        "each batch: 2 structures with a curvature label and 1 without; an epoch is 2 steps: 1 pas"
    )
    assert batches.endswith("1 passes through the former and 2 through the latter")
    assert validated == "validation: Hessian error of structures: 1 by their Hessians, 1 by all their stored products"


def test_directions_without_a_distribution_are_explained(make_config: MakeConfig, tmp_path: Path) -> None:
    known = [random_products(spring_structure(name, "train"), 2, "softest") for name in NAMES]
    data = written(tmp_path, known)
    there = Store.open(data["path"])
    lines = describe(make_config(data=data), there)
    assert lines[0] == "train: 5 structures, 0 with a Hessian, 5 with products (2 each: 10 softest)"
    assert "kind softest have no known distribution: they estimate the mean square Hessian error as if" in lines[1]
    assert "distribution" not in " ".join(describe(make_config(data=data, loss={"hessian": 0}), there))


def test_a_dry_run_and_the_first_lines_of_a_run_say_so(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verb = importlib.import_module("hessgnn.cli.train")
    save(make_config(training=SIZE | {"steps": 2}), tmp_path / "my.yaml")
    for dry_run in (True, False):
        verb.train(tmp_path / "my.yaml", [], output=tmp_path / "run", resume=None, dry_run=dry_run)
        printed = capsys.readouterr().out
        assert "train: 5 structures, 2 with a Hessian, 3 with products (1 to 3 each: 6 rademacher), 1 with" in printed
        assert "validation: Hessian error of structures: 1 by their Hessians, 1 by all their stored products" in printed
    bare = written(tmp_path, [spring_structure(name, "train", hessian=None) for name in NAMES])
    with pytest.raises(TrainingError, match="weighs hessian"):
        verb.train(tmp_path / "my.yaml", [f"data.path={bare['path']}"], output=None, resume=None, dry_run=True)


def test_the_shipped_configuration_for_products_is_read(store: Path) -> None:
    config = load(RunConfig, find_resource("configs/products.yaml"), [f"data.path={store}", "training.device=cpu"])
    assert np.isfinite(float(build(config).step(0).total))
