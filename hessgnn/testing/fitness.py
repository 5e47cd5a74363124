"""What a potential is fit for: the contract in the words of a user, and the numbers behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hessgnn.potentials.base import Potential
from hessgnn.testing.contract import ITEMS, Item, Outcome, maker, try_item
from hessgnn.testing.derivatives import find_jump, hessian_deviation
from hessgnn.testing.subject import Subject

Verdict = Literal["yes", "limited", "no"]

_ALWAYS = ("elements", "inputs", "response", "small_structures", "no_neighbours", "state_dict", "deterministic")
_SMOOTH = "Hessians without jumps"
_APART = "molecules far apart"
_USES: Mapping[str, tuple[str, ...]] = {
    "training on energies and forces": (*_ALWAYS, "batching", "forces"),
    "training on Hessian products": (*_ALWAYS, "batching", "hessian", "products", "parameter_gradient"),
    "full Hessians": (*_ALWAYS, "hessian", "axes", "symmetry", "sum_rule"),
    _SMOOTH: ("cutoff", "activations", "finite_at_cutoff"),
    "products in one pass (vmap)": ("vectorised",),
    "float32 and float64": ("dtype",),
    "periodic cells": ("periodic",),
    _APART: ("no_neighbours", "fragments"),
}
"""Use -> items that must be kept for it."""

LONG_RANGE = 10.0
"""Å: neighbours within such a distance include what covalent models leave to a long-range term."""


@dataclass(frozen=True)
class Use:
    """One thing that a potential may be used for.

    Attributes
    ----------
    name
        What for.
    verdict
        ``limited``: it works, except for what the potential itself declares, such as a Hessian that jumps somewhere.
    reason
        Why not, or how; empty where nothing needs to be said.
    """

    name: str
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True)
class Jump:
    """Where energy, forces or Hessian of two atoms jump while they are pulled apart.

    Attributes
    ----------
    quantity
        Which of them.
    height
        In units of its usual magnitude.
    distance
        Å.
    """

    quantity: str
    height: float
    distance: float


@dataclass(frozen=True)
class Examination:
    """All that ``hessgnn check`` finds.

    Attributes
    ----------
    outcomes
        One for each item of the contract.
    uses
        What follows from them.
    hessian_error
        Largest deviation of a molecule's Hessian from differences of the forces in float64, relative to its largest
        entry; ``None`` where it cannot be computed.
    jump
        The largest one, ``None`` if there is none or nothing can be computed.
    """

    outcomes: Sequence[Outcome]
    uses: Sequence[Use]
    hessian_error: float | None
    jump: Jump | None

    def counts(self) -> dict[str, int]:
        """How many items are passed, failed, and skipped for a declared reason."""
        failed = sum(outcome.failed for outcome in self.outcomes)
        skipped = sum(outcome.skipped_reason is not None for outcome in self.outcomes)
        return {"passed": len(self.outcomes) - failed - skipped, "failed": failed, "skipped": skipped}

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            **self.counts(),
            "items": [
                {
                    "name": outcome.item.name,
                    "outcome": "passed" if outcome.passed else "failed" if outcome.failed else "skipped",
                    "message": outcome.message,
                    "reason": outcome.skipped_reason,
                }
                for outcome in self.outcomes
            ],
            "uses": [vars(use) for use in self.uses],
            "hessian_error": self.hessian_error,
            "jump": None if self.jump is None else vars(self.jump),
        }


def examine(
    potential: str | type[Potential],
    settings: Mapping[str, Any] | None = None,
    items: Iterable[Item] = ITEMS,
    device: str = "cpu",
    observer: Callable[[str, int, int], None] | None = None,
) -> Examination:
    """Try a potential on the contract, and say what it is fit for.

    Parameters
    ----------
    potential, settings, items, device
        As of :func:`~hessgnn.testing.contract.check_potential`.
    observer
        Called before each item, with its name, how many were tried and how many there are.

    Raises
    ------
    ConfigError
        When the name or a setting is wrong.
    """
    subject = Subject(maker(potential, settings or {}), device)
    items, outcomes = list(items), []
    for done, item in enumerate(items):
        if observer is not None:
            observer(item.name, done, len(items))
        outcomes.append(try_item(item, subject))
    by_name = {outcome.item.name: outcome for outcome in outcomes}
    uses = [_use(name, [by_name[item] for item in needed if item in by_name]) for name, needed in _USES.items()]
    try:
        error = hessian_deviation(subject, subject.molecule("CH3NO2"))
    except Exception:  # whatever it is, the items say so
        error = None
    smooth = "cutoff" not in by_name or by_name["cutoff"].passed
    return Examination(
        outcomes,
        [*uses, *_reach(subject.potential, by_name)],
        None if error is None or not np.isfinite(error) else error,
        None if smooth else _largest_jump(subject),
    )


def _use(name: str, outcomes: Sequence[Outcome]) -> Use:
    # That all atoms interact, where it is declared, matters for molecules far apart only.
    broken = [
        outcome
        for outcome in outcomes
        if outcome.failed or not (outcome.passed or (name != _APART and outcome.item.name in _USES[_APART]))
    ]
    if not broken:
        return Use(name, "yes")
    # What is declared limits a use; where nothing else is asked for, it rules the use out.
    declared = name != _SMOOTH and len(broken) < len(outcomes) and not any(outcome.failed for outcome in broken)
    reasons = dict.fromkeys(outcome.skipped_reason or f"{outcome.item.name}: {outcome.message}" for outcome in broken)
    return Use(name, "limited" if declared else "no", "; ".join(reasons))


def _reach(potential: Potential, by_name: Mapping[str, Outcome]) -> list[Use]:
    """How far atoms interact, and what that means for large structures."""
    hops, cutoff = potential.n_hops, potential.cutoff
    declared = hops is not None and ("range" not in by_name or by_name["range"].passed)
    long = Use(
        "long range",
        "yes" if cutoff >= LONG_RANGE else "no",
        f"neighbours up to {cutoff:g} Å" + (f", {hops} edges far" if declared else ""),
    )
    if declared:
        return [long, Use("Hessians of hundreds of atoms", "yes", "the number of products stops growing with the size")]
    return [long, Use("Hessians of hundreds of atoms", "limited", "3N products: which atoms interact is not declared")]


def _largest_jump(subject: Subject) -> Jump | None:
    direction, stop = np.array([0.36, 0.48, 0.8]), subject.potential.cutoff + 0.2
    places = np.linspace(0.5, stop, int((stop - 0.5) / 0.01) + 1)
    try:
        found = find_jump(
            subject,
            subject.potential,
            lambda distance: subject.atoms([6, 8], [np.zeros(3), distance * direction]),
            places,
        )
    except Exception:  # as above
        return None
    return None if found is None else Jump(found[1], found[2], found[0])
