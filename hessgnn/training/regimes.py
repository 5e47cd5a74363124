"""Label regimes: the labels that a potential is trained on, and the loss weights that are 0 for it."""

from __future__ import annotations

from typing import Literal, get_args

StudyRegime = Literal["E", "E-F", "E-F+", "E-F+H", "E-F-H"]
"""What sweeps and studies compare. ``E-F+`` has, instead of Hessians, energies and forces of displaced frames, for what
the Hessians would have cost. In ``E-F+H`` half of the structures have their Hessian, the others displaced frames."""
LossRegime = Literal["E", "E-F", "E-H", "E-F-H"]
"""What the weights of a loss can tell."""
Regime = Literal[StudyRegime, "E-H", "mean", "external"]
"""What a record can hold; ``mean`` is the predictor that knows the composition only, ``external`` any other code that
was evaluated through an ASE calculator."""

ZERO_WEIGHTS: dict[StudyRegime | LossRegime, tuple[str, ...]] = {
    "E": ("forces", "hessian"),
    "E-F": ("hessian",),
    "E-F+": ("hessian",),
    "E-F+H": (),
    "E-H": ("forces",),
    "E-F-H": (),
}
"""Regime -> terms of the loss whose weight is 0."""
WITH_HESSIANS: tuple[StudyRegime, ...] = ("E-F+H", "E-F-H")
"""Trained on Hessians of all structures, or of some."""
WITH_FRAMES: tuple[StudyRegime, ...] = ("E-F+", "E-F+H")
"""Trained on displaced frames too."""


def regime_of(forces: float, hessian: float) -> LossRegime:
    """Name the labels that a loss with these weights sees.

    A loss cannot tell ``E-F+`` from ``E-F``, nor ``E-F+H`` from ``E-F-H``.
    """
    zero = tuple(name for name, weight in (("forces", forces), ("hessian", hessian)) if not weight)
    regimes: tuple[LossRegime, ...] = get_args(LossRegime)
    return next(regime for regime in regimes if ZERO_WEIGHTS[regime] == zero)
