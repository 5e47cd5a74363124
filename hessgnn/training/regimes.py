"""Label regimes: the labels that a potential is trained on, and the loss weights that are 0 for it."""

from __future__ import annotations

from typing import Literal, get_args

SweepRegime = Literal["E", "E-F", "E-F-H"]
"""What a sweep retrains: energies, forces, Hessians."""
StudyRegime = Literal[SweepRegime, "E-F+"]
"""What a study trains; ``E-F+`` has energies and forces of more frames, for what Hessians would have cost."""
LossRegime = Literal[SweepRegime, "E-H"]
"""What the weights of a loss can tell."""
Regime = Literal[LossRegime, "E-F+", "E-F+H", "mean", "external"]
"""What a record can hold; ``mean`` is the predictor that knows the composition only, ``external`` any other code that
was evaluated through an ASE calculator."""

ZERO_WEIGHTS: dict[StudyRegime | LossRegime, tuple[str, ...]] = {
    "E": ("forces", "hessian"),
    "E-F": ("hessian",),
    "E-F+": ("hessian",),
    "E-H": ("forces",),
    "E-F-H": (),
}
"""Regime -> terms of the loss whose weight is 0."""


def regime_of(forces: float, hessian: float) -> LossRegime:
    """Name the labels that a loss with these weights sees.

    A loss cannot tell ``E-F+`` from ``E-F``.
    """
    zero = tuple(name for name, weight in (("forces", forces), ("hessian", hessian)) if not weight)
    regimes: tuple[LossRegime, ...] = get_args(LossRegime)
    return next(regime for regime in regimes if ZERO_WEIGHTS[regime] == zero)
