"""Normal modes, under the name by which they have been public since 0.1; they live in :mod:`hessgnn.molecules`."""

from hessgnn.molecules.vibrations import Vibrations, vibrations

__all__ = ["Vibrations", "vibrations"]
