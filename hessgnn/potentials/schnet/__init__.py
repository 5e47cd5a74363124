"""SchNet with derivatives in closed form."""

from hessgnn.potentials.schnet.model import SchNet

__all__ = ["SchNet"]
