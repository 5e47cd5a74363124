"""The ASE calculator, under its public name."""

from hessgnn.surface.calculator import HessGNNCalculator

__all__ = ["HessGNNCalculator"]
