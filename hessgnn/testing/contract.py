"""The contract that a potential must keep to be fit for training on Hessians, item by item."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar
from unittest import SkipTest

from hessgnn.errors import UserError
from hessgnn.potentials.base import Potential, create
from hessgnn.testing import basics, derivatives, symmetries
from hessgnn.testing.subject import Subject, Violation


@dataclass(frozen=True)
class Item:
    """One thing that is required of a potential.

    Attributes
    ----------
    name
        Short, fit for a test's name.
    run
        Tries it; raises :class:`Violation`. Its docstring says what is required.
    hint
        What usually helps.
    needs_c2
        Whether a potential may be excused by a reason in :attr:`Potential.not_c2`.
    """

    name: str
    run: Callable[[Subject], None]
    hint: str
    needs_c2: bool = False

    @property
    def requirement(self) -> str:
        """What is required, in a sentence."""
        return (self.run.__doc__ or self.name).strip().splitlines()[0]


@dataclass(frozen=True)
class Outcome:
    """Result of trying one item.

    Attributes
    ----------
    item
        The item.
    passed
        Whether the potential keeps it; false when it was skipped.
    message
        What is wrong, with the measured number and its bound; empty if nothing is.
    skipped_reason
        Why the potential may break it, as it declares; ``None`` if it keeps the item, or breaks it without a reason.
    """

    item: Item
    passed: bool
    message: str = ""
    skipped_reason: str | None = None

    @property
    def failed(self) -> bool:
        """Whether it is broken without a declared reason."""
        return not self.passed and self.skipped_reason is None


ITEMS: tuple[Item, ...] = (
    Item("elements", basics.unknown_element, "take the index of an element from self.species(batch)"),
    Item("dtype", basics.floating_type, "make new tensors with .new_zeros() or .to(batch.positions)"),
    Item("inputs", basics.inputs_unchanged, "replace in-place operations (+=, add_, clamp_) on tensors of the batch"),
    Item("response", basics.position_dependence, "derive the energy from batch.edge_vectors()"),
    Item(
        "small_structures",
        basics.small_structures,
        "use .squeeze(-1) rather than .squeeze(), and let an atom without neighbours have a constant energy",
    ),
    Item("no_neighbours", basics.no_neighbours, "divide by a constant, not by the number or norm of neighbours"),
    Item("state_dict", basics.state_dict, "hold weights in nn.Parameter, modules or persistent buffers, not in lists"),
    Item("deterministic", basics.deterministic, "leave out dropout, noise, and caches that outlive a call"),
    Item("batching", symmetries.batching, "sum over atoms with batch.sum_per_structure; no batch normalisation"),
    Item("permutation", symmetries.permutation, "collect neighbours with a sum; do not use the place of an atom"),
    Item("translation", symmetries.translation, "use batch.edge_vectors(), never batch.positions themselves"),
    Item("rotation", symmetries.rotation, "use distances, angles or equivariant features, not x, y, z by themselves"),
    Item("reflection", symmetries.reflection, "let pseudo-scalars (odd triple products) enter as even powers only"),
    Item("fragments", symmetries.separated_fragments, "let an atom's energy depend on its neighbours only"),
    Item(
        "range",
        symmetries.influence,
        "set n_hops to the number of message-passing layers, or to None; with one, sum over edge_index[0] only",
    ),
    Item("periodic", symmetries.periodicity, "use batch.edge_vectors(), which contain the periodic shift"),
    Item("forces", derivatives.forces, "remove .detach(), .data, .item() and no_grad between positions and energy"),
    Item(
        "hessian",
        derivatives.hessian,
        "use operations that are differentiable twice; compiled extensions and hand-written backward passes often "
        "are not",
    ),
    Item(
        "axes",
        derivatives.axes,
        "avoid acos, atan2 and norms of what can vanish; a square root needs an argument above zero",
    ),
    Item("symmetry", derivatives.symmetry, "make the backward pass of hand-written operations differentiable itself"),
    Item("sum_rule", symmetries.sum_rule, "use batch.edge_vectors(), never batch.positions themselves"),
    Item("products", derivatives.products, "leave hvp, hessian and forward to the base class"),
    Item(
        "vectorised",
        derivatives.vectorised,
        "avoid TorchScript and values that decide the way (.item(), if tensor) in backward passes",
    ),
    Item(
        "parameter_gradient",
        derivatives.parameter_gradient,
        "do not detach weights; every operation must be differentiable three times, which torch's layer_norm is not "
        "(hessgnn.potentials.blocks.layers.LayerNorm is)",
        needs_c2=True,  # a Hessian that jumps with the positions jumps with the parameters as well
    ),
    Item(
        "finite_at_cutoff",
        derivatives.finite_at_cutoff,
        "guard the envelope so that 1/(1 - r/cutoff) cannot overflow, and cut it off with torch.where on its argument",
    ),
    Item(
        "cutoff",
        derivatives.cutoff,
        "multiply what a neighbour contributes by hessgnn.potentials.blocks.layers.PolynomialCutoff (a cosine has a "
        "jump in its second derivative), or give the reason in not_c2",
        needs_c2=True,
    ),
    Item(
        "activations",
        derivatives.activations,
        "use SiLU, GELU, softplus or tanh rather than ReLU, ELU or CELU, or give the reason in not_c2",
        needs_c2=True,
    ),
)
"""Everything that is required, from the plain to the demanding."""

_EVALUATE = "let `evaluate` give energies, gradient and products of exactly the energy that `total_energy` computes"
_BACKWARD = "let `Evaluation.backward` give the gradients of energies, gradient and products in each of `parameters`"
CLOSED_FORM = {
    "parameter_gradient": _BACKWARD,
    **dict.fromkeys(
        ("dtype", "small_structures", "no_neighbours", "batching", "rotation", "reflection", "fragments", "periodic"),
        _EVALUATE,
    ),
    **dict.fromkeys(("forces", "hessian", "axes", "symmetry", "sum_rule", "products"), _EVALUATE),
}
"""What helps first where a potential writes its derivatives down, by the name of the item."""


def try_item(item: Item, subject: Subject) -> Outcome:
    """Try one item.

    An item that the potential breaks is skipped where the potential declares why, in :attr:`Potential.not_c2` or
    :attr:`Potential.excused`. An exception inside the potential is a failure of the item; the message says where it
    came from.
    """
    if getattr(subject.potential, "closed_form", False) and item.name in CLOSED_FORM:
        hint = f"{CLOSED_FORM[item.name]}; if the item fails with closed_form = False, too: {item.hint}"
        item = replace(item, hint=hint)
    try:
        item.run(subject)
    except Violation as violation:
        excuse = subject.potential.excused.get(item.name) or (subject.potential.not_c2 if item.needs_c2 else None)
        return Outcome(item, passed=False, message=str(violation), skipped_reason=excuse)
    except UserError as error:  # it says what is wrong, and mostly what helps
        hint = error.hint if error.hint and "hessgnn check" not in error.hint else item.hint
        return Outcome(replace(item, hint=hint), passed=False, message=error.what)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        first_line = (str(error).splitlines() or [""])[0]
        place = f"{Path(last.filename).name}, line {last.lineno}"
        return Outcome(item, passed=False, message=f"{type(error).__name__} in {place}: {first_line}")
    return Outcome(item, passed=True)


def check_potential(
    potential: str | type[Potential],
    settings: Mapping[str, Any] | None = None,
    items: Iterable[Item] = ITEMS,
    device: str = "cpu",
) -> list[Outcome]:
    """Try whether a potential is fit for training on Hessians.

    Parameters
    ----------
    potential
        A class, or a name as :func:`hessgnn.potentials.base.resolve` knows it.
    settings
        Fields of its ``Config``; small networks are tried faster.
    items
        What to try.
    device
        Where to try it.

    Returns
    -------
    list of Outcome
        One for each item, in order.

    Raises
    ------
    ConfigError
        When the name or a setting is wrong.
    """
    subject = Subject(maker(potential, settings or {}), device)
    return [try_item(item, subject) for item in items]


def maker(potential: str | type[Potential], settings: Mapping[str, Any]) -> Callable[[], Potential]:
    """Function without arguments that builds a potential with fresh weights, of a class or a registered name."""
    if isinstance(potential, str):
        return lambda: create(potential, **settings)
    return lambda: potential(potential.Config(**settings))


class PotentialContract:
    """The contract as tests: inherit, name the class, and let pytest collect it.

    .. code-block:: python

        class TestMine(PotentialContract):
            potential_class = MyPotential
            settings = {"width": 8}

    Items that the potential breaks for a reason that it declares, in ``not_c2`` or ``excused``, are skipped with it.
    """

    potential_class: ClassVar[str | type[Potential]]
    settings: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def make(cls) -> Potential:
        """Build the potential. Override it where settings are not enough."""
        return maker(cls.potential_class, cls.settings)()

    @classmethod
    def try_item(cls, item: Item) -> None:
        """Try one item as a test."""
        outcome = try_item(item, _subjects.setdefault(cls, Subject(cls.make)))
        if outcome.skipped_reason is not None:
            # pytest knows it, and need not be installed for it
            raise SkipTest(f"{outcome.skipped_reason} ({outcome.message})")
        if outcome.failed:
            raise AssertionError(f"{outcome.message}. Hint: {outcome.item.hint}")


_subjects: dict[type[PotentialContract], Subject] = {}  # one for all tests of a class


def _as_test(item: Item) -> Callable[[PotentialContract], None]:
    def test(self: PotentialContract) -> None:
        self.try_item(item)

    test.__name__, test.__doc__ = f"test_{item.name}", item.requirement
    return test


for _item in ITEMS:  # so that a new item is a new test wherever the contract is inherited
    setattr(PotentialContract, f"test_{_item.name}", _as_test(_item))
