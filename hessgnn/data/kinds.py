"""Kinds of structures: how a geometry came about."""

from __future__ import annotations

MINIMUM = "minimum"
REACTANT = "reactant"
PRODUCT = "product"
TRANSITION_STATE = "transition-state"
IRC = "irc"
NMS = "nms"
THERMAL = "thermal"

STATIONARY = (MINIMUM, REACTANT, PRODUCT, TRANSITION_STATE)
"""Where all forces vanish: what the study trains on."""
FRAMES = (IRC, NMS, THERMAL)
"""Frames of a path, displaced along normal modes, of molecular dynamics: what it extrapolates to."""
KINDS = (*STATIONARY, *FRAMES)
