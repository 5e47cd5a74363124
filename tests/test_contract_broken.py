"""Each item of the contract can fail: for each there is a potential that breaks it."""

import re
import subprocess
import sys
from unittest import SkipTest

import broken_potentials as broken
import pytest

from hessgnn.potentials.base import create
from hessgnn.testing import ITEMS, PotentialContract, Subject, Violation, check_potential, try_item

BY_NAME = {item.name: item for item in ITEMS}

# Item, a potential that breaks it, and what must be said.
TABLE = [
    ("elements", broken.AnyElement, "He is not among the elements"),
    ("dtype", broken.FloatCast, "atomic_energies returns torch.float32 for positions in torch.float64"),
    ("inputs", broken.CentresInPlace, "batch.positions was changed"),
    ("response", broken.Constant, "forces is zero everywhere"),
    ("small_structures", broken.Squeezed, "1 structure.* has shape \\(\\), expected \\(1,\\)"),
    ("no_neighbours", broken.MeanOfNeighbours, "not finite"),
    ("state_dict", broken.WeightsInAList, "energy changes on saving"),
    ("deterministic", broken.Dropout, "two equal calls differ"),
    ("batching", broken.BatchNormalised, "in a batch differ"),
    ("permutation", broken.OrderDependent, "reordering.* energy"),
    ("translation", broken.AbsolutePositions, "moving.* energy"),
    ("translation", broken.Trap, "moving.* energy"),
    ("rotation", broken.CoordinateAsFeature, "rotating.* energy"),
    ("reflection", broken.Chiral, "reflecting.* energy"),
    ("fragments", broken.MeanOfStructure, "isolated atom does not add"),
    ("range", broken.ShortSighted, "an atom more than 1 edge away .* n_hops denies it"),
    ("range", broken.EdgesOfOthers, "an edge of another atom changes"),
    ("periodic", broken.WithoutShift, "doubled cell"),
    ("forces", broken.DetachedEnvelope, "finite differences of the energy"),
    ("hessian", broken.FirstDerivativeOnly, "finite differences of the forces"),
    ("axes", broken.AngleByArcCosine, "linear molecule.* nan"),
    ("symmetry", broken.AsymmetricHessian, "differs from its transpose"),
    ("sum_rule", broken.Trap, "do not add up to zero"),
    ("products", broken.NegativeProducts, "full Hessian times the vectors: relative deviation 2.0e"),
    ("vectorised", broken.DecidesByValue, "cannot be vectorised"),
    ("parameter_gradient", broken.DetachedWeights, "finite differences in the parameters"),
    ("finite_at_cutoff", broken.Unguarded, "not finite in the .* at the cutoff"),
    ("finite_at_cutoff", broken.UnguardedInside, "not finite in the .* at the cutoff"),
    ("cutoff", broken.CosineCutoff, "Hessian jumps .* distance of 5.0000 Å"),
    ("cutoff", broken.HardCutoff, "jumps .* distance of 5.0000 Å"),
    ("cutoff", broken.ConstantStep, "energy jumps .* distance of 5.0000 Å"),
    ("cutoff", broken.InnerStep, "Hessian jumps .* distance of 1.7000 Å"),
    ("activations", broken.WithCELU, "Hessian jumps"),
    ("activations", broken.WithELU, "Hessian jumps"),
    ("activations", broken.WithReLU, "jumps"),
]


@pytest.mark.parametrize(("name", "cls", "message"), TABLE, ids=[f"{name}-{cls.__name__}" for name, cls, _ in TABLE])
def test_item_fails(name, cls, message):
    (outcome,) = check_potential(cls, items=[BY_NAME[name]])
    assert outcome.failed
    assert re.search(message, outcome.message), outcome.message


def test_every_item_has_a_broken_potential():
    assert {name for name, _, _ in TABLE} == set(BY_NAME)


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.name)
def test_what_they_come_from_is_sound(item):
    (outcome,) = check_potential(broken.Sound, items=[item])
    assert outcome.passed, outcome.message


def ani(**settings):
    return Subject(lambda: create("ani", hidden=(16, 12), **settings))


@pytest.mark.parametrize(
    ("item", "settings"),
    [
        ("cutoff", {"cutoff_function": "cosine"}),
        ("cutoff", {"cutoff_function": "cosine", "activation": "celu"}),
        ("activations", {"activation": "celu"}),
        ("activations", {"cutoff_function": "cosine", "activation": "celu"}),
    ],
)
def test_ani_as_published_jumps(item, settings):
    subject = ani(**settings)
    with pytest.raises(Violation, match="the Hessian jumps"):
        BY_NAME[item].run(subject)  # what would be found had it not owned up
    outcome = try_item(BY_NAME[item], subject)
    assert not outcome.passed
    assert not outcome.failed
    assert outcome.skipped_reason == subject.potential.not_c2


def test_an_excuse_holds_for_smoothness_only():
    outcomes = check_potential(broken.OwnsUp, items=[item for item in ITEMS if item.name != "parameter_gradient"])
    assert {o.item.name for o in outcomes if o.skipped_reason} == {"cutoff", "activations"}
    assert not [o for o in outcomes if o.failed]


def test_inherited_tests_fail_with_the_hint_and_skip_with_the_reason():
    class Contract(PotentialContract):
        potential_class = broken.Squeezed

    with pytest.raises(AssertionError, match=r"expected \(1,\)\. Hint: use \.squeeze\(-1\)"):
        Contract().test_small_structures()

    class Excused(PotentialContract):
        potential_class = broken.OwnsUp

    with pytest.raises(SkipTest, match="CELU"):
        Excused().test_activations()


@pytest.mark.parametrize(("item", "method"), [("forces", "evaluate"), ("parameter_gradient", "Evaluation.backward")])
def test_hints_for_closed_forms_name_the_formulas(item, method):
    class Contract(PotentialContract):
        potential_class = broken.WrongFormulas

    with pytest.raises(
        AssertionError, match=rf"Hint: let `{method}` give .*closed_form = False, too: {BY_NAME[item].hint[:9]}"
    ):
        Contract().try_item(BY_NAME[item])


def test_fresh_weights_do_not_disturb_the_global_generator_and_hide_no_zeros():
    class Zeros(broken.Sound):
        def __init__(self, config):
            super().__init__(config)
            for parameter in self.readout[-1].parameters():
                parameter.data.zero_()

    (outcome,) = check_potential(Zeros, items=[BY_NAME["response"]])
    assert outcome.passed, outcome.message


def test_the_contract_does_not_import_pytest():
    code = "import sys, hessgnn.testing; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
