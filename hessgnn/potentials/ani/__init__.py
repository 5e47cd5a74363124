"""ANI with derivatives in closed form."""

from hessgnn.potentials.ani.model import ANI

__all__ = ["ANI"]
