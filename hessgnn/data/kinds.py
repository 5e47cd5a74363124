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
"""Away from stationary points: on a reaction path, along normal modes, of molecular dynamics. Each is the name of a
split too, where most of its frames go."""
KINDS = (*STATIONARY, *FRAMES)
