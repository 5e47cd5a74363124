"""The recorded steps against plain autograd, and what they refuse."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from springs import spring_structure
from torch import Tensor, nn

import hessgnn
from hessgnn.data.batch import Batch
from hessgnn.data.neighbors import pairs_of_edges
from hessgnn.data.padding import Buckets, Size
from hessgnn.errors import ConfigError, DataError, TrainingError
from hessgnn.potentials.base import Potential
from hessgnn.training import recorded as module
from hessgnn.training.build import build
from hessgnn.training.compiled import Programs
from hessgnn.training.config import RunConfig
from hessgnn.training.loss import Loss, LossValue, Weights
from hessgnn.training.loss_config import LossConfig
from hessgnn.training.part import Part
from hessgnn.training.recorded import RecordedStep
from hessgnn.training.step import EagerStep
from hessgnn.training.trainer import train

MakeConfig = Callable[..., RunConfig]

NAMES = ("H2O", "CH4", "NH3", "CO2", "HCN")
SMALL: dict[str, dict[str, Any]] = {
    "schnet": {"width": 8, "n_interactions": 1, "n_basis": 8},
    "nequip": {"channels": 2, "n_layers": 1},
    "ani": {"hidden": (8,)},
}


def make_potential(name: str, **settings: Any) -> Potential:
    torch.manual_seed(0)
    return hessgnn.create(name, **SMALL[name], **settings).double()


BUCKETS = Buckets(Size(4, 20, 120, 60, ((1, 12), (6, 4), (7, 3), (8, 3))))


def make_batch(cutoff: float = 5.0, triplet_cutoff: float | None = None) -> Batch:
    """Every pattern of missing labels."""
    missing: list[dict[str, None]] = [{}, {"hessian": None}, {"forces": None}, {"energy": None}, {}]
    structures = [spring_structure(name, "train", **one) for name, one in zip(NAMES, missing, strict=True)]
    batch = Batch.from_structures(structures, cutoff, index=range(len(NAMES)))
    return batch if triplet_cutoff is None else with_triplets(batch, triplet_cutoff)


def with_triplets(batch: Batch, cutoff: float) -> Batch:
    near = (batch.edge_vectors().norm(dim=-1) < cutoff).nonzero().squeeze(-1)
    return batch.replace(triplets=near[pairs_of_edges(batch.edge_index[0][near], len(batch.numbers))])


def parts_of(batch: Batch, number: int = 1, **settings: Any) -> tuple[Loss, list[Part]]:
    loss = Loss(LossConfig.model_validate(settings))
    return loss, loss.parts(batch, Weights(0.3, 0.09), torch.Generator().manual_seed(3), number)


def gradient(potential: Potential, step: EagerStep, parts: list[Part]) -> tuple[LossValue, dict[str, Tensor | None]]:
    potential.zero_grad(set_to_none=True)
    value = LossValue.of(parts, [step(part) for part in parts])
    return value, {name: p.grad for name, p in potential.named_parameters()}


def assert_same(one: dict[str, Tensor | None], other: dict[str, Tensor | None], tolerance: float) -> None:
    assert {name for name, g in one.items() if g is None} == {name for name, g in other.items() if g is None}
    norm = max(float(g.norm()) for g in one.values() if g is not None)
    for name, g in one.items():
        if g is not None:
            torch.testing.assert_close(other[name], g, rtol=tolerance, atol=tolerance * norm)


PROBES = {
    "one random": {"probes": {"number": 1}},
    "two random": {"probes": {"number": 2}},
    "rows of a share": {"probes": {"kind": "rows", "number": 2, "fraction": 0.5}, "hessian_function": "huber"},
}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("settings", "number"), [("one random", 4), ("two random", 2), ("rows of a share", 2)])
def test_parts_add_up_to_the_gradient_of_the_whole_batch(name: str, settings: str, number: int) -> None:
    potential = make_potential(name)
    batch = make_batch(potential.cutoff)
    # The whole by the loss's own call and one backward pass.
    whole = Loss(LossConfig.model_validate(PROBES[settings]))(
        potential, batch, Weights(0.3, 0.09), torch.Generator().manual_seed(3)
    )
    whole.total.backward(inputs=list(potential.parameters()))
    expected = {name: p.grad for name, p in potential.named_parameters()}
    loss, parts = parts_of(batch, number, **PROBES[settings])
    assert len(parts) >= number
    value, found = gradient(potential, EagerStep(loss, potential), parts)
    assert float(value.total) == pytest.approx(float(whole.total.detach()), rel=1e-12)
    assert value.terms == pytest.approx(whole.terms, rel=1e-12)
    assert_same(expected, found, 1e-12)


def test_parts_hold_each_structure_once_and_about_as_many_atoms() -> None:
    _, parts = parts_of(make_batch(), 2)
    indices = [i for part in parts if part.batch.index is not None for i in part.batch.index.tolist()]
    assert sorted(indices) == list(range(len(NAMES)))
    sizes = [int(part.batch.n_atoms.sum()) for part in parts if part.vectors is not None]
    assert max(sizes) <= 2 * min(sizes)
    assert len(parts_of(make_batch(), 99, probes={"fraction": 1.0})[1]) == len(NAMES)


@pytest.mark.parametrize("name", SMALL)
def test_structures_of_weight_zero_change_nothing(name: str) -> None:
    potential = make_potential(name)
    loss, (part, *_) = parts_of(make_batch(potential.cutoff), probes={"number": 2})
    step, own = EagerStep(loss, potential), Size.of(part.batch)
    padded = part.pad_to(Size(own.n_structures + 2, own.n_atoms + 6, own.n_edges + 50), potential.cutoff)
    plain, expected = gradient(potential, step, [part])
    filled, found = gradient(potential, step, [padded])
    assert float(filled.total) == pytest.approx(float(plain.total), rel=1e-12)
    assert filled.terms == pytest.approx(plain.terms, rel=1e-12)
    assert_same(expected, found, 1e-12)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("schnet", PROBES["two random"]),
        ("nequip", PROBES["one random"]),
        ("ani", PROBES["two random"]),
        pytest.param("schnet", PROBES["rows of a share"], marks=pytest.mark.slow),
        pytest.param("nequip", PROBES["two random"], marks=pytest.mark.slow),
    ],
)
def test_the_traced_step_gives_the_eager_gradient(
    name: str, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    potential = make_potential(name)
    loss, parts = parts_of(make_batch(potential.cutoff, potential.triplet_cutoff), **settings)
    value, expected = gradient(potential, EagerStep(loss, potential), parts)
    step = RecordedStep(loss, potential, BUCKETS, "traced")
    with caplog.at_level(logging.INFO, "hessgnn.training.recorded"):
        for _ in range(4):  # proven, then trusted
            again, found = gradient(potential, step, parts)
            assert float(again.total) == pytest.approx(float(value.total), rel=1e-12)
            assert again.terms == pytest.approx(value.terms, rel=1e-12)
            assert_same(expected, found, 1e-11)
    assert caplog.text.count("traced in") == len(parts)  # one record for each shape


@pytest.mark.parametrize("names", [("H2O",), ("CO2", "CH4")])
def test_elements_that_are_absent_have_no_gradient(names: tuple[str, ...]) -> None:
    potential = make_potential("ani")
    structures = [spring_structure(name, "train") for name in names]
    batch = Batch.from_structures(structures, potential.cutoff, index=range(len(names)))
    loss, parts = parts_of(with_triplets(batch, 3.5))
    value, expected = gradient(potential, EagerStep(loss, potential), parts)
    assert None in expected.values()
    again, found = gradient(potential, RecordedStep(loss, potential, BUCKETS, "traced"), parts)
    assert float(again.total) == pytest.approx(float(value.total), rel=1e-12)
    assert_same(expected, found, 1e-11)


def test_a_record_sees_new_weights_and_new_batches() -> None:
    potential, buckets = make_potential("schnet"), Buckets(Size(5, 30, 200))
    loss, parts = parts_of(make_batch())
    step, eager = RecordedStep(loss, potential, buckets, "traced"), EagerStep(loss, potential)
    gradient(potential, step, parts)
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.mul_(1.1)
    structures = [spring_structure(name, "test") for name in ("CO2", "CH3OH", "H2O")]
    _, others = parts_of(Batch.from_structures(structures, 5.0, index=range(3)))
    for now in (parts, others, others):
        value, expected = gradient(potential, eager, now)
        again, found = gradient(potential, step, now)
        assert float(again.total) == pytest.approx(float(value.total), rel=1e-12)
        assert_same(expected, found, 1e-11)


def test_a_wrong_record_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    potential = make_potential("schnet")
    loss, parts = parts_of(make_batch())

    def off(function: Any, inputs: Any) -> Any:
        return lambda inputs: [None if g is None else g * (1 + 1e-6 * (g.ndim > 1)) for g in function(*inputs)]

    monkeypatch.setitem(module._RECORDERS, "traced", off)
    with pytest.raises(TrainingError, match=r"SchNet cannot be traced: its gradient is off by .*training\.step=eager"):
        RecordedStep(loss, potential, Buckets(Size(5, 30, 200)), "traced")(parts[0])


class LooksAtValues(Potential):
    """Its graph depends on what it computes."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.weight = nn.Parameter(torch.ones(()))

    def atomic_energies(self, batch: Batch) -> Tensor:
        i, _ = batch.edge_index
        distances = batch.edge_vectors().norm(dim=-1)
        sharpness = 1.0 if float(distances.detach().min()) < 2 else 2.0
        terms = self.weight * torch.exp(-sharpness * distances)
        return terms.new_zeros(len(batch.numbers)).index_add(0, i, terms)


def test_a_potential_that_looks_at_values_is_refused_in_words() -> None:
    potential = LooksAtValues(LooksAtValues.Config()).double()
    loss, parts = parts_of(make_batch())
    step = RecordedStep(loss, potential, Buckets(Size(5, 30, 200)), "traced")
    with pytest.raises(
        TrainingError, match=r"key 'training\.step': LooksAtValues cannot be traced: .*training\.step=eager"
    ) as caught:
        step(parts[0])
    assert "\n" not in str(caught.value)


def test_elements_are_checked_in_every_step() -> None:
    potential, buckets = make_potential("schnet", elements=(1, 6, 7)), Buckets(Size(5, 30, 200))
    loss, (known, *_) = parts_of(Batch.from_structures([spring_structure("CH4", "train")], 5.0, index=[0]))
    _, (unknown, *_) = parts_of(Batch.from_structures([spring_structure("H2O", "train")], 5.0, index=[0]))
    step = RecordedStep(loss, potential, buckets, "traced")
    step(known)
    with pytest.raises(DataError, match="knows H, C, N only, the batch holds O"):
        step(unknown)


def test_capturing_is_refused_without_cuda(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"CUDA device only.*training\.step=compiled"):
        build(make_config(training={"step": "captured"}))


def test_a_recorded_run_in_parts_equals_the_eager_run(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HESSGNN_CACHE", str(tmp_path / "cache"))
    # All but the minutes of compiling.
    run = torch.no_grad()(lambda graph, inputs: graph(*inputs))
    monkeypatch.setattr(Programs, "compile", lambda self, identity, graph, inputs: partial(run, graph))
    training = {"dtype": "float64", "batch_size": 5}
    plain = train(make_config(training=training), tmp_path / "eager")
    other = train(make_config(training={**training, "step": "compiled", "parts": 2}), tmp_path / "recorded")
    for one, two in zip(plain.progress.curve, other.progress.curve, strict=True):
        assert two.loss == pytest.approx(one.loss, rel=1e-9)
        assert two.score == pytest.approx(one.score, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [("schnet", {}), ("nequip", {"channels": 4, "n_layers": 2})],  # Inductor's own graph of the second is not a number
)
def test_the_compiled_step_gives_the_eager_gradient(name: str, settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    potential = hessgnn.create(name, **{**SMALL[name], **settings})
    structures = [spring_structure(one, "train") for one in NAMES]
    batch = Batch.from_structures(structures, potential.cutoff, torch.float32, index=range(len(NAMES)))
    loss, parts = parts_of(batch, probes={"number": 2})
    value, expected = gradient(potential, EagerStep(loss, potential), parts)
    step = RecordedStep(loss, potential, Buckets(Size(5, 30, 200)), "compiled")
    for _ in range(4):
        again, found = gradient(potential, step, parts)
        assert float(again.total) == pytest.approx(float(value.total), rel=1e-5)
        assert_same(expected, found, 1e-4)
