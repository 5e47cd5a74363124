"""The contract, for authors of architectures: what makes a potential fit for training on Hessians.

Inherit :class:`PotentialContract` in a test of your own, or run ``hessgnn check NAME|module:Class``.
"""

from hessgnn.testing.contract import ITEMS, Item, Outcome, PotentialContract, check_potential, try_item
from hessgnn.testing.fitness import Examination, Use, examine
from hessgnn.testing.subject import Subject, Violation

__all__ = [
    "ITEMS",
    "Examination",
    "Item",
    "Outcome",
    "PotentialContract",
    "Subject",
    "Use",
    "Violation",
    "check_potential",
    "examine",
    "try_item",
]
