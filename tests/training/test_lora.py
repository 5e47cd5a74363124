"""Frozen parameters and low-rank updates: the same energies at first, exact gradients, plain weights in the end."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ase.build import molecule
from torch import Tensor, nn

import hessgnn
from hessgnn.data.batch import Batch
from hessgnn.errors import ConfigError
from hessgnn.potentials.base import Potential
from hessgnn.training.build import build, build_buckets
from hessgnn.training.config import RunConfig
from hessgnn.training.lora import LoraConfig, choose_trained, merge, merged_state, public_name, updates
from hessgnn.training.recorded import RecordedStep
from hessgnn.training.trainer import train

MakeConfig = Callable[..., RunConfig]

SMALL: dict[str, dict[str, Any]] = {
    "schnet": {"width": 8, "n_interactions": 2, "n_basis": 8},
    "nequip": {"channels": 3, "radial_width": 6},
    "ani": {"hidden": (8, 6)},
}
LORA = LoraConfig(rank=2, alpha=3.0)


def make(name: str) -> Potential:
    torch.manual_seed(0)
    return hessgnn.create(name, **SMALL[name]).double()


def updated(name: str, lora: LoraConfig = LORA) -> Potential:
    """A potential whose updates are not zero."""
    potential = make(name)
    choose_trained(potential, (), lora)
    for parameter in trained(potential):
        parameter.data += 0.2 * torch.randn_like(parameter)
    return potential


def trained(potential: Potential) -> list[Tensor]:
    return [p for p in potential.parameters() if p.requires_grad]


def batch_of(potential: Potential) -> tuple[Batch, Tensor]:
    batch = Batch.from_atoms([molecule("CH3OH"), molecule("HCN")], potential.cutoff)
    generator = torch.Generator().manual_seed(1)
    batch = batch.replace(
        positions=batch.positions.double() + 0.05 * torch.randn(batch.positions.shape, generator=generator).double()
    )
    return batch, torch.randn(2, *batch.positions.shape, generator=generator, dtype=torch.float64)


def loss_of(potential: Potential) -> Tensor:
    batch, vectors = batch_of(potential)
    out = potential(batch, vectors=vectors, create_graph=True)
    values = (out.energy, out.forces, out.products)
    return torch.stack(
        [(x * torch.linspace(1, 2, x.numel(), dtype=x.dtype).view_as(x)).square().sum() for x in values]
    ).sum()


def same_but_for_rounding(ours: Tensor, theirs: Tensor) -> None:
    """The order in which a sum is taken depends on where tensors lie in memory."""
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12 * float(theirs.abs().max()))


def slope_by_differences(potential: Potential, direction: list[Tensor], step: float = 1e-5) -> float:
    values = []
    for sign in (1, -2, 1):  # forward, back to the other side, and to where it was
        for parameter, d in zip(trained(potential), direction, strict=True):
            parameter.data += sign * step * d
        values.append(float(loss_of(potential).detach()))
    return (values[0] - values[1]) / (2 * step)


@pytest.mark.parametrize("name", SMALL)
def test_energies_start_unchanged_and_gradients_are_those_of_differences(name: str) -> None:
    potential, plain = make(name), make(name)
    choose_trained(potential, (), LORA)
    batch, vectors = batch_of(plain)
    before, after = plain(batch, vectors=vectors), potential(batch, vectors=vectors)
    for key in ("energy", "forces", "products"):
        same_but_for_rounding(getattr(after, key), getattr(before, key))
    potential = updated(name)
    assert potential.closed_form
    assert potential.formulas_hold()  # an update is part of the weight
    gradients = torch.autograd.grad(loss_of(potential), trained(potential), allow_unused=True)
    direction = [torch.randn_like(p) for p in trained(potential)]
    along = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True) if g is not None)
    assert along == pytest.approx(slope_by_differences(potential, direction), rel=1e-6)

    potential.closed_form = False
    by_autograd = torch.autograd.grad(loss_of(potential), trained(potential), allow_unused=True)
    assert sum(g is not None for g in gradients) > 4
    for ours, theirs in zip(gradients, by_autograd, strict=True):
        torch.testing.assert_close(
            ours, theirs, rtol=1e-8, atol=1e-8 * float(theirs.abs().max()) if theirs is not None else 0
        )


@pytest.mark.parametrize("name", SMALL)
def test_products_are_derivatives_of_forces(name: str) -> None:
    potential = updated(name)
    batch, vectors = batch_of(potential)
    forces = [potential.forces(batch.replace(positions=batch.positions + s * 1e-4 * vectors[0])) for s in (1, -1)]
    torch.testing.assert_close(potential.hvp(batch, vectors)[0], (forces[1] - forces[0]) / 2e-4, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_merged_weights_are_those_of_a_plain_potential(name: str) -> None:
    potential, plain = updated(name), make(name)
    batch, vectors = batch_of(plain)
    expected = potential(batch, vectors=vectors)
    plain.load_state_dict(merged_state(potential))  # strict: no name is missing or left over
    merged = copy.deepcopy(potential)
    merge(merged)
    assert not updates(merged)
    assert {n for n, _ in merged.named_parameters()} == {n for n, _ in plain.named_parameters()}
    for other in (plain, merged):
        found = other(batch, vectors=vectors)
        same_but_for_rounding(found.energy, expected.energy)
        same_but_for_rounding(found.products, expected.products)


@pytest.mark.parametrize("name", SMALL)
def test_frozen_parameters_do_not_change_the_gradient_of_the_others(name: str) -> None:
    whole, part = make(name), make(name)
    names = [n for n, _ in whole.named_parameters()]
    choose_trained(part, names[::2], None)
    frozen = {n for n, p in part.named_parameters() if not p.requires_grad}
    assert frozen == set(names[::2])
    for potential in (whole, part):
        loss_of(potential).backward()
    for (n, ours), theirs in zip(part.named_parameters(), whole.parameters(), strict=True):
        if n in frozen:
            assert ours.grad is None
        else:
            assert (ours.grad is None) == (theirs.grad is None)
            if ours.grad is not None:
                same_but_for_rounding(ours.grad, theirs.grad)


def test_irreps_have_an_update_for_each_path() -> None:
    """A linear layer of e3nn keeps its matrices in one row; the layer stays equivariant."""
    o3 = pytest.importorskip("e3nn.o3")

    class Model(Potential):
        def __init__(self, config: hessgnn.PotentialConfig) -> None:
            super().__init__(config)
            self.linear = o3.Linear("4x0e + 3x1o", "5x0e + 2x1o")

        def atomic_energies(self, batch: Batch) -> Tensor:
            return self.linear(batch.positions.new_ones(len(batch.numbers), 13)).sum(1)

    torch.manual_seed(0)
    model = Model(hessgnn.PotentialConfig()).double()
    plain = copy.deepcopy(model)
    choose_trained(model, (), LORA)
    assert updates(model) == {"linear.weight": 2 * (4 + 5) + 2 * (3 + 2)}
    for parameter in trained(model):
        parameter.data += torch.randn_like(parameter)
    blocks = [w.flatten() for w in model.linear.weight_views()]
    old = [w.flatten() for w in plain.linear.weight_views()]
    for new, before, shape in zip(blocks, old, ((4, 5), (3, 2)), strict=True):
        change = (new - before).view(shape)
        assert int(torch.linalg.matrix_rank(change)) == 2
    x, turn = torch.randn(2, 13, dtype=torch.float64), o3.rand_matrix().double()
    into, out = (irreps.D_from_matrix(turn) for irreps in (model.linear.irreps_in, model.linear.irreps_out))
    torch.testing.assert_close(model.linear(x @ into.T), model.linear(x) @ out.T)
    plain.load_state_dict(merged_state(model))
    torch.testing.assert_close(plain.linear(x), model.linear(x))


def test_what_is_matched_is_trained_and_nothing_else() -> None:
    lora = LoraConfig(rank=1, match=("interactions.0.*", "readout.*"), also_train=("*.bias", "readout.2.weight"))
    potential = make("schnet")
    choose_trained(potential, (), lora)
    names = {public_name(n) for n, p in potential.named_parameters() if p.requires_grad}
    assert {"interactions.0.before.weight.up.0", "interactions.0.before.weight.down.0", "readout.2.weight"} <= names
    assert not any(n.startswith(("interactions.1.before", "embedding")) for n in names)
    assert "interactions.1.after.0.bias" in names
    assert "readout.0.weight" in updates(potential)
    assert "readout.2.weight" not in updates(potential)  # trained as it is


@pytest.mark.parametrize(
    ("freeze", "lora", "message"),
    [
        (("wrong.*",), None, r"training\.freeze.*no parameter matches 'wrong\.\*'.*the names are embedding\.weight"),
        (("*",), None, "all parameters are frozen"),
        ((), LoraConfig(match=("*.bias",)), r"training\.lora\.match.*no matrix matches '\*\.bias'"),
        ((), LoraConfig(also_train=("wrong",)), r"training\.lora\.also_train.*no parameter matches 'wrong'"),
    ],
)
def test_patterns_that_match_nothing_are_refused(
    freeze: tuple[str, ...], lora: LoraConfig | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_trained(make("schnet"), freeze, lora)


def test_groups_hold_trained_parameters_only(make_config: MakeConfig) -> None:
    groups = [{"match": "embedding.*", "name": "SGD", "lr": 1e-4}, {"name": "AdamW"}]
    frozen = {"freeze": "interactions.*", "optimizer": groups}
    setup = build(make_config(training=frozen))
    sgd, adam = setup.step.update.optimizers
    held = [p for group in (*sgd.param_groups, *adam.param_groups) for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in trained(setup.potential)}
    before = setup.potential.interactions[0].before.weight.clone()
    setup.step(0)
    assert torch.equal(setup.potential.interactions[0].before.weight, before)
    assert torch.equal(setup.average.potential.interactions[0].before.weight, before)
    with pytest.raises(ConfigError, match=r"all parameters that match 'embedding\.\*' are frozen"):
        build(make_config(training={**frozen, "freeze": "embedding.*"}))
    factors = [{"match": "*.weight.up.*", "name": "AdamW", "lr": 1e-2}, {"name": "AdamW"}]  # LoRA+
    build(make_config(training={"lora": {"rank": 2}, "optimizer": factors}))
    with pytest.raises(ValueError, match="leave freeze out"):
        make_config(training={"lora": {}, "freeze": "embedding.*"})


def test_a_run_saves_plain_weights(make_config: MakeConfig, tmp_path: Any) -> None:
    result = train(make_config(training={"lora": {"rank": 2}}), tmp_path / "run")
    loaded, in_memory = hessgnn.load(tmp_path / "run"), train(make_config(training={"lora": {"rank": 2}}))
    assert loaded.n_parameters() == build(make_config()).potential.n_parameters()
    assert not updates(in_memory.potential)
    for name, value in in_memory.potential.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])
    assert result.score == in_memory.score


@pytest.mark.parametrize("training", [{"lora": {"rank": 2}}, {"freeze": "embedding.*"}])
def test_recorded_steps_know_what_is_frozen(make_config: MakeConfig, training: dict[str, Any]) -> None:
    setup = build(
        make_config(training={"dtype": "float64", "batch_size": 1, **training}, loss={"probes": {"every": 1}})
    )
    step = RecordedStep(setup.loss, setup.potential, build_buckets(setup.potential, setup.loader, 2), "traced")
    _, _, parts = setup.step._make(0)
    gradients = []
    for method in (setup.step.gradient, step):
        setup.potential.zero_grad()
        for part in parts:
            method(part)
        gradients.append([p.grad for p in trained(setup.potential)])
    for eager, recorded in zip(*gradients, strict=True):
        torch.testing.assert_close(recorded, eager)


def test_auto_steps_are_eager_with_updates(make_config: MakeConfig, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "hessgnn.training"):
        build(make_config(training={"lora": {"rank": 2}, "step": "auto"}))
    assert "step auto: eager, since low-rank updates cannot be handed" in caplog.text


def test_shared_and_scripted_weights_are_left_alone() -> None:
    class Tied(Potential):
        def __init__(self, config: hessgnn.PotentialConfig) -> None:
            super().__init__(config)
            self.first, self.second, self.third = (nn.Linear(3, 3, bias=False) for _ in range(3))
            self.second.weight = self.first.weight

        def atomic_energies(self, batch: Batch) -> Tensor:
            return self.third(self.second(self.first(batch.positions))).sum(1)

    potential = Tied(hessgnn.PotentialConfig())
    choose_trained(potential, (), LORA)
    assert [*updates(potential)] == ["third.weight"]
