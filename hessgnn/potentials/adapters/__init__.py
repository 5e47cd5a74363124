"""Potentials of other packages, with their published weights or the user's own: one file for each package.

A file of this folder registers one subclass of :class:`~hessgnn.potentials.adapters.base.AdaptedPotential`. It imports
the other package when a potential is made, not before, so nobody needs a package that is not used.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
