"""Formulas are used for the potential that they were written for, and for no other."""

import copy
import pickle
import warnings

import pytest
import torch
from ase.build import molecule
from torch import nn

from hessgnn.curvature.model import has_closed_form
from hessgnn.data.batch import Batch
from hessgnn.potentials.ani import ANI
from hessgnn.potentials.base import create
from hessgnn.potentials.blocks.layers import Activation
from hessgnn.potentials.closed_form import ChangedPotentialWarning
from hessgnn.potentials.nequip import NequIP
from hessgnn.potentials.schnet import SchNet

SETTINGS = {"ani": {"hidden": (8, 8)}, "schnet": {"width": 8}, "nequip": {"channels": 3, "radial_width": 6}}
CLASSES = {"ani": ANI, "schnet": SchNet, "nequip": NequIP}


class Scaled(nn.Linear):
    """A layer that does more than its weights say, as an adapter does."""

    def forward(self, x):
        return 1.5 * super().forward(x)


def scaled(linear):
    new = Scaled(linear.in_features, linear.out_features).double()
    new.load_state_dict(linear.state_dict())
    return new


def doubled(module, inputs, output):
    return 2 * output


def change_activation(potential):
    potential.readout[1] = Activation("tanh")


def insert_layer(potential):
    potential.readout.insert(2, nn.Tanh())


def replace_linear(potential):
    potential.readout[0] = scaled(potential.readout[0])


def add_hook(potential):
    potential.readout[0].register_forward_hook(doubled)


def add_hook_to_filter(potential):
    filters = potential.interactions[0].filter if isinstance(potential, SchNet) else potential.layers[0].radial
    filters[0].register_forward_hook(doubled)


def replace_forward(potential):
    potential.readout[1].forward = torch.tanh


def old_weight_norm(potential):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(potential.readout[0])
    with torch.no_grad():
        potential.readout[0].weight_g.mul_(2)  # the weight follows in the next call


def change_ani_activation(potential):
    potential.networks.atomics["H"].activation = nn.Tanh()


def add_hook_to_ani(potential):
    potential.networks.atomics["H"].layers[0].register_forward_hook(doubled)


CHANGES = [
    *((name, change) for name in ("schnet", "nequip") for change in (
        change_activation, insert_layer, replace_linear, add_hook, add_hook_to_filter, replace_forward, old_weight_norm,
    )),
    ("ani", change_ani_activation),
    ("ani", add_hook_to_ani),
]  # fmt: skip


def make(name):
    torch.manual_seed(0)
    potential = create(name, **SETTINGS[name]).double()
    batch = Batch.from_atoms([molecule("CH3OH"), molecule("H2O")], potential.cutoff)
    return potential, batch, torch.randn(2, *batch.positions.shape, dtype=torch.float64)


def by_autograd(potential, batch, vectors):
    """Energy, forces and products without any of the package's fast paths."""
    positions = batch.positions.clone().requires_grad_()
    energy = potential.total_energy(batch.replace(positions=positions, derivatives=None))
    (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
    products = [torch.autograd.grad(gradient, positions, v, retain_graph=True)[0] for v in vectors]
    return energy.detach(), -gradient.detach(), torch.stack(products)


def assert_is_by_autograd(potential, batch, vectors):
    out = potential(batch, vectors=vectors)
    for got, wanted in zip((out.energy, out.forces, out.products), by_autograd(potential, batch, vectors), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("name", "change"), CHANGES)
def test_a_changed_potential_is_left_to_autograd_with_one_warning(name, change):
    potential, batch, vectors = make(name)
    before = potential.forces(batch)
    change(potential)
    with pytest.warns(
        ChangedPotentialWarning, match=r"because the module .*(readout|filter|radial|networks).*closed_form"
    ) as seen:
        forces = potential.forces(batch)
    assert len(seen) == 1
    assert not torch.allclose(forces, before, rtol=1e-3)
    assert_is_by_autograd(potential, batch, vectors)  # without a second warning


@pytest.mark.parametrize("name", SETTINGS)
def test_what_changes_weights_only_keeps_the_formulas(name):
    potential, batch, vectors = make(name)
    layer = potential.networks.atomics["H"].layers[0] if name == "ani" else potential.readout[0]
    nn.utils.parametrizations.weight_norm(layer)
    with torch.no_grad():
        layer.parametrizations.weight.original0.mul_(2)
    potential.register_forward_hook(lambda module, inputs, output: None)
    same = torch.func.functional_call(potential, dict(potential.named_parameters()), (batch,))
    torch.testing.assert_close(same.forces, potential.forces(batch), rtol=0, atol=0)
    assert has_closed_form(potential)
    assert_is_by_autograd(potential, batch, vectors)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda potential: pickle.loads(pickle.dumps(potential))])
@pytest.mark.parametrize("name", SETTINGS)
def test_copies_know_what_was_changed(name, copied):
    potential, batch, _ = make(name)
    potential.forces(batch)
    same = copied(potential).float().double()
    assert has_closed_form(same)
    for one in (same, potential):
        (add_hook_to_ani if name == "ani" else replace_forward)(one)
    changed = potential if name == "ani" else copy.deepcopy(potential)
    with pytest.warns(ChangedPotentialWarning):
        assert not has_closed_form(changed)
    with pytest.warns(ChangedPotentialWarning):
        assert not has_closed_form(same)


def test_formulas_come_back_when_a_hook_is_removed():
    potential, _, _ = make("nequip")
    hook = potential.readout[0].register_forward_hook(doubled)
    with pytest.warns(ChangedPotentialWarning):
        assert not has_closed_form(potential)
    hook.remove()
    assert has_closed_form(potential)
    hook = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: None)
    assert not has_closed_form(potential)
    hook.remove()
    assert has_closed_form(potential)


def test_a_subclass_that_changes_its_modules_is_left_to_autograd():
    class WithTanh(NequIP):
        def __init__(self, config):
            super().__init__(config)
            self.readout[1] = nn.Tanh()

    potential = WithTanh(WithTanh.Config(**SETTINGS["nequip"])).double()
    _, batch, vectors = make("nequip")
    with pytest.warns(ChangedPotentialWarning, match=r"readout\.1 is now .*Tanh\(\) instead of .*Activation\(silu\)"):
        potential.forces(batch)
    assert_is_by_autograd(potential, batch, vectors)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_mixin_with_another_energy_is_left_to_autograd(name):
    class Doubled:
        def atomic_energies(self, batch):
            return 2 * super().atomic_energies(batch)

    class Shifted:
        def energy_of(self, batch, atomic_energies):
            return super().energy_of(batch, atomic_energies) + batch.sum_per_structure(batch.positions.square().sum(1))

    base = CLASSES[name]
    _, batch, vectors = make(name)
    for mixin in (Doubled, Shifted):
        mixed = type("Mixed", (mixin, base), {})
        assert not mixed.closed_form
        assert not type("Child", (mixed,), {}).closed_form
        potential = mixed(base.Config(**SETTINGS[name])).double()
        assert_is_by_autograd(potential, batch, vectors)
    assert type("Behind", (base, Doubled), {}).closed_form
    assert type("Own", (type("Mixed", (Doubled, base), {}),), {"evaluate": base.evaluate}).closed_form


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("name", SETTINGS)
def test_backward_can_be_repeated_as_long_as_the_graph_is_kept(name, number):
    potential, batch, vectors = make(name)
    parameters = list(potential.parameters())

    def gradients(loss, **options):
        found = torch.autograd.grad(loss, parameters, allow_unused=True, **options)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]

    out = potential(batch, vectors=vectors[:number] if number else None, create_graph=True)
    terms = [out.energy.square().sum(), out.forces.square().sum()]
    if number:
        terms.append(out.products.square().sum())
    first, second, *parts = [
        gradients(loss, retain_graph=True) for loss in (torch.stack(terms).sum(), torch.stack(terms).sum(), *terms)
    ]
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    for one, *shares in zip(first, *parts, strict=True):
        torch.testing.assert_close(one, torch.stack(shares).sum(0), rtol=1e-10, atol=1e-10 * float(one.abs().max()))
    assert any(bool(g.any()) for g in parts[-1])
    last = gradients(torch.stack(terms).sum())
    torch.testing.assert_close(last, first, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="second time"):
        gradients(out.forces.sum())

    loss = potential(batch, create_graph=True).forces.square().sum()
    loss.backward(retain_graph=True)
    once = [None if p.grad is None else p.grad.clone() for p in parameters]
    loss.backward()
    for p, g in zip(parameters, once, strict=True):
        assert g is None or torch.equal(p.grad, 2 * g)
