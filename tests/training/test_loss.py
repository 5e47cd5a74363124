from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product
from typing import Any

import pytest
import torch
from springs import TINY, spring_structure
from torch import Tensor

import hessgnn
from hessgnn.curvature.probes import Probes, all_rows, draw
from hessgnn.data.batch import Batch
from hessgnn.potentials.base import Potential
from hessgnn.training import loss as loss_module
from hessgnn.training.loss import Loss, Weights, hessian_error
from hessgnn.training.loss_config import LossConfig


@pytest.fixture
def potential() -> Potential:
    torch.manual_seed(0)
    settings = {key: value for key, value in TINY.items() if key != "name"}
    return hessgnn.create("schnet", **settings).double()


def make_batch(*names: str, **without: None) -> Batch:
    structures = [spring_structure(name, "train", **without) for name in names]
    return Batch.from_structures(structures, 5.0, index=range(len(names)))


def evaluate(potential: Potential, batch: Batch, weights: Weights, **settings: Any) -> loss_module.LossValue:
    return Loss(LossConfig.model_validate(settings))(potential, batch, weights, torch.Generator().manual_seed(0))


def residuals(potential: Potential, batch: Batch) -> list[Tensor]:
    assert batch.labels is not None
    found = potential.hessian(batch)
    return [h - batch.labels.hessian[s, : len(h), : len(h)] for s, h in enumerate(found)]


def test_full_probes_give_the_mean_square_of_the_hessians_error(potential: Potential) -> None:
    batch = make_batch("H2O", "CH4", "HCN")
    expected = torch.stack([r.square().mean() for r in residuals(potential, batch)]).mean()
    value = evaluate(potential, batch, Weights(0.3, 0.09), probes={"kind": "full"})
    assert value.terms["hessian"] == pytest.approx(float(expected), rel=1e-12)


def test_terms_and_total_are_the_sums_written_in_the_docstring(potential: Potential) -> None:
    batch = make_batch("H2O", "CH4")
    labels, n = batch.labels, batch.n_atoms.double()
    assert labels is not None
    difference = potential.energy(batch) - labels.energy
    energy = (difference.square() / n.sqrt()).mean()
    forces = batch.sum_per_structure((potential.forces(batch) - labels.forces).square().sum(-1)) / (3 * n)
    value = evaluate(potential, batch, Weights(0.3, 0.0))
    assert value.terms["energy"] == pytest.approx(float(energy), rel=1e-12)
    assert value.terms["forces"] == pytest.approx(float(forces.mean()), rel=1e-12)
    assert float(value.total.detach()) == pytest.approx(float(energy + 0.3 * forces.mean()), rel=1e-12)
    per_atom = evaluate(potential, batch, Weights(0.0, 0.0), energy_form="per_atom").terms["energy"]
    assert per_atom == pytest.approx(float((difference / n).square().mean()), rel=1e-12)


@pytest.mark.parametrize("function", ["squared", "l1", "huber"])
def test_the_mean_over_all_rows_is_the_full_loss(potential: Potential, function: str) -> None:
    batch = make_batch("H2O", "CO2")
    assert batch.labels is not None
    apply = Loss(LossConfig(hessian_function=function, probes={"kind": "rows"}))._function
    everything = all_rows(batch)
    products = potential.hvp(batch, everything.vectors)
    full = hessian_error(products, batch, batch.labels, everything, apply)
    estimates = []
    for row in range(everything.number):
        one = Probes(everything.vectors[row : row + 1], everything.weights[row : row + 1] * everything.number)
        estimates.append(hessian_error(products[row : row + 1], batch, batch.labels, one, apply))
    torch.testing.assert_close(torch.stack(estimates).mean(0), full, rtol=1e-10, atol=0)


@pytest.mark.parametrize(("kind", "number"), [("rows", 2), ("atoms", 1)])
def test_the_mean_over_all_draws_without_replacement_is_the_full_loss(
    potential: Potential, kind: str, number: int
) -> None:
    """What `draw` gives for a choice, put together by hand for every choice."""
    batch = make_batch("H2O")
    assert batch.labels is not None
    everything = all_rows(batch)
    products = potential.hvp(batch, everything.vectors)
    full = hessian_error(products, batch, batch.labels, everything)
    drawn = draw(kind, number, batch, torch.Generator().manual_seed(1))
    rows_each = {"rows": 1, "atoms": 3}[kind]
    n_units = everything.number // rows_each
    estimates = []
    for units in combinations(range(n_units), number):
        rows = [rows_each * unit + offset for unit in units for offset in range(rows_each)]
        chosen = Probes(everything.vectors[rows], drawn.weights)
        estimates.append(hessian_error(products[rows], batch, batch.labels, chosen))
    torch.testing.assert_close(torch.stack(estimates).mean(0), full, rtol=1e-10, atol=0)


def test_the_mean_over_all_rademacher_probes_of_a_diatomic_is_the_full_loss(potential: Potential) -> None:
    batch = make_batch("N2")
    assert batch.labels is not None
    everything = all_rows(batch)
    full = hessian_error(potential.hvp(batch, everything.vectors), batch, batch.labels, everything)
    signs = torch.tensor(list(product((-1.0, 1.0), repeat=6)), dtype=torch.float64).view(64, 2, 3)
    probes = Probes(signs, torch.full((64, 1), 1 / 64, dtype=torch.float64))
    mean = hessian_error(potential.hvp(batch, signs), batch, batch.labels, probes)
    torch.testing.assert_close(mean, full, rtol=1e-10, atol=0)


def test_more_rows_than_there_are_gives_the_full_loss(potential: Potential) -> None:
    batch = make_batch("H2O", "CH4")  # 9 and 15 rows
    full = evaluate(potential, batch, Weights(0.3, 0.09), probes={"kind": "full"}).terms["hessian"]
    rows = evaluate(potential, batch, Weights(0.3, 0.09), probes={"kind": "rows", "number": 40})
    assert rows.terms["hessian"] == pytest.approx(full, rel=1e-12)
    assert rows.n_products == 15


def test_structures_without_a_label_are_left_out_of_its_term(potential: Potential) -> None:
    whole = [spring_structure("H2O", "train"), spring_structure("CH4", "train")]
    bare = [spring_structure("NH3", "train", hessian=None), spring_structure("CO2", "train", hessian=None, forces=None)]
    mixed = Batch.from_structures([bare[0], whole[0], bare[1], whole[1]], 5.0, index=range(4))
    settings = {"probes": {"kind": "full"}}
    got = evaluate(potential, mixed, Weights(0.3, 0.09), **settings)
    labelled = evaluate(potential, Batch.from_structures(whole, 5.0, index=range(2)), Weights(0.3, 0.09), **settings)
    assert got.terms["hessian"] == pytest.approx(labelled.terms["hessian"], rel=1e-12)
    forces = evaluate(
        potential, Batch.from_structures([bare[0], *whole], 5.0, index=range(3)), Weights(0.3, 0.0)
    ).terms["forces"]
    assert got.terms["forces"] == pytest.approx(forces, rel=1e-12)
    got.total.backward()


def test_a_batch_without_any_hessian_forms_no_product(potential: Potential) -> None:
    value = evaluate(potential, make_batch("H2O", hessian=None), Weights(0.3, 0.09))
    assert set(value.terms) == {"energy", "forces"}
    assert value.n_products == 0


def test_probing_a_share_of_the_batch_is_unbiased(potential: Potential) -> None:
    batch = make_batch("H2O", "CH4", "HCN", "CO2")
    full = evaluate(potential, batch, Weights(0.3, 0.09), probes={"kind": "full"}).terms
    loss = Loss(LossConfig(probes={"kind": "full", "fraction": 0.5}))
    seen: dict[float, float] = {}
    for seed in range(60):
        value = loss(potential, batch, Weights(0.3, 0.09), torch.Generator().manual_seed(seed))
        seen[round(value.terms["hessian"], 9)] = value.terms["hessian"]
        assert value.terms["energy"] == pytest.approx(full["energy"], rel=1e-12)
        assert value.terms["forces"] == pytest.approx(full["forces"], rel=1e-12)
    assert len(seen) == 6  # every pair of four was drawn
    assert sum(seen.values()) / 6 == pytest.approx(full["hessian"], rel=1e-10)


def test_a_term_of_weight_zero_computes_nothing(potential: Potential, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def forward(self: Potential, batch: Batch, **options: Any) -> Any:
        asked.append((options["forces"], options["vectors"] is not None))
        return original(self, batch, **options)

    original = type(potential).forward
    monkeypatch.setattr(type(potential), "forward", forward)
    batch = make_batch("H2O")
    assert set(evaluate(potential, batch, Weights(0.0, 0.0)).terms) == {"energy"}
    assert set(evaluate(potential, batch, Weights(0.3, 0.0)).terms) == {"energy", "forces"}
    assert set(evaluate(potential, batch, Weights(0.0, 0.09)).terms) == {"energy", "hessian"}
    assert asked == [(False, False), (True, False), (False, True)]


def test_weights_grow_along_the_ramp() -> None:
    config = LossConfig(forces=2.0, hessian=1.0, ramp={"start": 10, "stop": 20}, probes={"every": 1})
    assert [Weights.at(step, config).hessian for step in (0, 10, 15, 20, 99)] == [0, 0, 0.5, 1, 1]
    assert Weights.at(15, config).forces == 1.0
    assert Weights.at(0, LossConfig(probes={"every": 1})) == Weights(0.30, 0.09)


@pytest.mark.parametrize("number", [1, 2])
def test_the_mean_over_all_signs_along_the_modes_of_a_diatomic_is_the_full_loss(
    potential: Potential, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 equal structures, each with its own choice of the six signs."""
    batch = make_batch(*["N2"] * 64)
    full = evaluate(potential, batch, Weights(0.3, 0.09), probes={"kind": "full"}).terms["hessian"]
    every = torch.tensor(list(product((0, 1), repeat=6)))
    monkeypatch.setattr(torch, "randint", lambda *args, **kwargs: every)
    value = evaluate(potential, batch, Weights(0.3, 0.09), probes={"kind": "modes", "number": number})
    assert value.terms["hessian"] == pytest.approx(full, rel=1e-10)
    assert value.n_products == number


def test_structures_without_a_hessian_do_not_disturb_probes_along_modes(potential: Potential) -> None:
    whole = [spring_structure("H2O", "train"), spring_structure("CH4", "train")]
    mixed = Batch.from_structures([spring_structure("CO2", "train", hessian=None), *whole], 5.0, index=range(3))
    value = evaluate(potential, mixed, Weights(0.3, 0.09), probes={"kind": "modes", "number": 2})
    labelled = Batch.from_structures(whole, 5.0, index=range(2))
    alone = evaluate(potential, labelled, Weights(0.3, 0.09), probes={"kind": "modes", "number": 2})
    assert value.terms["hessian"] == pytest.approx(alone.terms["hessian"], rel=1e-12)


@pytest.mark.parametrize("kind", ["modes", "rademacher", "gaussian"])
def test_what_mixes_the_entries_of_a_row_suits_the_square_only(kind: str) -> None:
    with pytest.raises(ValueError, match="whole rows"):
        LossConfig(hessian_function="l1", probes={"kind": kind})
    for rows in ("rows", "atoms", "full"):
        LossConfig(hessian_function="huber", probes={"kind": rows})


@pytest.mark.parametrize("kind", ["rademacher", "rows", "modes"])
@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_ranks_draw_the_same_probes_and_read_their_own_hessians_only(kind: str, fraction: float) -> None:
    batch = make_batch("H2O", "CH4", "HCN", "NH3", "CO2")
    assert batch.labels is not None
    batch.labels.has_forces[2] = False
    config = LossConfig.model_validate({"probes": {"kind": kind, "number": 2, "fraction": fraction}})
    prepared = config.preparation()
    if prepared is not None:  # as a loader does
        batch = batch.replace(labels=replace(batch.labels, prepared=batch.labels.prepare(prepared)))
    arguments = (batch, Weights(0.3, 0.09))
    joint, parts = Loss(config).divide(*arguments, torch.Generator().manual_seed(1))
    seen = torch.zeros(5, dtype=torch.int64)
    for rank in range(3):
        assert batch.labels is not None
        own = torch.arange(5) % 3 == rank
        hessians = batch.labels.hessians
        numbers = hessians.numbers.copy()
        for first, n_atoms, mine in zip(hessians.first, hessians.n_atoms, own.tolist(), strict=True):
            if not mine:
                numbers[first : first + 3 * n_atoms * (3 * n_atoms + 1) // 2] = torch.nan
        spoiled = batch.replace(labels=replace(batch.labels, hessians=replace(hessians, numbers=numbers)))
        again, found = Loss(config).divide(spoiled, arguments[1], torch.Generator().manual_seed(1), 1, own)
        for name, weight in joint.weights.items():
            assert torch.equal(again.weights[name], weight)
        for part in found:
            assert part.place is not None
            seen[part.place] += 1
            (whole,) = [one for one in parts if (one.vectors is None) == (part.vectors is None)]
            assert whole.batch.index is not None
            expected = whole.select(torch.isin(whole.batch.index, part.place))
            for name, tensor in part.tensors().items():
                if name == "products":
                    torch.testing.assert_close(tensor, expected.tensors()[name], rtol=1e-12, atol=1e-12)
                else:
                    assert torch.equal(tensor, expected.tensors()[name]), name
    assert (seen == 1).all()
