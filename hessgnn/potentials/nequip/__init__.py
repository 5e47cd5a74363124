"""NequIP, an equivariant message-passing network on e3nn's irreducible representations."""

from hessgnn.potentials.nequip.model import NequIP

__all__ = ["NequIP"]
